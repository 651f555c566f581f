"""Random points of a cube, white fields of a chessboard for training, black ones for tests."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from metarl_lib.datasets.split import check_split

GRID = 2**24
"""Points lie on multiples of 1 / GRID, which float32 holds exactly."""


def chessboard(
    batch: int, dimensions: int, fields: int, generator: torch.Generator, split: str = "train"
) -> Float[Tensor, "B d"]:
    """Draw uniform points of [0, 1)^d on the fields of one colour, so that splits are disjoint.

    A field is white when its numbers along the d axes have an even sum. Any d − 1 coordinates
    of a point are independent and uniform; only the last one knows the colour, by moving to
    the next field where it would be wrong.

    Args:
        batch: B, how many points.
        dimensions: d, at least 1. One dimension is striped.
        fields: along each axis, a power of two up to GRID.
        generator: the stream of the draws.
        split: `"train"` for white fields, `"test"` for black ones.
    """
    check_split(split)
    width = GRID // fields
    numbers = torch.randint(GRID, (batch, dimensions), generator=generator, device=generator.device)
    colour = (numbers // width).sum(-1) % 2
    wrong = colour != int(split == "test")
    numbers[:, -1] ^= wrong * width
    return numbers.float() / GRID
