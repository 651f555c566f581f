"""Learning an update rule: PPO learns how to train a network, and is tested on networks and tasks
that it has never seen, beside rules made by hand and tuned there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from metarl_lib.datasets import DigitsFamily
from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.envs.agents import SharedAgents, Synapses
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.hand_made import HAND_MADE, tuned_rates
from metarl_lib.experiments.learners import (
    LearnerConfig,
    keep_nothing,
    log_once,
    seed_of,
    train_policy,
)
from metarl_lib.experiments.rule_comparison import (
    CONDITIONS,
    LEARNED,
    Learned,
    compare,
    environment,
    explain,
    planned,
)
from metarl_lib.rules.checks import look_up
from metarl_lib.runs import Row, Run, Stage

NAME = "update_rule"
SYNAPSE_PARTS = 5
"""Minibatches of the policy at every synapse, for each one of the others."""


@dataclass(frozen=True)
class Config(LearnerConfig):
    """Fields of the experiment on learned update rules.

    Raises:
        ValueError: for an unknown condition, or none, or a number out of range.
    """

    hidden: int = option(25, "hidden units of the base networks in meta-training")
    samples: int = option(64, "training samples of a task")
    recurrent_rows: int = option(64, "base networks side by side for the recurrent policy")
    recurrent_rollouts: int = option(80, "rollouts of the recurrent policy")
    synapse_rows: int = option(8, "base networks side by side for the policy at every synapse")
    synapse_rollouts: int = option(80, "rollouts of the policy at every synapse")
    test_tasks: int = option(64, "held-out tasks")
    search_tasks: int = option(16, "tasks on which the hand-made rules are tuned")
    conditions: tuple[str, ...] = option(CONDITIONS, "where the rules are tested")
    rates: tuple[float, ...] = option(
        (3e-4, 1e-3, 3e-3, 6e-3, 1e-2, 2e-2, 3e-2, 6e-2, 1e-1, 2e-1, 3e-1, 6e-1, 1.0),
        "learning rates, or coefficients, that the search tries",
    )
    sigma: float = option(1e-3, "standard deviation of every perturbation")
    init_std: float = option(1.0, "standard deviation of the initial weights")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "hidden", "samples", "recurrent_rows", "recurrent_rollouts")
        check_positive(self, "synapse_rows", "synapse_rollouts")
        check_positive(self, "test_tasks", "search_tasks", "rates", "sigma", "init_std")
        self.check_minibatches()
        self.check_minibatches("recurrent_rows")
        synapses = environment(self).network.num_weights
        self.check_minibatches("synapse_rows", synapses, SYNAPSE_PARTS)
        if not self.conditions:
            raise ValueError("conditions=: name one or more of " + ", ".join(CONDITIONS))
        if "digits" in self.conditions:
            DigitsFamily(num_train=self.samples, num_held_out=self.samples)
        for condition in self.conditions:
            look_up("conditions", condition, dict.fromkeys(CONDITIONS))


PRESETS = {
    "smoke": Config(
        hidden=5, samples=8, steps=8, rows=4, rollouts=2, recurrent_rows=4, recurrent_rollouts=2,
        synapse_rows=2, synapse_rollouts=2, epochs=1, minibatches=2, units=8, test_tasks=4,
        search_tasks=4, rates=(1e-2, 3e-2),
        conditions=("held_out", "width_4x", "digits", "sinusoids"),
    ),
    "book": Config(
        samples=32, steps=50, rows=32, rollouts=20, recurrent_rows=16, recurrent_rollouts=10,
        synapse_rows=2, synapse_rollouts=5,
        epochs=4, test_tasks=32, search_tasks=16, rates=(3e-3, 1e-2, 3e-2, 1e-1),
        conditions=("held_out", "width_4x"),
    ),
    "full": Config(),
}  # fmt: skip


def run(config: Config, run: Run) -> list[Row]:
    """One seed: learn every rule, tune every hand-made one, test all of them everywhere."""
    rows = []
    for index, (variant, learned) in enumerate(LEARNED.items()):
        stage = run.stage(variant)
        learn(stage, config, learned, run.seed, index)
        own = settings(config, learned)
        budget = own.rows * own.rollouts * config.steps
        rows.append(row(variant, "training_return", stage.values["training_return"], budget))
    for condition in config.conditions:
        stage, env = run.stage(f"search-{condition}"), environment(config, condition)
        tuned_rates(stage, env, HAND_MADE, config, run.seed, CONDITIONS.index(condition))
    tensors, tests = run.tensors(), run.stage("tests")
    log, plan = log_once(run, tests), planned(config, run.seed, tensors)
    for condition in config.conditions:
        rows += compare(config, run.seed, tensors, condition, plan, log)
    rows += explain(config, run.seed, tensors, log)
    tests.save(1, {}, finished=True)
    return rows


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """The test on held-out teachers again, from the published policies and rates."""
    plan = planned(config, seed, tensors)
    return compare(config, seed, tensors, config.conditions[0], plan, keep_nothing)


def settings(config: Config, learned: Learned) -> LearnerConfig:
    """The configuration, with what the recurrent policy and that at every synapse need.

    A rollout at every synapse holds P times as many samples as networks make steps, so it is
    passed over less often, in more minibatches.
    """
    if learned.kind == "recurrent":
        return replace(config, rows=config.recurrent_rows, rollouts=config.recurrent_rollouts)
    if learned.kind == "synapse":
        own = {field.name: getattr(config, field.name) for field in fields(LearnerConfig)}
        own |= {
            "rows": config.synapse_rows, "rollouts": config.synapse_rollouts,
            "epochs": min(3, config.epochs), "minibatches": SYNAPSE_PARTS * config.minibatches,
        }  # fmt: skip
        return LearnerConfig(**own)
    return config


def learn(stage: Stage, config: Config, learned: Learned, seed: int, index: int) -> None:
    """Meta-train one rule in its stage."""
    own, start = settings(config, learned), seed_of(seed, index)
    env = environment(config, learned=learned)
    synapse = learned.kind == "synapse"

    def venv() -> VecEnv:
        if synapse:
            return SharedAgents(SB3VecEnv(Synapses(env), own.rows, seed=start))
        return SB3VecEnv(env, own.rows, seed=start)

    train_policy(
        stage,
        venv,
        own,
        start,
        recurrent=learned.kind == "recurrent",
        agents=env.network.num_weights if synapse else 1,
    )


EXPERIMENT = Experiment(
    name=NAME,
    page="book/weights/02_learning_an_update_rule.md",
    claim="PPO learns an update rule that generalises to teachers, widths and tasks never seen",
    presets=PRESETS,
    cost={"smoke": "10 s", "book": "90 s", "full": "20 min"},
    run=run,
    evaluate=evaluate,
)
