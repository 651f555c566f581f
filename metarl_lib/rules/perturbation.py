"""Learning rules that never differentiate: weight perturbation and node perturbation.

Both add noise, watch the loss, and correlate the two. With n standard normal and e_±, e the
losses under the noise ±σn and under none, the correlation

    (e_+ − e) n / σ          one-sided,
    (e_+ − e_-) n / (2σ)     antithetic,

has as its mean the gradient of the smoothed loss, which is that of the loss up to O(σ²).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from metarl_lib.rules.checks import check_arguments, check_perturbation, look_up
from metarl_lib.rules.losses import Loss
from metarl_lib.rules.network import Network, Params

MAX_ELEMENTS = 2**20
"""Draws are evaluated together in blocks whose largest tensor stays under this many numbers."""


@torch.no_grad()
def weight_perturbation(
    network: Network,
    params: Sequence[Tensor],
    x: Float[Tensor, "*batch N R_0"],
    y: Shaped[Tensor, "..."],
    loss: Loss,
    *,
    generator: torch.Generator,
    draws: int = 1,
    antithetic: bool = False,
    sigma: float = 1e-3,
) -> Params:
    """Weight perturbation (Jabri & Flower, 1992): noise on every weight, one error for all.

    With Ξ ~ N(0, I) and E the mean loss, the estimate of G is the mean over draws of

        (E(W + σΞ) − E(W)) Ξ / σ,    or, antithetic,   (E(W + σΞ) − E(W − σΞ)) Ξ / (2σ).

    Its mean is G + O(σ²); its variance, to leading order, is (P + 1)‖G‖² / draws, with P the
    number of weights. Cai & Cheng (2022) let Ξ ~ N(0, σ² I) and divide by σ once, which hides
    a factor σ in the learning rate.

    Args:
        network, params, x, y, loss: as for `sgd`.
        generator: the stream of the noise.
        draws: K, how many noise draws to average; all are evaluated as one batch.
        antithetic: uses ±Ξ, which removes the even terms. A draw then costs two forward
            passes; one-sided draws cost one each and share the unperturbed one.
        sigma: σ, the standard deviation of the noise (in units of the weights), > 0.

    Returns:
        One estimate per parameter, of its shape.

    Raises:
        ValueError: for σ ≤ 0, draws < 1, parameters or inputs that do not fit, NaN in the data.
    """
    check_perturbation(draws, sigma)
    check_arguments(network.shapes, params, x, y)

    def mean_error(candidate: Sequence[Tensor]) -> Tensor:
        return loss(network(candidate, x), y).mean(-1)

    clean = None if antithetic else mean_error(params)
    estimates = [torch.zeros_like(p) for p in params]
    for block in _blocks(draws, params, x, network):
        noise = [standard_normal((block, *p.shape), p, generator) for p in params]
        plus = mean_error([p + sigma * n for p, n in zip(params, noise, strict=True)])
        if clean is None:
            minus = mean_error([p - sigma * n for p, n in zip(params, noise, strict=True)])
            slope = (plus - minus) / (2 * sigma)
        else:
            slope = (plus - clean) / sigma
        for estimate, n in zip(estimates, noise, strict=True):
            extra = (1,) * (n.ndim - slope.ndim)
            estimate += (slope.reshape(*slope.shape, *extra) * n).sum(0) / draws
    return estimates


@torch.no_grad()
def node_perturbation(
    network: Network,
    params: Sequence[Tensor],
    x: Float[Tensor, "*batch N R_0"],
    y: Shaped[Tensor, "..."],
    loss: Loss,
    *,
    generator: torch.Generator,
    draws: int = 1,
    antithetic: bool = False,
    sigma: float = 1e-3,
) -> Params:
    """Node perturbation: noise on every unit's pre-activation, for each sample by itself.

    With z̃_i = W_l x̃_i + σ ξ_i, ξ_i ~ N(0, I) at every layer, and e_i the loss of sample i,
    the estimate of G_l is the mean over draws of

        (1 / (N σ)) Σ_i (ẽ_i − e_i) ξ_i^{(l+1)} x_i^{(l)ᵀ},

    and the same without x_i for a bias. Its mean is G + O(σ²): noise on z_i finds ∂e_i/∂z_i,
    and the chain rule's last factor, x_i, is known to the synapse. Only M = R_1 + … + R_L
    numbers are perturbed for a sample, instead of P weights. Cai & Cheng (2022) print a sum to
    R_{l+1}, one error for the batch and 1/σ; their code shares one noise vector over all
    samples (see `as_published`).

    Arguments, return value and errors are those of `weight_perturbation`; `sigma` is in units
    of the pre-activations.
    """
    check_perturbation(draws, sigma)
    check_arguments(network.shapes, params, x, y)
    trace = network.trace(params, x)
    clean = loss(trace.output, y)
    estimates = [torch.zeros_like(p) for p in params]
    stride = 2 if network.bias else 1
    num_samples = x.shape[-2]
    for block in _blocks(draws, params, x, network):
        noise = [standard_normal((block, *z.shape), z, generator) for z in trace.pre_activations]
        plus = loss(network.trace(params, x, [sigma * n for n in noise]).output, y)
        if antithetic:
            minus = loss(network.trace(params, x, [-sigma * n for n in noise]).output, y)
            slope = (plus - minus) / (2 * sigma)
        else:
            slope = (plus - clean) / sigma
        weight = slope.unsqueeze(-1) / (draws * num_samples)
        for layer, n in enumerate(noise):
            delta = (weight * n).sum(0)  # the estimate of Δ_{l+1}, [*, N, R_{l+1}]
            estimates[stride * layer] += delta.mT @ trace.activations[layer]
            if network.bias:
                estimates[stride * layer + 1] += delta.sum(-2)
    return estimates


def forward_passes(rule: str, draws: int = 1, antithetic: bool = False) -> int:
    """What one step of a rule costs, in forward passes over the batch.

    A backward pass costs about two forward passes (two matrix products a layer where the
    forward pass has one), so `"sgd"` counts three. Antithetic draws cost two each; node
    perturbation needs the unperturbed pass beside them, for the inputs of its layers.

    Raises:
        ValueError: for another rule than `"sgd"`, `"wp"` and `"np"`.
    """
    look_up("rule", rule, dict.fromkeys(("sgd", "wp", "np")))
    if rule == "sgd":
        return 3
    if antithetic:
        return 2 * draws + (rule == "np")
    return draws + 1


def standard_normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise `[*shape]`, of the kind and on the device of `like`."""
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def _blocks(draws: int, params: Sequence[Tensor], x: Tensor, network: Network) -> Iterator[int]:
    """Sizes of the blocks in which `draws` are evaluated, so that memory stays bounded."""
    batch = math.prod(params[0].shape[:-2])
    widest = max(network.widths[1:]) * x.shape[-2]
    largest = batch * max(widest, max(math.prod(shape) for shape in network.shapes))
    size = max(1, MAX_ELEMENTS // largest)
    for start in range(0, draws, size):
        yield min(size, draws - start)
