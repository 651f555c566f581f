"""The benchmark of the MetODS layer runs, compares equals, and counts what it says it counts."""

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


@pytest.mark.parametrize("change", [None, "beta", "alpha"])
def test_forms_that_disagree_are_not_timed(script, change) -> None:
    cores = {form: script.layer(6, form) for form in script.EAGER}
    xs = torch.randn(4, 2, script.INPUTS, generator=torch.Generator().manual_seed(0))
    if change is None:
        script.check_agreement(cores, xs)
        return
    with torch.no_grad():
        getattr(cores["lazy"], change)[0, 0] += 0.1
    with pytest.raises(AssertionError, match="not close"):
        script.check_agreement(cores, xs)


def test_all_forms_are_one_layer(script) -> None:
    naive, lazy = (script.layer(6, form) for form in script.EAGER)
    assert (naive.form, lazy.form) == ("naive", "lazy")
    assert naive.depth == script.DEPTH
    for p, q in zip(naive.parameters(), lazy.parameters(), strict=True):
        assert torch.equal(p, q)


def test_quick_prints_a_table_and_one_line_of_json(quick, monkeypatch) -> None:
    """Without a compiler, which would take a minute."""
    monkeypatch.setenv("PATH", "")
    table, result = quick("metods_layer")
    assert [line[:2] for line in table] == [
        [units, form] for units in ("100", "20") for form in ("naive", "lazy")
    ]
    ratios = result["ratios"]
    for units, name in (("100", "lazy_vs_naive"), ("20", "lazy_vs_naive_20")):
        naive, lazy = ([float(cell) for cell in line[2:]] for line in table if line[0] == units)
        assert naive[1] == naive[3] == 1
        assert lazy[1] == pytest.approx(naive[0] / lazy[0], rel=0.05)
        assert lazy[3] == pytest.approx(naive[2] / lazy[2], rel=0.05)
        assert ratios[name] == lazy[1]
        assert lazy[3] > 2  # what is kept does not depend on the machine
    assert ratios["memory_naive_vs_lazy"] == float(table[1][5])
    for name in ("compiled_vs_naive", "compiled_vs_naive_20", "memory_naive_vs_scan"):
        assert ratios[name] is None
