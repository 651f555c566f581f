"""A trial: several episodes with one task, over which an agent's memory persists.

The input of RL² (Duan et al., 2016; Wang et al., 2016) is made here and nowhere else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.envs.base import BoundedEnv, Step, one_hot, some_true, where_rows
from metarl_lib.envs.option_checks import check_whole


class TrialState(NamedTuple):
    """The state of the environment inside, the tasks, and the number of the episode, `[B]`."""

    inner: Any
    tasks: Any
    episode: Tensor


class Trial:
    """A batched environment whose episode is a trial: k episodes of another, all of one task.

    Args:
        env: the environment inside. Its observations must be flat.
        episodes: k, how many episodes with one task. When one of them ends, the next one
            starts in the same step, and its first observation is seen.
        reward_input: shows the previous reward; without, zero stands in its place.

    An observation is a vector of four parts:

    - the observation of the environment inside;
    - the previous action: one-hot for a choice among n, else its numbers as they were given;
    - the previous reward;
    - the boundary: 1 when the previous step ended an episode, else 0.

    At the start of a trial the last three are zero. The last step of a trial shows the last
    observation of its last episode; it is `terminated` or `truncated` as that one is.

    `info` has what the environment inside says and, `[B]` each, `"inner_episode"`, the number
    (from 0) of the episode that the step belongs to, and `"inner_done"`, whether the step ended
    it. (`"episode"` is a name that Gymnasium and Stable-Baselines3 keep for themselves.)

    Raises:
        ValueError: when k is no whole number ≥ 1, observations or actions are of another kind,
            or episodes have no longest one.
    """

    def __init__(self, env: BoundedEnv, episodes: int = 1, *, reward_input: bool = True) -> None:
        check_whole("episodes", episodes)
        if not hasattr(env, "max_steps"):
            raise ValueError(
                f"env={type(env).__name__}: has no max_steps, the steps after which every episode "
                "has ended; a trial needs it"
            )
        self.env, self.episodes, self.reward_input = env, episodes, reward_input
        self.action_space = env.action_space
        self.observation_space = _with_memory_inputs(env.observation_space, env.action_space)

    @property
    def max_steps(self) -> int:
        """The most steps of a trial, k times those of an episode."""
        return self.episodes * self.env.max_steps

    def sample_tasks(self, batch: int, generator: torch.Generator, split: str = "train") -> Any:
        """Draw tasks of the environment inside."""
        return self.env.sample_tasks(batch, generator, split)

    def reset(self, tasks: Any, generator: torch.Generator) -> tuple[TrialState, Tensor]:
        """Start a trial of each task."""
        inner, observation = self.env.reset(tasks, generator)
        episode = torch.zeros_like(observation[:, 0], dtype=torch.long)
        added = self.observation_space.shape[0] - observation.shape[-1]
        nothing = observation.new_zeros(len(observation), added)
        return TrialState(inner, tasks, episode), torch.cat([observation, nothing], -1)

    def step(
        self, state: TrialState, action: Tensor, generator: torch.Generator
    ) -> tuple[TrialState, Step]:
        """Step the environment inside, and start the next episode where one has ended."""
        inner, step = self.env.step(state.inner, action, generator)
        seen = step.observation
        done = step.terminated | step.truncated
        last = state.episode >= self.episodes - 1
        again = done & ~last
        if self.episodes > 1 and some_true(again):
            fresh = self.env.reset(state.tasks, generator)
            inner, seen = where_rows(again, fresh, (inner, seen))
        reward = step.reward if self.reward_input else torch.zeros_like(step.reward)
        parts = [self._encode(action).to(seen), reward.to(seen).unsqueeze(-1)]
        observation = torch.cat([seen, *parts, done.to(seen).unsqueeze(-1)], -1)
        info = step.info | {"inner_episode": state.episode.clone(), "inner_done": done}
        terminated = step.terminated & last
        return TrialState(inner, state.tasks, state.episode + again), Step(
            observation, step.reward, terminated, done & last & ~terminated, info
        )

    def _encode(self, action: Tensor) -> Tensor:
        """Actions as rows of numbers, `[B, A]`."""
        if isinstance(self.action_space, spaces.Discrete):
            return one_hot(action, int(self.action_space.n))
        return action.flatten(1)


def _with_memory_inputs(seen: spaces.Space, action: spaces.Space) -> spaces.Box:
    """The space of what is seen, followed by the previous action, reward and boundary."""
    if not isinstance(seen, spaces.Box) or len(seen.shape) != 1:
        raise ValueError(
            f"observations of {seen} do not fit into a trial: a flat Box is wanted, of shape (n,)"
        )
    if isinstance(action, spaces.Discrete):
        low, high = np.zeros(int(action.n)), np.ones(int(action.n))
    elif isinstance(action, spaces.Box):
        high = np.full(int(np.prod(action.shape)), np.inf)  # given ones can lie outside the box
        low = -high
    else:
        raise ValueError(f"actions of {action} do not fit into a trial: Discrete or Box is wanted")
    low = np.concatenate([seen.low, low, [-np.inf, 0]])
    high = np.concatenate([seen.high, high, [np.inf, 1]])
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
