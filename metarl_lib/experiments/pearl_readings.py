"""The point robot's episodes: what they were worth, and what the best ways to live them are."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metarl_lib.envs.point_robot import STRIDE, PointRobot, PointTasks

ANGLES = 720
"""Directions between which the exact posterior tells goals apart."""


class Episodes(NamedTuple):
    """Rewards of K episodes of T steps with B tasks, and distances to the goal, `[B, K, T]`."""

    rewards: Tensor
    distance: Tensor


def readings(episodes: Episodes, near: float) -> dict[str, Tensor]:
    """Numbers of each episode, `[B, K]`.

    `return`; `solved`, whether it ended at most so `near` the goal; `found`, whether it or one
    before came so near at all; and, of the tasks whose goal an episode before it had found,
    else NaN, `kept`, whether it is solved.
    """
    inside = episodes.distance <= near
    solved = inside[..., -1].float()
    found = inside.any(-1).cummax(1).values
    before = torch.nn.functional.pad(found[:, :-1], (1, 0))
    return {
        "return": episodes.rewards.sum(-1),
        "solved": solved,
        "found": found.float(),
        "kept": solved.masked_fill(~before, math.nan),
    }


def towards(
    env: PointRobot, tasks: PointTasks, target: Float[Tensor, "B 2"]
) -> tuple[Episodes, Float[Tensor, "T B 2"]]:
    """An episode straight to a target, as fast as can be; and the places on the way."""
    stream = torch.Generator().manual_seed(0)  # nothing is drawn
    state, position = env.reset(tasks, stream)
    rewards, distances, places = [], [], []
    for _ in range(env.max_steps):
        state, step = env.step(state, ((target - position) / STRIDE).clamp(-1, 1), stream)
        position = step.observation
        rewards.append(step.reward)
        distances.append(step.info["distance"])
        places.append(position)
    episode = Episodes(torch.stack(rewards, -1)[:, None], torch.stack(distances, -1)[:, None])
    return episode, torch.stack(places)


def knowing(env: PointRobot, tasks: PointTasks) -> Episodes:
    """What is earned by who knows the goal: each coordinate moves to it as fast as it can.

    No other way is nearer to the goal at any time, because the coordinates move independently.
    """
    return towards(env, tasks, tasks.goal)[0]


def exact_posterior_sampling(
    env: PointRobot, tasks: PointTasks, episodes: int, stream: torch.Generator
) -> Episodes:
    """Posterior sampling by who knows what an episode shows, for sparse rewards on the circle.

    Each episode goes to a goal drawn from the exact posterior and stays there. The prior is
    uniform on the half circle. Every place without a reward rules out the goals near it; a
    reward tells its distance, which a second one turns into a place, and the goal counts as
    known in the next episode.
    """
    angles = math.pi * (torch.arange(ANGLES) + 0.5) / ANGLES
    goals = env.radius * torch.stack([angles.cos(), angles.sin()], -1)
    possible = torch.ones(len(tasks.goal), ANGLES)
    known = torch.zeros(len(tasks.goal), dtype=torch.bool)
    lived = []
    for _ in range(episodes):
        drawn = goals[torch.multinomial(possible, 1, generator=stream)[:, 0]]
        episode, places = towards(env, tasks, torch.where(known[:, None], tasks.goal, drawn))
        lived.append(episode)
        unpaid = (episode.distance[:, 0] > env.goal_radius).T
        for place, no_reward in zip(places, unpaid, strict=True):
            squares = place.square().sum(-1, keepdim=True) + env.radius**2 - 2 * place @ goals.T
            near = squares <= env.goal_radius**2
            possible = possible.masked_fill(near & no_reward[:, None], 0.0)
        known = known | ~unpaid.all(0)
        # Where a goal between two of the angles is left with none of them, all are as likely.
        possible = torch.where(possible.sum(1, keepdim=True) > 0, possible, 1.0)
    return Episodes(*(torch.cat(column, 1) for column in zip(*lived, strict=True)))
