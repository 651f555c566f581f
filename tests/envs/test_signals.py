"""Local signals against plain loops over samples, autograd, and the moments of the noise."""

import math

import numpy as np
import pytest
import torch
from plain_networks import (
    batched_problem,
    mean_error,
    plain_activity,
    plain_gradient,
    plain_hebb,
    plain_perturbation,
)
from scipy import stats

from metarl_lib.envs import signals
from metarl_lib.envs.signals import local_signals, unit_noise
from metarl_lib.rules import sgd

CASES = {
    "ragged relu": {},
    "ragged tanh with bias": {"activation": "tanh", "bias": True},
    "wide to narrow labels": {"widths": (4, 9, 3), "kind": "classification", "bias": True},
    "tanh output": {"widths": (2, 5, 4, 6), "output_activation": "tanh", "bias": True},
    "one layer": {"widths": (3, 2), "bias": True},
    "linear": {"widths": (3, 4, 2), "activation": None},
    "one sample": {"widths": (3, 4, 2), "samples": 1},
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def problem(request):
    return batched_problem(**request.param)


def look(p, drive="gradient", sigma=0.01, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return local_signals(
        p.network, p.params, p.x, p.y, p.loss, drive=drive, sigma=sigma, generator=generator
    )


def same(found, expected, rtol=1e-10):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        scale = max(1e-12, float(np.abs(other).max()))
        np.testing.assert_allclose(one.numpy(), other, rtol=rtol, atol=rtol * scale)


@pytest.fixture
def recorded(monkeypatch):
    """The noise of each call, cloned, since the signals may work in its place."""
    calls, original = [], signals.unit_noise

    def record(like, generator):
        noise = original(like, generator)
        calls.append(noise.clone())
        return noise

    monkeypatch.setattr(signals, "unit_noise", record)
    return calls


@pytest.mark.parametrize("block", [None, 1], ids=["one block", "a block for each network"])
def test_the_perturbation_is_the_formula_with_the_very_same_noise(
    problem, recorded, block, monkeypatch
) -> None:
    if block:
        monkeypatch.setattr(signals, "BLOCK_ELEMENTS", block)
    sigma = 0.3  # large: every term of the difference counts, not its slope alone
    found = look(problem, "perturbation", sigma)
    depth = problem.network.num_layers
    assert len(recorded) == depth * (3 if block else 1)
    noise = [torch.cat(recorded[layer::depth]).numpy() for layer in range(depth)]
    for b in range(3):
        params, x, y = problem.row(b)
        own = [layer[b] for layer in noise]
        expected = plain_perturbation(problem.network, params, x, y, problem.kind, own, sigma)
        same([d[b] for d in found.drive], expected, rtol=1e-9)


def test_the_gradient_drive_is_that_of_autograd_for_each_network(problem) -> None:
    found = look(problem)
    for b in range(3):
        expected = plain_gradient(problem.network, *problem.row(b), problem.kind)
        same([d[b] for d in found.drive], expected)


@pytest.mark.parametrize("drive", signals.DRIVES)
def test_error_hebb_and_activity_are_those_of_a_plain_loop(problem, drive) -> None:
    found = look(problem, drive)
    assert found.activity.shape == (3, problem.network.num_layers, 2)
    for b in range(3):
        params, x, y = problem.row(b)
        expected = mean_error(problem.network, params, x, y, problem.kind)
        assert float(found.error[b]) == pytest.approx(expected, rel=1e-12)
        same([h[b] for h in found.hebb], plain_hebb(problem.network, params, x))
        np.testing.assert_allclose(
            found.activity[b], plain_activity(problem.network, params, x), rtol=1e-10
        )


def test_silent_layers_have_a_finite_activity() -> None:
    p = batched_problem((3, 4, 2))
    for silent in (p.params[0], p.params[1]):
        silent[1] = 0
    found = look(p)
    assert found.activity[1].tolist() == [[0, pytest.approx(math.log(1e-6))]] * 2
    assert bool((found.activity[0, :, 0] > 0).all())


def test_the_mean_of_many_perturbations_is_the_gradient() -> None:
    """K networks with equal weights and samples give K independent perturbations in one call."""
    draws = 20_000
    p = batched_problem((3, 4, 2), "tanh", batch=1, samples=5, bias=True)
    gradient = torch.cat([g.flatten() for g in sgd(p.network, [w[0] for w in p.params],
                                                   p.x[0], p.y[0], p.loss)])  # fmt: skip
    copies = p._replace(
        params=[w.expand(draws, *w.shape[1:]) for w in p.params],
        x=p.x.expand(draws, -1, -1),
        y=p.y.expand(draws, -1, -1),
    )
    found = look(copies, "perturbation", sigma=1e-4)
    drives = torch.cat([d.flatten(1) for d in found.drive], 1)
    mean, error = drives.mean(0), drives.std(0) / draws**0.5
    studentised = (mean - gradient) / error
    assert studentised.abs().max() < 4
    assert abs(studentised.mean()) * len(gradient) ** 0.5 < 4
    assert (gradient / error).abs().max() > 8  # 0 and double the gradient would be seen
    assert torch.cosine_similarity(mean, gradient, 0) > 0.99
    assert float(mean @ gradient / (gradient @ gradient)) == pytest.approx(1, abs=0.05)


def test_the_signals_of_single_precision_are_those_of_double() -> None:
    p = batched_problem(bias=True)
    single = p._replace(params=[w.float() for w in p.params], x=p.x.float(), y=p.y.float())
    one, other = look(single, "perturbation", 0.1), look(p, "perturbation", 0.1)
    for group in ("drive", "hebb"):
        for narrow, wide in zip(getattr(one, group), getattr(other, group), strict=True):
            assert narrow.dtype == torch.float32
            torch.testing.assert_close(narrow.double(), wide, rtol=1e-3, atol=1e-4)


def levels(count=80_000, dtype=torch.float64, seed=0):
    return unit_noise(torch.empty(count, dtype=dtype), torch.Generator().manual_seed(seed))


def test_the_256_levels_have_mean_zero_and_variance_one() -> None:
    """Exactly: they are (k − 127.5) / sqrt((256² − 1) / 12) for k = 0 … 255."""
    found = levels().unique()
    expected = (np.arange(256) - 127.5) / math.sqrt((256**2 - 1) / 12)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert float(found.mean()) == pytest.approx(0, abs=1e-12)
    assert float(found.square().mean()) == pytest.approx(1, rel=1e-12)


def test_all_levels_are_equally_likely_in_each_eighth_of_a_draw() -> None:
    found = levels(800_000).reshape(-1, 8)
    for place in range(8):
        counts = np.unique(found[:, place].numpy(), return_counts=True)[1]
        assert len(counts) == 256
        assert stats.chisquare(counts).pvalue > 1e-4
    correlation = np.corrcoef(found.numpy().T) - np.eye(8)
    assert np.abs(correlation).max() < 4.5 / 100_000**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (3, 5, 7)])
