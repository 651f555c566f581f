"""Teacher and student: three learning rules under one protocol, and as the seed ran them.

Cai & Cheng (2022), figure 2: a 10-100-10 student, 512 samples, 10⁴ full-batch steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from metarl_lib.datasets import Split, TeacherStudent, teacher_student
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.noise_theory import curvature_trace
from metarl_lib.experiments.protocols import (
    TINY,
    Protocol,
    corrected_estimate,
    finite_log,
    mean_loss,
    torch_default_init,
)
from metarl_lib.experiments.training import search, train, trained_params
from metarl_lib.rules import Network, half_mse, sgd
from metarl_lib.rules.as_published import (
    node_perturbation_as_coded,
    weight_perturbation_as_published,
)
from metarl_lib.rules.network import Params
from metarl_lib.runs import Row, Run, generator

NAME = "teacher_student"
RULES = ("sgd", "wp", "np")
SHORT_SEARCH = "wp-short-search"  # WP at the rate that a search a quarter as long prefers
TUNED = {**{rule: rule for rule in RULES}, SHORT_SEARCH: "wp"}
AS_CODED = ("sgd-as-coded", "wp-as-coded", "np-as-coded")


@dataclass(frozen=True)
class Config:
    """Fields of the teacher-student experiment.

    Raises:
        ValueError: for a number out of range.
    """

    hidden: int = option(100, "hidden units of teacher and student")
    num_train: int = option(512, "training samples")
    num_test: int = option(512, "test samples")
    noise: float = option(0.01, "standard deviation of the noise on the targets")
    steps: int = option(10_000, "full-batch steps of each rule")
    search_steps: int = option(10_000, "steps of the search for the learning rate")
    learning_rates: tuple[float, ...] = option(
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0),
        "learning rates that the search tries, the same for each rule",
    )
    sigma: float = option(1e-3, "standard deviation of the corrected rules' noise")
    init_std: float = option(1.0, "standard deviation of the student's initial weights")

    def __post_init__(self) -> None:
        check_positive(self, "hidden", "num_train", "num_test", "steps", "search_steps")
        check_positive(self, "learning_rates", "sigma", "init_std")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise={self.noise}: must be a finite number >= 0")


PRESETS = {
    "smoke": Config(
        hidden=20, num_train=64, num_test=64, steps=60, search_steps=20, learning_rates=(1e-4, 1e-3)
    ),
    "book": Config(steps=2_000, search_steps=400),
    "full": Config(),
}


def run(config: Config, run: Run) -> list[Row]:
    """One seed: a teacher, a search on another teacher, then every rule and reference."""
    rows = []
    student = corrected_student(config)
    data = draw_data(config, generator(run.seed, "tasks"), "relu")
    other = draw_data(config, generator(run.seed, "tuning"), "relu")
    initial = student.init(generator(run.seed, "init"), std=config.init_std)
    for index, (variant, rule) in enumerate(TUNED.items()):
        shorter = 4 if variant == SHORT_SEARCH else 1
        rate = search(
            run.stage(f"{variant}-search"),
            corrected_estimate(rule, student, other.train, half_mse, config.sigma),
            initial,
            config.learning_rates,
            steps=math.ceil(config.search_steps / shorter),
            generator=generator(run.seed, "tuning", index + 1),
            score=partial(mean_loss, student, half_mse, other.test),
        )
        train(
            run.stage(variant),
            corrected_estimate(rule, student, data.train, half_mse, config.sigma),
            initial,
            rate,
            steps=config.steps,
            generator=generator(run.seed, "actions", index),
            measure=partial(_log_losses, student, {"train": data.train, "test": data.test}),
        )
        rows.append(_row(config, variant, "learning_rate", rate))
    for index, variant in enumerate(AS_CODED):
        protocol = as_coded(variant, config, run.seed)
        train(
            run.stage(variant),
            protocol.estimate,
            protocol.initial,
            protocol.learning_rate,
            steps=config.steps,
            generator=generator(run.seed, "actions", 10 + index),
            measure=protocol.measure,
        )
    return rows + evaluate(config, run.seed, run.tensors())


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """Final losses of every variant from its trained weights, and the references."""
    rows = []
    student = corrected_student(config)
    data = draw_data(config, generator(seed, "tasks"), "relu")
    splits = {"train": data.train, "test": data.test}
    for variant in TUNED:
        params = trained_params(tensors, variant)
        final = _log_losses(student, splits, params)
        final["worst_output_share"] = worst_output_share(student, data.train, params)
        final["weight_rms"] = torch.cat([p.flatten() for p in params]).square().mean().sqrt()
        curvature = max(curvature_trace(student, params, data.train.x), TINY)
        final["wp_rate_limit"] = torch.tensor(2 / curvature)
        rows += [_row(config, variant, metric, float(value)) for metric, value in final.items()]
    for variant in AS_CODED:
        final = as_coded(variant, config, seed).measure(trained_params(tensors, variant))
        rows += [_row(config, variant, metric, float(value)) for metric, value in final.items()]
    return rows + references(config, seed)


def references(config: Config, seed: int) -> list[Row]:
    """The zero predictor, the best constant, and the floor that mismatched test targets set."""
    data = draw_data(config, generator(seed, "tasks"), "relu")
    constant = data.train.y.mean(0, keepdim=True)
    rows = []
    for name, prediction in (("zero", torch.zeros_like(constant)), ("constant", constant)):
        for split_name, split in (("train", data.train), ("test", data.test)):
            error = half_mse(prediction.expand_as(split.y), split.y).mean()
            rows.append(_row(config, name, f"log_{split_name}_loss", float(finite_log(error))))
    linear = forward_teacher(data.teacher, data.test.x)
    floor = half_mse(torch.relu(linear), linear).mean()
    rows.append(_row(config, "mismatch-floor", "log_test_loss", float(finite_log(floor))))
    return rows


def corrected_student(config: Config) -> Network:
    """The student of the paper's equations: ReLU on the output, as on the teacher's."""
    return Network((10, config.hidden, 10), output_activation="relu")


def draw_data(
    config: Config, stream: torch.Generator, train_output: str, test_output: str | None = None
) -> TeacherStudent:
    """A teacher and its samples, in the sizes of the configuration."""
    return teacher_student(
        (10, config.hidden, 10),
        config.num_train,
        config.num_test,
        config.noise,
        generator=stream,
        train_output=train_output,
        test_output=test_output,
    )


def as_coded(variant: str, config: Config, seed: int) -> Protocol:
    """The seed's three protocols, which differ in much more than the rule.

    SGD: linear targets, student with biases and PyTorch's initial weights, loss without the
    half, η = 10⁻³. WP and NP: training targets through a ReLU, test targets not, student
    without output ReLU, N(0, 1) weights, η = 0.1 and σ = 1/(L_h L_y) for WP, η = 0.01 and
    σ = 1/(N L_h L_y) for NP. All one-sided, one draw a step.
    """
    widths = (10, config.hidden, 10)
    tasks = generator(seed, "tasks")
    if variant == "sgd-as-coded":
        student = Network(widths, bias=True)
        data = draw_data(config, tasks, "linear")
        splits = {"train": data.train, "test": data.test}

        def mse_gradient(params: Sequence[Tensor], stream: torch.Generator) -> Params:
            gradient = sgd(student, params, data.train.x, data.train.y, half_mse)
            return [2 * g for g in gradient]

        def measure_mse(params: Sequence[Tensor]) -> dict[str, Tensor]:
            halves = _log_losses(student, splits, params)
            return {name: value + math.log(2) for name, value in halves.items()}

        initial = torch_default_init(student, generator(seed, "init"))
        return Protocol(mse_gradient, initial, 1e-3, measure_mse)

    student = Network(widths)
    data = draw_data(config, tasks, "relu", test_output="linear")
    matched = draw_data(config, generator(seed, "tasks"), "relu")
    splits = {"train": data.train, "test": data.test, "matched_test": matched.test}
    rule, rate, sigma = {
        "wp-as-coded": (weight_perturbation_as_published, 0.1, 1 / (config.hidden * 10)),
        "np-as-coded": (
            node_perturbation_as_coded,
            0.01,
            1 / (config.num_train * config.hidden * 10),
        ),
    }[variant]

    def perturb(params: Sequence[Tensor], stream: torch.Generator) -> Params:
        return rule(
            student, params, data.train.x, data.train.y, half_mse, generator=stream, sigma=sigma
        )

    initial = student.init(generator(seed, "init"), std=1.0)
    return Protocol(perturb, initial, rate, partial(_log_losses, student, splits))


def worst_output_share(network: Network, split: Split, params: Sequence[Tensor]) -> Tensor:
    """The share of the loss that the worst of the outputs has, from 1/R_L to 1.

    `[*]`, with the leading dimensions of the parameters.
    """
    squares = (network(params, split.x) - split.y).square().sum(-2)
    return squares.max(-1).values / squares.sum(-1).clamp_min(TINY)


def forward_teacher(teacher: Sequence[Tensor], x: Tensor) -> Tensor:
    """The teacher's output before the last ReLU, `[N, R_L]`, for x `[N, R_0]`."""
    widths = (teacher[0].shape[1], *(w.shape[0] for w in teacher))
    return Network(widths)(teacher, x)


def _log_losses(
    network: Network, splits: Mapping[str, Split], params: Sequence[Tensor]
) -> dict[str, Tensor]:
    return {
        f"log_{name}_loss": finite_log(mean_loss(network, half_mse, split, params))
        for name, split in splits.items()
    }


def _row(config: Config, variant: str, metric: str, value: float) -> Row:
    return row(variant, metric, value, config.steps)


EXPERIMENT = Experiment(
    name=NAME,
    page="book/learning_rules/02_teacher_student.md",
    claim="SGD, WP and NP on a 10-100-10 teacher: the seed's figure 2, then one fair protocol",
    presets=PRESETS,
    cost={"smoke": "3 s", "book": "15 s", "full": "4 min"},
    run=run,
    evaluate=evaluate,
)
