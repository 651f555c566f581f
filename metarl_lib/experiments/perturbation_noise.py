"""The price of noise: how weight and node perturbation scale with the size of the network.

Four measurements: the angle between estimate and gradient against the number of draws, the
variance against the width, the largest stable learning rate against the width, and what
standardising the weights after each step does to the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from metarl_lib.datasets import Split, teacher_student
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.noise_theory import (
    curvature_trace,
    linear_stable_rates,
    np_relative_variance,
    wp_relative_variance,
)
from metarl_lib.experiments.protocols import corrected_estimate
from metarl_lib.experiments.stability import run_lives, stable_rate
from metarl_lib.experiments.training import trained_params
from metarl_lib.rules import Network, half_mse, node_perturbation, sgd, weight_perturbation
from metarl_lib.rules.as_published import node_perturbation_as_coded, standardise_weights
from metarl_lib.rules.network import Params
from metarl_lib.runs import Row, Run, generator

NAME = "perturbation_noise"
SIGMA = 1e-4


@dataclass(frozen=True)
class Config:
    """Fields of the perturbation-noise experiment.

    Raises:
        ValueError: for a number out of range, a count that is given twice, or a linear layer that
            is wider than there are samples.
    """

    draw_counts: tuple[int, ...] = option(
        (1, 4, 16, 64, 256, 1000, 4000), "numbers of draws at which the angle is measured"
    )
    widths: tuple[int, ...] = option((10, 30, 100, 300, 1000), "hidden units of 10-h-10 networks")
    variance_draws: int = option(2000, "single draws that measure a variance")
    variance_samples: int = option(32, "samples in the batch of node perturbation's variance")
    linear_widths: tuple[int, ...] = option((4, 8, 16, 32), "inputs and outputs of linear layers")
    stability_samples: int = option(64, "samples in the batch of the stability runs")
    stability_steps: int = option(400, "steps of a stability run")
    stability_widths: tuple[int, ...] = option((10, 30, 100, 300), "hidden units, stability runs")
    lives: int = option(15, "networks trained side by side in a stability run")
    rates: tuple[float, ...] = option(
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1), "learning rates with standardised weights"
    )

    def __post_init__(self) -> None:
        check_positive(self, "draw_counts", "widths", "variance_draws", "variance_samples")
        check_positive(self, "linear_widths", "stability_samples", "stability_steps", "rates")
        check_positive(self, "stability_widths", "lives")
        if len(set(self.draw_counts)) < len(self.draw_counts):
            raise ValueError(f"draw_counts={self.draw_counts}: each number may stand there once")
        if max(self.linear_widths) > self.stability_samples:
            raise ValueError(
                f"linear_widths={self.linear_widths}: must be at most stability_samples="
                f"{self.stability_samples}, or the inputs cannot be white"
            )


PRESETS = {
    "smoke": Config(
        draw_counts=(1, 16, 128),
        widths=(10, 30),
        variance_draws=200,
        linear_widths=(4, 8),
        stability_steps=60,
        stability_widths=(10, 30),
        lives=5,
        rates=(1e-3, 1e-1),
    ),
    "book": Config(
        draw_counts=(1, 16, 256, 1000),
        widths=(10, 30, 100),
        variance_draws=1000,
        linear_widths=(4, 8, 16),
        stability_steps=100,
        stability_widths=(10, 30, 100),
        lives=9,
        rates=(1e-3, 1e-2, 1e-1),
    ),
    "full": Config(),
}


def run(config: Config, run: Run) -> list[Row]:
    """One seed: the four measurements, each a stage that is skipped when already done."""
    rows: list[Row] = []
    for name, measure in (
        ("angles", measure_angles),
        ("variance", measure_variance),
        ("stability", measure_stability),
        ("standardised", measure_standardised),
    ):
        stage = run.stage(name)
        if not stage.finished:
            values, tensors = measure(config, run.seed)
            stage.save(1, tensors, values, finished=True)
        rows += [_row(config, key, value) for key, value in stage.values.items()]
    return rows


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """The angles again from the published mean estimates, and every theoretical value."""
    network, params, data = angle_problem(seed)
    gradient = sgd(network, params, data.x, data.y, half_mse)
    values: dict[str, float] = {}
    for rule in ("wp", "np", "np-as-coded"):
        mean = trained_params(tensors, f"angles.{rule}")
        values |= _cosines(rule, max(config.draw_counts), mean, gradient)
    for width in config.widths:
        values |= variance_theory(config, seed, width)
    return [_row(config, key, value) for key, value in values.items()]


def angle_problem(seed: int) -> tuple[Network, Params, Split]:
    """The seed's 10-100-10 student without output ReLU, N(0, 1) weights, 512 samples."""
    network = Network((10, 100, 10))
    data = teacher_student(generator=generator(seed, "tasks"), dtype=torch.float64)
    params = network.init(generator(seed, "init"), std=1.0, dtype=torch.float64)
    return network, params, data.train


