"""Gated recurrent cells: GRU (Cho et al. 2014) and LSTM (Hochreiter & Schmidhuber 1997)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from metarl_lib.cores.base import Core, State, where_reset


class KernelCore(Core):
    """A cell with a fused kernel in PyTorch, `cell`, for many steps of many rows at once."""

    cell: Any

    def run(
        self, xs: Tensor | PackedSequence, state: State
    ) -> tuple[Tensor | PackedSequence, State]:
        """The fused kernel on inputs without resets: `[T, B, I]` to `[T, B, O]`, or both packed."""
        raise NotImplementedError

    def scan(
        self,
        xs: Float[Tensor, "T B I"],
        state: State,
        resets: Bool[Tensor, "T B"] | None = None,
    ) -> tuple[Float[Tensor, "T B O"], State]:
        """T steps of every row by few calls of the fused kernel.

        Where rows are reset in the middle, they are cut there, and the pieces go through the kernel
        side by side as one packed sequence, each from the memory that it starts with.
        """
        if resets is not None and bool(resets[0].any()):
            state = where_reset(resets[0], self.initial_state(xs.shape[1]), state)
        if resets is None or not bool(resets[1:].any()):
            ys, state = self.run(xs, state)
            assert isinstance(ys, Tensor)
            return ys, state
        pieces = cut(resets)
        count = len(pieces.row)
        carried = tuple(s[pieces.row] for s in state)
        start = where_reset(pieces.start > 0, self.initial_state(count), carried)
        packed = PackedSequence(xs.flatten(0, 1)[pieces.places], pieces.sizes)
        ys, ends = self.run(packed, start)
        assert isinstance(ys, PackedSequence)
        back = torch.empty_like(pieces.places)
        back[pieces.places] = torch.arange(len(back), device=back.device)
        out = ys.data[back].unflatten(0, xs.shape[:2])
        return out, tuple(end[pieces.last] for end in ends)


class GRU(KernelCore):
    """Gated recurrent unit of PyTorch; its memory is h `[B, O]`, zero at the start."""

    def __init__(self, input_size: int, num_units: int) -> None:
        super().__init__(input_size, num_units)
        self.cell = nn.GRU(input_size, num_units)

    def initial_state(self, batch: int) -> State:
        """h = 0."""
        return (self.cell.weight_hh_l0.new_zeros(batch, self.num_units),)

    def step(self, x: Float[Tensor, "B I"], state: State) -> tuple[Float[Tensor, "B O"], State]:
        """One step; the output is h."""
        h = torch.gru_cell(x, state[0], *_weights(self.cell))
        return h, (h,)

    def run(
        self, xs: Tensor | PackedSequence, state: State
    ) -> tuple[Tensor | PackedSequence, State]:
        """The fused kernel on inputs without resets."""
        ys, h = self.cell(xs, state[0][None])
        return ys, (h[0],)


class LSTM(KernelCore):
    """Long short-term memory of PyTorch; its memory is (h, c), each `[B, O]`, zero at the start."""

    def __init__(self, input_size: int, num_units: int) -> None:
        super().__init__(input_size, num_units)
        self.cell = nn.LSTM(input_size, num_units)

    def initial_state(self, batch: int) -> State:
        """h = c = 0."""
        zero = self.cell.weight_hh_l0.new_zeros(batch, self.num_units)
        return zero, zero.clone()

    def step(self, x: Float[Tensor, "B I"], state: State) -> tuple[Float[Tensor, "B O"], State]:
        """One step; the output is h."""
        h, c = torch.lstm_cell(x, state, *_weights(self.cell))
        return h, (h, c)

    def run(
        self, xs: Tensor | PackedSequence, state: State
    ) -> tuple[Tensor | PackedSequence, State]:
        """The fused kernel on inputs without resets."""
        ys, (h, c) = self.cell(xs, (state[0][None], state[1][None]))
        return ys, (h[0], c[0])


def _weights(cell: Any) -> tuple[Tensor, ...]:
    return cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_ih_l0, cell.bias_hh_l0


class Pieces(NamedTuple):
    """Rows cut where they are reset, the longest piece first.

    `row` and `start` `[P]` say where each piece begins, `places` `[T·B]` which step of which row
    (t · B + b) each number of a `PackedSequence` comes from, `sizes` how many pieces reach each
    step, `last` `[B]` the piece that ends each row.
    """

    row: Tensor
    start: Tensor
    places: Tensor
    sizes: Tensor
    last: Tensor


def cut(resets: Bool[Tensor, "T B"]) -> Pieces:
    """The pieces of all rows between resets."""
    steps, batch = resets.shape
    begins = resets.cpu().clone()
    begins[0] = True
    row, start = begins.T.nonzero(as_tuple=True)  # row by row, in the order of time
    ends = torch.full_like(start, steps)
    same = row[1:] == row[:-1]
    ends[:-1][same] = start[1:][same]
    length, order = (ends - start).sort(descending=True, stable=True)
    row, start = row[order], start[order]
    step = torch.arange(int(length[0]))[:, None]
    reached = step < length
    places = ((start + step) * batch + row)[reached]
    last = torch.empty(batch, dtype=torch.long)
    at_end = (start + length) == steps
    last[row[at_end]] = at_end.nonzero().flatten()
    device = resets.device
    return Pieces(
        row.to(device), start.to(device), places.to(device), reached.sum(1), last.to(device)
    )