def test_noise_has_the_shape_and_type_asked_for_and_follows_its_seed(shape, dtype) -> None:
    like = torch.full(shape, 3.0, dtype=dtype)
    one, same_seed, other = (
        unit_noise(like, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert one.shape == shape
    assert one.dtype == dtype
    assert bool((like == 3).all())
    assert torch.equal(one, same_seed)
    assert not torch.equal(one, other)


def everything(found):
    return [found.error, *found.drive, *found.hebb, found.activity]


@pytest.mark.parametrize("elements", [1, 120, 2**19], ids=["single", "pairs", "all"])
def test_blocks_do_not_change_what_is_found(elements, monkeypatch) -> None:
    """The largest tensor of a network has 6 × 10 numbers, so that 120 makes blocks of two."""
    p = batched_problem(batch=5)
    whole = look(p)
    monkeypatch.setattr(signals, "BLOCK_ELEMENTS", elements)
    rows = [range(5)[block] for block in signals.blocks(p.network, p.x)]
    assert [len(r) for r in rows] == {1: [1] * 5, 120: [2, 2, 1], 2**19: [5]}[elements]
    assert [b for r in rows for b in r] == list(range(5))
    for one, other in zip(everything(look(p)), everything(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("changed", ["params", "x", "y"])
@pytest.mark.parametrize("drive", signals.DRIVES)
def test_each_network_sees_its_own_data_only(drive, changed) -> None:
    p, other = batched_problem(bias=True), batched_problem(bias=True, seed=1)

    def mixed(own, foreign):
        merged = own.clone()
        merged[1] = foreign[1]
        return merged

    if changed == "params":
        value = [mixed(a, b) for a, b in zip(p.params, other.params, strict=True)]
    else:
        value = mixed(getattr(p, changed), getattr(other, changed))
    before, after = look(p, drive), look(p._replace(**{changed: value}), drive)
    for one, two in zip(everything(before), everything(after), strict=True):
        torch.testing.assert_close(one[[0, 2]], two[[0, 2]], rtol=1e-12, atol=1e-14)
    assert not torch.equal(before.error[1], after.error[1])
    assert not torch.equal(before.drive[0][1], after.drive[0][1])


def test_nothing_that_is_given_is_changed_or_tracked() -> None:
    p = batched_problem(bias=True)
    kept = [t.clone() for t in (*p.params, p.x, p.y)]
    leaves = [w.clone().requires_grad_() for w in p.params]
    for drive in signals.DRIVES:
        found = look(p._replace(params=leaves), drive)
        assert not any(t.requires_grad for t in everything(found))
        look(p, drive)
    for one, other in zip((*p.params, p.x, p.y), kept, strict=True):
        assert torch.equal(one, other)
