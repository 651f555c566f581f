"""The benchmark of MAML runs, all its contestants find one gradient, and its last line is JSON."""

import pytest
import torch

from metarl_lib.datasets import SinusoidFamily

KEYS = ("vs_hand_batched", "vs_torch_func", "vs_torchopt", "vs_higher", "of_jax_scan")


@pytest.fixture
def found(script, monkeypatch):
    """Those of this machine, without a compiler, which would take a minute."""
    monkeypatch.setenv("PATH", "")
    return script.contestants(2)


def test_all_contestants_find_the_same_gradient_and_go_on(script, found) -> None:
    assert list(found)[:3] == ["ours", "hand-batched", "torch.func"]
    script.check_agreement(found)
    for each in found.values():
        each.advance(2)
    script.check_agreement(found)  # which sets the parameters


def test_one_that_finds_another_gradient_is_not_timed(script, found) -> None:
    own = found["hand-batched"].gradient
    found["hand-batched"].gradient = lambda params, tasks: [1.01 * g for g in own(params, tasks)]
    with pytest.raises(AssertionError, match=r"hand-batched is not close to torch\.func"):
        script.check_agreement(found)


def test_the_hand_batched_peer_draws_the_same_tasks(script, found, monkeypatch) -> None:
    drawn = []
    real = SinusoidFamily.sample

    def sample(family, batch, generator, split="train"):
        drawn.append(real(family, batch, generator, split))
        return drawn[-1]

    monkeypatch.setattr(SinusoidFamily, "sample", sample)
    for name in ("ours", "hand-batched"):
        found[name].advance(3)
    ours, peers = drawn
    assert all(torch.equal(a, b) for a, b in zip(ours, peers, strict=True))


def test_what_is_compared_is_one_over_the_median(script) -> None:
    turns = []
    found = {
        name: script.Contestant(None, lambda count, name=name: turns.append((name, count)), share)
        for name, share in (("ours", 1.0), ("slow", 0.02))
    }
    rate = script.rates(found, 100, 3)
    assert turns == [("ours", 100), ("slow", 2)] * 4
    assert rate["ours"] > rate["slow"] > 0


def test_quick_prints_a_table_and_one_line_of_json(quick, monkeypatch) -> None:
    """Without a compiler, which would take a minute."""
    monkeypatch.setenv("PATH", "")
    table, result = quick("maml")
    ratios = result["ratios"]
    assert list(ratios) == [*KEYS, *(f"compiled_{key}" for key in KEYS)]
    rows = {" ".join(line[:-2]): line[-2:] for line in table if line[-1].endswith("x")}
    assert rows["ours"][1] == "1.00x"
    names = ("hand-batched", "torch.func", "torchopt", "higher", "JAX scan")
    for key, name in zip(KEYS, names, strict=True):
        assert ratios[f"compiled_{key}"] is None
        if name not in rows:
            assert ratios[key] is None
            continue
        assert ratios[key] == float(rows[name][1][:-1])
        expected = float(rows["ours"][0]) / float(rows[name][0])
        assert ratios[key] == pytest.approx(expected, rel=0.02)
    assert ratios["vs_hand_batched"] > 1
    assert ratios["vs_torch_func"] > 1
