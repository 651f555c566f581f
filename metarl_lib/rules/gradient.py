"""Learning rules that use the gradient: through autograd, and with backpropagation by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from metarl_lib.rules.checks import check_arguments
from metarl_lib.rules.losses import LOSS_GRADIENTS, Loss
from metarl_lib.rules.network import Network, Params, Trace


def sgd(
    network: Network,
    params: Sequence[Tensor],
    x: Float[Tensor, "*batch N R_0"],
    y: Shaped[Tensor, "..."],
    loss: Loss,
) -> Params:
    """G_l = ∂E/∂W_l of the mean loss E = (1/N) Σ_i e_i, by automatic differentiation.

    The step that follows is *down* the gradient, ΔW_l = −η G_l; Cai & Cheng (2022) print +η.

    Args:
        network: the base network.
        params: its parameters; with leading batch dimensions, one gradient per network.
        x: inputs `[N, R_0]`.
        y: targets, as `loss` wants them.
        loss: one value per sample, such as `half_mse`.

    Returns:
        One tensor per parameter, of its shape.

    Raises:
        ValueError: for parameters or inputs that do not fit the network, or NaN in the data.
    """
    check_arguments(network.shapes, params, x, y)
    leaves = [p.detach().requires_grad_() for p in params]
    with torch.enable_grad():
        total = loss(network(leaves, x), y).mean(-1).sum()
    return list(torch.autograd.grad(total, leaves))


def backpropagation(
    network: Network,
    params: Sequence[Tensor],
    x: Float[Tensor, "*batch N R_0"],
    y: Shaped[Tensor, "..."],
    loss: Loss,
) -> Params:
    """The same gradient by the recursion of Rumelhart, Hinton & Williams (1986), written out.

    With Δ_l = ∂E/∂Z_l, one row per sample:

        Δ_L = (∂e/∂X_L) ⊙ φ′(Z_L) / N,
        Δ_l = (Δ_{l+1} W_l) ⊙ φ′(Z_l),
        G_l = Δ_{l+1}ᵀ X_l,   and Σ_i Δ_{l+1,i} for the bias of that layer.

    Arguments, return value and errors are those of `sgd`; `loss` must have its derivative in
    `LOSS_GRADIENTS`.
    """
    check_arguments(network.shapes, params, x, y)
    deltas, activations = sample_derivatives(network, params, x, y, loss)
    num_samples = x.shape[-2]
    gradients: Params = []
    for delta, a in zip(deltas, activations, strict=True):
        gradients.append(delta.mT @ a / num_samples)
        if network.bias:
            gradients.append(delta.sum(-2) / num_samples)
    return gradients


def sample_derivatives(
    network: Network,
    params: Sequence[Tensor],
    x: Float[Tensor, "*batch N R_0"],
    y: Shaped[Tensor, "..."],
    loss: Loss,
    trace: Trace | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """∂e_i/∂z_i^{(l+1)} and x_i^{(l)} for every layer l, `[*, N, R_{l+1}]` and `[*, N, R_l]`.

    The derivatives are N times the rows of Δ_{l+1} above: those of each sample's own loss. The
    `trace` of the forward pass is that of these parameters and inputs, where it is there already.

    Raises:
        ValueError: for a loss whose derivative is not in `LOSS_GRADIENTS`.
    """
    if loss not in LOSS_GRADIENTS:
        names = ", ".join(known.__name__ for known in LOSS_GRADIENTS)  # type: ignore[attr-defined]
        raise ValueError(f"loss={loss!r} has no derivative written out: use one of {names}, or sgd")
    trace = trace or network.trace(params, x)
    last = network.num_layers - 1
    slope = network.layer_activation(last).slope(trace.pre_activations[last])
    delta = LOSS_GRADIENTS[loss](trace.output, y) * slope
    deltas = [delta]
    for layer in range(last, 0, -1):
        slope = network.layer_activation(layer - 1).slope(trace.pre_activations[layer - 1])
        delta = (delta @ network.weight(params, layer)) * slope
        deltas.insert(0, delta)
    return deltas, trace.activations[:-1]
