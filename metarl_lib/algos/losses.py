"""Advantages and losses of actor-critic learning; one formula a function, batched over all rows."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def gae(
    rewards: Float[Tensor, "T B"],
    values: Float[Tensor, "T B"],
    next_values: Float[Tensor, "T B"],
    ended: Bool[Tensor, "T B"],
    discount: float,
    gae_lambda: float,
) -> Float[Tensor, "T B"]:
    """Generalised advantage estimates (Schulman et al. 2016, equations 11 and 16).

        δ_t = r_t + γ V(s_{t+1}) − V(s_t),    Â_t = δ_t + γ λ Â_{t+1}

    where the recursion stops at the end of an episode.

    Args:
        rewards: r_t.
        values: V(s_t).
        next_values: V(s_{t+1}) of the state that the step led to, before any reset; 0 where
            the episode terminated, the critic's value where it was cut off.
        ended: where an episode ended with this step, either way.
        discount: γ in [0, 1].
        gae_lambda: λ in [0, 1].
    """
    delta = rewards + discount * next_values - values
    decay = discount * gae_lambda * (~ended).to(delta)
    advantage, found = torch.zeros_like(delta[0]), []
    for t in reversed(range(len(delta))):
        advantage = delta[t] + decay[t] * advantage
        found.append(advantage)
    return torch.stack(found[::-1])


def standardise(advantages: Tensor) -> Tensor:
    """Advantages of any shape, with mean 0 and standard deviation 1 over the whole batch."""
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """− mean log π(a|s) Â, a scalar, of two tensors of the same shape.

    Its gradient is that of REINFORCE with a baseline, and of A2C.
    """
    return -(log_probs * advantages).mean()


def ppo_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """The clipped surrogate of PPO (Schulman et al. 2017, equation 7), with its sign turned.

    − mean min(ρ Â, clip(ρ, 1 − ε, 1 + ε) Â),    ρ = π(a|s) / π_old(a|s)

    The loss is a scalar, of three tensors of the same shape.
    """
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantages, clipped * advantages).mean()


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """Half the mean square of V(s) − R, a scalar, with R = Â + V_old(s) of the same shape."""
    return 0.5 * (values - returns).square().mean()
