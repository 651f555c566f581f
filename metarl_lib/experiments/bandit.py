"""Bandits: what a recurrent agent learns about exploration, beside the exact optimum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from metarl_lib.algos import ActorCritic, Settings
from metarl_lib.cores import GRU, LSTM
from metarl_lib.envs.bandit import Bandit, BanditTasks
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.bandit_readings import Watched, curve, posterior_r2, tried
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.meta_agents import parameters_of
from metarl_lib.experiments.meta_training import (
    last_logged,
    load_agent,
    make_model,
    play,
    train_agent,
)
from metarl_lib.oracles import bandits as oracles
from metarl_lib.oracles.bayes_bandit import bayes_optimal
from metarl_lib.oracles.gittins_index import MAX_PULLS, FiniteHorizonGittins
from metarl_lib.rules.checks import look_up
from metarl_lib.runs import Row, Run, generator

NAME = "bandit"
CORES = {"gru": GRU, "lstm": LSTM}
EXACT = {(2, 10), (5, 10), (10, 10), (50, 10), (2, 100)}
"""Cells (k, n) whose optimum dynamic programming can find."""

MANY, SELDOM = 10, -2.0
"""More arms than these are learned from fewer; the logit of an arm that is new then."""

UCB, EPSILON = 0.2, 0.05
"""The constant of the upper bounds, and the share of random pulls of ε-greedy."""


def arms_and_pulls(cell: str) -> tuple[int, int]:
    """k and n of a cell such as `5x100`.

    Raises:
        ValueError: when it is none, with less than 2 arms or other than 2 to 1000 pulls.
    """
    parts = cell.split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 1 for part in parts):
        raise ValueError(f"cell {cell!r}: write arms x pulls, such as 5x100, both at least 2")
    arms, pulls = map(int, parts)
    if pulls > MAX_PULLS:
        raise ValueError(f"cell {cell!r}: at most {MAX_PULLS} pulls have a Gittins index")
    return arms, pulls


@dataclass(frozen=True)
class Config(Settings):
    """Fields of the experiment on bandits.

    A cell `5x100` is a bandit with 5 arms and 100 pulls. A segment is a whole trial, so that
    gradients reach back to its first pull. An agent for a longer trial starts as the one
    trained for the next shorter one with as many arms, if there is one; an agent for more than
    10 arms, as the one for the next fewer with as many pulls, which it widens. Fields that end with
    `_500` stand for those without in trials of more than 100 pulls: there a critic that does
    not discount is wrong for too long, and ruins what the shorter trials have taught.

    Raises:
        ValueError: for an unknown agent, a number out of range, or a cell that is given twice.
    """

    rows: int = option(256, "trials of 100 pulls side by side; as many pulls of others")
    epochs: int = option(8, "passes over a segment")
    minibatches: int = option(8, "parts of the rows in a pass, one gradient step each")
    learning_rate: float = option(3e-3, "learning rate at the start")
    discount: float = option(1.0, "discount of future rewards")
    entropy: float = option(0.1, "weight of the policy's entropy at the start, over the arms")
    value_unit: float = option(10.0, "pulls that pay, in which values count")
    max_grad_norm: float = option(1.0, "gradients are scaled to this norm where larger")
    whole_trials: bool = option(True, "start a new trial in every row with each segment")
    units: int = option(64, "units of the memory")
    cells: tuple[str, ...] = option(
        tuple(f"{arms}x{pulls}" for pulls in (10, 100, 500) for arms in (2, 5, 10, 50)),
        "arms x pulls of the bandits",
    )
    agents: tuple[str, ...] = option(("gru", "lstm"), "memories: gru, lstm")
    lstm_cells: tuple[str, ...] = option(("5x10", "5x100"), "cells of the LSTM")
    updates: int = option(150, "segments that are learned from, of trials with 10 pulls")
    updates_100: int = option(150, "the same with 100 pulls")
    updates_500: int = option(50, "the same with 500 pulls")
    epochs_500: int = option(4, "passes over a segment with 500 pulls")
    minibatches_500: int = option(2, "parts of the rows in a pass with 500 pulls")
    learning_rate_500: float = option(5e-4, "learning rate at the start with 500 pulls")
    discount_500: float = option(0.99, "discount of future rewards with 500 pulls")
    entropy_500: float = option(0.025, "weight of the entropy at the start with 500 pulls")
    test_trials: int = option(10_000, "trials of a test, on bandits never seen")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "units", "updates_100", "test_trials", "value_unit")
        check_positive(self, *(f"{name}_500" for name in ("updates", "epochs", "minibatches")))
        try:
            Settings(rows=self.minibatches_500, **self.of_long_trials())
        except ValueError as error:
            raise ValueError(f"in trials of 500 pulls, {error}") from None
        for agent in self.agents:
            look_up("agents", agent, CORES)
        for name in ("cells", "lstm_cells"):
            found = [arms_and_pulls(cell) for cell in getattr(self, name)]
            if len(set(found)) < len(found):
                raise ValueError(f"{name}={','.join(getattr(self, name))}: give each cell once")
        if self.test_trials < 4:
            raise ValueError(
                f"test_trials={self.test_trials}: must be at least 4, half of which fit a readout"
            )

    def of_long_trials(self) -> dict[str, Any]:
        """The settings that long trials have of their own, under their plain names."""
        names = [f.name for f in fields(self) if f.name.endswith("_500")]
        return {name.removesuffix("_500"): getattr(self, name) for name in names}


PRESETS = {
    "smoke": Config(
        rows=2, minibatches=2, updates=3, epochs=1, units=4, cells=("2x10", "5x10"),
        lstm_cells=("5x10",), test_trials=20,
    ),
    "book": Config(
        rows=64, updates=150, cells=("5x10",), lstm_cells=(), units=48, test_trials=2000,
    ),
    "full": Config(),
}  # fmt: skip


def trials(cell: str) -> Trial:
    """Trials of one episode with the bandit of a cell."""
    return Trial(Bandit(*arms_and_pulls(cell)))


def settings(config: Config, cell: str) -> Config:
    """The settings of a cell: segments of whole trials, and about as many pulls in all of them."""
    arms, pulls = arms_and_pulls(cell)
    own = replace(config, updates=config.updates if pulls <= 10 else config.updates_100)
    if pulls > 100:
        own = replace(config, rows=config.minibatches_500, **config.of_long_trials())
    rows = own.minibatches * max(1, 100 * config.rows // pulls // own.minibatches)
    entropy, end = own.entropy / arms, own.entropy_end / arms
    return replace(own, segment=pulls, rows=rows, entropy=entropy, entropy_end=end)


def started_as(config: Config, agent: str, cell: str) -> str | None:
    """The cell of the agent that a cell's agent starts as, if there is one."""
    arms, pulls = arms_and_pulls(cell)
    sizes = [arms_and_pulls(c) for a, c, _ in pairs(config) if a == agent]
    shorter = max((n for k, n in sizes if k == arms and n < pulls), default=None)
    fewer = max((k for k, n in sizes if n == pulls and k < arms), default=None)
    if arms > MANY and fewer is not None:
        return f"{fewer}x{pulls}"
    return f"{arms}x{shorter}" if shorter is not None else None


