"""Weight and node perturbation against loops over draws, samples and layers, fed the same noise."""

import pytest
import torch

from metarl_lib.rules import forward_passes, node_perturbation, perturbation, weight_perturbation
from metarl_lib.rules.network import ACTIVATIONS

RULES = {"wp": weight_perturbation, "np": node_perturbation}
NETWORKS = [
    ((3, 2), "relu", None),
    ((3, 5, 2), "relu", None),
    ((3, 4, 2), "tanh", "relu"),
    ((2, 4, 3, 2), "tanh", "tanh"),
    ((2, 4, 3, 2), None, None),
]


def forward_one(p, params, sample, unit_noise=None):
    """Activations X_0, …, X_L of one sample, a layer at a time."""
    step = 2 if p.network.bias else 1
    activations = [sample]
    for layer in range(p.network.num_layers):
        z = params[step * layer] @ activations[-1]
        if p.network.bias:
            z = z + params[step * layer + 1]
        if unit_noise is not None:
            z = z + unit_noise[layer]
        last = layer == p.network.num_layers - 1
        name = p.network.output_activation if last else p.network.activation
        activations.append(ACTIVATIONS[name].value(z))
    return activations


def error_one(p, output, index):
    return float(p.loss(output[None], p.y[index : index + 1])[0])


def mean_error(p, params):
    errors = [error_one(p, forward_one(p, params, x)[-1], i) for i, x in enumerate(p.x)]
    return sum(errors) / len(errors)


def naive_wp(p, noise, sigma, antithetic):
    """`noise`: one `[draws, …]` tensor per parameter."""
    draws = len(noise[0])
    total = [torch.zeros_like(w) for w in p.params]
    for k in range(draws):
        plus = mean_error(p, [w + sigma * n[k] for w, n in zip(p.params, noise, strict=True)])
        if antithetic:
            minus = mean_error(p, [w - sigma * n[k] for w, n in zip(p.params, noise, strict=True)])
            slope = (plus - minus) / (2 * sigma)
        else:
            slope = (plus - mean_error(p, p.params)) / sigma
        total = [t + slope * n[k] for t, n in zip(total, noise, strict=True)]
    return [t / draws for t in total]


def naive_np(p, noise, sigma, antithetic):
    """`noise`: one `[draws, samples, units]` tensor per layer."""
    draws, step = len(noise[0]), 2 if p.network.bias else 1
    total = [torch.zeros_like(w) for w in p.params]
    for k in range(draws):
        for i, x in enumerate(p.x):
            clean = forward_one(p, p.params, x)
            own = [n[k, i] for n in noise]
            plus = error_one(p, forward_one(p, p.params, x, [sigma * n for n in own])[-1], i)
            if antithetic:
                minus = error_one(p, forward_one(p, p.params, x, [-sigma * n for n in own])[-1], i)
                slope = (plus - minus) / (2 * sigma)
            else:
                slope = (plus - error_one(p, clean[-1], i)) / sigma
            for layer, n in enumerate(own):
                total[step * layer] += slope * torch.outer(n, clean[layer])
                if p.network.bias:
                    total[step * layer + 1] += slope * n
    return [t / (draws * len(p.x)) for t in total]


def draw_noise(rule, p, draws, seed, batch=()):
    """The rule's own stream: a block per parameter, or per layer, in order."""
    generator = torch.Generator().manual_seed(seed)
    samples = (len(p.x),)
    shapes = p.network.shapes if rule == "wp" else [(*samples, r) for r in p.network.widths[1:]]
    return [
        torch.randn(draws, *batch, *s, generator=generator, dtype=torch.float64) for s in shapes
    ]


