"""The two-step task: model-free training makes a memory that plans with a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl_lib.algos import ActorCritic, Settings
from metarl_lib.cores import LSTM
from metarl_lib.envs.trial import Trial
from metarl_lib.envs.two_step import TwoStep
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.meta_agents import parameters_of
from metarl_lib.experiments.meta_training import (
    last_logged,
    load_agent,
    make_model,
    play,
    result_rows,
    train_agent,
)
from metarl_lib.oracles.stay import STAY_TERMS, stay_probabilities, stay_regression
from metarl_lib.oracles.two_step import (
    Agent,
    BayesFilter,
    ModelBased,
    ModelFree,
    Record,
    TwoStepTask,
)
from metarl_lib.runs import Row, Run, generator

NAME, VARIANT = "two_step", "lstm-a2c"


@dataclass(frozen=True)
class Config(Settings):
    """Fields of the experiment on the two-step task, after Wang et al. (2018).

    Raises:
        ValueError: for a number out of range, or an odd segment.
    """

    rows: int = option(32, "environments side by side")
    segment: int = option(200, "steps of every row between two updates, two a round")
    updates: int = option(1500, "segments that are collected and learned from")
    loss: str = option("a2c", "ppo (clipped, several epochs) or a2c (one policy gradient)")
    optimiser: str = option("rmsprop", "adam or rmsprop")
    learning_rate: float = option(3e-3, "learning rate at the start")
    discount: float = option(0.9, "discount of future rewards")
    gae_lambda: float = option(1.0, "decay of the advantage estimate")
    value_weight: float = option(0.05, "weight of the value loss")
    entropy: float = option(0.01, "weight of the policy's entropy at the start")
    whole_trials: bool = option(True, "start a new trial in every row with each segment")
    units: int = option(48, "units of the memory")
    test_trials: int = option(500, "trials of the test")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "units", "test_trials")
        if self.segment % 2:
            raise ValueError(f"segment={self.segment}: must be even, because a round has two steps")

    @property
    def rounds(self) -> int:
        """Rounds of a trial, which is a segment."""
        return self.segment // 2


PRESETS = {
    "smoke": Config(rows=4, segment=20, updates=3, units=4, test_trials=40),
    "book": Config(updates=400, test_trials=200),
    "full": Config(),
}


def trials(config: Config) -> Trial:
    """Trials of one episode."""
    return Trial(TwoStep(config.rounds))


def make_agent(config: Config, seed: int = 0) -> ActorCritic:
    """A fresh agent."""
    env = trials(config)

    def build() -> ActorCritic:
        core = LSTM(env.observation_space.shape[0], config.units)
        return ActorCritic(core, env.observation_space, env.action_space)

    return make_model(build, seed, 0)


def run(config: Config, run: Run) -> list[Row]:
    """One seed: train the agent, then look at what it does beside agents made by hand."""
    stage = run.stage(VARIANT)
    train_agent(stage, trials(config), make_agent(config, run.seed), config, run.seed, 0)
    rows = evaluate(config, run.seed, run.tensors()) + by_hand(config, run.seed)
    return rows + last_logged(run)


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """The tests again, from the published agent.

    Metrics: those of `describe`; `rpe_model_based` and `rpe_model_free`, how strongly the outer
    learner's reward prediction error on arrival at the second stage follows the two that an
    inner algorithm would have (coefficients of one regression, all standardised); `rpe_r2`,
    how well both do together; `parameters`.
    """
    env, model = trials(config), load_agent(make_agent(config), tensors, VARIANT)
    tasks = env.sample_tasks(config.test_trials, generator(seed, "evaluation", 0), "test")
    values: list[Tensor] = []

    def watch(t: int, observation: Tensor, outputs: Any, action: Tensor) -> None:
        values.append(outputs.values)

    stream = generator(seed, "evaluation", 1)
    played = play(env, model, tasks, stream, greedy=False, watch=watch)
    action, common = played.actions[0::2], played.info["common"][0::2]
    place = torch.where(common, action, 1 - action)
    record = Record(action, place, common, played.rewards[1::2], played.info["good"][0::2])
    found = describe(record) | prediction_errors(config, record, torch.stack(values))
    found["parameters"] = float(parameters_of(model))
    return result_rows(config, VARIANT, found)


def by_hand(config: Config, seed: int) -> list[Row]:
    """The same numbers of agents made by hand, and what is known exactly (with a budget of 1)."""
    task = TwoStepTask()
    agents: dict[str, Agent] = {
        "model-free": ModelFree(),
        "model-based": ModelBased(),
        "bayes": BayesFilter(task),
    }
    rows = [
        row("random", "reward_per_round", 0.5, 1),
        row("informed", "reward_per_round", task.informed_reward(), 1),
        row("optimal", "reward_per_round", task.optimal_reward(config.rounds), 1),
    ]
    for place, (variant, agent) in enumerate(agents.items()):
        stream = generator(seed, "evaluation", 10 + place)
        record = task.simulate(agent, config.rounds, config.test_trials, stream)
        found = describe(record, effects=variant != "bayes")
        budget = config.segment * config.test_trials
        rows += [row(variant, metric, value, budget) for metric, value in found.items()]
    return rows


def describe(record: Record, effects: bool = True) -> dict[str, float]:
    """What an agent earns, and when it stays with its first action.

    `reward_per_round`; `better_choice`, the share of rounds with the better action;
    `stay_<rewarded|unrewarded>_<common|rare>`; and, if wanted, `effect_<term>` of reward,
    transition, their interaction and the better action on staying, in log odds. (These are
    infinite for an agent that stays with certainty, as the exact one does, and then left out.)
    """
    better = record.action == record.good
    found = {
        "reward_per_round": float(record.reward.mean()),
        "better_choice": float(better.float().mean()),
    }
    stay = stay_probabilities(record.action, record.common, record.reward).probability
    for rewarded, word in enumerate(("unrewarded", "rewarded")):
        for usual, kind in enumerate(("rare", "common")):
            found[f"stay_{word}_{kind}"] = float(stay[rewarded, usual])
    if not effects:
        return found
    try:
        fit = stay_regression(record.action, record.common, record.reward, better)
    except ValueError:  # there are none to report
        return found
    sizes = dict(zip(STAY_TERMS, fit.coefficient.tolist(), strict=True))
    return found | {f"effect_{term}": sizes[term] for term in STAY_TERMS[1:]}


def prediction_errors(config: Config, record: Record, values: Tensor) -> dict[str, float]:
    """The outer learner's prediction errors against those of two inner algorithms.

    On arrival at the second stage the outer one is γ V(second stage) − V(first stage), from the
    critic's `values` `[2 T, B]`. An inner algorithm's is V(place) − Q(action): of the model-based
    one from the exact belief, of the model-free one from SARSA(λ) on the same rounds.
    """
    task = TwoStepTask()
    outer = config.discount * values[1::2] - values[0::2]
    bayes, free = BayesFilter(task), ModelFree()
    belief, memory = bayes.begin(outer.shape[1]), free.begin(outer.shape[1])
    inner: list[tuple[Tensor, Tensor]] = []
    for action, place, reward in zip(record.action, record.place, record.reward, strict=True):
        one = belief[:, 0] * task.reward + (1 - belief[:, 0]) * (1 - task.reward)
        worth = torch.stack([1 - one, one], 1)  # of the places
        reached = worth.gather(1, place[:, None])[:, 0]
        usual = worth.gather(1, action[:, None])[:, 0]
        planned = task.common * usual + (1 - task.common) * (1 - usual)
        cached = memory[:, :2].gather(1, action[:, None])[:, 0]
        seen = memory[:, 2:].gather(1, place[:, None])[:, 0]
        inner.append((reached - planned, seen - cached))
        belief = bayes.learn(belief, action, place, reward)
        memory = free.learn(memory, action, place, reward)
    based, unplanned = (torch.stack(column).flatten() for column in zip(*inner, strict=True))
    x, z, y = standard(based), standard(unplanned), standard(outer.flatten())
    first, second = weights_of_two(x, z, y)
    rest = (y - first * x - second * z).square().mean()
    return {
        "rpe_model_based": first,
        "rpe_model_free": second,
        "rpe_r2": float(1 - rest / y.square().mean()) if bool(y.any()) else 0.0,
    }


def weights_of_two(x: Tensor, z: Tensor, y: Tensor) -> tuple[float, float]:
    """The least squares weights (a, b) of y on x and z, `[n]` each, the smallest where many are.

    By sums alone: the last bits of a library for linear algebra depend on where in memory its
    scratch space happens to lie.
    """
    xx, xz, zz = float((x * x).sum()), float((x * z).sum()), float((z * z).sum())
    xy, zy = float((x * y).sum()), float((z * y).sum())
    determinant, trace = xx * zz - xz * xz, xx + zz
    if determinant > 1e-12 * trace * trace:
        return (zz * xy - xz * zy) / determinant, (xx * zy - xz * xy) / determinant
    return (xy / trace, zy / trace) if trace > 0 else (0.0, 0.0)


def standard(numbers: Tensor) -> Tensor:
    """The same, `[n]`, in double precision, with mean 0 and standard deviation 1."""
    numbers = numbers.double()
    return (numbers - numbers.mean()) / numbers.std().clamp_min(1e-12)


EXPERIMENT = Experiment(
    name=NAME,
    page="book/memory/02_two_step.md",
    claim="An LSTM trained without a model behaves as if it planned with one",
    presets=PRESETS,
    cost={"smoke": "5 s", "book": "60 s", "full": "6 min"},
    run=run,
    evaluate=evaluate,
)
