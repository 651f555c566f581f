"""GRU and LSTM: gates by hand, rows cut at resets, and pieces side by side in one fused call."""

import pytest
import torch
from plain_cores import gru, lstm, plain_pieces
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from metarl_lib.cores import GRU, LSTM
from metarl_lib.cores.recurrent import cut

CELLS = {GRU: gru, LSTM: lstm}
cells = pytest.mark.parametrize("kind", [GRU, LSTM])


def make(kind, inputs=3, units=4):
    torch.manual_seed(0)
    return kind(inputs, units).double()


def problem(core, steps, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    xs = torch.randn(steps, rows, core.input_size, generator=generator, dtype=torch.float64)
    state = tuple(
        torch.randn(s.shape, generator=generator, dtype=s.dtype) for s in core.initial_state(rows)
    )
    return xs, state


def random_resets(steps, rows, share, seed=0):
    return torch.rand(steps, rows, generator=torch.Generator().manual_seed(seed)) < share


def spy(core, monkeypatch):
    """The inputs of every call of the fused kernel."""
    calls, run = [], core.run

    def recorded(xs, state):
        calls.append(xs)
        return run(xs, state)

    monkeypatch.setattr(core, "run", recorded)
    return calls


@cells
def test_a_step_is_that_of_the_gates_written_out(kind) -> None:
    core = make(kind)
    (x, *_), state = problem(core, 1, 3)
    y, after = core.step(x, state)
    for b in range(3):
        expected, memory = CELLS[kind](core, x[b].tolist(), tuple(s[b].tolist() for s in state))
        assert y[b].tolist() == pytest.approx(expected, rel=1e-12)
        for part, plain in zip(after, memory, strict=True):
            assert part[b].tolist() == pytest.approx(plain, rel=1e-12)


@cells
def test_the_output_is_h(kind) -> None:
    core = make(kind)
    xs, state = problem(core, 5, 3)
    resets = random_resets(5, 3, 0.3)
    ys, last = core.scan(xs, state, resets)
    assert torch.equal(ys[-1], last[0])
    y, after = core.step(xs[0], state)
    assert torch.equal(y, after[0])


def test_the_two_memories_of_an_lstm_are_not_one_tensor() -> None:
    h, c = LSTM(3, 4).initial_state(2)
    h += 1
    assert not c.any()


def test_rows_are_cut_where_they_are_reset() -> None:
    """Row 0 is never reset, row 1 at steps 0 and 2, row 2 at step 3."""
    resets = torch.tensor([[0, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]]).bool()
    pieces = cut(resets)
    assert pieces.row.tolist() == [0, 2, 1, 1, 2]
    assert pieces.start.tolist() == [0, 0, 0, 2, 3]
    assert pieces.sizes.tolist() == [5, 4, 2, 1]
    assert pieces.places.tolist() == [0, 2, 1, 7, 11, 3, 5, 4, 10, 6, 8, 9]
    assert pieces.last.tolist() == [0, 3, 4]


@pytest.mark.parametrize("share", [0, 0.05, 0.3, 0.8, 1])
@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (1, 5), (7, 1), (2, 3), (6, 4), (23, 9)])
def test_the_pieces_are_those_of_a_plain_loop(steps, rows, share) -> None:
    for seed in range(3):
        resets = random_resets(steps, rows, share, seed)
        pieces, plain = cut(resets), plain_pieces(resets.tolist())
        assert pieces.row.tolist() == [row for row, _, _ in plain]
        assert pieces.start.tolist() == [start for _, start, _ in plain]
        reached = [[p for p in plain if p[2] > step] for step in range(plain[0][2])]
        assert pieces.sizes.tolist() == [len(some) for some in reached]
        assert pieces.places.tolist() == [
            (start + step) * rows + row
            for step, some in enumerate(reached)
            for row, start, _ in some
        ]
        ends = {row: k for k, (row, start, length) in enumerate(plain) if start + length == steps}
        assert pieces.last.tolist() == [ends[row] for row in range(rows)]


def test_cutting_leaves_the_resets_as_they_are() -> None:
    resets = random_resets(5, 3, 0.3)
    before = resets.clone()
    cut(resets)
    assert torch.equal(resets, before)


@cells
def test_resets_in_the_middle_are_one_call_on_all_pieces_side_by_side(kind, monkeypatch) -> None:
    core = make(kind)
    xs, state = problem(core, 9, 4)
    resets = random_resets(9, 4, 0.3)
    calls = spy(core, monkeypatch)
    core.scan(xs, state, resets)
    (packed,) = calls
    assert isinstance(packed, PackedSequence)
    plain = plain_pieces(resets.tolist())
    expected = pack_sequence([xs[start : start + n, row] for row, start, n in plain])
    assert torch.equal(packed.data, expected.data)
    assert torch.equal(packed.batch_sizes, expected.batch_sizes)


@cells
@pytest.mark.parametrize("resets", [None, "no row", "the first step"])
def test_without_resets_in_the_middle_rows_stay_whole(kind, resets, monkeypatch) -> None:
    core = make(kind)
    xs, state = problem(core, 5, 3)
    calls = spy(core, monkeypatch)
    if resets is not None:
        places = torch.zeros(5, 3, dtype=torch.bool)
        places[0, 1] = resets == "the first step"
        resets = places
    core.scan(xs, state, resets)
    (whole,) = calls
    assert torch.equal(whole, xs)


@cells
@pytest.mark.parametrize("share", [0.05, 0.3, 0.8, 1])
def test_a_packed_scan_is_a_loop_of_steps(kind, share) -> None:
    core = make(kind)
    xs, state = problem(core, 17, 6)
    resets = random_resets(17, 6, share)
    ys, last = core.scan(xs, state, resets)
    for t, x in enumerate(xs):
        state = tuple(torch.where(resets[t][:, None], torch.zeros_like(s), s) for s in state)
        y, state = core.step(x, state)
        torch.testing.assert_close(ys[t], y, rtol=1e-12, atol=1e-12)
    for found, expected in zip(last, state, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@cells
def test_a_scan_of_rows_picked_from_a_batch_is_that_of_the_batch(kind) -> None:
    """Minibatches are such picks, which do not lie in memory one after the other."""
    core = make(kind)
    xs, state = problem(core, 8, 5)
    resets = random_resets(8, 5, 0.3)
    ys, last = core.scan(xs, state, resets)
    rows = slice(1, None, 2)
    some, end = core.scan(xs[:, rows], tuple(s[rows] for s in state), resets[:, rows])
    torch.testing.assert_close(some, ys[:, rows], rtol=1e-12, atol=1e-12)
    for found, expected in zip(end, last, strict=True):
        torch.testing.assert_close(found, expected[rows], rtol=1e-12, atol=1e-12)
