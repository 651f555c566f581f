"""Refusals of bad input: each is one line that names the value, what is allowed and the fix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_widths(widths: Sequence[int]) -> None:
    """Widths must be at least two positive whole numbers.

    Raises:
        ValueError: for any other widths.
    """
    if len(widths) < 2 or any(not isinstance(r, int) or r < 1 for r in widths):
        raise ValueError(
            f"widths={tuple(widths)!r}: a network needs at least two positive whole numbers, "
            "input first, such as (10, 100, 10)"
        )


def check_params(shapes: Sequence[tuple[int, ...]], params: Sequence[Tensor]) -> None:
    """Every parameter must end in the shape that the widths ask for, so that layers chain.

    Raises:
        ValueError: for too many or too few parameters, or another shape.
    """
    if len(params) != len(shapes):
        raise ValueError(
            f"{len(params)} parameters given, {len(shapes)} needed: the network's shapes are "
            f"{list(shapes)}"
        )
    for index, (shape, param) in enumerate(zip(shapes, params, strict=True)):
        if tuple(param.shape[param.ndim - len(shape) :]) != shape:
            raise ValueError(
                f"parameter {index} has shape {tuple(param.shape)}, which does not chain: "
                f"the network's widths ask for {shape} (leading batch dimensions are allowed)"
            )


def check_inputs(x: Tensor, width: int, batch: Sequence[int] = ()) -> None:
    """Inputs must be finite, as wide as the first layer, and batched no further than params.

    Args:
        x: the inputs, `[*, N, width]`.
        width: R_0.
        batch: the leading dimensions of the parameters, to which those of `x` must broadcast.

    Raises:
        ValueError: for another shape, or for NaN or infinite values.
    """
    if x.ndim < 2 or x.shape[-1] != width:
        raise ValueError(
            f"x has shape {tuple(x.shape)}: the network reads [samples, {width}]; "
            "reshape x or change widths[0]"
        )
    own = tuple(x.shape[:-2])
    fits = len(own) <= len(batch) and all(
        a in (1, b) for a, b in zip(own[::-1], tuple(batch)[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            f"x has batch dimensions {own}, the parameters {tuple(batch)}: give the parameters "
            "the same leading dimensions, for instance with expand"
        )
    check_finite("x", x)


def check_arguments(
    shapes: Sequence[tuple[int, ...]], params: Sequence[Tensor], x: Tensor, y: Tensor
) -> None:
    """What every rule is given: parameters that chain, inputs that fit, finite data.

    Args:
        shapes: of the network's parameters.
        params: the parameters, each with the same leading dimensions, or none.
        x: inputs, `[*, N, R_0]`.
        y: targets of any shape; the loss looks at that.

    Raises:
        ValueError: for what does not fit, or for NaN or infinite values in `x` or `y`.
    """
    check_params(shapes, params)
    check_inputs(x, shapes[0][1], params[0].shape[:-2])
    check_finite("y", y)


def check_finite(name: str, values: Tensor) -> None:
    """A data tensor, of any shape, must hold neither NaN nor infinity.

    Raises:
        ValueError: for such values; says how many there are.
    """
    if values.is_floating_point() and not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise ValueError(
            f"{name} holds {bad} NaN or infinite values: only finite numbers are allowed; "
            "remove or impute them first"
        )


def check_perturbation(draws: int, sigma: float) -> None:
    """The number of draws must be a positive whole number, sigma a positive number.

    Raises:
        ValueError: for any other draws or sigma.
    """
    if not isinstance(draws, int) or draws < 1:
        raise ValueError(f"draws={draws!r}: the number of noise draws must be a whole number >= 1")
    if not 0 < sigma < float("inf"):
        raise ValueError(
            f"sigma={sigma!r}: the standard deviation of the noise must be a positive number, "
            "such as 1e-3"
        )


def look_up(kind: str, name: str | None, table: dict) -> object:
    """The entry called `name`, or one line that lists the names there are.

    Raises:
        ValueError: for an unknown name; this is that line.
    """
    if name not in table:
        allowed = ", ".join(repr(key) for key in table)
        raise ValueError(f"{kind}={name!r} is unknown: choose one of {allowed}")
    return table[name]
