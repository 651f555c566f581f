"""Adam: one step, and a training of a batch of networks, each on its own targets."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from metarl_lib.rules.gradient import sample_derivatives
from metarl_lib.rules.losses import mse
from metarl_lib.rules.network import Network, Params

DECAYS, EPSILON = (0.9, 0.999), 1e-8
"""β₁, β₂ and ε."""


@torch.no_grad()
def adam_step(
    params: Float[Tensor, "*S"],
    slope: Float[Tensor, "*S"],
    first: Float[Tensor, "*S"],
    second: Float[Tensor, "*S"],
    step: int,
    rate: float,
) -> None:
    """Change parameters in place: θ ← θ − β m̂ / (√v̂ + ε) (Kingma & Ba, 2015, algorithm 1).

    Args:
        params: θ.
        slope: their gradient.
        first: m, the average of gradients, 0 before the first step; changed in place.
        second: v, that of their squares; changed in place.
        step: which this is, from 1 on.
        rate: β.
    """
    first.lerp_(slope, 1 - DECAYS[0])
    second.mul_(DECAYS[1]).addcmul_(slope, slope, value=1 - DECAYS[1])
    unbiased = [1 - decay**step for decay in DECAYS]
    spread = second.sqrt().div_(math.sqrt(unbiased[1])).add_(EPSILON)
    params.addcdiv_(first, spread, value=-rate / unbiased[0])


@torch.no_grad()
def adam(
    network: Network,
    params: Params,
    x: Float[Tensor, "*B N R_0"],
    y: Float[Tensor, "B N R_L"],
    rate: float,
    steps: int,
) -> tuple[Params, Float[Tensor, "steps 2 B"]]:
    """Train B networks with Adam (Kingma & Ba, 2015) on the mean squared error of all samples.

    Args:
        network: of all rows; with biases, and with outputs as they come.
        params: its parameters, `[B, …]` each; not changed.
        x: inputs `[N, R_0]` or `[B, N, R_0]`.
        y: targets `[B, N, R_L]`.
        rate: of the steps.
        steps: how many.

    Returns:
        The parameters, and `[steps, 2, B]`: the mean squared error and the largest |output| in
        the forward pass of each step, before it is taken.

    Raises:
        ValueError: for a network without biases, or with an output activation.
    """
    if not network.bias or network.output_activation is not None:
        raise ValueError(
            f"bias={network.bias}, output_activation={network.output_activation!r}: adam is "
            "written for bias=True and output_activation=None"
        )
    shapes, batch = [p.shape[1:] for p in params], len(params[0])
    flat = torch.cat([p.reshape(batch, -1) for p in params], -1)
    sizes = [math.prod(shape) for shape in shapes]
    views = [part.view(batch, *s) for part, s in zip(flat.split(sizes, -1), shapes, strict=True)]
    first, second = torch.zeros_like(flat), torch.zeros_like(flat)
    passed, scale = [], 1 / y.shape[-2]
    for step in range(1, steps + 1):
        deltas, activations = sample_derivatives(network, views, x, y, mse)
        # The derivative of the loss, 2 (ŷ − y) / R_L, gives ŷ − y back.
        wrong = 0.5 * deltas[-1] * y.shape[-1]
        error = torch.stack([wrong.square().mean((1, 2)), (wrong + y).abs().amax((1, 2))])
        passed.append(error)
        slopes = []
        for delta, a in zip(deltas, activations, strict=True):
            slopes += [(delta.mT @ a).reshape(batch, -1), delta.sum(-2)]
        slope = torch.cat(slopes, -1).mul_(scale)
        adam_step(flat, slope, first, second, step, rate)
    return views, torch.stack(passed)
