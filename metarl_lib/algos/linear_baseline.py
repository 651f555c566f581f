"""A baseline for each task alone: a line through what its own episodes have returned."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metarl_lib.algos.losses import gae

RIDGE = 1e-3


class Fitted(NamedTuple):
    """V(s_t), and V(s_{t+1}) or 0 after the end of an episode, `[T, B]` each."""

    values: Tensor
    next_values: Tensor


def fit(
    observations: Float[Tensor, "T B I"],
    rewards: Float[Tensor, "T B"],
    ended: Bool[Tensor, "T B"],
    discount: float,
) -> Fitted:
    """Values that are linear in features of state and time, fitted to each row by itself.

    This is the baseline of Duan et al. (2016), which Finn, Abbeel & Levine (2017) fit to every
    task alone. With τ the time within an episode, as a share of the row's longest one, and sums
    and squares for each number of the observation,

        V(o, τ) = w · (1, τ, τ², τ³, o, o²),    w = (FᵀF + ε I)⁻¹ Fᵀ G,    ε = 10⁻³,

    where G are the discounted rewards from a step to the end of its episode, or of the data. A
    critic that all tasks share cannot know the task before anything in its input tells of it,
    and then it leaves what a task pays in the advantages. A line through the task's own returns
    takes it out. It has seen the noise that it takes out, which biases advantages a little.

    Args:
        observations: o_t, from which the action was taken; numbers of the order of 1.
        rewards: of the actions.
        ended: where an episode ended with the action.
        discount: γ in [0, 1].
    """
    nothing = torch.zeros_like(rewards)
    returns = gae(rewards, nothing, nothing, ended, discount, 1.0).double()
    step = torch.arange(len(ended), device=ended.device)[:, None]
    begins = torch.cat([torch.ones_like(ended[:1]), ended[:-1]])
    tau = (step - torch.where(begins, step, 0).cummax(0).values).to(returns)
    tau = tau / (tau.amax(0) + 1)
    o = observations.double()
    powers = torch.stack([torch.ones_like(tau), tau, tau**2, tau**3], -1)
    f = torch.cat([powers, o, o**2], -1).transpose(0, 1)
    ridge = RIDGE * torch.eye(f.shape[-1], dtype=f.dtype, device=f.device)
    w = torch.linalg.solve(f.mT @ f + ridge, f.mT @ returns.T[..., None])
    values = (f @ w)[..., 0].T.to(rewards)
    following = torch.cat([values[1:], nothing[:1]]).masked_fill(ended, 0.0)
    return Fitted(values, following)
