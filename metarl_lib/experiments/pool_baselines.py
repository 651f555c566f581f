"""What a pool of layers is compared with: MAML, Reptile, joint training, and no training at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from metarl_lib.algos import MAML, JointTraining, OuterLoop, Reptile
from metarl_lib.algos.meta_learner import MetaLearner
from metarl_lib.datasets import Family, Tasks
from metarl_lib.experiments.errors import capped
from metarl_lib.experiments.pool_readings import STEPS, Values, accuracy_values, error_values
from metarl_lib.experiments.training_loop import Rhythm, advance_to_end
from metarl_lib.rules import Network, cross_entropy, mse
from metarl_lib.rules.network import Params
from metarl_lib.runs import Stage

RHYTHM = Rhythm(logs=50, logs_per_checkpoint=5)


class Baseline(NamedTuple):
    """A learner of initial weights.

    Args:
        learner: of the initial weights.
        rates: of the steps on test tasks, of which training tasks choose the best; none where
            training knows it.
        iterations: of the training; 0 leaves the weights as they were drawn.
        batch: tasks of a meta-iteration.
        learning_rate: Adam's at the start; it falls to 0.
    """

    learner: MetaLearner
    rates: tuple[float, ...]
    iterations: int
    batch: int
    learning_rate: float


def make_baseline(
    kind: str,
    widths: Sequence[int],
    classification: bool,
    rate: float,
    rates: tuple[float, ...],
    iterations: int,
    batch: int,
    learning_rate: float,
) -> Baseline:
    """One of `maml`, `reptile`, `joint` and `scratch`."""
    network, loss = Network(tuple(widths), bias=True), cross_entropy if classification else mse
    learners: dict[str, Callable[[], MetaLearner]] = {
        "maml": lambda: MAML(network, loss, rate=rate),
        "reptile": lambda: Reptile(network, loss, inner_steps=5, rate=3 * rate),
        "joint": lambda: JointTraining(network, loss),
        "scratch": lambda: JointTraining(network, loss),
    }
    tried = () if kind == "maml" else rates
    count = 0 if kind == "scratch" else iterations
    return Baseline(learners[kind](), tried, count, batch, learning_rate)


def train_baseline(
    stage: Stage,
    baseline: Baseline,
    family: Family,
    meta: Params,
    tuning: Tasks,
    stream: torch.Generator,
) -> None:
    """Train to the end of a stage, from its last checkpoint on, and choose the rate of the steps.

    Logs `training_loss`. The finished stage holds the meta-parameters and the rate.

    Raises:
        DivergenceError: when the loss is no longer finite.
    """
    if stage.finished:
        return
    learner, total = baseline.learner, baseline.iterations
    loop = OuterLoop(
        learner, family, meta, stream, iterations=max(1, total), batch=baseline.batch,
        learning_rate=baseline.learning_rate, learning_rate_end=0.0,
    )  # fmt: skip
    values = advance_to_end(stage, loop, total, RHYTHM)
    tensors = {str(index): p for index, p in enumerate(loop.meta)}
    rate = tuned(baseline, loop.meta, tuning) if baseline.rates else learner.rate
    tensors["rate"] = torch.tensor(rate, dtype=torch.float64)
    stage.save(total, tensors, values, finished=True)


def tuned(baseline: Baseline, meta: Params, tasks: Tasks) -> float:
    """The rate with the smallest loss after the last number of steps, on training tasks."""

    def loss(rate: float) -> float:
        learner = replace(baseline.learner, rate=rate)
        theta = learner.adapt(meta, tasks.x, tasks.y, STEPS[-1])
        with torch.no_grad():
            found = learner.loss(learner.network(theta, tasks.held_out_x), tasks.held_out_y)
        return float(capped(found.mean(-1)).mean())

    return min(baseline.rates, key=loss)


def baseline_values(learner: MetaLearner, meta: Params, tasks: Tasks, suffix: str = "") -> Values:
    """The errors, or accuracies, on test tasks after 0, 1 and 10 steps."""
    outputs = {}
    with torch.no_grad():
        for step, theta in enumerate(learner.path(meta, tasks.x, tasks.y)):
            if step in STEPS:
                outputs[step] = learner.network(theta, tasks.held_out_x)
            if step == STEPS[-1]:
                break
    y = tasks.held_out_y
    if y.is_floating_point():
        return error_values(lambda n: (outputs[n] - y).square().mean((1, 2)), suffix)

    def accuracy(steps: int) -> Tensor:
        return (outputs[steps].argmax(-1) == y).float().mean(-1)

    return accuracy_values(accuracy, learner.inner_steps if learner.inner_steps in STEPS else 1)
