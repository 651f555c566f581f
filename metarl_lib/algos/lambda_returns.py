"""λ-returns with a discount and a λ for each step, through which gradients go."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def lambda_returns(
    rewards: Float[Tensor, "T ..."],
    next_values: Float[Tensor, "T ..."],
    ended: Bool[Tensor, "T ..."],
    discounts: Tensor,
    lambdas: Tensor,
) -> Float[Tensor, "T ..."]:
    """What a learner aims at (Sutton & Barto 2018, section 12.8; Xu et al. 2018, equation 3).

        g_t = r_{t+1} + γ_{t+1} [(1 − λ_{t+1}) V(s_{t+1}) + λ_{t+1} g_{t+1}]

    where g_{t+1} is V(s_{t+1}) after the last step of an episode or of the segment. It is a
    polynomial in every γ and λ, so autograd gives its derivatives, forward and backward. The
    recursion is solved by doubling, in ⌈log₂ T⌉ rounds instead of T steps.

    Args:
        rewards: r_{t+1}, of the step from s_t to s_{t+1}.
        next_values: V(s_{t+1}), of the state the step led to, before any reset; 0 where the
            episode terminated.
        ended: where an episode ended with this step, either way.
        discounts: γ_{t+1} in [0, 1], of any shape that broadcasts to `[T, *B]`.
        lambdas: λ_{t+1} in [0, 1], likewise.
    """
    shape = rewards.shape
    base = rewards + discounts * (1 - lambdas) * next_values
    weight = (discounts * lambdas).expand(shape)
    ends = ended.clone()
    ends[-1] = True
    base = torch.where(ends, base + weight * next_values, base)
    weight = torch.where(ends, torch.zeros_like(weight), weight)
    reach = 1
    while reach < shape[0]:  # g_t = b_t + w_t g_{t+1}, in two equal halves, each in two, …
        base = base + weight * _later(base, reach)
        weight = weight * _later(weight, reach)
        reach *= 2
    return base


def _later(x: Tensor, steps: int) -> Tensor:
    """What stands some steps later, 0 beyond the end."""
    return torch.cat([x[steps:], torch.zeros_like(x[:steps])])
