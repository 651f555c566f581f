"""Visits of the thesis's agents to its tasks, one after the other, with Stable-Baselines3."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import NormalizeObservation
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO

from metarl_lib.envs.adapters import SingleEnv
from metarl_lib.envs.layer_pool_thesis import CarriedRows, ThesisLayerPool
from metarl_lib.experiments.learners import seed_of
from metarl_lib.rules.pool import Pool
from metarl_lib.runs import generator

TASKS = 7
KINDS: dict[str, Any] = {
    "recurrent-ppo": (RecurrentPPO, "MlpLstmPolicy"),
    "ppo": (PPO, "MlpPolicy"),
}


def seeds_of(seed: int) -> dict[str, Any]:
    """What draws the pool and the tasks of a run, as options of `ThesisLayerPool`."""
    names = {"pool_seed": "init", "task_seed": "tasks"}
    return {name: generator(seed, stream).initial_seed() for name, stream in names.items()}


@dataclass
class Diary:
    """What happened in a visit: of each episode the return, the errors and the last loss.

    `unfinished` is the return so far of the episode that the visit's end cuts off, and 0 where
    the visit ends with an episode.
    """

    returns: list[float] = field(default_factory=list)
    unfinished: float = 0.0
    errors: int = 0
    steps: int = 0
    final: list[float] = field(default_factory=list)


class Watcher(gymnasium.Wrapper):
    """Keeps a diary, and the losses of the episode that is going on."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.diary = Diary()
        self.losses: list[float] = []

    def reset(self, **options: Any) -> Any:
        """As the environment's."""
        self.losses, self.diary.unfinished = [], 0.0
        return self.env.reset(**options)

    def step(self, action: Any) -> Any:
        """As the environment's."""
        found = self.env.step(action)
        _, reward, ended, _, info = found
        self.losses.append(info["loss"])
        self.diary.unfinished += float(reward)
        self.diary.errors += int(info["error"])
        self.diary.steps += 1
        if ended:
            self.diary.returns.append(self.diary.unfinished)
            self.diary.final.append(info["loss"])
        return found


class Visits:
    """A learner of Stable-Baselines3 that visits the training tasks in turn.

    Each visit is an environment of its own, with one task and fresh running means of the
    observations; the pool goes on from visit to visit. The first round only finds the range of
    each task's losses. After each later visit the range takes in the losses of the last episode,
    which the visit's end may have cut off, as in the code.

    Args:
        kind: `"recurrent-ppo"` or `"ppo"`.
        seed: the root seed: of the tasks, the pool and the learner.
        scaling: of the rewards.
        timesteps: of a visit; the learner rounds them up to whole rollouts.
        inner_steps: of Adam in an episode.
        options: of the learner.
    """

    def __init__(
        self,
        kind: str,
        seed: int,
        *,
        scaling: str = "as_coded",
        timesteps: int = 1000,
        inner_steps: int = 30,
        **options: Any,
    ) -> None:
        self.common: dict[str, Any] = {
            "tasks": TASKS, "inner_steps": inner_steps, "scaling": scaling, **seeds_of(seed),
        }  # fmt: skip
        self.kind, self.timesteps, self.seed = kind, timesteps, seed
        self.bounds = [[math.inf, -math.inf] for _ in range(TASKS)]
        env = ThesisLayerPool(**self.common, task=0)
        self.pool = Pool(*(part[None].clone() for part in env.pool))
        make, policy = KINDS[kind]
        chosen = seed_of(seed, list(KINDS).index(kind))
        self.model = make(policy, SingleEnv(env), seed=chosen, device="cpu", **options)

    def visit(self, task: int, *, calibrate: bool = False) -> Diary:
        """Learn on one task."""
        bounds = None if calibrate else self.bounds
        env = ThesisLayerPool(**self.common, task=task, bounds=bounds)
        single = SingleEnv(env)
        single.rows = CarriedRows(env)
        low, high = torch.tensor(self.bounds[task])[:, None]
        single.rows.carried = (self.pool, low, high)
        watcher = Watcher(single)
        self.model.set_env(NormalizeObservation(watcher))
        self.model.learn(self.timesteps)
        end = single.rows.state.tasks
        self.pool = Pool(*(part.clone() for part in end.pool))
        if calibrate:
            self.bounds[task] = [float(end.low), float(end.high)]
        elif watcher.losses:
            low, high = self.bounds[task]
            self.bounds[task] = [min(low, *watcher.losses), max(high, *watcher.losses)]
        return watcher.diary

    def round(self, *, calibrate: bool = False) -> dict[str, float]:
        """Visit all training tasks; means over them, or over the networks that were built."""
        diaries = [self.visit(task, calibrate=calibrate) for task in range(TASKS - 1)]
        returns = [r for d in diaries for r in d.returns]
        values = {
            "errors": float(np.mean([d.errors for d in diaries])),
            "networks": len(returns) / len(diaries),
            "epoch_return": sum(d.unfinished for d in diaries),
        }
        if returns:
            values |= {
                "errors_per_episode": sum(d.errors for d in diaries) / len(returns),
                "return": float(np.mean(returns)),
                "positive_returns": float(np.mean([r > 0 for r in returns])),
                "final_loss": float(np.mean([loss for d in diaries for loss in d.final])),
            }
        return values