def widened(tensors: Mapping[str, Tensor], model: ActorCritic) -> dict[str, Tensor]:
    """The tensors of an agent for as many arms, or for fewer, as those of this one.

    What goes in and comes out for the first arms stays as it is. Pulls of the others are not
    heard of, and they are seldom made, until training changes that.
    """
    wide, own = dict(tensors), model.state_dict()
    before = len(tensors["policy_head.bias"])
    more = len(own["policy_head.bias"]) - before
    name = "core.cell.weight_ih_l0"  # its columns: what is seen, the arms, reward and boundary
    seen, arms, rest = tensors[name].split([1, before, 2], -1)
    wide[name] = torch.cat([seen, arms, arms.new_zeros(len(arms), more), rest], -1)
    name = "policy_head.weight"
    wide[name] = torch.cat([tensors[name], tensors[name].new_zeros(more, model.core.num_units)])
    name = "policy_head.bias"
    wide[name] = torch.cat([tensors[name], tensors[name].new_full((more,), SELDOM)])
    return wide


def pairs(config: Config) -> list[tuple[str, str, str]]:
    """Agent, cell, and variant, such as `gru-k5-n100`; shorter trials, then fewer arms, first."""
    found = []
    for agent in config.agents:
        cells = config.cells if agent == "gru" else config.lstm_cells
        for cell in sorted(cells, key=lambda c: arms_and_pulls(c)[::-1]):
            found.append((agent, cell, variant_of(agent, cell)))
    return found


def variant_of(agent: str, cell: str) -> str:
    """The name of a cell's agent in tables."""
    arms, pulls = arms_and_pulls(cell)
    return f"{agent}-k{arms}-n{pulls}"


def make_agent(config: Config, agent: str, cell: str, seed: int = 0, index: int = 0) -> ActorCritic:
    """A fresh agent."""
    env = trials(cell)

    def build() -> ActorCritic:
        core = CORES[agent](env.observation_space.shape[0], config.units)
        spaces = env.observation_space, env.action_space
        return ActorCritic(core, *spaces, value_unit=config.value_unit)

    return make_model(build, seed, index)


