"""Tests of evolved losses, of PPO and of RL² on the same tasks, and what the losses look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metarl_lib.algos import Lives
from metarl_lib.envs.point_robot import PointTasks
from metarl_lib.experiments.base import row
from metarl_lib.experiments.epg_config import Config, life_of, make_agent, ppo_settings, trial
from metarl_lib.experiments.epg_readings import PARTS, cosine, pushes, without
from metarl_lib.experiments.epg_tasks import TASKS, Task, episode_returns, steps_to_solve
from metarl_lib.experiments.meta_agents import parameters_of
from metarl_lib.experiments.meta_training import load_agent, play
from metarl_lib.runs import Row, generator

TEST = 11
"""What a key of random numbers is for, beside those of evolution and search."""


def conditions(
    config: Config, seed: int, task: Task, name: str
) -> list[tuple[str, Any, tuple[int, ...]]]:
    """Name, tasks and key of each test; all variants meet the same tasks."""
    index = list(TASKS).index(name)
    found: list[tuple[str, Any, tuple[int, ...]]] = []
    for place, (condition, draw) in enumerate(task.draws.items()):
        tasks = draw(config.test_lives, generator(seed, "evaluation", 2 * index + place))
        found.append((f"{name}_{condition}", tasks, (seed, TEST, index, place)))
    return found


def readings(
    variant: str,
    condition: str,
    rewards: Tensor,
    task: Task,
    *,
    budget: int,
    shown: int,
    longest: int,
) -> list[Row]:
    """The numbers of lives `[U, W]`.

    Metrics, each followed by family and condition: `steps`, until three episodes in a row are
    solved on average; `solved`, the share of lives in which they are; `return`, of the last of
    the first `shown` episodes, and `gained`, by how much that is more than the first's;
    `return_<…>@<t>` of each episode that ends at step t, up to a hundred of them. A life in which
    nothing is solved counts as `longest` episodes, which is more than some variants live: else
    whoever lives shorter would seem to solve faster.
    """
    length = task.env.max_steps
    returns = episode_returns(rewards, length)
    steps, solved = steps_to_solve(returns, length, task.solved, longest)
    rows = [
        row(variant, f"steps_{condition}", steps, budget),
        row(variant, f"solved_{condition}", solved.float(), budget),
        row(variant, f"return_{condition}", returns[shown - 1], budget),
        row(variant, f"gained_{condition}", returns[shown - 1] - returns[0], budget),
    ]
    stride = max(1, len(returns) // 100)
    for k in range(stride - 1, len(returns), stride):
        value = returns[k - stride + 1 : k + 1]
        rows.append(row(variant, f"return_{condition}@{(k + 1) * length}", value, budget))
    return rows


def test_loss(config: Config, seed: int, task: Task, name: str, phi: Tensor) -> list[Row]:
    """What fresh learners earn with an evolved loss, `phi` `[P]`, and with parts of it blinded."""
    episodes, rows = config.of("life", name), []
    lives = Lives(task.env, life_of(config, name, config.beyond * episodes))
    budget = (
        config.of("generations", name) * config.losses * config.learners
        * (episodes + lives.settings.test_episodes) * task.env.max_steps
    )  # fmt: skip
    told = {"budget": budget, "shown": episodes, "longest": config.of("ppo_life", name)}
    for condition, tasks, key in conditions(config, seed, task, name):
        lived = lives.live(phi[None], 0.0, config.test_lives, key, tasks=tasks)
        rows += readings("epg", condition, lived.rewards[:, 0], task, **told)
    shorter = Lives(task.env, life_of(config, name))
    condition, tasks, key = conditions(config, seed, task, name)[0]
    blind = torch.stack([without(lives.network, phi, part) for part in PARTS])
    for part, one in zip(PARTS, blind, strict=True):
        lived = shorter.live(one[None], 0.0, config.test_lives, key, tasks=tasks)
        last = episode_returns(lived.rewards[:, 0], task.env.max_steps)[-1]
        rows.append(row(f"epg-without-{part}", f"return_{condition}", last, budget))
    rows.append(row("epg", f"parameters_{name}", float(lives.network.parameters), budget))
    return rows


def test_ppo(
    config: Config, seed: int, task: Task, name: str, best: Mapping[str, float]
) -> list[Row]:
    """What fresh learners earn with PPO as it was tuned."""
    choice = best["rate"], int(best["episodes"]), int(best["passes"])
    lives = Lives(task.env, ppo_settings(config, name, *choice))
    episodes, rows = config.of("life", name), []
    told = {"budget": 1, "shown": episodes, "longest": config.of("ppo_life", name)}
    for condition, tasks, key in conditions(config, seed, task, name):
        lived = lives.live(None, 1.0, config.test_lives, key, tasks=tasks)
        rows += readings("ppo", condition, lived.rewards[:, 0], task, **told)
    return rows + [row("ppo", f"{k}_{name}", float(v), 1) for k, v in best.items()]


def test_rl2(
    config: Config, seed: int, task: Task, name: str, tensors: Mapping[str, Tensor]
) -> list[Row]:
    """What RL²'s agent earns in as many steps as the learners of evolved losses have."""
    agent = load_agent(make_agent(config, name), tensors, f"rl2-{name}")
    env, episodes = trial(config, name, config.beyond), config.of("life", name)
    budget = config.rl2_rows * config.rl2_segment * config.of("rl2_updates", name)
    told = {"budget": budget, "shown": episodes, "longest": config.of("ppo_life", name)}
    rows = []
    for place, (condition, tasks, _) in enumerate(conditions(config, seed, task, name)):
        stream = generator(seed, "evaluation", 100 + place)
        rewards = play(env, agent, tasks, stream, greedy=False).rewards
        rows += readings("rl2-gru", condition, rewards, task, **told)
    return [*rows, row("rl2-gru", f"parameters_{name}", float(parameters_of(agent)), budget)]


