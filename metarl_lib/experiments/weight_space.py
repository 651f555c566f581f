"""Weights as an environment: PPO as the seed ran it, then for a thousand times as long.

Cai & Cheng (2022), figures 2 to 4, "meta-RL": an action is a whole set of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stable_baselines3 import PPO
from torch import Tensor
from tqdm import tqdm

from metarl_lib.algos.options import check_share
from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.experiments.base import Experiment, check_minibatch, check_positive, option, row
from metarl_lib.experiments.learners import log_once, policy_tensors, seed_of
from metarl_lib.experiments.weight_readings import (
    LIFE,
    digits_losses,
    environment,
    gaps,
    life_losses,
    measure,
    policy_of,
    references,
)
from metarl_lib.runs import Row, Run, Stage

NAME = "weight_space"
AS_CODED = ("as-coded", "digits-as-coded")
LONG_MINIBATCHES = 4
"""Minibatches of a rollout in the long trainings."""
LONG = ("one-task", "more-trajectories", "distribution")


@dataclass(frozen=True)
class Config:
    """Fields of the experiment on weights as an environment.

    Raises:
        ValueError: for a number out of range or that does not divide another.
    """

    hidden: int = option(10, "hidden units of the base network")
    teacher_hidden: int = option(100, "hidden units of the teacher")
    samples: int = option(512, "training samples, and as many test samples")
    steps: int = option(201, "steps of an episode")
    seed_steps: int = option(2048, "steps of training in the seed: one rollout of PPO")
    long_steps: int = option(2_097_152, "steps of the long trainings")
    shorter: int = option(4, "times fewer steps in the long trainings but that with one task")
    long_seeds: int = option(3, "only runs whose seed is below this number train for long")
    rows: int = option(64, "base networks of the long trainings, side by side")
    rollout: int = option(2048, "steps between two updates of PPO")
    more: int = option(16, "times as many, with more trajectories")
    discount: float = option(0.7, "discount of PPO, as in the seed")
    bound: float = option(1e6, "largest weight that an action may set, as in the seed")
    test_tasks: int = option(32, "unseen teachers")
    reference_steps: int = option(5_000, "steps of Adam that the student is trained for directly")

    def __post_init__(self) -> None:
        check_positive(self, "hidden", "teacher_hidden", "samples", "steps", "seed_steps")
        check_positive(
            self,
            "long_steps",
            "long_seeds",
            "shorter",
            "rows",
            "rollout",
            "more",
            "bound",
            "test_tasks",
        )
        check_positive(self, "reference_steps")
        check_share(self, "discount")
        check_minibatch(self.seed_steps, f"seed_steps={self.seed_steps}")
        check_minibatch(self.rollout // LONG_MINIBATCHES, f"rollout={self.rollout}")
        for rollout in (self.rollout, self.rollout * self.more):
            if rollout % self.rows or self.long_steps % (self.shorter * rollout):
                raise ValueError(
                    f"rollout={self.rollout}, more={self.more}: each rollout must be a multiple "
                    f"of rows={self.rows}, and divide long_steps={self.long_steps} over "
                    f"shorter={self.shorter}"
                )


PRESETS = {
    "smoke": Config(
        teacher_hidden=10, samples=32, steps=21, seed_steps=64, long_steps=1024, rows=4,
        rollout=64, more=4, test_tasks=4, reference_steps=20,
    ),
    "book": Config(
        samples=64, steps=51, long_steps=32_768, rows=16, more=4, test_tasks=16,
        reference_steps=1_000,
    ),
    "full": Config(),
}  # fmt: skip


def run(config: Config, run: Run) -> list[Row]:
    """One seed: the seed's two trainings, the long ones, and the references."""
    rows: list[Row] = []
    for index, variant in enumerate(AS_CODED):
        train_as_coded(run.stage(variant), config, run.seed, seed_of(run.seed, index))
    for index, variant in enumerate(LONG if run.seed < config.long_seeds else ()):
        stage = run.stage(variant)
        train_long(stage, config, run.seed, seed_of(run.seed, 2 + index))
        rows += [
            row(variant, name, value, int(name.split("@")[1]))
            for name, value in stage.values.items()
        ]
    if run.seed < config.long_seeds:
        mark = f"test_minus_zero@{total_steps(config, 'more-trajectories')}"
        gain = run.stage("more-trajectories").values[mark] - run.stage("one-task").values[mark]
        rows.append(row("more-trajectories", "test_minus_one_task", gain, int(mark.split("@")[1])))
    tensors, tests = run.tensors(), run.stage("tests")
    log = log_once(run, tests)
    for step, values in enumerate(life_losses(config, run.seed, tensors), 1):
        log(step, {f"as-coded/{name}": value for name, value in values.items()})
    tests.save(1, {}, finished=True)
    # The last long policy's numbers are in the stage already.
    again = [r for r in evaluate(config, run.seed, tensors) if "@" not in r["metric"]]
    return rows + again


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """The seed's two results from their policies, the references, and one long policy again."""
    rows = [
        row("as-coded", name, value, LIFE)
        for name, value in life_losses(config, seed, tensors)[-1].items()
    ]
    best = references(config, seed)
    for variant, losses in best.items():
        budget = config.reference_steps if variant == "trained" else 1
        rows += [row(variant, name, value, budget) for name, value in losses.items()]
    env = environment(config, "as-coded", seed)
    measured = measure(env, policy_of(env, tensors, "as-coded"), config.test_tasks, seed)
    numbers = gaps(config, seed, tensors, best)
    numbers |= {name: measured[name] for name in ("action_size", "action_spread")}
    rows += [row("as-coded", name, value, config.seed_steps) for name, value in numbers.items()]
    rows += [
        row("digits-as-coded", name, value, config.seed_steps)
        for name, value in digits_losses(config, seed, tensors).items()
    ]
    if seed >= config.long_seeds:
        return rows
    env = environment(config, "distribution", seed)
    final = measure(env, policy_of(env, tensors, "distribution"), config.test_tasks, seed)
    total = total_steps(config, "distribution")
    return rows + [
        row("distribution", f"{name}@{total}", value, total) for name, value in final.items()
    ]


