"""Harlow's task: agents with different memories learn to learn from a single reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metarl_lib.algos import ActorCritic, Settings
from metarl_lib.cores import GRU, LSTM, Backpropamine, Core, MetODS
from metarl_lib.envs.harlow import Harlow
from metarl_lib.envs.harlow_strategies import STRATEGIES
from metarl_lib.envs.harlow_strategies import play as play_strategy
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.base import Experiment, check_minibatch, check_positive, option, row
from metarl_lib.experiments.meta_agents import (
    CoreOf,
    Variants,
    matched_units,
    metods,
    parameters_of,
)
from metarl_lib.experiments.meta_training import (
    last_logged,
    load_agent,
    make_model,
    play,
    result_rows,
    train_agent,
)
from metarl_lib.experiments.sb3_recurrent import SB3Agent, train_recurrent_ppo
from metarl_lib.runs import Row, Run, generator

NAME = "harlow"
TASK = Harlow()
ENV = Trial(TASK)


def _matched_gru(config: Any, size: int) -> Core:
    """As many parameters as the MetODS agent, heads included."""

    def agent(core: Core) -> int:
        return parameters_of(ActorCritic(core, ENV.observation_space, ENV.action_space))

    target = agent(MetODS(size, config.num_units))
    return GRU(size, matched_units(lambda units: agent(GRU(size, units)), target))


CORES: dict[str, CoreOf] = {
    "metods-linear-S4": metods(4),
    "metods-linear-S1": metods(1),
    "metods-linear-S4-no-alpha": metods(4, plasticity="scalar"),
    "metods-vanilla-S4": metods(4, "vanilla"),
    "gru-matched": _matched_gru,
    "gru-state-matched": lambda config, size: GRU(size, config.num_units**2),
    "backpropamine": lambda config, size: Backpropamine(size, config.num_units),
    "gru": lambda config, size: GRU(size, config.gru_units),
    "lstm": lambda config, size: LSTM(size, config.gru_units),
    "recurrent-ppo": lambda config, size: LSTM(size, config.gru_units),
}
"""The memory of each agent; that of `recurrent-ppo` is sb3-contrib's own LSTM."""

COSTLY = ("metods-vanilla-S4", "gru-state-matched", "backpropamine", "recurrent-ppo")


