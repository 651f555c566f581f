"""Agents that act: a discount learned with them, against fixed ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl_lib.algos import MetaGradient
from metarl_lib.algos.feed_forward import FeedForward
from metarl_lib.algos.meta_settings import LEARNED, MetaSettings
from metarl_lib.envs.classic_control import Acrobot, CartPole
from metarl_lib.envs.grid_games import Catch, Dodge
from metarl_lib.envs.laps import Laps
from metarl_lib.experiments.base import row
from metarl_lib.experiments.meta_training import load_agent, make_model, play, streams_of
from metarl_lib.experiments.training_loop import Rhythm, make_updates
from metarl_lib.runs import Row, Stage, generator

RHYTHM = Rhythm(logs=40, logs_per_checkpoint=10)
TASKS = ("laps", "cartpole", "acrobot", "catch", "dodge")
ABLATED = "laps"
"""The task on which parts are taken away; the others see `EVERYWHERE` alone."""
EVERYWHERE = ("mg", "mg-both", "mg-trace")

METHODS: dict[str, dict[str, Any]] = {
    "mg": {"learned": "discount"},
    "mg-both": {"learned": "both"},
    "mg-no-context": {"learned": "discount", "context": False},
    "mg-inner": {"learned": "discount", "outer_critic": "inner"},
    "mg-trace": {"learned": "discount", "trace_decay": 0.9},
}
"""What differs from the whole method: γ learned, values told of it, a critic of its own, μ = 0."""


class Trained(NamedTuple):
    """A variant of a training: where, what differs in the settings, and whether η is told."""

    task: str
    settings: MetaSettings
    context: bool


def make_env(config: Any, task: str, seed: int = 0) -> Any:
    """A task; what changes in `laps` is drawn from the seed."""
    if task == "laps":
        return Laps(6, config.laps_period, config.laps_phases, seed=seed)
    made = {"cartpole": CartPole, "acrobot": Acrobot, "catch": Catch, "dodge": Dodge}
    return made[task](steps=config.episode_steps)


def variants(config: Any) -> dict[str, Trained]:
    """Every training of a run, by name."""
    found = {}
    for task in config.tasks:
        plans: dict[str, dict[str, Any]] = {
            f"fixed-{g:g}": {"learned": "none", "discount": g} for g in config.discounts
        }
        whole = METHODS if task == ABLATED else {n: METHODS[n] for n in EVERYWHERE}
        plans |= {name: whole[name] for name in whole if name in config.methods}
        for name, plan in plans.items():
            plan = dict(plan)
            context = plan.pop("context", True) and plan["learned"] != "none"
            found[f"{task}-{name}"] = Trained(task, settings_of(config, task, plan), context)
    return found


def settings_of(config: Any, task: str, plan: Mapping[str, Any]) -> MetaSettings:
    """How a variant is trained: the configuration, what the task needs, what the variant wants."""
    own = {field.name: getattr(config, field.name) for field in fields(MetaSettings)}
    if task == "laps":
        own |= {"rows": config.laps_rows, "entropy": config.laps_entropy}
        life = 6 * config.laps_period * config.laps_phases
        own["updates"] = max(1, life // config.segment)
    return MetaSettings(**(own | dict(plan)))


def make_agent(config: Any, name: str, seed: int = 0) -> FeedForward:
    """A fresh agent of a variant. Those of one task start from the same numbers."""
    plan = variants(config)[name]
    env = make_env(config, plan.task)
    context = len(LEARNED[plan.settings.learned]) if plan.context else 0
    unit = 3.0 if plan.task == "laps" else 10.0

    def build() -> FeedForward:
        return FeedForward(
            env.observation_space, env.action_space, hidden=(config.units, config.units),
            context=context, value_unit=unit,
        )  # fmt: skip

    return make_model(build, seed, TASKS.index(plan.task))


def train(stage: Stage, config: Any, name: str, seed: int) -> None:
    """Train a variant to the end of its stage, from the stage's last checkpoint on.

    Logs `return` (of episodes that ended since the log before; at the end, if none did, of those
    of the last tenth) or, on laps, `reward` of a step; `discount`, `lambda`, `entropy`. The
    finished stage holds the agent's tensors, η and the mean of the reward over the whole
    training and over its last tenth.

    Raises:
        DivergenceError: when a number is no longer finite.
    """
    if stage.finished:
        return
    plan = variants(config)[name]
    s, index = plan.settings, TASKS.index(plan.task)
    streams = streams_of(seed, 100 + index)
    model = make_agent(config, name, seed)
    training = MetaGradient(make_env(config, plan.task, seed), model, s, streams)
    sums = torch.zeros(4, dtype=torch.float64)  # of returns and numbers, in all and at the end
    if stage.tensors:
        training.restore(stage.tensors)
        sums = stage.tensors["sums"].clone()
    kind = "reward" if plan.task == "laps" else "return"

    def add(numbers: dict[str, float]) -> None:
        if math.isfinite(numbers[kind]):
            late = training.done > 0.9 * s.updates
            sums.add_(torch.tensor([numbers[kind], 1.0, late * numbers[kind], float(late)]))

    def average(window: list[dict[str, float]]) -> dict[str, float]:
        values = averaged(window, (kind, "entropy"))
        if training.done == s.updates:
            values.setdefault(kind, float(sums[2] / sums[3].clamp(min=1)))
        return values

    size = s.rows * s.segment
    make_updates(
        stage, training, s.updates, average, RHYTHM, size=size, watch=add, kept={"sums": sums}
    )
    kept = model.state_dict() | {"learned": training.eta, "sums": sums}
    stage.save(s.updates * size, kept, finished=True)


def averaged(window: list[dict[str, float]], means: Sequence[str]) -> dict[str, float]:
    """What updates said: means over those that said something, and what γ and λ are now."""
    values = {name: window[-1][name] for name in ("discount", "lambda")}
    for name in means:
        there = [numbers[name] for numbers in window if math.isfinite(numbers[name])]
        if there:
            values[name] = sum(there) / len(there)
    return values


def trained_rows(config: Any, tensors: Mapping[str, Tensor], seed: int) -> list[Row]:
    """What every variant earned.

    Metrics: `whole`, the mean over the training of what the episodes that ended in a segment
    returned (on laps: the mean reward of a step of the whole life), `end`, that of its last
    tenth; `discount` and `lambda` at the end; `test_return` (not on laps) of whole episodes of
    the trained agent, actions drawn; where γ is learned, `whole_minus_fixed`, `whole` less that
    of the agent whose γ is γ̄ for good.
    """
    rows = []
    for name, plan in variants(config).items():
        s = plan.settings
        budget = s.rows * s.segment * s.updates
        total, count, late, late_count = tensors[f"{name}.sums"].tolist()
        values = {"whole": total / max(count, 1), "end": late / max(late_count, 1)}
        logits = iter(tensors[f"{name}.learned"])
        start = {"discount": s.discount, "lambda": s.gae_lambda}
        for kind in start:
            own = kind in LEARNED[s.learned]
            values[kind] = float(torch.sigmoid(next(logits))) if own else start[kind]
        if plan.task != "laps":
            values["test_return"] = float(tested(config, tensors, name, seed).mean())
        rows += [row(name, metric, value, budget) for metric, value in values.items()]
    wholes = {r["variant"]: r for r in rows if r["metric"] == "whole"}
    for name, plan in variants(config).items():
        fixed = wholes.get(f"{plan.task}-fixed-{config.outer_discount:g}")
        if fixed and plan.settings.learned != "none":
            gap = wholes[name]["value"] - fixed["value"]
            rows.append(row(name, "whole_minus_fixed", gap, fixed["budget"]))
    return rows


def tested(config: Any, tensors: Mapping[str, Tensor], name: str, seed: int) -> Tensor:
    """The returns of whole episodes of a trained agent, `[B]`."""
    plan = variants(config)[name]
    env, stream = make_env(config, plan.task), generator(seed, "evaluation")
    own = {k: t for k, t in tensors.items() if not k.endswith((".sums", ".learned"))}
    agent = load_agent(make_agent(config, name), own, name)
    if plan.context:
        agent.eta.copy_(tensors[f"{name}.learned"])
    tasks = env.sample_tasks(config.test_episodes, stream, "test")
    return play(env, agent, tasks, stream, greedy=False).returns
