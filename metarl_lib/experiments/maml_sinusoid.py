"""MAML on sinusoids: how well few gradient steps fit a curve, from weights learned for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from metarl_lib.algos.maml import MAML
from metarl_lib.algos.meta_learner import MetaLearner
from metarl_lib.algos.options import check_not_negative
from metarl_lib.algos.outer_loop import OuterLoop
from metarl_lib.algos.reptile import JointTraining, Reptile
from metarl_lib.datasets import SinusoidFamily, Tasks
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.errors import CAP, capped, step_name
from metarl_lib.experiments.training import trained_params
from metarl_lib.experiments.training_loop import Rhythm, advance_to_end
from metarl_lib.rules import Network
from metarl_lib.rules.checks import look_up
from metarl_lib.runs import Row, Run, Stage, generator

NAME = "maml_sinusoid"
RHYTHM = Rhythm(logs=100, logs_per_checkpoint=5)


class Variant(NamedTuple):
    """Samples of a task to learn from, and what is trained on them.

    `tuned` says that training knows no rate of the steps on a test task, so that the best of
    some is taken for them.
    """

    shots: int
    make: Callable[[Config], MetaLearner]
    tuned: bool = False


def maml(**options: object) -> Callable[[Config], MetaLearner]:
    """MAML with the rate of the configuration, and some options."""
    return lambda config: MAML(config.network, rate=config.rate, **options)  # type: ignore[arg-type]


VARIANTS: dict[str, Variant] = {
    "k5": Variant(5, maml()),
    "k10": Variant(10, maml()),
    "first-order-k10": Variant(10, maml(first_order=True)),
    "large-rate-k10": Variant(10, lambda c: MAML(c.network, rate=c.large_rate)),
    "five-steps-k10": Variant(10, maml(inner_steps=5)),
    "meta-sgd-k5": Variant(5, maml(rates="learned")),
    "meta-sgd-k10": Variant(10, maml(rates="learned")),
    "reptile-k10": Variant(
        10, lambda c: Reptile(c.network, inner_steps=c.reptile_steps, rate=c.reptile_rate), True
    ),
    "joint-k10": Variant(10, lambda c: JointTraining(c.network), True),
}


@dataclass(frozen=True)
class Config:
    """Fields of the experiment on sinusoids, after Finn, Abbeel & Levine (2017)."""

    variants: tuple[str, ...] = option(tuple(VARIANTS), f"what is trained: {', '.join(VARIANTS)}")
    hidden: int = option(40, "units of each of the two hidden layers")
    iterations: int = option(70_000, "meta-iterations of each variant")
    tasks: int = option(25, "tasks of a meta-iteration")
    judged: int = option(50, "other points of a task, at which training judges the inner steps")
    rate: float = option(3e-3, "rate of the inner steps, or its start where rates are learned")
    large_rate: float = option(1e-2, "rate of the inner steps of large-rate-k10")
    reptile_rate: float = option(3e-3, "rate of the inner steps of Reptile in training")
    reptile_steps: int = option(5, "inner steps of Reptile in training")
    learning_rate: float = option(3e-3, "learning rate of Adam at the start")
    learning_rate_end: float = option(0.0, "learning rate of Adam at the end, approached linearly")
    tuning_rates: tuple[float, ...] = option(
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), "rates on test tasks that Reptile and joint try"
    )
    tuning_tasks: int = option(1000, "training tasks that choose among those rates")
    test_tasks: int = option(4000, "sinusoids of the test, never seen")
    test_samples: int = option(100, "points of each at which it is judged")
    test_steps: int = option(10, "gradient steps on each")

    def __post_init__(self) -> None:
        check_positive(self, "hidden", "iterations", "tasks", "judged", "rate", "large_rate")
        check_positive(self, "reptile_rate", "reptile_steps", "learning_rate", "tuning_rates")
        check_positive(self, "tuning_tasks", "test_tasks", "test_samples", "test_steps")
        check_not_negative(self, "learning_rate_end")
        for variant in self.variants:
            look_up("variants", variant, VARIANTS)

    @property
    def network(self) -> Network:
        """f_θ."""
        return Network((1, self.hidden, self.hidden, 1), bias=True)


PRESETS = {
    "smoke": Config(
        hidden=8, iterations=12, judged=10, tuning_rates=(1e-3, 1e-2), tuning_tasks=20,
        test_tasks=20,
        variants=("k5", "k10", "meta-sgd-k10", "reptile-k10", "joint-k10"),
    ),
    "book": Config(
        iterations=6000, variants=("k10", "meta-sgd-k10", "joint-k10"), test_tasks=1000,
    ),
    "full": Config(),
}  # fmt: skip


def run(config: Config, run: Run) -> list[Row]:
    """One seed: train every variant, then test it on sinusoids never seen."""
    for variant in config.variants:
        train(run.stage(variant), config, variant, run.seed)
    return evaluate(config, run.seed, run.tensors()) + [
        row(variant, "training_loss", run.stage(variant).values["training_loss"], config.iterations)
        for variant in config.variants
    ]


def train(stage: Stage, config: Config, variant: str, seed: int) -> None:
    """Train a variant to the end of its stage, from the stage's last checkpoint on.

    Logs `training_loss`, the mean since the log before of what the meta-iterations minimise.
    The finished stage holds the meta-parameters, and the rate for test tasks if that was chosen.

    Raises:
        DivergenceError: when the loss is no longer finite.
    """
    if stage.finished:
        return
    chosen, learner = VARIANTS[variant], VARIANTS[variant].make(config)
    index = list(VARIANTS).index(variant)
    loop = OuterLoop(
        learner,
        SinusoidFamily(chosen.shots, config.judged),
        learner.init(generator(seed, "init")),
        generator(seed, "tasks", index),
        iterations=config.iterations,
        batch=config.tasks,
        learning_rate=config.learning_rate,
        learning_rate_end=config.learning_rate_end,
    )
    values = advance_to_end(stage, loop, config.iterations, RHYTHM)
    tensors = {str(index): p for index, p in enumerate(loop.meta)}
    if chosen.tuned:
        tensors["rate"] = torch.tensor(
            tuned_rate(config, variant, loop.meta, seed), dtype=torch.float64
        )
    stage.save(loop.done, tensors, values, finished=True)


def tuned_rate(config: Config, variant: str, meta: list[Tensor], seed: int) -> float:
    """The rate with the smallest error after all steps on training tasks."""
    chosen, learner = VARIANTS[variant], VARIANTS[variant].make(config)
    family = SinusoidFamily(chosen.shots, config.test_samples)
    tasks = family.sample(config.tuning_tasks, generator(seed, "tuning"))

    def error(rate: float) -> float:
        last = errors(replace(learner, rate=rate), meta, tasks, config.test_steps)[-1]
        return float(capped(last).mean())

    return min(config.tuning_rates, key=error)


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """The tests again, from the published meta-parameters; the same sinusoids for all.

    Metrics: `mse_0_steps`, `mse_1_step`, `mse_2_steps`, …, the mean over tasks of the mean
    squared error after so many gradient steps, to which no task contributes more than `CAP`;
    the same with `_median`; `diverged`, the share of tasks that reach `CAP` by the last step;
    `rate`, that of the steps, if it is one number.
    """
    rows = []
    for variant in config.variants:
        chosen, learner = VARIANTS[variant], VARIANTS[variant].make(config)
        if chosen.tuned:
            learner = replace(learner, rate=float(tensors[f"{variant}.rate"]))
        found = measure(config, learner, trained_params(tensors, variant), chosen.shots, seed)
        rows += [row(variant, metric, value, config.iterations) for metric, value in found.items()]
    return rows


def measure(
    config: Config, learner: MetaLearner, meta: list[Tensor], shots: int, seed: int
) -> dict[str, Tensor | float]:
    """The metrics of one variant; see `evaluate`."""
    family = SinusoidFamily(shots, config.test_samples)
    tasks = family.sample(config.test_tasks, generator(seed, "evaluation"), "test")
    each = errors(learner, meta, tasks, config.test_steps)
    found: dict[str, Tensor | float] = {}
    for steps, error in enumerate(capped(each)):
        name = step_name("mse", steps)
        found |= {name: error.mean(), f"{name}_median": error.median()}
    found["diverged"] = (capped(each) == CAP).any(0).float().mean()
    rates = learner.split(meta)[1]
    return found | {"rate": rates} if isinstance(rates, float) else found


@torch.no_grad()
def errors(learner: MetaLearner, meta: list[Tensor], tasks: Tasks, steps: int) -> Tensor:
    """The mean squared error of each task after 0, 1, … steps, `[steps + 1, B]`."""
    found = []
    for _, theta in zip(range(steps + 1), learner.path(meta, tasks.x, tasks.y), strict=False):
        difference = learner.network(theta, tasks.held_out_x) - tasks.held_out_y
        found.append(difference.square().mean((1, 2)))
    return torch.stack(found)


EXPERIMENT = Experiment(
    name=NAME,
    page="book/algorithms/01_maml.md",
    claim="MAML learns weights from which one gradient step on ten points fits a sinusoid",
    presets=PRESETS,
    cost={"smoke": "5 s", "book": "1 min", "full": "45 min"},
    run=run,
    evaluate=evaluate,
)
