"""Meta-gradients: discounts and λ learned online, on chains, in changing tasks, and in games."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from metarl_lib.algos.meta_settings import MetaSettings
from metarl_lib.experiments import meta_chains, meta_control
from metarl_lib.experiments.base import Experiment, check_positive, option
from metarl_lib.experiments.meta_training import with_logged
from metarl_lib.rules.checks import look_up
from metarl_lib.runs import Row, Run

NAME = "meta_gradient"


@dataclass(frozen=True)
class Config(MetaSettings):
    """Fields of the experiment on meta-gradients.

    Raises:
        ValueError: for an unknown name, or a number out of range.
    """

    updates: int = option(500, "segments that are collected and learned from, but for laps")
    discount: float = option(0.8, "γ at the start, where it is learned")
    meta_rate: float = option(0.03, "learning rate of the logits of γ and λ, β")
    chains: tuple[str, ...] = option(tuple(meta_chains.CHAINS), "chains to learn values on")
    chain_variants: tuple[str, ...] = option(
        ("mg", "mg-exact", "mg-inner"), "learners on the chains"
    )
    chain_learners: int = option(512, "learners side by side on a chain")
    chain_episodes: int = option(2500, "episodes of each of them")
    oracle_steps: int = option(400, "steps of the search for where learning comes to rest")
    tasks: tuple[str, ...] = option(meta_control.TASKS, "tasks to act in")
    methods: tuple[str, ...] = option(tuple(meta_control.METHODS), "agents that learn their return")
    discounts: tuple[float, ...] = option(
        (0.5, 0.8, 0.9, 0.97, 0.99), "fixed discounts to compare with"
    )
    units: int = option(64, "units of each of the two layers of policy and values")
    laps_period: int = option(500, "laps after which the task changes")
    laps_phases: int = option(6, "changes of a life, and the first phase")
    laps_rows: int = option(16, "environments side by side in laps")
    laps_entropy: float = option(0.1, "weight of the policy's entropy in laps")
    episode_steps: int = option(500, "steps after which an episode is cut off, but for laps")
    test_episodes: int = option(200, "episodes of a test")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self, "chain_learners", "chain_episodes", "oracle_steps", "units",
            "laps_period", "laps_phases", "laps_rows", "episode_steps", "test_episodes",
        )  # fmt: skip
        for gamma in self.discounts:
            if not 0 <= gamma <= 1:
                raise ValueError(f"discounts={gamma}: must lie between 0 and 1")
        known: dict[str, dict[str, Any]] = {
            "chains": meta_chains.CHAINS, "chain_variants": meta_chains.LEARNERS,
            "tasks": dict.fromkeys(meta_control.TASKS), "methods": meta_control.METHODS,
        }  # fmt: skip
        for field, names in known.items():
            for name in getattr(self, field):
                look_up(field, name, names)
        meta_control.variants(self)  # refuses what does not go with what they learn


PRESETS = {
    "smoke": Config(
        rows=4, segment=5, updates=3, chain_learners=4, chain_episodes=5, oracle_steps=5,
        discounts=(0.9,), units=8, laps_period=2, laps_phases=2, laps_rows=4, episode_steps=20,
        test_episodes=8, chains=("pattern",), tasks=("laps", "catch"),
        methods=("mg", "mg-inner"),
    ),
    "book": Config(
        updates=150, chain_episodes=400, chain_variants=("mg", "mg-exact"), oracle_steps=200,
        chains=("graded",), tasks=("laps", "cartpole"), methods=("mg",), discounts=(0.8, 0.99),
        laps_period=150, laps_phases=4, test_episodes=50,
    ),
    "full": Config(),
}  # fmt: skip


def run(config: Config, run: Run) -> list[Row]:
    """One seed: learners on every chain, then every training."""
    for chain in config.chains:
        for name in config.chain_variants:
            meta_chains.learn(run.stage(f"{chain}-{name}"), config, chain, name, run.seed)
    for name in meta_control.variants(config):
        meta_control.train(run.stage(name), config, name, run.seed)
    found = evaluate(config, run.seed, run.tensors())
    return with_logged(found + meta_chains.oracle_rows(config, found), run)


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """What was learned on the chains, and what the agents earned and earn."""
    return meta_chains.learned_rows(config, tensors) + meta_control.trained_rows(
        config, tensors, seed
    )


EXPERIMENT = Experiment(
    name=NAME,
    page="book/algorithms/03_meta_gradients.md",
    claim="An agent learns the discount of its own return while it learns to act",
    presets=PRESETS,
    cost={"smoke": "5 s", "book": "60 s", "full": "35 min"},
    run=run,
    evaluate=evaluate,
)
