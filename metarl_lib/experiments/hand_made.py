"""Rules made by hand, each run on a whole batch of tasks, and the search for their one number.

They start from the same weights as a learned rule does, take as many steps, and cost as many
forward passes: one-sided WP and NP two a step, as the learned rule with a perturbation; those
with a gradient three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metarl_lib.datasets import Tasks
from metarl_lib.envs.weight_space import LOSS_LIMIT, WeightSpace
from metarl_lib.envs.weight_state import SIGNALS, TINY, State
from metarl_lib.experiments.learners import copy_env, follow
from metarl_lib.rules import node_perturbation, sgd, weight_perturbation
from metarl_lib.rules.network import Params
from metarl_lib.runs import DivergenceError, generator

DRIVES = {"sgd-normalised": "gradient", "np-normalised": "perturbation"}
"""One constant coefficient of the normalised drive, every other one zero."""

OPTIMISERS = {
    "sgd": ("sgd", torch.optim.SGD),
    "adam": ("sgd", torch.optim.Adam),
    "wp": ("wp", torch.optim.SGD),
    "np": ("np", torch.optim.SGD),
    "np-adam": ("np", torch.optim.Adam),
}
HAND_MADE = (*OPTIMISERS, *DRIVES)
PERTURB = {"wp": weight_perturbation, "np": node_perturbation}


def train_by_hand(
    env: WeightSpace, name: str, rate: float, tasks: Tasks, stream: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One hand-made rule on every task, from the weights that `env.reset` draws.

    Args:
        env: gives network, loss, steps and initial weights.
        name: one of `HAND_MADE`.
        rate: the learning rate, or the constant coefficient.
        tasks: B tasks.
        stream: initial weights, then the rule's noise.

    Returns:
        Log losses `[T + 1, B]`, and log loss of held-out samples at the end, `[B]`. A network
        whose loss leaves the range of the environment counts with the largest loss there is.
    """
    if name in DRIVES:
        life = follow(env := copy_env(env, drive=DRIVES[name]), Constant(env, rate), tasks, stream)
        return life.log_losses, life.held_out
    rule, optimiser_class = OPTIMISERS[name]
    state, _ = env.reset(tasks, stream)
    params = [p.clone() for p in state.params]
    optimiser = optimiser_class(params, lr=rate)
    losses = [state.log_losses[:, 1]]
    dead = torch.zeros(len(tasks.x), dtype=torch.bool)
    for _ in range(env.steps):
        for p, g in zip(params, _estimate(env, rule, params, tasks, stream), strict=True):
            p.grad = g
        optimiser.step()
        with torch.no_grad():
            error = env.loss(env.network(params, tasks.x), tasks.y).mean(-1)
            dead |= ~(error <= LOSS_LIMIT)
            for p in params:  # what has diverged may not overflow on
                p[dead] = 0.0
        losses.append(_log_loss(error, dead))
    with torch.no_grad():
        held_out = env.held_out_loss(state._replace(params=params))
    return torch.stack(losses), _log_loss(held_out, dead)


def tune(
    env: WeightSpace, name: str, rates: Sequence[float], batch: int, seed: int, index: int
) -> float:
    """The rate with the lowest area under the log loss, on training tasks of its own.

    Every rule tries the same rates, except that the constant coefficients are tried in units of
    the largest one, which is 1.

    Raises:
        DivergenceError: when no rate keeps every network finite.
    """
    tasks = env.sample_tasks(batch, generator(seed, "tuning", index))
    areas = {}
    for rate in rates:
        losses, _ = train_by_hand(env, name, rate, tasks, generator(seed, "tuning", index + 1))
        areas[rate] = float(losses[1:].mean())
    best = min(areas, key=areas.__getitem__)
    if not math.isfinite(areas[best]):
        raise DivergenceError(f"rates={tuple(rates)}: {name} diverges with every one; add smaller")
    return best


class Constant:
    """An actor with one constant coefficient of the drive, in every layer."""

    def __init__(self, env: WeightSpace, coefficient: float) -> None:
        action = torch.zeros(env.network.num_layers, len(SIGNALS))
        action[:, 0] = env.action_of(coefficient)
        self.action = action.flatten()

    def __call__(self, observation: Tensor, state: State) -> Tensor:
        """The same action for every row."""
        return self.action.expand(len(observation), -1)


def references(env: WeightSpace, tasks: Tasks) -> dict[str, float]:
    """Mean log loss of the zero output, and of the best constant output, on training samples."""
    zero = torch.zeros(*tasks.x.shape[:2], env.network.widths[-1])
    if env.family.kind == "regression":
        constant = tasks.y.mean(1, keepdim=True).expand_as(tasks.y)
    else:
        counts = torch.nn.functional.one_hot(tasks.y, env.network.widths[-1]).float()
        constant = counts.mean(1, keepdim=True).clamp_min(TINY).log().expand_as(zero)
    return {
        name: float(env.loss(output, tasks.y).mean(-1).clamp_min(TINY).log().mean())
        for name, output in (("zero", zero), ("constant", constant))
    }


def _estimate(
    env: WeightSpace, rule: str, params: Params, tasks: Tasks, stream: torch.Generator
) -> Params:
    if rule == "sgd":
        return sgd(env.network, params, tasks.x, tasks.y, env.loss)
    return PERTURB[rule](
        env.network, params, tasks.x, tasks.y, env.loss, generator=stream, sigma=env.sigma
    )


def _log_loss(error: Tensor, dead: Tensor) -> Tensor:
    return torch.where(dead, math.log(LOSS_LIMIT), error.clamp(TINY, LOSS_LIMIT).log())
