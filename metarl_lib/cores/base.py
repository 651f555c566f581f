"""What a core is: a memory cell that carries what it knows of a task through a lifetime."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

State = tuple[Tensor, ...]  # a core's memory: tensors [B, …]


class Core(nn.Module):
    """A memory cell, stepped for B rows at once.

    A subclass gives `initial_state` and `step`; `scan` is their loop, which a subclass replaces
    where it knows a faster way to the same numbers.

    Args:
        input_size: I, numbers that it is given in a step.
        num_units: O, numbers that it gives back.

    Raises:
        ValueError: for a size that is no whole number >= 1.
    """

    def __init__(self, input_size: int, num_units: int) -> None:
        super().__init__()
        for name, value in (("input_size", input_size), ("num_units", num_units)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}: must be a whole number >= 1")
        self.input_size, self.num_units = input_size, num_units

    def initial_state(self, batch: int) -> State:
        """The memory of B rows at the start of a life; what is learned of it keeps its graph."""
        raise NotImplementedError

    def step(self, x: Float[Tensor, "B I"], state: State) -> tuple[Float[Tensor, "B O"], State]:
        """One step of every row: the output, and the next memory."""
        raise NotImplementedError

    def scan(
        self,
        xs: Float[Tensor, "T B I"],
        state: State,
        resets: Bool[Tensor, "T B"] | None = None,
    ) -> tuple[Float[Tensor, "T B O"], State]:
        """T steps.

        Args:
            xs: the inputs.
            state: the memory before the first step.
            resets: where true, the row's memory is the initial one *before* that step.

        Returns:
            The outputs and the memory after the last step.
        """
        initial = self.initial_state(xs.shape[1])
        ys = []
        for t, x in enumerate(xs):
            y, state = self.step(x, begin(t, resets, initial, state))
            ys.append(y)
        return torch.stack(ys), state


def begin(t: int, resets: Tensor | None, initial: State, state: State) -> State:
    """The memory before step t, made new in the rows that are reset there.

    `resets` are booleans `[T, B]`, or None where there are none.
    """
    if resets is None or not some_reset(resets[t]):
        return state
    return where_reset(resets[t], initial, state)


def where_reset(reset: Bool[Tensor, " B"], initial: State, state: State) -> State:
    """The memory with the rows that are reset made new."""
    return tuple(
        torch.where(reset.view(-1, *[1] * (old.ndim - 1)), new, old)
        for new, old in zip(initial, state, strict=True)
    )


def some_reset(reset: Tensor) -> bool:
    """Whether a row may be reset, of booleans `[B]`; on an accelerator the answer is always yes,
    which costs less there than waiting for it.
    """
    return reset.device.type != "cpu" or bool(reset.any())


def can_fuse(x: Tensor) -> bool:
    """Whether loops compiled by Numba can work on the numbers of a tensor of any shape."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