def saved(config: Config, rows: list[Row], name: str) -> list[Row]:
    """How many steps more PPO needs, in two counts.

    Metrics: `steps_<…>_test`, until a task is solved; `same_<…>_test`, until the mean return over
    tasks is what the evolved loss's learners return at the end of the life that it was evolved
    for. Where PPO never returns as much, its whole life counts.
    """
    metric = f"steps_{name}_test"
    steps = {r["variant"]: r["value"] for r in rows if r["metric"] == metric}
    life, length = config.of("life", name), TASKS[name]().env.max_steps
    mean = {
        (r["variant"], r["metric"]): r["value"]
        for r in rows
        if r["metric"].startswith(f"return_{name}_test")
    }
    wanted = mean["epg", f"return_{name}_test"]
    when = [
        int(metric.split("@")[1])
        for (variant, metric), value in mean.items()
        if variant == "ppo" and "@" in metric and value >= wanted
    ]
    by_ppo = min(when, default=config.of("ppo_life", name) * length)
    return [
        row("ppo-minus-epg", metric, steps["ppo"] - steps["epg"], 1),
        row("ppo-minus-epg", f"same_{name}_test", float(by_ppo - life * length), 1),
    ]


def look_at(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """Where the loss of the point robot sends policies that know nothing.

    Metrics, for goals as in training and outside: `to_goal`, the cosine between −∂L/∂μ(s_t) and
    the way from s_t to the goal; `with_gradient`, that with the policy gradient's direction
    (a_t − μ) (r_t − r̄).
    """
    if "point" not in config.tasks:
        return []
    task, phi = TASKS["point"](), tensors["epg-point.phi"]
    network, rows = Lives(task.env, life_of(config, "point")).network, []
    for condition, tasks, _ in conditions(config, seed, task, "point"):
        found = pushes(
            task.env, network, phi, tasks, config.of("buffer", "point"), config.log_std,
            generator(seed, "evaluation", 200),
        )  # fmt: skip
        assert isinstance(tasks, PointTasks)
        way = tasks.goal[:, None] - found.observations
        paid = found.rewards - found.rewards.mean(1, keepdim=True)
        gradient = (found.actions - found.means) * paid[..., None]
        for metric, other in (("to_goal", way), ("with_gradient", gradient)):
            rows.append(row("epg", f"{metric}_{condition}", cosine(found.push, other), 1))
    return rows
