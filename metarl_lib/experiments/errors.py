"""Errors after some gradient steps: what they are called, and the largest that counts."""

from __future__ import annotations

from torch import Tensor

CAP = 100.0
"""The largest error of a task that counts: 8 times that of predicting 0 for the largest sinusoid.

A few steps can diverge on a few tasks; one such error would be all that a mean says.
"""


def capped(each: Tensor) -> Tensor:
    """Errors of any shape, of at most `CAP`, which is also what none at all counts as."""
    return each.nan_to_num(nan=CAP).clamp_max(CAP)


def step_name(metric: str, steps: int) -> str:
    """`metric_1_step`, `metric_10_steps`."""
    return f"{metric}_{steps}_step{'' if steps == 1 else 's'}"
