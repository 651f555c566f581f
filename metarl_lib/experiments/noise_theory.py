"""What theory says about the noise of weight and node perturbation, to leading order in σ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metarl_lib.rules import Network
from metarl_lib.rules.gradient import sample_derivatives
from metarl_lib.rules.losses import Loss


def wp_relative_variance(network: Network) -> float:
    """E‖ĝ − G‖² / ‖G‖² of one draw of weight perturbation: P + 1.

    ĝ = (G·n) n with n standard normal in P dimensions, and E[(G·n)² ‖n‖²] = (P + 2) ‖G‖².
    """
    return network.num_weights + 1.0


def wp_cosines(gradient: Sequence[Tensor], draws: Tensor) -> list[Tensor]:
    """Cosine between each layer's gradient and the mean of K draws of weight perturbation.

    The noise of a layer comes from the whole gradient: with P_l weights in layer l,

        E‖ĝ_l − g_l‖² = P_l ‖g‖² + ‖g_l‖²    for one draw, and 1/K of it for the mean of K.

    If that error is at right angles to g_l, as almost all of it is where P_l is large, the
    cosine is 1 / √(1 + (P_l ‖g‖²/‖g_l‖² + 1) / K).

    Args:
        gradient: one tensor per layer.
        draws: numbers of draws K, any shape.

    Returns:
        One tensor per layer, of the shape of `draws`.
    """
    sizes = [g.square().sum() for g in gradient]
    total = torch.stack(sizes).sum()
    return [
        (1 + (g.numel() * total / size + 1) / draws).rsqrt()
        for g, size in zip(gradient, sizes, strict=True)
    ]


def np_relative_variance(
    network: Network, params: Sequence[Tensor], x: Tensor, y: Tensor, loss: Loss
) -> float:
    """E‖ĝ − G‖² / ‖G‖² of one draw of node perturbation, for a network without biases.

    Sample i has d_i = ∂e_i/∂z_i over all M units, d_i^{(l)} at layer l. Its noise is
    independent of the others', so the variances add:

        E‖ĝ − G‖² = (1/N²) Σ_i Σ_l ‖x_i^{(l)}‖² (R_{l+1} ‖d_i‖² + ‖d_i^{(l+1)}‖²).

    With one sample and inputs of equal norm in every layer this is (M + 1) ‖G‖². The inputs x are
    `[N, R_0]`, the targets y as the loss wants them.
    """
    deltas, activations = sample_derivatives(network, params, x, y, loss)
    total = torch.stack([d.square().sum(-1) for d in deltas]).sum(0)
    num_samples = x.shape[-2]
    variance, signal = 0.0, 0.0
    for delta, a in zip(deltas, activations, strict=True):
        own = delta.square().sum(-1)
        size = a.square().sum(-1)
        variance += float((size * (delta.shape[-1] * total + own)).sum()) / num_samples**2
        signal += float((delta.mT @ a / num_samples).square().sum())
    return variance / signal


def curvature_trace(network: Network, params: Sequence[Tensor], x: Tensor) -> float:
    """tr(H) of the half mean squared error, in the Gauss-Newton form: (1/(N R_L)) Σ_i ‖J_i‖².

    J_i is the Jacobian of sample i's outputs by all weights, for inputs x `[N, R_0]`. The part that
    is left out carries the second derivative of the network, which for ReLU layers has no diagonal.
    """
    trace = network.trace(params, x)
    last = network.num_layers - 1
    width = network.widths[-1]
    slope = network.layer_activation(last).slope(trace.pre_activations[last])
    jacobian = torch.diag_embed(slope)  # ∂x_L/∂z_L, [N, R_L, R_L]
    total = 0.0
    for layer in range(last, -1, -1):
        sizes = trace.activations[layer].square().sum(-1)
        total += float((jacobian.square().sum((-2, -1)) * sizes).sum())
        if layer > 0:
            slope = network.layer_activation(layer - 1).slope(trace.pre_activations[layer - 1])
            jacobian = (jacobian @ network.weight(params, layer)) * slope.unsqueeze(-2)
    return total / (x.shape[-2] * width)


def linear_stable_rates(x: Tensor, width: int) -> dict[str, float]:
    """The largest stable η of each rule for one linear layer with white inputs, XᵀX = N I.

    The inputs x are `[N, R_0]`. The loss is the half mean squared error over `width` = R outputs,
    so every eigenvalue of the Hessian is κ = 1/R. One step multiplies the expected squared
    distance to the solution by 1 − 2ηκ + η²κ²(1 + v), with v the rule's relative variance for an
    error that points equally in all directions; it shrinks as long as η < 2 / (κ (1 + v)). For SGD
    and WP the direction does not matter and this is exact; for NP the error turns towards the
    inputs with large norm, and the limit is a few per cent smaller.

        SGD: v = 0.    WP: v = P + 1.    NP: v = (R + 1)/(N R_0) · mean of ‖x_i‖⁴.
    """
    num_samples, fan_in = x.shape
    fourth = float(x.square().sum(-1).square().mean())
    excess = {
        "sgd": 0.0,
        "wp": fan_in * width + 1.0,
        "np": (width + 1) * fourth / (num_samples * fan_in),
    }
    return {rule: 2 * width / (1 + v) for rule, v in excess.items()}
