"""The seed's rules as its paper prints them or its code runs them, faults and all.

They stand here because a chapter shows what they do. Use `sgd`, `weight_perturbation` and
`node_perturbation` for anything else. Each function takes one network and, where there is noise,
one draw, and returns what takes the gradient's place in W ← W − η · (…).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from metarl_lib.rules.checks import check_arguments, check_perturbation
from metarl_lib.rules.gradient import sgd
from metarl_lib.rules.losses import Loss, cross_entropy
from metarl_lib.rules.network import Network, Params
from metarl_lib.rules.perturbation import standard_normal, weight_perturbation


def sgd_as_published(
    network: Network,
    params: Sequence[Tensor],
    x: Float[Tensor, "N R_0"],
    y: Shaped[Tensor, "..."],
    loss: Loss,
) -> Params:
    """ΔW = +η ∂E/∂W, the sign printed by Cai & Cheng (2022): it climbs the loss."""
    return [-g for g in sgd(network, params, x, y, loss)]


def weight_perturbation_as_published(
    network: Network,
    params: Sequence[Tensor],
    x: Float[Tensor, "N R_0"],
    y: Shaped[Tensor, "..."],
    loss: Loss,
    *,
    generator: torch.Generator,
    sigma: float = 1e-3,
) -> Params:
    """ΔW = (η/σ)(E − E_W) Ξ with Ξ of standard deviation σ: its mean is −ησG, not −ηG.

    The code of Cai & Cheng (2022) computes the same, one one-sided draw a step.
    """
    correct = weight_perturbation(network, params, x, y, loss, generator=generator, sigma=sigma)
    return [sigma * estimate for estimate in correct]


@torch.no_grad()
def node_perturbation_as_published(
    network: Network,
    params: Sequence[Tensor],
    x: Float[Tensor, "N R_0"],
    y: Shaped[Tensor, "..."],
    loss: Loss,
    *,
    generator: torch.Generator,
    sigma: float = 1e-3,
) -> Params:
    """ΔW_l = (η/σ)(E − E_N) Σ_{i=1}^{R_{l+1}} …, as printed, with the outer product transposed.

    Printed is x_i ξᵀ, which is `[R_l, R_{l+1}]` and does not fit W_l; it is transposed here.
    The noise is per sample (the text says ξ ∈ R^{N×R_l}), the error that of the whole batch,
    and the sum stops at sample R_{l+1} instead of N. Networks without biases only.
    """
    _check(network, params, x, y, sigma)
    trace = network.trace(params, x)
    noise = [standard_normal(z.shape, z, generator) for z in trace.pre_activations]
    noisy = network.trace(params, x, [sigma * n for n in noise])
    difference = loss(noisy.output, y).mean() - loss(trace.output, y).mean()
    estimates = []
    for layer, n in enumerate(noise):
        last = network.widths[layer + 1]
        estimates.append(difference * n[:last].mT @ trace.activations[layer][:last])
    return estimates


@torch.no_grad()
def node_perturbation_as_coded(
    network: Network,
    params: Sequence[Tensor],
    x: Float[Tensor, "N R_0"],
    y: Shaped[Tensor, "..."],
    loss: Loss,
    *,
    generator: torch.Generator,
    sigma: float = 1e-3,
) -> Params:
    """What the code of Cai & Cheng (2022) runs: one noise vector, shared by all samples.

    It is added *after* the nonlinearity, the error is the batch's, and the update is
    (1/σ)(E_N − E) ξ (Σ_j x_j)ᵀ. The mean of that is σ (1/N) (Σ_j a_j)(Σ_j x_j)ᵀ, with a_j the
    derivative of e_j by the layer's activation: a product of sums where the gradient is a sum
    of products. Networks without biases only.
    """
    _check(network, params, x, y, sigma)
    trace = network.trace(params, x)
    noise = [standard_normal((width,), trace.output, generator) for width in network.widths[1:]]
    activation = x
    for layer, n in enumerate(noise):
        z = activation @ network.weight(params, layer).mT
        activation = network.layer_activation(layer).value(z) + sigma * n
    difference = loss(activation, y).mean() - loss(trace.output, y).mean()
    return [
        difference * torch.outer(n, trace.activations[layer].sum(0))
        for layer, n in enumerate(noise)
    ]


def cross_entropy_as_coded(
    outputs: Float[Tensor, "*batch N C"], targets: Shaped[Tensor, "..."]
) -> Float[Tensor, "*batch N"]:
    """The seed's digit loss: logits standardised over the whole batch, summed over samples.

    One value per sample, N times too large, so that its mean is the code's sum. Standardising
    caps the confidence that the network can express.
    """
    mean = outputs.mean((-2, -1), keepdim=True)
    std = outputs.std((-2, -1), keepdim=True)
    return outputs.shape[-2] * cross_entropy((outputs - mean) / std, targets)


def standardise_weights(network: Network, params: Sequence[Tensor]) -> Params:
    """Each weight matrix shifted to mean 0 and scaled to standard deviation 1.

    The seed does so after each step on the digits "to run without weights exploding".
    """
    standardised = []
    for shape, p in zip(network.shapes, params, strict=True):
        if len(shape) == 2:
            p = (p - p.mean((-2, -1), keepdim=True)) / p.std((-2, -1), keepdim=True)
        standardised.append(p)
    return standardised


def _check(network: Network, params: Sequence[Tensor], x: Tensor, y: Tensor, sigma: float) -> None:
    check_perturbation(1, sigma)
    check_arguments(network.shapes, params, x, y)
    if network.bias:
        raise ValueError("bias=True: the published node perturbation has no biases; use bias=False")
