"""PEARL trained in a stage, tested on tasks never seen, and told what it cannot know."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from tqdm import tqdm

from metarl_lib.algos import PEARL, PEARLAgent, PEARLSettings
from metarl_lib.algos.pearl_agent import Lesson
from metarl_lib.envs.base import BoundedEnv, NotFiniteError, Step
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.meta_training import streams_of
from metarl_lib.runs import Stage

LOGS, CHECKPOINTS = 100, 8
"""Points of a learning curve, and how often a training is kept on its way."""

LOGGED = {
    "return": "training_return", "return_prior": "training_return_prior", "kl": "kl",
    "critic_loss": "critic_loss", "entropy": "entropy",
}  # fmt: skip


class Told:
    """An environment that shows the goal behind what it shows.

    Args:
        env: with flat observations, and tasks that have a `goal`, `[B, G]`.
        size: G.
    """

    def __init__(self, env: Any, size: int) -> None:
        self.env, self.action_space, self.max_steps = env, env.action_space, env.max_steps
        many = np.full(size, np.inf, np.float32)
        seen = env.observation_space
        low, high = np.concatenate([seen.low, -many]), np.concatenate([seen.high, many])
        self.observation_space = spaces.Box(low, high, dtype=np.float32)

    def sample_tasks(self, batch: int, generator: torch.Generator, split: str = "train") -> Any:
        """The tasks of the environment inside."""
        return self.env.sample_tasks(batch, generator, split)

    def reset(self, tasks: Any, generator: torch.Generator) -> tuple[Any, Tensor]:
        """Start an episode of each task."""
        state, observation = self.env.reset(tasks, generator)
        return state, torch.cat([observation, tasks.goal], -1)

    def step(self, state: Any, action: Tensor, generator: torch.Generator) -> tuple[Any, Step]:
        """Step the environment inside."""
        state, step = self.env.step(state, action, generator)
        seen = torch.cat([step.observation, state.tasks.goal], -1)
        return state, step._replace(observation=seen)


class Taught:
    """A trial that pays by a lesson; what is seen of rewards stays as it is.

    Actions and observations are `[B, …]`.

    Args:
        trial: the trial.
        lesson: what is learned from in the place of the reward.
    """

    def __init__(self, trial: Trial, lesson: Lesson) -> None:
        self.trial, self.lesson = trial, lesson
        self.observation_space, self.action_space = trial.observation_space, trial.action_space
        self.max_steps = trial.max_steps

    def sample_tasks(self, batch: int, generator: torch.Generator, split: str = "train") -> Any:
        """The tasks of the trial."""
        return self.trial.sample_tasks(batch, generator, split)

    def reset(self, tasks: Any, generator: torch.Generator) -> tuple[Any, Tensor]:
        """Start a trial of each task."""
        return self.trial.reset(tasks, generator)

    def step(self, state: Any, action: Tensor, generator: torch.Generator) -> tuple[Any, Step]:
        """Step the trial."""
        state, step = self.trial.step(state, action, generator)
        return state, step._replace(reward=self.lesson(step))


def train_pearl(
    stage: Stage,
    env: BoundedEnv,
    model: PEARLAgent,
    settings: PEARLSettings,
    seed: int,
    index: int,
    lesson: Lesson | None = None,
) -> None:
    """Train an agent to the end of its stage, from the stage's last checkpoint on.

    Logs, at most a hundred times, `training_return` (of the last episode with a task),
    `training_return_prior` (of the first), `kl`, `critic_loss` and `entropy` at the environment
    step; the finished stage holds the agent's tensors, and the counts `steps` and `gradient_steps`.

    Args:
        stage: where it is kept.
        env: what to learn.
        model: changed in place.
        settings: of the training.
        seed: the root seed.
        index: tells the agents of a run apart.
        lesson: what is learned from in the place of the reward, None for the reward.

    Raises:
        DivergenceError: when a number is no longer finite.
    """
    if stage.finished:
        model.load_state_dict(stage.tensors)
        return
    training = PEARL(env, model, settings, streams_of(seed, index), lesson)
    if stage.tensors:
        training.restore(stage.tensors)
    every = max(1, math.ceil(settings.iterations / LOGS))
    keep = max(1, math.ceil(settings.iterations / CHECKPOINTS))
    window: list[dict[str, float]] = list(stage.values.get("window", []))
    bar = tqdm(
        total=settings.iterations, initial=training.done, desc=stage.name, leave=False,
        disable=None, unit="iteration",
    )  # fmt: skip
    while training.done < settings.iterations:
        try:
            numbers = training.iteration()
        except NotFiniteError:  # an environment refuses such an action
            stage.check_finite(training.steps, {"an action": math.nan})
            raise
        stage.check_finite(training.steps, numbers)
        window.append(numbers)
        bar.update(1)
        last = training.done == settings.iterations
        if training.done % every == 0 or last:
            values = {
                ours: sum(n[theirs] for n in window) / len(window)
                for theirs, ours in LOGGED.items()
            }
            window.clear()
            stage.log(training.steps, values)
            bar.set_postfix(
                {k: f"{v:.3g}" for k, v in values.items() if "return" in k}, refresh=False
            )
        if not last and (training.done % keep == 0 or stage.stopping):
            stage.save(training.done, training.checkpoint(), {"window": list(window)})
    bar.close()
    if not bar.disable:
        seconds = ", ".join(f"{part} {s:.0f} s" for part, s in training.seconds.items())
        tqdm.write(f"{stage.name}: {seconds}", file=sys.stderr)
    counts = {"steps": training.steps, "gradient_steps": training.learned}
    stage.save(training.done, model.state_dict(), counts, finished=True)


def at_each(metric: str, values: Tensor) -> dict[str, float]:
    """`metric@k` for the episodes k = 1 …: means over the rows of `[B, K]` that are no NaN."""
    means = values.double().nanmean(0).tolist()
    return {f"{metric}@{k}": mean for k, mean in enumerate(means, 1) if not math.isnan(mean)}