def estimate(rule, p, seed, **options):
    return RULES[rule](*p, generator=torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("loss", ["half_mse", "labels", "soft"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rule", RULES)
def test_the_rule_is_the_naive_loop(problem, rule, network, bias, loss, antithetic) -> None:
    p = problem(*network, bias=bias, loss=loss)
    sigma = 0.05
    naive = {"wp": naive_wp, "np": naive_np}[rule]
    expected = naive(p, draw_noise(rule, p, 3, seed=5), sigma, antithetic)
    found = estimate(rule, p, 5, draws=3, antithetic=antithetic, sigma=sigma)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_leading_dimensions_are_separate_networks(problem, rule, bias, antithetic) -> None:
    p = problem(bias=bias, batch=(2, 3))
    noise = draw_noise(rule, p, 4, seed=5, batch=(2, 3))
    naive = {"wp": naive_wp, "np": naive_np}[rule]
    found = estimate(rule, p, 5, draws=4, antithetic=antithetic, sigma=0.1)
    for a in range(2):
        for b in range(3):
            alone = p._replace(params=[w[a, b] for w in p.params])
            expected = naive(alone, [n[:, a, b] for n in noise], 0.1, antithetic)
            for f, e in zip(found, expected, strict=True):
                torch.testing.assert_close(f[a, b], e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_every_network_may_have_its_own_data(problem, rule) -> None:
    several = [problem(seed=seed) for seed in range(3)]
    stacked = several[0]._replace(
        params=[torch.stack(w) for w in zip(*(p.params for p in several), strict=True)],
        x=torch.stack([p.x for p in several]),
        y=torch.stack([p.y for p in several]),
    )
    noise = draw_noise(rule, several[0], 2, seed=5, batch=(3,))
    naive = {"wp": naive_wp, "np": naive_np}[rule]
    found = estimate(rule, stacked, 5, draws=2, sigma=0.1)
    for index, p in enumerate(several):
        expected = naive(p, [n[:, index] for n in noise], 0.1, False)
        for f, e in zip(found, expected, strict=True):
            torch.testing.assert_close(f[index], e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_blocks_of_draws_average_to_the_same(problem, monkeypatch, rule, antithetic) -> None:
    """Seven draws in blocks of 3, 3 and 1: the naive rule on the three blocks' noise, joined."""
    p = problem(samples=5)
    largest = 5 * 4  # samples times the widest layer
    monkeypatch.setattr(perturbation, "MAX_ELEMENTS", 3 * largest + 1)
    found = estimate(rule, p, 5, draws=7, antithetic=antithetic, sigma=0.1)

    generator = torch.Generator().manual_seed(5)
    blocks = []
    for size in (3, 3, 1):
        shapes = p.network.shapes if rule == "wp" else [(5, r) for r in p.network.widths[1:]]
        blocks.append(
            [torch.randn(size, *s, generator=generator, dtype=torch.float64) for s in shapes]
        )
    noise = [torch.cat(parts) for parts in zip(*blocks, strict=True)]
    expected = {"wp": naive_wp, "np": naive_np}[rule](p, noise, 0.1, antithetic)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_the_arguments_stay_as_they_were(problem, rule) -> None:
    p = problem(bias=True)
    before = [w.clone() for w in p.params]
    first = estimate(rule, p, 5, draws=3)
    again = estimate(rule, p, 5, draws=3)
    other = estimate(rule, p, 6, draws=3)
    assert all(torch.equal(w, b) for w, b in zip(p.params, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_forward_passes_counts_them(problem, monkeypatch, rule, antithetic) -> None:
    """Count the samples that every forward pass takes through the network."""
    p = problem()
    rows = []
    network_trace = type(p.network).trace

    def counted(network, params, x, unit_noise=None):
        result = network_trace(network, params, x, unit_noise)
        rows.append(result.output[..., 0].numel())
        return result

    monkeypatch.setattr(type(p.network), "trace", counted)
    estimate(rule, p, 5, draws=6, antithetic=antithetic)
    assert sum(rows) == forward_passes(rule, 6, antithetic) * len(p.x)
    assert forward_passes("sgd") == 3


def test_an_unknown_rule_has_no_forward_passes() -> None:
    with pytest.raises(ValueError, match="rule='foo' is unknown: choose one of 'sgd', 'wp', 'np'"):
        forward_passes("foo")