def run(config: Config, run: Run) -> list[Row]:
    """One seed: train an agent for each cell, and hold it against agents made by hand."""
    for index, (agent, cell, variant) in enumerate(pairs(config)):
        model = make_agent(config, agent, cell, run.seed, index)
        start = started_as(config, agent, cell)
        if start is not None:
            model.load_state_dict(widened(run.stage(variant_of(agent, start)).tensors, model))
        own = settings(config, cell)
        train_agent(run.stage(variant), trials(cell), model, own, run.seed, index)
    tensors = run.tensors()
    rows: list[Row] = []
    log = run.log if not run.stage("tests").finished else None
    for cell in dict.fromkeys(cell for _, cell, _ in pairs(config)):
        rows += by_hand(config, run.seed, cell, log)
    for agent, cell, variant in pairs(config):
        rows += test(config, run.seed, tensors, agent, cell, variant, log)
    run.stage("tests").save(1, {}, finished=True)
    return rows + last_logged(run)


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """The tests of the agents again, from the published ones, but for the longest trials."""
    rows: list[Row] = []
    for agent, cell, variant in pairs(config):
        if arms_and_pulls(cell)[1] <= 100:
            rows += test(config, seed, tensors, agent, cell, variant, None)
    return rows


def test(
    config: Config,
    seed: int,
    tensors: Mapping[str, Tensor],
    agent: str,
    cell: str,
    variant: str,
    log: Any,
) -> list[Row]:
    """What an agent earns on bandits never seen, by its most likely actions.

    Metrics: `return`; `return_sampled` of drawn actions; `regret`, what is missing to the best
    arm's expected reward; `arms_tried`, how many different arms; `posterior_r2`, how much of
    the variance of an arm's posterior mean can be read linearly off the memory; `parameters`.
    Logged by pull: `regret_so_far` and `tried_so_far`.
    """
    model = load_agent(make_agent(config, agent, cell), tensors, variant)
    env = trials(cell)
    tasks = unseen(config, seed, cell)
    memories: list[Tensor] = []

    def watch(t: int, observation: Tensor, outputs: Any, action: Tensor) -> None:
        memories.append(outputs.state[0][:PROBED])

    played = play(env, model, tasks, generator(seed, "evaluation", 1), watch=watch)
    sampled = play(env, model, tasks, generator(seed, "evaluation", 2), greedy=False)
    regret, arms = played.info["regret"], tried(played)
    values: dict[str, Tensor | float] = {
        "return": played.returns,
        "return_sampled": sampled.returns,
        "regret": regret.sum(0),
        "arms_tried": arms[-1],
        "posterior_r2": posterior_r2(played, torch.stack(memories)),
        "parameters": float(parameters_of(model)),
    }
    if log is not None:
        curve(log, variant, regret, arms)
    budget = steps(config, agent, cell)
    return [row(variant, metric, value, budget) for metric, value in values.items()]


def steps(config: Config, agent: str, cell: str) -> int:
    """Pulls that an agent is trained for, those of the agent that it starts as included."""
    own, start = settings(config, cell), started_as(config, agent, cell)
    before = steps(config, agent, start) if start is not None else 0
    return before + own.rows * own.segment * own.updates


PROBED = 500
"""Trials whose memories are read."""


def by_hand(config: Config, seed: int, cell: str, log: Any) -> list[Row]:
    """Agents made by hand on the same bandits, and what is known exactly (with a budget of 1)."""
    arms, pulls = arms_and_pulls(cell)
    p = unseen(config, seed, cell).means
    policies = {
        "greedy": oracles.greedy,
        "epsilon-greedy": oracles.epsilon_greedy(EPSILON),
        "ucb": oracles.ucb(UCB),
        "thompson": oracles.thompson,
        "optimistic-thompson": oracles.optimistic_thompson,
        "gittins": oracles.gittins(FiniteHorizonGittins(pulls)),
    }
    rows = [
        row(f"random-k{arms}-n{pulls}", "return", oracles.random_total(pulls), 1),
        row(f"best-arm-k{arms}-n{pulls}", "return", oracles.best_arm_total(arms, pulls), 1),
    ]
    if (arms, pulls) in EXACT:
        rows.append(row(f"optimal-k{arms}-n{pulls}", "return", bayes_optimal(arms, pulls), 1))
    for place, (name, policy) in enumerate(policies.items()):
        stream = generator(seed, "evaluation", 10 + place)
        watched = Watched(policy)
        rewards = oracles.simulate(watched, p, pulls, stream)
        variant = f"{name}-k{arms}-n{pulls}"
        rows.append(row(variant, "return", rewards.sum(0), pulls * config.test_trials))
        if log is not None:
            missing = p.max(1).values - p.gather(1, torch.stack(watched.pulled, 1)).T
            curve(log, variant, missing, None)
    return rows


def unseen(config: Config, seed: int, cell: str) -> BanditTasks:
    """The test bandits of a cell: the same for every agent."""
    arms, pulls = arms_and_pulls(cell)
    stream = generator(seed, "evaluation", 1000 * arms + pulls)
    return trials(cell).sample_tasks(config.test_trials, stream, "test")


EXPERIMENT = Experiment(
    name=NAME,
    page="book/memory/01_bandits.md",
    claim="A recurrent agent learns to explore bandits nearly as well as can be",
    presets=PRESETS,
    cost={"smoke": "10 s", "book": "60 s", "full": "40 min"},
    run=run,
    evaluate=evaluate,
)
