"""What the experiments on robots share: agents find out where to run, and are tested at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metarl_lib.algos import Agent
from metarl_lib.envs.locomotion import Robot
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.meta_agents import (
    Build,
    RobotAgents,
    maml,
    matched_gru,
    metods,
    parameters_of,
    with_core,
)
from metarl_lib.experiments.meta_training import (
    last_logged,
    less_others,
    load_agent,
    make_model,
    play,
    result_rows,
    train_agent,
)
from metarl_lib.runs import Row, Run, generator

WINDOW = 5
"""Steps over which the reward at a step is averaged."""

SURE = 30
"""Steps for which robots on another processor go the same way, but for what cannot be seen.

Each contact makes differences grow. Where weights differ by a ten millionth, a step's reward
differs by less than a millionth after 20 steps, by 0.004 after 40 and by 0.1 after 100.
"""

PAPER_STEPS = 5 * 10**7
"""Environment steps on the ant of Chalvidal, Serre & VanRullen (2022); the presets have a few of
them."""


@dataclass(frozen=True)
class Variant:
    """An agent: how it is made, and whether it can see the goal."""

    build: Build
    goal: str = "hidden"


def variants(outputs: int) -> dict[str, Variant]:
    """The agents of a robot with so many actuators and a value."""
    gru = with_core(matched_gru(outputs))
    return {
        "metods-linear-S4": Variant(with_core(metods(4))),
        "metods-linear-S1": Variant(with_core(metods(1))),
        "gru-matched": Variant(gru),
        "maml": Variant(maml("learned")),
        "told": Variant(gru, "visible"),
        "metods-bounded-S4": Variant(with_core(metods(4, bounded=True))),
    }


@dataclass(frozen=True)
class Config(RobotAgents):
    """Fields of an experiment on a robot. A segment is a whole trial."""

    rows: int = option(32, "robots side by side")
    segment: int = option(200, "steps of a trial, after each of which is learned")
    updates: int = option(250, "segments that are collected and learned from")
    entropy: float = option(0.0, "weight of the policy's entropy at the start")
    whole_trials: bool = option(True, "start a new trial in every row with each segment")
    variants: tuple[str, ...] = option(tuple(variants(1)), "agents to train")
    costly: tuple[str, ...] = option(("told",), "those that few seeds train")
    test_trials: int = option(100, "trials of a test, of tasks never trained on where there are")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "test_trials")
        self.check_variants(variants(1))


PRESETS = {
    "smoke": Config(
        rows=4, segment=30, updates=2, epochs=1, minibatches=1, encoder_units=4, num_units=4,
        maml_units=4, maml_horizon=15, test_trials=8, variants=("metods-linear-S4", "maml"),
    ),
    "book": Config(segment=100, updates=10, test_trials=32,
                   variants=("metods-linear-S4", "gru-matched")),
    "full": Config(compile=True),
}  # fmt: skip

RobotOf = Callable[..., Robot]
"""A robot with the `steps`, the `impaired` actuator and the `goal` that are named."""


def robot_experiment(make: RobotOf, *, outputs: int, updates: int, **about: Any) -> Experiment:
    """An experiment on a robot; `about` has its `name`, `page`, `claim` and `cost`.

    The `updates` are those of the full scale: as many as forty minutes of a core have room for.
    """
    return Experiment(
        presets=PRESETS | {"full": replace(PRESETS["full"], updates=updates)},
        run=partial(run, make, variants(outputs)),
        evaluate=partial(evaluate, make, variants(outputs)),
        **about,
    )


def make_agent(
    make: RobotOf, config: Config, variant: str, known: Mapping[str, Variant], seed: int = 0
) -> Agent:
    """A fresh agent of a variant."""
    chosen, index = known[variant], list(known).index(variant)
    env = Trial(make(steps=config.segment, goal=chosen.goal))
    return make_model(lambda: chosen.build(config, env), seed, index)


def settings_of(config: Config, variant: str) -> Config:
    """How an agent is trained: at a rate of its own, all from the same search."""
    rates = {"maml": config.maml_learning_rate, "metods": config.learning_rate}
    kind = variant.partition("-")[0]
    return replace(config, learning_rate=rates.get(kind, config.gru_learning_rate))


def run(make: RobotOf, known: Mapping[str, Variant], config: Config, run: Run) -> list[Row]:
    """One seed: train every agent, then test all on the same tasks, from the same poses."""
    for variant in config.trained(run.seed):
        env = Trial(make(steps=config.segment, goal=known[variant].goal))
        model, index = (
            make_agent(make, config, variant, known, run.seed),
            list(known).index(variant),
        )
        settings = settings_of(config, variant)
        train_agent(run.stage(variant), env, model, settings, run.seed, index)
    tensors = run.tensors()
    rows: list[Row] = []
    for variant in config.trained(run.seed):
        agent = agent_of(make, config, known, tensors, variant)
        rows += test(make, config, run.seed, agent, variant, known[variant].goal)
    rows += less_others(rows, ("return", "retained"), ("gru-matched", "maml"))
    return rows + by_hand(make, config, run.seed) + last_logged(run)


def evaluate(
    make: RobotOf,
    known: Mapping[str, Variant],
    config: Config,
    seed: int,
    tensors: Mapping[str, Tensor],
) -> list[Row]:
    """What the agents that every seed trains earn in their first steps, from published ones."""
    rows: list[Row] = []
    for variant in config.in_every_seed:
        agent = agent_of(make, config, known, tensors, variant)
        steps = min(config.segment, SURE)
        rewards = live(make, config, seed, agent, known[variant].goal, steps=steps)
        rows += result_rows(config, variant, at_steps(rewards))
    return rows


def agent_of(
    make: RobotOf,
    config: Config,
    known: Mapping[str, Variant],
    tensors: Mapping[str, Tensor],
    variant: str,
) -> Agent:
    """The trained agent of a variant."""
    fresh = make_agent(make, replace(config, compile=False), variant, known)
    return load_agent(fresh, tensors, variant)


def test(
    make: RobotOf, config: Config, seed: int, agent: Agent, variant: str, goal: str
) -> list[Row]:
    """What an agent earns, by drawn actions.

    Metrics: `return` of a trial; `reward@<t>`, the reward of a step, a mean over the five
    steps up to the t-th; `return_late` of the second half, and `return_early` of the first;
    `return_greedy` of the most likely actions; `return_wiped`, with memory made new before
    each step; `return_without_reward`, when the agent is shown none; `return_impaired_<k>`
    with actuator k without torque, `return_impaired`, their mean, and `retained`, that mean as
    a share of `return`; `parameters`.
    """
    rewards = live(make, config, seed, agent, goal)
    returns = rewards.sum(0)
    half = len(rewards) // 2
    values: dict[str, Tensor | float] = {
        "return": returns,
        "return_early": rewards[:half].sum(0),
        "return_late": rewards[half:].sum(0),
    }
    values |= at_steps(rewards)
    for name, options in (
        ("greedy", {"greedy": True}), ("wiped", {"wiped": True}),
        ("without_reward", {"reward_input": False}),
    ):  # fmt: skip
        values[f"return_{name}"] = live(make, config, seed, agent, goal, **options).sum(0)
    count = agent.outputs
    impaired = [
        live(make, config, seed, agent, goal, impaired=k, share=count).sum(0).mean()
        for k in range(count)
    ]
    values |= {f"return_impaired_{k}": value for k, value in enumerate(impaired)}
    values["return_impaired"] = torch.stack(impaired).mean()
    values["retained"] = values["return_impaired"] / returns.mean()
    values["parameters"] = float(parameters_of(agent))
    return result_rows(config, variant, values)


def at_steps(rewards: Tensor) -> dict[str, Tensor]:
    """What of the rewards `[T, B]` is earned in a step, in the course of a trial."""
    ends = range(WINDOW, len(rewards) + 1, WINDOW)
    return {f"reward@{t}": rewards[t - WINDOW : t].mean() for t in ends}


def live(
    make: RobotOf, config: Config, seed: int, agent: Agent, goal: str = "hidden", *,
    impaired: int | None = None, share: int = 1, reward_input: bool = True,
    greedy: bool = False, wiped: bool = False, steps: int | None = None,
) -> Tensor:  # fmt: skip
    """The rewards `[T, B]` of trials of the test tasks, or of one in `share` of them.

    A trial has as many steps as in training, where no others are given.
    """
    robot = make(steps=steps or config.segment, goal=goal, impaired=impaired)
    env = Trial(robot, reward_input=reward_input)
    tasks = env.sample_tasks(-(-config.test_trials // share), generator(seed, "evaluation"), "test")
    stream = generator(seed, "evaluation", 1)
    return play(env, agent, tasks, stream, greedy=greedy, wiped=wiped).rewards


def by_hand(make: RobotOf, config: Config, seed: int) -> list[Row]:
    """What a robot earns that never moves its joints, and one that moves them at random."""
    rows = []
    for name in ("still", "random"):
        env = make(steps=config.segment)
        stream = generator(seed, "evaluation", 2)
        tasks = env.sample_tasks(config.test_trials, generator(seed, "evaluation"), "test")
        state, _ = env.reset(tasks, stream)
        total = torch.zeros(config.test_trials)
        lives = torch.ones(config.test_trials, dtype=torch.bool)
        shape = config.test_trials, *env.action_space.shape
        for _ in range(env.max_steps):
            action = 2 * torch.rand(shape, generator=stream) - 1
            state, step = env.step(state, action * (name == "random"), stream)
            total += step.reward * lives
            lives &= ~step.terminated
        rows.append(row(name, "return", total, 1))
    return rows
