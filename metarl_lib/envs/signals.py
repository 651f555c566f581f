"""What a synapse can know: its own activities, and how a perturbation changed the error.

For each layer l, with pre-activations z = W_l x, activities x⁺ = φ(z), and N samples:

    hebb         (1/N) Σ_i x⁺_i x_iᵀ                                  pre × post
    perturbation (1/(Nσ)) Σ_i (ẽ_i − e_i) ξ_i x_iᵀ                    noise × error change × pre
    gradient     (1/N) Σ_i (∂e_i/∂z_i) x_iᵀ                           when that is allowed

The second is node perturbation, one-sided, one draw (see `rules.node_perturbation`); it costs
one forward pass beside the one that gives the error, the third one backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl_lib.rules import Network
from metarl_lib.rules.gradient import sample_derivatives
from metarl_lib.rules.losses import Loss
from metarl_lib.rules.network import Params, Trace

DRIVES = ("perturbation", "gradient")
BLOCK_ELEMENTS = 2**19
"""Networks are evaluated in blocks whose largest tensor stays in the processor's cache."""

LEVELS = 256
LEVEL_STD = math.sqrt((LEVELS**2 - 1) / 12)


class Signals(NamedTuple):
    """What a forward pass and its perturbed copy tell.

    `error` is E, `[B]`; `drive` (perturbation or gradient) and `hebb` have one tensor for each
    parameter; `activity` is `[B, L, 2]`: the share of active units of each layer, and the
    logarithm of the root mean square of their activity.
    """

    error: Tensor
    drive: Params
    hebb: Params
    activity: Tensor


@torch.no_grad()
def local_signals(
    network: Network,
    params: Sequence[Tensor],
    x: Tensor,
    y: Tensor,
    loss: Loss,
    *,
    drive: str,
    sigma: float,
    generator: torch.Generator,
) -> Signals:
    """The signals of B networks, each on its own samples.

    Args:
        network: the base network.
        params: its parameters, `[B, …]` each.
        x, y: samples of each network's task, `[B, N, R_0]` and `[B, N, …]`.
        loss: one value per sample.
        drive: `"perturbation"` or `"gradient"`.
        sigma: σ of the perturbation.
        generator: the stream of the perturbation.
    """
    parts = []
    for rows in blocks(network, x):
        own = [p[rows] for p in params]
        trace = network.trace(own, x[rows])
        errors = loss(trace.output, y[rows])
        if drive == "gradient":
            deltas, _ = sample_derivatives(network, own, x[rows], y[rows], loss, trace)
        else:
            noise = [unit_noise(z, generator) for z in trace.pre_activations]
            perturbed = _perturbed_output(network, own, trace, noise, sigma)
            slope = (loss(perturbed, y[rows]) - errors).div_(sigma).unsqueeze(-1)
            deltas = [n.mul_(slope) for n in noise]
        posts = trace.activations[1:]
        parts.append(
            Signals(
                errors.mean(-1),
                outer_means(network, deltas, trace.activations),
                outer_means(network, posts, trace.activations),
                torch.stack([_activity(post) for post in posts], -2),
            )
        )
    if len(parts) == 1:
        return parts[0]
    return Signals(
        torch.cat([part.error for part in parts]),
        [torch.cat(p) for p in zip(*(part.drive for part in parts), strict=True)],
        [torch.cat(p) for p in zip(*(part.hebb for part in parts), strict=True)],
        torch.cat([part.activity for part in parts]),
    )


def unit_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of mean 0 and variance 1 in the shape of `like`: uniform on 256 levels.

    Perturbation needs no more than these two moments. Eight values come out of one 64-bit
    draw, which makes them several times cheaper than normal ones.
    """
    count = like.numel()
    words = torch.empty((count + 7) // 8, dtype=torch.int64, device=like.device)
    words.random_(-(2**63), None, generator=generator)
    levels = words.view(torch.int8)[:count].view(like.shape).to(like.dtype)
    return levels.add_(0.5).div_(LEVEL_STD)


def outer_means(network: Network, posts: Sequence[Tensor], inputs: Sequence[Tensor]) -> Params:
    """(1/N) Σ_i post_i pre_iᵀ for each weight, and (1/N) Σ_i post_i for each bias."""
    means: Params = []
    for post, pre in zip(posts, inputs, strict=False):
        # The product with the longer output is the slower one, so it is taken the other way.
        wide = post.shape[-1] > pre.shape[-1]
        product = (pre.mT @ post).mT if wide else post.mT @ pre
        means.append(product / post.shape[-2])
        if network.bias:
            means.append(post.mean(-2))
    return means


def blocks(network: Network, x: Tensor) -> Iterator[slice]:
    """Rows of x, `[B, N, R_0]`, that are evaluated together."""
    largest = max(network.widths) * x.shape[-2]
    size = max(1, BLOCK_ELEMENTS // largest)
    for start in range(0, len(x), size):
        yield slice(start, start + size)


def _perturbed_output(
    network: Network, params: Sequence[Tensor], trace: Trace, noise: Sequence[Tensor], sigma: float
) -> Tensor:
    """The output under z̃ = W x̃ + b + σ ξ; the first layer's W x is taken from the clean pass."""
    z = torch.add(trace.pre_activations[0], noise[0], alpha=sigma)
    for layer in range(1, network.num_layers):
        a = network.layer_activation(layer - 1).value(z)
        z = a @ network.weight(params, layer).mT
        if network.bias:
            z = z + params[2 * layer + 1].unsqueeze(-2)
        z = torch.add(z, noise[layer], alpha=sigma)
    return network.layer_activation(network.num_layers - 1).value(z)


def _activity(post: Tensor) -> Tensor:
    share = (post > 0).to(post.dtype).mean((-1, -2))
    rms = post.square().mean((-1, -2)).sqrt()
    return torch.stack([share, rms.clamp_min(1e-6).log()], -1)
