"""The laws of a core: scans are loops and compose, rows are apart, a reset is a fresh start."""

from itertools import product

import pytest
import torch
from plain_cores import plain_scan

from metarl_lib.cores import GRU, LSTM, SRWM, Backpropamine, Core, MetODS
from metarl_lib.cores.base import where_reset
from metarl_lib.cores.metods import FORMS, INITIALS, PLASTICITIES, WRITES

INPUTS, UNITS, ROWS, STEPS = 2, 3, 3, 6

OTHERS = {kind.__name__: (kind, {}) for kind in (GRU, LSTM, Backpropamine, SRWM)} | {
    "Backpropamine-compiled": (Backpropamine, {"compile": True})
}
NAMES = ("depth", "write", "plasticity", "initial", "form")
EVERY_METODS = {
    "-".join(map(str, chosen)): (MetODS, dict(zip(NAMES, chosen, strict=True)))
    for chosen in product((1, 2, 3, 4), WRITES, PLASTICITIES, INITIALS, FORMS[1:])
    if not {"mlp", "fused"} <= set(chosen)
}
# Each choice at least once, for the laws that take many scans.
SOME_METODS = {
    name: EVERY_METODS[name]
    for name in (
        "1-vanilla-scalar-sampled-naive",
        "2-mlp-scalar-zero-lazy",
        "3-mlp-matrix-learned-naive",
        "4-linear-matrix-learned-lazy",
        "4-linear-matrix-learned-replay",
        "4-linear-matrix-learned-fused",
        "2-mlp-none-sampled-replay",
    )
}
EVERY, SOME = OTHERS | EVERY_METODS, OTHERS | SOME_METODS

PATTERNS = {
    "none": None,
    "no row": [],
    "the first step": [(0, 1)],
    "the first step of all rows": [(0, 0), (0, 1), (0, 2)],
    "the middle": [(3, 0)],
    "the middle of all rows": [(2, 0), (2, 1), (2, 2)],
    "the last step": [(5, 2)],
    "often in one row": [(0, 1), (2, 1), (3, 1), (5, 1)],
    "here and there": [(0, 0), (2, 0), (2, 2), (4, 1), (5, 1)],
    "every step": list(product(range(STEPS), range(ROWS))),
}
MIXED = PATTERNS["here and there"]

every_core = pytest.mark.parametrize("case", EVERY.values(), ids=EVERY.keys())
some_cores = pytest.mark.parametrize("case", SOME.values(), ids=SOME.keys())


def resets_at(places, steps=STEPS, rows=ROWS):
    if places is None:
        return None
    resets = torch.zeros(steps, rows, dtype=torch.bool)
    for place in places:
        resets[place] = True
    return resets


def make(case, seed=0):
    """A core in double precision whose parameters are so large that everything matters."""
    kind, options = case
    torch.manual_seed(seed)
    core = kind(INPUTS, UNITS, **options).double()
    with torch.no_grad():
        for p in core.parameters():
            p.add_(0.4 * torch.randn_like(p))
        if isinstance(core, MetODS) and core.initial == "sampled":
            core.start.add_(0.4 * torch.randn_like(core.start))
    return core


