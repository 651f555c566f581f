"""A set of samples, and the refusals that every data set shares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Split:
    """Samples that belong together: training, validation or test.

    Attributes:
        x: inputs `[N, R_0]`, finite.
        y: targets, `[N, R_L]` real numbers or `[N]` whole-number labels.

    Raises:
        ValueError: for NaN or infinite values, or when `x` and `y` differ in length.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(
                f"x holds {len(self.x)} samples and y {len(self.y)}: they must be equally many"
            )
        for name, values in (("x", self.x), ("y", self.y)):
            if values.is_floating_point() and not torch.isfinite(values).all():
                bad = int((~torch.isfinite(values)).sum())
                raise ValueError(
                    f"{name} holds {bad} NaN or infinite values: only finite numbers are "
                    "allowed; remove or impute them first"
                )

    def __len__(self) -> int:
        return len(self.x)


def check_count(
    name: str, count: int, available: int | None = None, *, fix: str = "ask for fewer"
) -> None:
    """A number of samples must be a positive whole number, and no more than there are.

    Raises:
        ValueError: for any other number; says how many are left, and the fix.
    """
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"{name}={count!r}: the number of samples must be a whole number >= 1")
    if available is not None and count > available:
        raise ValueError(
            f"{name}={count} is more than the {available} samples that are left: {fix}"
        )


def check_split(split: str) -> None:
    """A split is `train` or `test`.

    Raises:
        ValueError: for another name.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown: choose one of {', '.join(SPLITS)}")
