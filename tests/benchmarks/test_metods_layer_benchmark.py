"""The benchmark of the MetODS layer runs, compares equals, and counts what it says it counts."""

import resource
from pathlib import Path

import pytest
import torch

from metarl_lib.cores import Core


class Squares(Core):
    """Squares its memory at every step: autograd keeps each memory before it is squared."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.start = torch.nn.Parameter(torch.ones(5))

    def initial_state(self, batch):
        return (self.start.expand(batch, -1) + 0,)

    def step(self, x, state):
        return x, (state[0].square(),)


def test_what_is_kept_is_counted_once_and_without_parameters(script) -> None:
    xs = torch.zeros(7, 3, 1)
    assert script.kept_bytes(Squares(), xs) == 7 * 3 * 5 * 4

    class Twice(Squares):
        def step(self, x, state):
            (w,) = state
            return (w * self.start).sum(-1, keepdim=True), (w * w,)

    assert script.kept_bytes(Twice(), xs) == 7 * 3 * 5 * 4


@pytest.mark.parametrize("form", ["lazy", "replay", "fused"])
@pytest.mark.parametrize("change", [None, "beta", "alpha"])
def test_forms_that_disagree_are_not_timed(script, change, form) -> None:
    cores = {form: script.layer(6, form) for form in script.FORMS}
    xs = torch.randn(4, 2, script.INPUTS, generator=torch.Generator().manual_seed(0))
    if change is None:
        script.check_agreement(cores, xs)
        return
    with torch.no_grad():
        getattr(cores[form], change)[0, 0] += 0.1
    with pytest.raises(AssertionError, match="not close"):
        script.check_agreement(cores, xs)


def test_all_forms_are_one_layer(script) -> None:
    naive, *others = (script.layer(6, form) for form in script.FORMS)
    assert [core.form for core in (naive, *others)] == ["naive", "lazy", "replay", "fused"]
    assert naive.depth == script.DEPTH
    for core in others:
        for p, q in zip(naive.parameters(), core.parameters(), strict=True):
            assert torch.equal(p, q)


def test_the_memory_that_a_pass_adds_is_measured(script, monkeypatch) -> None:
    """A pass that fills 300 MiB more than the most that this process ever had."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    free = script.most_memory() - pages * resource.getpagesize() / script.MIB
    sizes = iter([1, 300 + round(free)])
    monkeypatch.setattr(
        script, "learn", lambda core, xs: torch.ones(next(sizes) * script.MIB // 4).sum()
    )
    assert 250 < script.added_memory(Squares(), 3) < 350


def test_the_fastest_compiled_form_counts(script) -> None:
    speeds = {"naive": 1.0, "lazy": 9.0, "naive+compile": 2.0, "lazy+compile": 5.0}
    found = {form: {"speed": speed, "memory": 1.0} for form, speed in speeds.items()}
    assert script.fastest(found) == 5.0
    assert script.fastest({"naive": found["naive"]}) is None


def test_quick_prints_a_table_and_one_line_of_json(quick, monkeypatch) -> None:
    """Without a compiler, which would take a minute."""
    monkeypatch.setenv("PATH", "")
    (*table, memory), result = quick("metods_layer")
    assert " ".join(memory).startswith("most memory of 25 steps, MiB: naive ")
    assert [line[:2] for line in table] == [
        [units, form] for units in ("100", "20") for form in ("naive", "lazy", "replay", "fused")
    ]
    ratios = result["ratios"]
    for units, end in (("100", ""), ("20", "_20")):
        naive, *others = ([float(cell) for cell in line[2:]] for line in table if line[0] == units)
        assert naive[1] == naive[3] == 1
        for form, other in zip(("lazy", "replay", "fused"), others, strict=True):
            assert other[1] == pytest.approx(naive[0] / other[0], rel=0.05)
            assert other[3] == pytest.approx(naive[2] / other[2], rel=0.05)
            assert ratios[f"{form}_vs_naive{end}"] == other[1]
            assert other[3] > 2  # what is kept does not depend on the machine
    assert ratios["memory_naive_vs_lazy"] == float(table[1][5])
    assert ratios["memory_naive_vs_scan"] > 8
    assert ratios["memory_naive_vs_fused"] > 8
    for name in ("compiled_vs_naive", "compiled_vs_naive_20"):
        assert ratios[name] is None