def problem(core, steps=STEPS, rows=ROWS, seed=1):
    """Inputs, and a memory that is not the initial one."""
    generator = torch.Generator().manual_seed(seed)

    def randn(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    xs = randn((steps, rows, INPUTS)).requires_grad_()
    return xs, tuple((0.5 * randn(s.shape)).requires_grad_() for s in core.initial_state(rows))


def loop(core, xs, state, resets=None):
    """The steps one after the other; a row that is reset is taken from a new memory."""
    ys = []
    for t in range(len(xs)):
        if resets is not None:
            fresh = core.initial_state(xs.shape[1])
            state = tuple(
                torch.stack([(new if resets[t, b] else old)[b] for b in range(len(old))])
                for new, old in zip(fresh, state, strict=True)
            )
        y, state = core.step(xs[t], state)
        ys.append(y)
    return torch.stack(ys), state


def weighed(outputs):
    """A number in which each number of each tensor has its own weight."""
    generator = torch.Generator().manual_seed(2)
    return sum(
        (out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum()
        for out in outputs
    )


def gradients(outputs, inputs):
    """Of `weighed(outputs)`; zeros where there is no path."""
    return torch.autograd.grad(weighed(outputs), inputs, materialize_grads=True)


def everything(core, scan, xs, state, resets=None):
    """Values of outputs and last memory, and all their gradients, by name."""
    ys, last = scan(xs, state, resets)
    wanted = {"xs": xs, **{f"state {k}": s for k, s in enumerate(state)}}
    wanted |= dict(core.named_parameters())
    slopes = gradients((ys, *last), tuple(wanted.values()))
    values = {"ys": ys.detach(), **{f"last {k}": s.detach() for k, s in enumerate(last)}}
    return values | {f"d {name}": g for name, g in zip(wanted, slopes, strict=True)}


def same(found, expected, tolerance=1e-12):
    """Up to the rounding of a tensor's largest number, where that is above one."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.abs().max().clamp(min=1)
        torch.testing.assert_close(
            found[name] / scale, value / scale, rtol=tolerance, atol=tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip


def scan_is_loop(core, places):
    xs, state = problem(core)
    resets = resets_at(places)
    found = everything(core, core.scan, xs, state, resets)
    same(found, everything(core, lambda *a: loop(core, *a), xs, state, resets))
    return found


@every_core
def test_a_scan_is_a_loop_of_steps_in_values_and_all_gradients(case) -> None:
    found = scan_is_loop(make(case), MIXED)
    assert all(value.any() for value in found.values()), "a gradient that is nowhere says nothing"


@pytest.mark.parametrize("places", PATTERNS.values(), ids=PATTERNS.keys())
@some_cores
def test_a_scan_is_a_loop_wherever_it_is_reset(case, places) -> None:
    scan_is_loop(make(case), places)


@every_core
def test_a_scan_is_that_of_one_row_at_a_time_in_plain_python(case) -> None:
    core = make(case)
    xs, state = problem(core)
    resets = resets_at(MIXED)
    ys, last = core.scan(xs, state, resets)
    rows = [tuple(s[b].tolist() for s in state) for b in range(ROWS)]
    expected, ends = plain_scan(core, xs.tolist(), rows, resets.tolist())
    for found, value in zip((ys, *last), (expected, *zip(*ends, strict=True)), strict=True):
        plain = torch.tensor(value, dtype=torch.float64)
        torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cut", [1, 3, 5])
@some_cores
def test_two_scans_are_the_scan_of_both(case, cut) -> None:
    """Gradients go through the memory in between."""
    core = make(case)
    xs, state = problem(core)
    resets = resets_at(MIXED)

    def halves(xs, state, resets):
        first, between = core.scan(xs[:cut], state, resets[:cut])
        second, last = core.scan(xs[cut:], between, resets[cut:])
        return torch.cat([first, second]), last

    same(
        everything(core, halves, xs, state, resets), everything(core, core.scan, xs, state, resets)
    )


@some_cores
def test_rows_do_not_touch_each_other(case) -> None:
    core = make(case)
    xs, state = problem(core)
    resets = resets_at(MIXED)
    for b in range(ROWS):
        ys, last = core.scan(xs, state, resets)
        others = [k for k in range(ROWS) if k != b]
        along_x, *along_state = gradients((ys[:, b], *(s[b] for s in last)), (xs, *state))
        assert along_x[:, b].any()
        assert not along_x[:, others].any()
        assert not any(slope[others].any() for slope in along_state)
        changed = xs.detach().clone()
        changed[:, others] += 1
        assert not torch.equal(core.scan(changed, state, resets)[0], ys)
        assert torch.equal(core.scan(changed, state, resets)[0][:, b], ys[:, b])


@some_cores
def test_a_row_by_itself_is_what_it_is_beside_others(case) -> None:
    core = make(case)
    xs, state = problem(core)
    resets = resets_at(MIXED)

    def one_by_one(xs, state, resets):
        rows = [slice(b, b + 1) for b in range(ROWS)]
        scans = [core.scan(xs[:, b], tuple(s[b] for s in state), resets[:, b]) for b in rows]
        last = zip(*(end for _, end in scans), strict=True)
        return torch.cat([ys for ys, _ in scans], 1), tuple(map(torch.cat, last))

    alone = everything(core, one_by_one, xs, state, resets)
    same(alone, everything(core, core.scan, xs, state, resets))


@pytest.mark.parametrize("step", [0, 2, STEPS - 1])
@some_cores
def test_a_reset_is_a_fresh_start_before_its_step(case, step) -> None:
    """What follows is a life of its own: what came before has no part in it."""
    core, row = make(case), 1
    xs, state = problem(core)
    ys, last = core.scan(xs, state, resets_at([(step, row)]))
    later = (ys[step:, row], *(s[row] for s in last))
    start = core.initial_state(1)
    fresh, end = core.scan(xs[step:, row : row + 1], start)
    expected = (fresh[:, 0], *(s[0] for s in end))
    for found, value in zip(later, expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)
    inputs = (xs, *core.parameters())
    same(dict(enumerate(gradients(later, inputs))), dict(enumerate(gradients(expected, inputs))))
    ys, last = core.scan(xs, state, resets_at([(step, row)]))
    before, *carried = gradients((ys[step:, row], *(s[row] for s in last)), (xs, *state))
    assert not before[:step].any()
    assert before[step:, row].any()
    assert not any(slope.any() for slope in carried)


@some_cores
def test_a_reset_goes_back_to_the_start_and_not_to_the_memory_that_was_given(case) -> None:
    core = make(case)
    xs, state = problem(core)
    everywhere = resets_at(PATTERNS["the first step of all rows"])
    found = core.scan(xs, state, everywhere)[0]
    torch.testing.assert_close(found, core.scan(xs, core.initial_state(ROWS))[0])
    assert not torch.allclose(found, core.scan(xs, state)[0])


@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (1, 4), (5, 1)])
@some_cores
def test_one_step_and_one_row_are_no_exception(case, steps, rows) -> None:
    core = make(case)
    xs, state = problem(core, steps, rows)
    for resets in (None, resets_at([], steps, rows), resets_at([(steps - 1, 0)], steps, rows)):
        ys, last = core.scan(xs, state, resets)
        assert ys.shape == (steps, rows, UNITS)
        assert [s.shape for s in last] == [s.shape for s in state]
        found = everything(core, core.scan, xs, state, resets)
        same(found, everything(core, lambda *a: loop(core, *a), xs, state, resets))


@some_cores
def test_every_row_starts_with_the_same_memory(case) -> None:
    for part in make(case).initial_state(4):
        assert part.shape[0] == 4
        assert torch.equal(part, part[:1].expand_as(part))


@some_cores
def test_single_precision_is_the_default_and_double_can_be_asked_for(case) -> None:
    kind, options = case
    core = kind(INPUTS, UNITS, **options)
    for dtype in (torch.float32, torch.float64):
        core = core.to(dtype)
        state = core.initial_state(ROWS)
        ys, last = core.scan(torch.randn(STEPS, ROWS, INPUTS, dtype=dtype), state, resets_at(MIXED))
        y, after = core.step(torch.randn(ROWS, INPUTS, dtype=dtype), state)
        assert {part.dtype for part in (*state, ys, *last, y, *after)} == {dtype}


@some_cores
def test_a_core_is_what_its_state_dict_says(case) -> None:
    core, other = make(case, seed=0), make(case, seed=1)
    xs, state = problem(core)
    resets = resets_at(MIXED)
    with torch.no_grad():
        expected = core.scan(xs, state, resets)[0]
        assert not torch.allclose(other.scan(xs, state, resets)[0], expected)
        other.load_state_dict(core.state_dict())
        assert torch.equal(other.scan(xs, state, resets)[0], expected)


@pytest.mark.parametrize("kind", [GRU, LSTM, MetODS, Backpropamine, SRWM, Core])
@pytest.mark.parametrize(
    ("sizes", "name"), [((0, 3), "input_size=0"), ((2, -1), "num_units=-1"), ((2.0, 3), "2.0")]
)
def test_sizes_are_whole_and_positive(kind, sizes, name, unchecked) -> None:
    with pytest.raises(ValueError, match=name) as refusal:
        kind(*sizes)
    assert "must be a whole number >= 1" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_reset_replaces_the_memory_of_its_row_only() -> None:
    reset = torch.tensor([True, False, True])
    new = (torch.zeros(3), torch.zeros(3, 2, 2))
    old = (torch.ones(3), torch.ones(3, 2, 2))
    vector, matrix = where_reset(reset, new, old)
    assert vector.tolist() == [0, 1, 0]
    assert matrix.flatten(1).tolist() == [[0] * 4, [1] * 4, [0] * 4]
    with pytest.raises(ValueError, match=r"longer|shorter"):
        where_reset(reset, new, old[:1])