def train_as_coded(stage: Stage, config: Config, seed: int, start: int) -> None:
    """PPO as the seed runs it: the defaults of Stable-Baselines3, one row, one rollout."""
    if stage.finished:
        return
    env = environment(config, stage.name, seed)
    venv = SB3VecEnv(env, 1, seed=start)
    model = make(venv, config, start, n_steps=config.seed_steps)
    model.learn(config.seed_steps)
    stage.save(config.seed_steps, policy_tensors(model.policy), finished=True)


def train_long(stage: Stage, config: Config, seed: int, start: int) -> None:
    """The same PPO for much longer, measured whenever its steps have grown fourfold.

    For speed it has several rows, which share a rollout, and minibatches of a quarter of it.
    """
    if stage.finished:
        return
    env = environment(config, stage.name, seed)
    rollout = config.rollout * (config.more if stage.name == "more-trajectories" else 1)
    venv = SB3VecEnv(env, config.rows, seed=start)
    model = make(
        venv, config, start, n_steps=rollout // config.rows, batch_size=rollout // LONG_MINIBATCHES
    )
    values: dict[str, float] = {}
    marks = marks_of(config, stage.name, rollout)
    bar = tqdm(total=marks[-1], desc=stage.name, leave=False, disable=None, unit="step")
    for mark in marks:
        model.learn(mark - model.num_timesteps, reset_num_timesteps=False)
        measured = measure(env, model.policy, config.test_tasks, seed)
        stage.check_finite(mark, measured)
        values |= {f"{name}@{mark}": value for name, value in measured.items()}
        bar.update(mark - bar.n)
        bar.set_postfix(log_train_loss=f"{measured['log_train_loss']:.3g}", refresh=False)
    bar.close()
    stage.save(marks[-1], policy_tensors(model.policy), values, finished=True)


def make(venv: SB3VecEnv, config: Config, seed: int, **options: Any) -> PPO:
    """PPO with the seed's discount."""
    return PPO("MlpPolicy", venv, gamma=config.discount, seed=seed, device="cpu", **options)


def total_steps(config: Config, variant: str) -> int:
    """Steps of a long training."""
    return config.long_steps // (1 if variant == "one-task" else config.shorter)


def marks_of(config: Config, variant: str, rollout: int) -> list[int]:
    """Steps at which a long training is measured; the longest also where the others end."""
    marks = set(snapshots(total_steps(config, variant), rollout))
    return sorted(marks | {total_steps(config, "distribution")} if variant == "one-task" else marks)


def snapshots(long_steps: int, rollout: int) -> list[int]:
    """Steps at which a long training is measured: its end, a quarter of it, a quarter of that …"""
    marks = [long_steps]
    while marks[0] % 4 == 0 and (marks[0] // 4) % rollout == 0:
        marks.insert(0, marks[0] // 4)
    return marks


EXPERIMENT = Experiment(
    name=NAME,
    page="book/weights/01_weights_as_an_environment.md",
    claim="PPO that sets weights: the seed's flat curves, and what a thousand times more finds",
    presets=PRESETS,
    cost={"smoke": "5 s", "book": "60 s", "full": "15 min"},
    run=run,
    evaluate=evaluate,
)