def measure_angles(config: Config, seed: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Cosine between the mean of K draws and the gradient, for each layer and K."""
    network, params, data = angle_problem(seed)
    gradient = sgd(network, params, data.x, data.y, half_mse)
    values: dict[str, float] = {}
    tensors: dict[str, Tensor] = {}
    for index, rule in enumerate(("wp", "np", "np-as-coded")):
        stream = generator(seed, "actions", index)
        total = [torch.zeros_like(p) for p in params]
        done = 0
        for count in sorted(config.draw_counts):
            mean = mean_of_draws(rule, network, params, data, count - done, stream)
            total = [t + (count - done) * m for t, m in zip(total, mean, strict=True)]
            done = count
            values |= _cosines(rule, count, [t / count for t in total], gradient)
        tensors |= {f"{rule}.{i}": t / done for i, t in enumerate(total)}
    return values, tensors


def mean_of_draws(
    rule: str, network: Network, params: Params, data: Split, draws: int, stream: torch.Generator
) -> Params:
    """The mean of `draws` one-sided estimates; the seed's rule knows no draws, so it loops."""
    arguments = (network, params, data.x, data.y, half_mse)
    if rule == "wp":
        return weight_perturbation(*arguments, generator=stream, draws=draws, sigma=SIGMA)
    if rule == "np":
        return node_perturbation(*arguments, generator=stream, draws=draws, sigma=SIGMA)
    total = [torch.zeros_like(p) for p in params]
    for _ in range(draws):
        estimate = node_perturbation_as_coded(*arguments, generator=stream, sigma=SIGMA)
        for t, e in zip(total, estimate, strict=True):
            t += e / (SIGMA * draws)
    return total


def measure_variance(config: Config, seed: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """E‖ĝ − G‖² / ‖G‖² of single draws for 10-h-10 networks of every width."""
    values: dict[str, float] = {}
    for index, width in enumerate(_progress(config.widths, "variance")):
        network, params, data = variance_problem(config, seed, width)
        arguments = (data.x, data.y, half_mse)
        gradient = sgd(network, params, *arguments)
        stream = generator(seed, "actions", 100 + index)
        size = float(sum(g.square().sum() for g in gradient))
        for rule, perturb in (("wp", weight_perturbation), ("np", node_perturbation)):
            squared, done = 0.0, 0
            while done < config.variance_draws:
                count = min(config.variance_draws - done, max(1, 100_000 // width))
                copies = [p.expand(count, *p.shape) for p in params]
                single = perturb(network, copies, *arguments, generator=stream, sigma=SIGMA)
                pairs = zip(single, gradient, strict=True)
                squared += float(sum((s - g).square().sum() for s, g in pairs))
                done += count
            values[f"{rule} relative_variance@{width}"] = squared / (done * size)
        values |= variance_theory(config, seed, width)
    return values, {}


def variance_problem(config: Config, seed: int, width: int) -> tuple[Network, Params, Split]:
    """A 10-h-10 network at its initial weights (He et al., 2015), and a teacher's samples."""
    network = Network((10, width, 10))
    data = teacher_student(
        (10, width, 10),
        config.variance_samples,
        1,
        generator=generator(seed, "tasks", width),
        dtype=torch.float64,
    )
    params = network.init(generator(seed, "init", width), dtype=torch.float64)
    return network, params, data.train


def variance_theory(config: Config, seed: int, width: int) -> dict[str, float]:
    """The same variances from the formulas."""
    network, params, data = variance_problem(config, seed, width)
    exact = np_relative_variance(network, params, data.x, data.y, half_mse)
    return {
        f"wp-theory relative_variance@{width}": wp_relative_variance(network),
        f"np-theory relative_variance@{width}": exact,
    }


def measure_stability(config: Config, seed: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The largest stable η: linear layers with white inputs, then 10-h-10 ReLU networks."""
    values: dict[str, float] = {}
    for width in _progress(config.linear_widths, "linear layers"):
        x = white_inputs(config.stability_samples, width, generator(seed, "tasks", 1000 + width))
        network = Network((width, width))
        data = Split(x, torch.zeros(len(x), width, dtype=x.dtype))  # the solution is W = 0
        stable = _stable_rates(config, seed, width, network, data)
        values |= {f"{r} linear_stable_rate@{width}": rate for r, rate in stable.items()}
        for rule, rate in linear_stable_rates(x, width).items():
            values[f"{rule}-theory linear_stable_rate@{width}"] = rate
    for width in _progress(config.stability_widths, "ReLU networks"):
        network = Network((10, width, 10))
        stream = generator(seed, "tasks", 2000 + width)
        data = teacher_student((10, width, 10), config.stability_samples, 1, generator=stream).train
        data = Split(data.x, data.y / data.y.std())
        stable = _stable_rates(config, seed, width, network, data)
        values |= {f"{r} relu_stable_rate@{width}": rate for r, rate in stable.items()}
        params = network.init(generator(seed, "init", width))
        trace = curvature_trace(network, params, data.x)
        values[f"wp-theory relu_stable_rate@{width}"] = 2 / trace
    return values, {}


def _stable_rates(
    config: Config, seed: int, width: int, network: Network, data: Split
) -> dict[str, float]:
    stream = generator(seed, "init", 3000 + width)
    lives = [network.init(stream, dtype=data.x.dtype) for _ in range(config.lives)]
    params = [torch.stack(life) for life in zip(*lives, strict=True)]
    return {
        rule: stable_rate(
            corrected_estimate(rule, network, data, half_mse),
            params,
            lambda p: half_mse(network(p, data.x), data.y).mean(-1),
            steps=config.stability_steps,
            make_stream=lambda: generator(seed, "actions", 4000 + width),
        )
        for rule in ("sgd", "wp", "np")
    }


def measure_standardised(config: Config, seed: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Loss after a stability run, with and without standardised weights, at several η.

    A diverged life counts with the loss of the zero predictor times 10⁶, so that a logarithm
    and an interval exist; the page draws it as "diverged".
    """
    values: dict[str, float] = {}
    network = Network((10, 100, 10))
    data = teacher_student(generator=generator(seed, "tasks"))
    zero = half_mse(torch.zeros_like(data.test.y), data.test.y).mean()
    stream = generator(seed, "init", 5000)
    lives = [network.init(stream, std=1.0) for _ in range(config.lives)]
    params = [torch.stack(life) for life in zip(*lives, strict=True)]
    for rule in ("wp", "np"):
        estimate = corrected_estimate(rule, network, data.train, half_mse)
        for name, project in (("", None), ("-standardised", partial(standardise_weights, network))):
            for rate in _progress(config.rates, f"{rule}{name}"):
                actions = generator(seed, "actions", 6000)
                end = run_lives(estimate, params, rate, config.stability_steps, actions, project)
                losses = half_mse(network(end, data.test.x), data.test.y).mean(-1)
                bounded = torch.nan_to_num(losses / zero, nan=1e6).clamp(max=1e6)
                values[f"{rule}{name} log_loss_ratio@{rate:g}"] = float(bounded.median().log())
    return values, {}


def _progress(values: Sequence[Any], name: str) -> Iterable[Any]:
    return tqdm(values, desc=name, leave=False, disable=None)  # type: ignore[no-any-return]


def white_inputs(num_samples: int, width: int, stream: torch.Generator) -> Tensor:
    """Gaussian inputs `[num_samples, width]`, turned and scaled: XᵀX = N I exactly, float64."""
    x = torch.randn(num_samples, width, generator=stream, dtype=torch.float64)
    q, _ = torch.linalg.qr(x)
    return q * num_samples**0.5


def _cosines(rule: str, count: int, mean: Params, gradient: Params) -> dict[str, float]:
    return {
        f"{rule} cosine_{layer}@{count}": float(
            torch.cosine_similarity(m.flatten(), g.flatten(), dim=0)
        )
        for layer, m, g in zip(("hidden", "output"), mean, gradient, strict=True)
    }


def _row(config: Config, key: str, value: float) -> Row:
    variant, metric = key.split(" ")
    if metric.startswith("cosine"):
        budget = max(config.draw_counts)
    elif metric.startswith("relative_variance"):
        budget = config.variance_draws
    else:
        budget = config.stability_steps
    return row(variant, metric, value, budget)


EXPERIMENT = Experiment(
    name=NAME,
    page="book/learning_rules/04_price_of_noise.md",
    claim="how the noise of WP and NP grows with the network, and the learning rates it allows",
    presets=PRESETS,
    cost={"smoke": "3 s", "book": "10 s", "full": "3 min"},
    run=run,
    evaluate=evaluate,
)
