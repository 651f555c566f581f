"""Training a base network with a learning rule, and the search for its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from metarl_lib.algos.checkpoints import own_tensors
from metarl_lib.rules.network import Params
from metarl_lib.runs import DivergenceError, Stage

Estimate = Callable[[Sequence[Tensor], torch.Generator], Params]
"""`estimate(params, generator)` takes the gradient's place in the step."""

Measure = Callable[[Sequence[Tensor]], Mapping[str, Tensor]]
"""`measure(params)` gives named numbers, each with the parameters' leading batch dimensions."""

CHECKPOINTS = 8


@dataclass(frozen=True)
class Trained:
    """What `train` returns: the parameters, and the last measurement."""

    params: Params
    last: dict[str, float]


def train(
    stage: Stage,
    estimate: Estimate,
    params: Params,
    learning_rate: float,
    *,
    steps: int,
    generator: torch.Generator,
    measure: Measure,
    project: Callable[[Params], Params] | None = None,
) -> Trained:
    """Take `steps` steps W ← W − η · estimate with `torch.optim.SGD`, resumably.

    Args:
        stage: where measurements and checkpoints go; a finished stage returns at once.
        estimate: the learning rule.
        params: initial parameters; not changed.
        learning_rate: η > 0.
        steps: number of steps.
        generator: the rule's noise.
        measure: evaluated at `measurement_steps(steps)`.
        project: applied to the parameters after each step, such as a normalisation.

    Raises:
        DivergenceError: when a measurement is not finite.
    """
    params = [p.clone() for p in params]
    if stage.tensors:
        for p, (_, saved) in zip(params, _numbered(stage.tensors), strict=True):
            p.copy_(saved)
        generator.set_state(stage.tensors["generator"])
    if stage.finished:
        return Trained(params, dict(stage.values))
    optimiser = torch.optim.SGD(params, lr=learning_rate)
    measured = set(measurement_steps(steps))
    every = max(1, math.ceil(steps / CHECKPOINTS))
    last: dict[str, float] = {}

    def record(step: int) -> None:
        values = {key: float(value) for key, value in measure(params).items()}
        stage.check_finite(step, values)
        stage.log(step, values)
        last.clear()
        last.update(values)

    if stage.step == 0:
        record(0)
    bar = tqdm(
        range(stage.step, steps),
        desc=stage.name,
        initial=stage.step,
        total=steps,
        leave=False,
        disable=None,
    )
    for step in bar:
        for p, g in zip(params, estimate(params, generator), strict=True):
            p.grad = g
        optimiser.step()
        if project is not None:
            for p, projected in zip(params, project(params), strict=True):
                p.copy_(projected)
        done = step + 1
        if done in measured:
            record(done)
            bar.set_postfix({key: f"{value:.4g}" for key, value in last.items()}, refresh=False)
        if done % every == 0 or done == steps:
            if done not in measured:
                stage.check_finite(done, {"weights": float(sum(p.abs().max() for p in params))})
            tensors = {str(i): p for i, p in enumerate(params)}
            tensors["generator"] = generator.get_state()
            stage.save(done, tensors, dict(last), finished=done == steps)
    return Trained(params, dict(last))


def search(
    stage: Stage,
    estimate: Estimate,
    params: Params,
    learning_rates: Sequence[float],
    *,
    steps: int,
    generator: torch.Generator,
    score: Callable[[Sequence[Tensor]], Tensor],
) -> float:
    """Train once with every learning rate, side by side, and return the best.

    Each rate gets a copy of the same initial parameters; all copies are one batch. The score
    (lower is better) is averaged over the last quarter of the search, ten times measured, so
    that one lucky step decides nothing. A rate that diverges scores infinity.

    Returns:
        The learning rate with the lowest score.

    Raises:
        DivergenceError: when every rate diverges.
    """
    if stage.finished:
        return float(stage.values["best"])
    count = len(learning_rates)
    params = [p.expand(count, *p.shape).clone() for p in params]
    rates = [
        torch.tensor(learning_rates, dtype=p.dtype).reshape(-1, *(1,) * (p.ndim - 1))
        for p in params
    ]
    optimiser = torch.optim.SGD(params, lr=1.0)
    measured = set(torch.linspace(0.75 * steps, steps, 10).round().int().tolist())
    scores = []
    bar = tqdm(range(steps), desc=stage.name, leave=False, disable=None)
    for step in bar:
        for p, g, rate in zip(params, estimate(params, generator), rates, strict=True):
            p.grad = rate * g
        optimiser.step()
        if step + 1 in measured:
            scores.append(score(params))
            bar.set_postfix(best=f"{float(scores[-1].nan_to_num(nan=math.inf).min()):.4g}")
    mean = torch.stack(scores).mean(0)
    mean = torch.where(torch.isfinite(mean), mean, torch.inf)
    if torch.isinf(mean).all():
        raise DivergenceError(
            f"learning_rates={tuple(learning_rates)}: {stage.name} diverged with every one; "
            "add smaller ones"
        )
    best = float(learning_rates[int(mean.argmin())])
    values = {"best": best}
    for eta, number in zip(learning_rates, mean.tolist(), strict=True):
        if math.isfinite(number):
            values[f"score at {eta:g}"] = number
    stage.save(steps, {}, values, finished=True)
    return best


def measurement_steps(steps: int) -> list[int]:
    """Steps at which training is measured: 0, a few early ones, then forty evenly spaced."""
    early = [s for s in (0, 1, 2, 5, 10, 20, 50, 100) if s <= steps]
    even = [round(k * steps / 40) for k in range(41)]
    return sorted({*early, *even})


def trained_params(tensors: Mapping[str, Tensor], prefix: str) -> Params:
    """The parameters that a published checkpoint keeps under `prefix.0`, `prefix.1`, …"""
    return [tensor for _, tensor in _numbered(own_tensors(tensors, prefix))]


def _numbered(tensors: Mapping[str, Tensor]) -> list[tuple[int, Tensor]]:
    return sorted((int(key), tensor) for key, tensor in tensors.items() if key.isdigit())
