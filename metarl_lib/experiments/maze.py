"""The maze: which memories find the way, and find it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from torch import Tensor

from metarl_lib.algos import Agent, Settings
from metarl_lib.envs.maze import Maze
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.maze_agents import ENVS, SIZE, VARIANTS
from metarl_lib.experiments.maze_readings import earned, probed
from metarl_lib.experiments.meta_agents import Variants, parameters_of
from metarl_lib.experiments.meta_training import (
    last_logged,
    less_others,
    load_agent,
    make_model,
    play,
    result_rows,
    train_agent,
)
from metarl_lib.oracles import maze as oracle
from metarl_lib.rules.checks import look_up
from metarl_lib.runs import Row, Run, generator

NAME = "maze"
OTHER_SIZE, MORE_SIZES = 10, (6, 12, 14, 16)
MAIN = (
    "metods-linear-S4", "gru", "gru-matched", "backpropamine",
    "metods-linear-S4-visible", "gru-visible",
)  # fmt: skip
COSTLY = ("backpropamine",)
ABLATED = (
    "metods-linear-S2", "metods-linear-S1", "metods-linear-S4-no-alpha", "metods-vanilla-S4",
    "maml", "maml-rates",
)  # fmt: skip
"""What Chalvidal et al. vary or compare with, beside the main agents."""
ORDERS = (
    ("metods-linear-S4", "gru"), ("metods-linear-S4-visible", "gru-visible"),
    ("metods-linear-S4", "metods-linear-S4-no-alpha"), ("metods-linear-S4", "metods-linear-S1"),
    ("metods-linear-S4", "metods-vanilla-S4"), ("metods-mlp-S4", "metods-vanilla-S4"),
    ("maml", "maml-rates"),
)  # fmt: skip
"""Pairs of agents that they put in an order."""


@dataclass(frozen=True)
class Config(Variants, Settings):
    """Fields of the experiment on the maze. A segment is a whole trial.

    Raises:
        ValueError: for an unknown variant, or a number out of range.
    """

    rows: int = option(64, "mazes side by side")
    segment: int = option(100, "steps of a trial, after each of which is learned")
    updates: int = option(469, "segments that are collected and learned from")
    epochs: int = option(4, "passes over a segment")
    minibatches: int = option(2, "parts of the rows in a pass, one gradient step each")
    learning_rate: float = option(1e-3, "learning rate at the start")
    discount: float = option(0.95, "discount of future rewards")
    entropy: float = option(0.02, "weight of the policy's entropy at the start")
    value_unit: float = option(10.0, "reward in which values count")
    max_grad_norm: float = option(1.0, "gradients are scaled to this norm where larger")
    whole_trials: bool = option(True, "start a new trial in every row with each segment")
    encoder_units: int = option(64, "units of the layer between what is seen and the memory")
    num_units: int = option(64, "units of the cells that rewrite their weights")
    gru_units: int = option(256, "units of the GRU of RL²")
    maml_units: int = option(64, "units of each layer of the agent that takes gradient steps")
    maml_horizon: int = option(25, "steps between two of its gradient steps")
    maml_rate: float = option(1.0, "size of its gradient steps, at the start if it is learned")
    compile: bool = option(False, "compile the cells that rewrite their weights")
    variants: tuple[str, ...] = option(MAIN, "agents to train")
    costly: tuple[str, ...] = option(COSTLY, "those of them that few seeds train")
    costly_seeds: int = option(2, "only runs whose seed is below this number train the costly")
    brief: tuple[str, ...] = option((), "those that a thorough test leaves out")
    test_trials: int = option(2000, "trials of a test, in mazes never seen")
    thorough: bool = option(True, "test in mazes of more sizes, and read the memories, too")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self, "encoder_units", "num_units", "gru_units", "maml_units", "maml_horizon",
            "maml_rate", "test_trials", "value_unit",
        )  # fmt: skip
        if self.test_trials < 4:
            raise ValueError(
                f"test_trials={self.test_trials}: must be at least 4, a quarter of them to test "
                "what was fitted to the others"
            )
        self.check_variants(VARIANTS)
        for variant in self.brief:
            look_up("brief", variant, VARIANTS)

    @property
    def agent_options(self) -> dict[str, Any]:
        """What every agent is told beside its sizes."""
        return {"value_unit": self.value_unit}


SMOKE: dict[str, Any] = {
    "rows": 4, "segment": 12, "updates": 2, "epochs": 1, "encoder_units": 4, "num_units": 4,
    "gru_units": 4, "test_trials": 20, "thorough": False,
}  # fmt: skip
"""What all experiments on the maze set at their smallest scale."""

PRESETS = {
    "smoke": Config(
        **SMOKE,
        variants=("metods-linear-S4", "gru", "metods-linear-S4-visible", "gru-visible"),
    ),
    "book": Config(updates=60, gru_units=32, num_units=32, test_trials=200,
                   variants=("metods-linear-S4-visible", "gru-visible")),
    "full": Config(compile=True, variants=MAIN + ABLATED, brief=ABLATED),
}  # fmt: skip


def make_agent(config: Config, variant: str, seed: int = 0) -> Agent:
    """A fresh agent of a variant."""
    chosen = VARIANTS[variant]
    env, index = ENVS[chosen.target], list(VARIANTS).index(variant)
    return make_model(lambda: chosen.build(config, env), seed, index)


def run(config: Config, run: Run) -> list[Row]:
    """One seed: train every agent, then test all in the same mazes."""
    for variant in config.trained(run.seed):
        env, index = ENVS[VARIANTS[variant].target], list(VARIANTS).index(variant)
        model = make_agent(config, variant, run.seed)
        train_agent(run.stage(variant), env, model, config, run.seed, index)
    tensors = run.tensors()
    rows = by_hand(config, run.seed)
    for variant in config.trained(run.seed):
        rows += test(config, run.seed, agent_of(config, tensors, variant), variant)
    return rows + differences(rows) + last_logged(run)


def differences(rows: list[Row]) -> list[Row]:
    """What the first of each pair of `ORDERS` earns more than the second, where both are trained.

    Metrics: `return_minus_<other>` and `return_10x10_minus_<other>`.
    """
    metrics = "return", f"return{ending(OTHER_SIZE)}"
    return [
        found
        for pair in ORDERS
        for found in less_others([r for r in rows if r["variant"] in pair], metrics, pair[1:])
    ]


def evaluate(
    config: Config, seed: int, tensors: Mapping[str, Tensor], sizes: tuple[int, ...] = (SIZE,)
) -> list[Row]:
    """The published agents that every seed trains and tests thoroughly, in mazes of some sizes."""
    rows: list[Row] = []
    for variant, size in product(config.in_every_seed, sizes):
        if variant not in config.brief:
            rewards = walk(config, seed, agent_of(config, tensors, variant), variant, size)
            found = {f"{name}{ending(size)}": value for name, value in earned(rewards).items()}
            rows += result_rows(config, variant, found)
    return rows


def ending(size: int) -> str:
    """What the name of a metric ends in, when it was measured in mazes of that size."""
    return "" if size == SIZE else f"_{size}x{size}"


def agent_of(config: Config, tensors: Mapping[str, Tensor], variant: str) -> Agent:
    """The trained agent of a variant."""
    return load_agent(make_agent(replace(config, compile=False), variant), tensors, variant)


def test(config: Config, seed: int, agent: Agent, variant: str) -> list[Row]:
    """What an agent earns in mazes that it has never seen, by drawn actions.

    Metrics: `return`; `success`, the share of trials with a reward; `first_reward`, the steps
    to it, counted as all where there is none; these with `_10x10` in mazes of that size.
    `return_late` of the second half of a trial, the same with memory `_frozen` after the first
    half, and `_wiped` before each step; `parameters`. A thorough test adds `return_6x6` and so
    on; `return_greedy` of the most likely actions; `return_without_reward`, when the agent is
    shown none; and what a linear reader finds in the memory (see `maze_readings.probed`).
    """
    rewards = walk(config, seed, agent, variant)
    half = len(rewards) // 2
    values = earned(rewards)
    other = earned(walk(config, seed, agent, variant, OTHER_SIZE))
    values |= {f"{name}{ending(OTHER_SIZE)}": value for name, value in other.items()}
    values["return_late"] = rewards[half:].sum(0)
    for name, options in (("frozen", {"frozen_after": half}), ("wiped", {"wiped": True})):
        operated = walk(config, seed, agent, variant, **options)
        values[f"return_late_{name}"] = operated[half:].sum(0)
    found: dict[str, Tensor | float] = {**values, "parameters": float(parameters_of(agent))}
    if config.thorough and variant not in config.brief:
        for size in MORE_SIZES:
            found[f"return{ending(size)}"] = walk(config, seed, agent, variant, size).sum(0)
        found["return_greedy"] = walk(config, seed, agent, variant, greedy=True).sum(0)
        blind = walk(config, seed, agent, variant, reward_input=False)
        found["return_without_reward"] = blind.sum(0)
        env, stream = ENVS[VARIANTS[variant].target], generator(seed, "evaluation", 3000)
        tasks = env.sample_tasks(2 * config.test_trials, stream, "test")
        found |= probed(env, agent, tasks, stream)
    return result_rows(config, variant, found)


def walk(
    config: Config, seed: int, agent: Agent, variant: str, size: int = SIZE, *,
    reward_input: bool = True, greedy: bool = False, **options: Any,
) -> Tensor:  # fmt: skip
    """The rewards `[T, B]` of trials in the test mazes of a size, the same for every agent."""
    maze = Maze(size, target=VARIANTS[variant].target)
    env = Trial(maze, reward_input=reward_input)
    tasks = env.sample_tasks(config.test_trials, generator(seed, "evaluation", size), "test")
    stream = generator(seed, "evaluation", 1000 + size)
    return play(env, agent, tasks, stream, greedy=greedy, **options).rewards


def by_hand(config: Config, seed: int) -> list[Row]:
    """The walkers that are known exactly, and the searchers, in the same mazes.

    `search-visible` is one that can see the target, `search-anew` one that forgets at a jump.
    With them, as `bound`, the steps that any agent needs on average for the first reward, when
    the target is hidden and drawn evenly (those of the test are one in five cells).
    """
    rows = []
    for size in (SIZE, OTHER_SIZE, *MORE_SIZES):
        env = Maze(size)
        tasks = env.sample_tasks(config.test_trials, generator(seed, "evaluation", size), "test")
        found: dict[str, dict[str, Tensor]] = {}
        for name, outlook in (
            ("random", oracle.random_walk), ("shortest-path", oracle.shortest_path),
        ):  # fmt: skip
            exact = outlook(tasks.open, tasks.target, env.steps)
            found[name] = {
                "return": exact.reward, "success": exact.success, "first_reward": exact.first,
            }  # fmt: skip
        for remembers, visible in product((True, False), repeat=2):
            name = "search" + "-anew" * (not remembers) + "-visible" * visible
            stream = generator(seed, "evaluation", 2000 + size)
            found[name] = earned(
                oracle.search(
                    tasks.open, tasks.target, env.steps, stream,
                    remembers=remembers, visible=visible,
                )
            )  # fmt: skip
        found["bound"] = {"first_reward": oracle.least_search(tasks.open, env.steps)}
        rows += [
            row(name, f"{metric}{ending(size)}", value, 1)
            for name, values in found.items()
            for metric, value in values.items()
        ]
    return rows


EXPERIMENT = Experiment(
    name=NAME,
    page="book/metods/03_maze.md",
    claim="A layer that rewrites its weights finds its way in new mazes better than RL²",
    presets=PRESETS,
    cost={"smoke": "20 s", "book": "90 s", "full": "150 min"},
    run=run,
    evaluate=evaluate,
)
