"""Losses: one value per sample, so that a rule may use the error of each sample by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""`loss(outputs [*, N, R_L], targets) -> [*, N]`."""


def half_mse(
    outputs: Float[Tensor, "*batch N R"], targets: Float[Tensor, "*#batch N R"]
) -> Float[Tensor, "*batch N"]:
    """Half mean squared error, e_i = ‖x_i − y_i‖² / (2 R_L): Cai & Cheng (2022), eq. 2."""
    _check_values(outputs, targets)
    return 0.5 * (outputs - targets).square().mean(-1)


def mse(
    outputs: Float[Tensor, "*batch N R"], targets: Float[Tensor, "*#batch N R"]
) -> Float[Tensor, "*batch N"]:
    """Mean squared error, e_i = ‖x_i − y_i‖² / R_L: twice `half_mse`."""
    _check_values(outputs, targets)
    return (outputs - targets).square().mean(-1)


def cross_entropy(
    outputs: Float[Tensor, "*batch N C"], targets: Shaped[Tensor, "..."]
) -> Float[Tensor, "*batch N"]:
    """Cross-entropy in nats, e_i = −Σ_r y_ir log p_ir with p_i = softmax(x_i).

    This is Cai & Cheng (2022), eq. 3, with the indices put right (see the page *Gradient and
    perturbation rules*).

    Args:
        outputs: logits.
        targets: whole-number labels `[*, N]` from 0 to C − 1, or probabilities `[*, N, C]`.

    Raises:
        ValueError: for targets of another shape, or labels out of range.
    """
    _check_classes(outputs, targets)
    log_p = torch.log_softmax(outputs, dim=-1)
    if targets.is_floating_point():
        return -(targets * log_p).sum(-1)
    labels = targets.long().expand(outputs.shape[:-1]).unsqueeze(-1)
    return -log_p.gather(-1, labels).squeeze(-1)


def _check_values(outputs: Tensor, targets: Tensor) -> None:
    if targets.shape[-2:] != outputs.shape[-2:]:
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}, outputs {tuple(outputs.shape)}: "
            "the last two, samples and units, must agree"
        )


def _check_classes(outputs: Tensor, targets: Tensor) -> None:
    samples, classes = outputs.shape[-2:]
    wanted = (samples, classes) if targets.is_floating_point() else (samples,)
    if tuple(targets.shape[-len(wanted) :]) != wanted:
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}, outputs {tuple(outputs.shape)}: whole "
            f"numbers must end in ({samples},), probabilities in ({samples}, {classes})"
        )
    if not targets.is_floating_point():
        low, high = (int(value) for value in targets.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(
                f"targets hold labels from {low} to {high}: they must lie between 0 and "
                f"{classes - 1}, one for each output"
            )


def half_mse_gradient(outputs: Tensor, targets: Tensor) -> Tensor:
    """∂e_i/∂x_i of `half_mse`, `[*, N, R_L]`: (x_i − y_i) / R_L."""
    _check_values(outputs, targets)
    return (outputs - targets) / outputs.shape[-1]


def cross_entropy_gradient(outputs: Tensor, targets: Tensor) -> Tensor:
    """∂e_i/∂x_i of `cross_entropy`, `[*, N, C]`: p_i Σ_r y_ir − y_i.

    That is p_i − y_i where y_i is a distribution. Targets are as for `cross_entropy`.
    """
    _check_classes(outputs, targets)
    p = torch.softmax(outputs, dim=-1)
    if not targets.is_floating_point():
        one_hot = torch.nn.functional.one_hot(targets.long(), outputs.shape[-1])
        targets = one_hot.to(outputs.dtype)
    return p * targets.sum(-1, keepdim=True) - targets


def mse_gradient(outputs: Tensor, targets: Tensor) -> Tensor:
    """∂e_i/∂x_i of `mse`, `[*, N, R_L]`: 2 (x_i − y_i) / R_L."""
    _check_values(outputs, targets)
    return (outputs - targets) * (2 / outputs.shape[-1])


LOSS_GRADIENTS: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    half_mse: half_mse_gradient,
    cross_entropy: cross_entropy_gradient,
    mse: mse_gradient,
}
"""∂e_i/∂x_i of each loss, for the backward pass that is written out by hand."""


def cross_entropy_curvature(outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
    """(∂²e_i/∂x_i²) v_i of `cross_entropy`: (diag p_i − p_i p_iᵀ) v_i Σ_r y_ir.

    Outputs, direction and result are `[*, N, C]`; targets are as for `cross_entropy`.
    """
    _check_classes(outputs, targets)
    p = torch.softmax(outputs, dim=-1)
    product = p * (direction - (p * direction).sum(-1, keepdim=True))
    return product * targets.sum(-1, keepdim=True) if targets.is_floating_point() else product


LOSS_CURVATURES: dict[Loss, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    half_mse: lambda outputs, targets, direction: direction / outputs.shape[-1],
    cross_entropy: cross_entropy_curvature,
    mse: lambda outputs, targets, direction: direction * (2 / outputs.shape[-1]),
}
"""∂²e_i/∂x_i² of each loss, times a direction v_i of the outputs' shape."""
