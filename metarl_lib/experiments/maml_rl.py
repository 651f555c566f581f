"""Policies that take gradient steps to reach a goal they cannot see: MAML on the point robot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl_lib.algos import AfterSteps, EachEpisode, MAMLPolicy, Settings, WholeLife
from metarl_lib.envs.point_robot import PointRobot
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.meta_agents import parameters_of
from metarl_lib.experiments.meta_training import (
    best_of,
    last_logged,
    load_agent,
    make_model,
    play,
    result_rows,
    scores_of,
    train_agent,
)
from metarl_lib.experiments.pearl_readings import knowing
from metarl_lib.experiments.pearl_training import Told
from metarl_lib.rules.checks import look_up
from metarl_lib.runs import Row, Run, Stage, generator

NAME = "maml_rl"


class Variant(NamedTuple):
    """How an agent is trained, if it is, and what it sees and does.

    `stepping` says whether it takes gradient steps in training, `judged` what an action is paid
    for in its outer loop: one `"after"` the step for the rest of its episode, and those before it
    for nothing; each action of `"each"` episode for the rest of it; or all for the rest of the
    `"whole"` life. The `baseline` is that of both loops. Who is `told` sees the goal.
    """

    trained: bool = True
    stepping: bool = True
    judged: str = "after"
    surrogate: str = "plain"
    baseline: str = "linear"
    first_order: bool = False
    told: bool = False


VARIANTS = {
    "maml": Variant(),
    "maml-ratio": Variant(surrogate="ratio"),
    "first-order": Variant(first_order=True),
    "maml-life": Variant(judged="whole"),
    "maml-critic": Variant(baseline="critic"),
    "joint": Variant(stepping=False, judged="each"),
    "random": Variant(trained=False, stepping=False),
    "told": Variant(stepping=False, judged="each", told=True),
}
OUTER_LOOPS = {"after": AfterSteps, "each": EachEpisode, "whole": WholeLife}

TUNED = ("joint", "random")
"""Agents that never took a step in training; the size of theirs is chosen afterwards."""


def robot() -> PointRobot:
    """Goals anywhere in the square, and rewards everywhere."""
    return PointRobot(goals="square")


@dataclass(frozen=True)
class Config(Settings):
    """Fields of the experiment with policies that take gradient steps.

    Raises:
        ValueError: for an unknown variant, a number out of range, or a segment that does not fit.
    """

    rows: int = option(64, "robots side by side")
    segment: int = option(160, "steps of a life in training: those before and after one step")
    updates: int = option(100, "lives of every row that are learned from")
    minibatches: int = option(4, "parts of the rows in a pass, one gradient step each")
    learning_rate: float = option(3e-3, "learning rate at the start")
    discount: float = option(0.8, "discount of future rewards, in both loops")
    entropy: float = option(0.0, "weight of the policy's entropy at the start")
    max_grad_norm: float = option(1.0, "gradients are scaled to this norm where larger")
    whole_trials: bool = option(True, "start a new trial in every row with each segment")
    value_weight: float = option(0.5, "weight of the value loss, in those that have a critic")
    shots: int = option(5, "episodes that a gradient step learns from")
    hidden: int = option(64, "units of each of the two hidden layers")
    rate: float = option(0.5, "size of the gradient steps at the start; it is learned")
    log_std: float = option(-0.5, "logarithm of the deviation of actions at the start")
    variants: tuple[str, ...] = option(tuple(VARIANTS), "agents to train")
    tuning_rates: tuple[float, ...] = option(
        (0.01, 0.03, 0.1, 0.3, 1.0, 3.0), "sizes of steps that agents try that learned none"
    )
    tuning_tasks: int = option(200, "training goals that choose among these")
    test_tasks: int = option(500, "goals of a test, none of them trained on")
    test_steps: int = option(3, "gradient steps with each")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self, "shots", "hidden", "rate", "tuning_rates", "tuning_tasks", "test_tasks",
            "test_steps",
        )  # fmt: skip
        for variant in self.variants:
            look_up("variants", variant, VARIANTS)
        whole = self.segment % robot().max_steps == 0
        if not whole or not self.horizon < self.segment <= 2 * self.horizon:
            raise ValueError(
                f"segment={self.segment}: must be whole episodes of {robot().max_steps} steps, "
                f"and from more than {self.horizon} to {2 * self.horizon}, for one gradient step"
            )

    @property
    def horizon(self) -> int:
        """Environment steps that a gradient step learns from."""
        return self.shots * robot().max_steps


PRESETS = {
    "smoke": Config(
        rows=4, segment=40, updates=2, epochs=1, shots=1, hidden=4, tuning_rates=(0.1, 1.0),
        tuning_tasks=4, test_tasks=10, variants=("maml", "maml-ratio", "joint", "random"),
    ),
    "book": Config(updates=25, test_tasks=200, tuning_tasks=50, variants=("maml", "joint")),
    "full": Config(),
}  # fmt: skip


def env_of(variant: str, episodes: int) -> Trial:
    """Lives of so many episodes; who is told sees the goal beside its position."""
    env: Any = Told(robot(), 2) if VARIANTS[variant].told else robot()
    return Trial(env, episodes)


def make_agent(config: Config, variant: str, seed: int = 0, *, training: bool = False) -> Any:
    """A fresh agent of a variant; all start from the same numbers, as far as they have the same.

    Where `training`, those that do not step in training get a life too short for it.
    """
    chosen, env = VARIANTS[variant], env_of(variant, 1)
    still = training and not chosen.stepping

    def build() -> MAMLPolicy:
        return MAMLPolicy(
            env.observation_space, env.action_space, (config.hidden,) * 2,
            horizon=config.segment + 1 if still else config.horizon, rate=config.rate,
            rates="learned" if chosen.stepping else "fixed", discount=config.discount,
            gae_lambda=config.gae_lambda, first_order=chosen.first_order,
            surrogate=chosen.surrogate, baseline=chosen.baseline, standardised=True,
            state_only=True, log_std=config.log_std, value_unit=None, normalise=True,
        )  # fmt: skip

    return make_model(build, seed, 0)


def run(config: Config, run: Run) -> list[Row]:
    """One seed: train every agent, then let all live with the same goals."""
    for variant in config.variants:
        train(config, run, variant)
    return evaluate(config, run.seed, run.tensors()) + by_hand(config, run.seed) + last_logged(run)


def train(config: Config, run: Run, variant: str) -> None:
    """Train an agent to the end of its stage; where no size of steps is learned, choose one."""
    chosen, index = VARIANTS[variant], list(VARIANTS).index(variant)
    model = make_agent(config, variant, run.seed, training=True)
    if chosen.trained:
        env = env_of(variant, config.segment // robot().max_steps)
        algorithm = OUTER_LOOPS[chosen.judged]
        weight = config.value_weight if chosen.baseline == "critic" else 0.0
        settings = replace(config, value_weight=weight)
        train_agent(run.stage(variant), env, model, settings, run.seed, index, algorithm=algorithm)
    if variant in TUNED:
        choose_rate(run.stage(f"{variant}-rate"), config, variant, model.state_dict(), run.seed)


def choose_rate(
    stage: Stage, config: Config, variant: str, weights: Mapping[str, Tensor], seed: int
) -> None:
    """Choose the size of a step after which most is earned, with training goals.

    Raises:
        DivergenceError: when there is no size after which actions and rewards stay finite.
    """
    if stage.finished:
        return
    agent = make_agent(config, variant)
    agent.load_state_dict(weights)
    once = replace(config, test_steps=1)

    def earned(rate: float) -> float:
        return float(live(once, seed, with_rate(agent, rate), variant, "train")[1].mean())

    rates = config.tuning_rates
    grid = [(rate,) for rate in rates]
    (best,) = best_of(scores_of(stage.name, f"tuning_rates={rates}", grid, earned))
    stage.save(len(rates), {"rate": torch.tensor(best, dtype=torch.float64)}, finished=True)


def with_rate(agent: MAMLPolicy, rate: float) -> MAMLPolicy:
    """The agent itself, with steps of this size for all weights."""
    for log_rate in agent.log_rates:
        log_rate.data.fill_(math.log(rate))
    return agent


def agent_of(config: Config, tensors: Mapping[str, Tensor], variant: str, seed: int) -> MAMLPolicy:
    """The agent of a variant as it is tested; one that is not trained starts from the seed."""
    agent = make_agent(config, variant, seed)
    if VARIANTS[variant].trained:
        load_agent(agent, tensors, variant)
    if variant in TUNED:
        with_rate(agent, float(tensors[f"{variant}-rate.rate"]))
    return agent


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """What the agents earn with goals that they have never seen, from the published ones.

    Metrics: `return@<k>`, the mean return of the episodes after k gradient steps, all with
    actions drawn; `gain@<k>`, that less `return@0`; `share@<k>`, the share of goals with which
    `return@<k>` is above `return@0`; `rate`, the mean size of the gradient steps;
    `parameters`. Who is told has learned to need no steps, and has `return@0` alone.
    """
    rows: list[Row] = []
    for variant in config.variants:
        agent = agent_of(config, tensors, variant, seed)
        returns = live(config, seed, agent, variant)
        values = {f"return@{k}": each for k, each in enumerate(returns)}
        if VARIANTS[variant].told:
            values = {"return@0": returns[0]}
        else:
            for k, each in enumerate(returns[1:], 1):
                values[f"gain@{k}"] = each - returns[0]
                values[f"share@{k}"] = (each > returns[0]).float()
            sizes = torch.cat([log_rate.detach().flatten() for log_rate in agent.log_rates])
            values["rate"] = sizes.exp().mean()
        values["parameters"] = torch.tensor(float(parameters_of(agent)))
        rows += result_rows(config, variant, values)
    return rows


def live(config: Config, seed: int, agent: MAMLPolicy, variant: str, split: str = "test") -> Tensor:
    """Mean returns of the episodes after 0, 1, … gradient steps, `[steps + 1, B]`."""
    stages = config.test_steps + 1
    env = env_of(variant, config.shots * stages)
    index = 0 if split == "test" else 10
    count = config.test_tasks if split == "test" else config.tuning_tasks
    tasks = env.sample_tasks(count, generator(seed, "evaluation", index), split)
    stream = generator(seed, "evaluation", index + 1)
    rewards = play(env, agent, tasks, stream, greedy=False).rewards
    return rewards.unflatten(0, (stages, -1)).sum(1) / config.shots


def by_hand(config: Config, seed: int) -> list[Row]:
    """What those goals return to who knows them, and to who stays where it is."""
    env = robot()
    tasks = env.sample_tasks(config.test_tasks, generator(seed, "evaluation"), "test")
    known = knowing(env, tasks).rewards.sum((1, 2))
    still = -env.max_steps * tasks.goal.norm(dim=-1)
    return [row("shortest-path", "return@0", known, 1), row("still", "return@0", still, 1)]


EXPERIMENT = Experiment(
    name=NAME,
    page="book/algorithms/01_maml.md",
    claim="One policy-gradient step from learned weights takes a robot to a goal it cannot see",
    presets=PRESETS,
    cost={"smoke": "5 s", "book": "1 min", "full": "10 min"},
    run=run,
    evaluate=evaluate,
)