@dataclass(frozen=True)
class Config(Variants, Settings):
    """Fields of the experiment on Harlow's task."""

    segment: int = option(72, "steps of every row between two updates")
    updates: int = option(800, "segments that are collected and learned from")
    learning_rate: float = option(3e-3, "learning rate at the start")
    discount: float = option(0.91, "discount of future rewards")
    gae_lambda: float = option(1.0, "decay of the advantage estimate")
    entropy: float = option(0.06, "weight of the policy's entropy at the start")
    value_weight: float = option(0.4, "weight of the value loss")
    num_units: int = option(20, "units of the cells that rewrite their weights")
    gru_units: int = option(64, "units of the gated cells that are not matched to them")
    compile: bool = option(False, "compile the MetODS cells")
    variants: tuple[str, ...] = option(tuple(CORES), "agents to train")
    costly: tuple[str, ...] = option(COSTLY, "those of them that few seeds train")
    costly_seeds: int = option(3, "only runs whose seed is below this number train the costly")
    test_trials: int = option(10_000, "trials of a test, on pairs of objects never seen")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_units", "gru_units", "test_trials")
        self.check_variants(CORES)
        if "recurrent-ppo" in self.variants:
            given = f"rows={self.rows}, segment={self.segment}, minibatches={self.minibatches}"
            check_minibatch(self.rows * self.segment // self.minibatches, given)


PRESETS = {
    "smoke": Config(
        rows=4, segment=12, updates=2, epochs=1, num_units=4, gru_units=4, test_trials=40,
    ),
    "book": Config(rows=64, updates=60, gru_units=32, test_trials=500,
                   variants=("metods-linear-S4", "gru")),
    "full": Config(compile=True),
}  # fmt: skip


def make_agent(config: Config, variant: str, seed: int = 0) -> ActorCritic:
    """A fresh agent of a variant."""

    def build() -> ActorCritic:
        core = CORES[variant](config, ENV.observation_space.shape[0])
        return ActorCritic(core, ENV.observation_space, ENV.action_space)

    return make_model(build, seed, list(CORES).index(variant))


def run(config: Config, run: Run) -> list[Row]:
    """One seed: train every agent for equally many steps, then test all on the same trials."""
    for variant in config.trained(run.seed):
        stage, index = run.stage(variant), list(CORES).index(variant)
        if variant == "recurrent-ppo":
            train_recurrent_ppo(stage, ENV, config, config.gru_units, run.seed, index)
        else:
            train_agent(stage, ENV, make_agent(config, variant, run.seed), config, run.seed, index)
    tensors = run.tensors()
    rows = strategies(config, run.seed)
    for variant in config.trained(run.seed):
        rows += test(config, run.seed, agent_of(config, tensors, variant), variant)
    return rows + last_logged(run)


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """What the agents that every seed trains do as they are, from the published ones."""
    rows: list[Row] = []
    for variant in config.in_every_seed:
        agent = agent_of(config, tensors, variant)
        rows += result_rows(config, variant, as_it_is(config, seed, agent))
    return rows


def agent_of(config: Config, tensors: Mapping[str, Tensor], variant: str) -> Any:
    """The trained agent of a variant."""
    if variant == "recurrent-ppo":
        return SB3Agent.rebuild(ENV, tensors, variant, config.gru_units)
    return load_agent(make_agent(replace(config, compile=False), variant), tensors, variant)


def test(config: Config, seed: int, agent: Any, variant: str) -> list[Row]:
    """What an agent does on pairs of objects that it has never seen.

    Metrics: `return` of the most likely actions and `return_sampled` of drawn ones;
    `correct_<k>`, the share of right choices at presentation k = 1 …; `correct_same_side` and
    `correct_other_side`, that share from the second one on, of pairs with both numbers on one
    side of 0.5 and of the others: 1 and 1 for the exact strategy, 0.5 and 1 for the threshold;
    `correct_after_right` and `correct_after_wrong`, that share after a right and after a wrong
    first choice: 1 and 0.5 for who learns from wins alone;
    `return_wiped`, when memory is made new before each step; `return_without_reward`, when the
    agent is shown no reward; `parameters`.
    """
    values = as_it_is(config, seed, agent)
    values["return_sampled"] = _trial(config, seed, agent, greedy=False)[0].returns
    values["return_wiped"] = _trial(config, seed, agent, wiped=True)[0].returns
    blind = Trial(TASK, reward_input=False)
    values["return_without_reward"] = _trial(config, seed, agent, env=blind)[0].returns
    if isinstance(agent, ActorCritic):
        values["parameters"] = float(parameters_of(agent))
    return result_rows(config, variant, values)


def as_it_is(config: Config, seed: int, agent: Any) -> dict[str, float | Tensor]:
    """The metrics of `test` that one play of the most likely actions gives."""
    played, tasks = _trial(config, seed, agent)
    values: dict[str, float | Tensor] = {"return": played.returns}
    presentation = played.info["presentation"]
    right = torch.stack(
        [
            (played.info["correct"] & (presentation == k)).any(0).float()
            for k in range(TASK.presentations)
        ]
    )
    values |= {f"correct_{k + 1}": share for k, share in enumerate(right)}
    same, won = (tasks.rewarded > 0.5) == (tasks.other > 0.5), right[0] > 0
    for name, part in (
        ("same_side", same), ("other_side", ~same), ("after_right", won), ("after_wrong", ~won),
    ):  # fmt: skip
        values[f"correct_{name}"] = right[1:, part].mean() if part.any() else 0.0
    return values


def _trial(
    config: Config, seed: int, agent: Any, *, env: Trial = ENV, **options: Any
) -> tuple[Any, Any]:
    tasks = env.sample_tasks(config.test_trials, generator(seed, "evaluation", 0), "test")
    played = play(env, agent, tasks, generator(seed, "evaluation", 1), **options)
    return played, tasks


def strategies(config: Config, seed: int) -> list[Row]:
    """The returns of the scripted strategies on the same trials."""
    rows = []
    tasks = ENV.sample_tasks(config.test_trials, generator(seed, "evaluation", 0), "test")
    for place, (name, strategy) in enumerate(STRATEGIES.items()):
        stream = generator(seed, "evaluation", 2 + place)
        returns = play_strategy(TASK, strategy, tasks, stream)
        rows.append(row(name.replace(" ", "-"), "return", returns, config.test_trials))
    return rows


EXPERIMENT = Experiment(
    name=NAME,
    page="book/metods/02_one_shot_learning.md",
    claim="A layer that rewrites its weights learns Harlow's task from a single reward",
    presets=PRESETS,
    cost={"smoke": "10 s", "book": "90 s", "full": "60 min"},
    run=run,
    evaluate=evaluate,
)
