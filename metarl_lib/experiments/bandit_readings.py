"""What is read off the trials of a bandit: arms tried, regret, and what a memory knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl_lib.experiments.meta_training import Played
from metarl_lib.oracles.bandits import Policy


def tried(played: Played) -> Tensor:
    """How many different arms were pulled up to each pull, `[n, B]`."""
    arms = int(played.actions.max()) + 1
    pulled = torch.nn.functional.one_hot(played.actions, arms).cumsum(0) > 0
    return pulled.sum(-1).float()


def posterior_r2(played: Played, memory: Tensor) -> float:
    """R² of the posterior mean of every arm, read off the memory `[n, b, H]` by least squares.

    The memory of pull t has seen the rewards before t. Half of the trials fit the readout, the
    other half judge it.
    """
    steps, rows, _ = memory.shape
    actions, rewards = played.actions[:, :rows], played.rewards[:, :rows]
    arms = int(played.actions.max()) + 1
    chosen = torch.nn.functional.one_hot(actions, arms).float()
    paid = (chosen * rewards.unsqueeze(-1)).cumsum(0)
    count = chosen.cumsum(0)
    mean = ((paid + 1) / (count + 2))[:-1]
    x = torch.cat([memory[1:], torch.ones(steps - 1, rows, 1)], -1)
    half = rows // 2
    fit = np.linalg.lstsq(
        x[:, :half].reshape(-1, x.shape[-1]).numpy(), mean[:, :half].reshape(-1, arms).numpy(),
        rcond=None,
    )[0]  # fmt: skip
    target = mean[:, half:].reshape(-1, arms)
    found = x[:, half:].reshape(-1, x.shape[-1]) @ torch.as_tensor(fit)
    rest = (target - found).square().sum()
    return float(1 - rest / (target - target.mean(0)).square().sum().clamp_min(1e-12))


class Watched:
    """A policy made by hand, and which arms it has pulled: `[B]` for each pull."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.pulled: list[Tensor] = []

    def __call__(
        self,
        successes: Tensor,
        failures: Tensor,
        time: int,
        pulls: int,
        generator: torch.Generator,
    ) -> Tensor:
        self.pulled.append(self.policy(successes, failures, time, pulls, generator))
        return self.pulled[-1]


def curve(log: Any, variant: str, regret: Tensor, arms: Tensor | None) -> None:
    """Log the mean regret so far, at about forty pulls, and how many arms were tried.

    Regret and arms are `[T, B]`, of T pulls.
    """
    total = regret.cumsum(0).mean(1)
    stride = max(1, len(total) // 40)
    for t in sorted({*range(0, len(total), stride), len(total) - 1}):
        values = {f"{variant}/regret_so_far": float(total[t])}
        if arms is not None:
            values[f"{variant}/tried_so_far"] = float(arms[t].mean())
        log(t + 1, values)
