"""Rules made by hand, each run on a whole batch of tasks, and the search for their one number.

They start from the same weights as a learned rule does, take as many steps, and cost as many
forward passes: one-sided WP and NP two a step, as the learned rule with a perturbation; those
with a gradient three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metarl_lib.datasets import Tasks
from metarl_lib.envs.weight_space import LOSS_LIMIT, WeightSpace
from metarl_lib.envs.weight_state import SIGNALS, TINY, State
from metarl_lib.experiments.learners import Life, copy_env, finish, follow
from metarl_lib.rules import node_perturbation, sgd, weight_perturbation
from metarl_lib.rules.network import Params
from metarl_lib.runs import DivergenceError, Stage, generator

DRIVES = {
    "sgd-normalised": "gradient",
    "np-normalised": "perturbation",
    "sgd-recipe": "gradient",
    "np-recipe": "perturbation",
}
"""Rules in the language of the environment, each with one number; see `Constant` and `Recipe`."""

OPTIMISERS = {
    "sgd": ("sgd", torch.optim.SGD),
    "adam": ("sgd", torch.optim.Adam),
    "wp": ("wp", torch.optim.SGD),
    "np": ("np", torch.optim.SGD),
    "np-adam": ("np", torch.optim.Adam),
}
HAND_MADE = (*OPTIMISERS, *DRIVES)
PERTURB = {"wp": weight_perturbation, "np": node_perturbation}
FINER = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
"""Multiples of the best rate of the first search, tried on four times as many tasks."""


def train_by_hand(
    env: WeightSpace, name: str, rate: float, tasks: Tasks, stream: torch.Generator
) -> Life:
    """One hand-made rule on every task, from the weights that `env.reset` draws.

    Args:
        env: gives network, loss, steps and initial weights.
        name: one of `HAND_MADE`.
        rate: the learning rate, or the coefficient, which is bounded by the environment's
            `step_size`.
        tasks: B tasks.
        stream: initial weights, then the rule's noise.

    Returns:
        The life of the networks, without actions. A network whose loss leaves the range of the
        environment counts with the largest loss there is from then on.
    """
    if name in DRIVES:
        env = copy_env(env, drive=DRIVES[name])
        actor = Recipe(env, rate) if name.endswith("recipe") else Constant(env, rate)
        return follow(env, actor, tasks, stream)
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
        losses.append(torch.where(dead, math.log(LOSS_LIMIT), error.clamp_min(TINY).log()))
    return finish(env, state._replace(params=params), losses, dead)


def tune(
    env: WeightSpace, name: str, rates: Sequence[float], batch: int, seed: int, index: int
) -> float:
    """The rate with the lowest area under the log loss, on training tasks of its own.

    Every rule tries the same rates on `batch` tasks, then `FINER` multiples of the best one on
    four times as many, on which a rate that now and then diverges shows itself.

    Raises:
        DivergenceError: when every network diverges at every rate.
    """
    best = 1.0
    for part, (count, tried) in enumerate(((batch, rates), (4 * batch, FINER))):
        tasks = env.sample_tasks(count, generator(seed, "tuning", index + 2 * part))
        areas, alive = {}, False
        for rate in (best * r for r in tried):
            stream = generator(seed, "tuning", index + 2 * part + 1)
            life = train_by_hand(env, name, rate, tasks, stream)
            areas[rate] = float(life.log_losses[1:].mean())
            alive |= not bool(life.diverged.all())
        best = min(areas, key=areas.__getitem__)
        if not alive:
            raise DivergenceError(
                f"rates={tuple(rates)}: {name} diverged with every one; add smaller ones"
            )
    return best


def tuned_rates(
    stage: Stage, env: WeightSpace, names: Sequence[str], config: Any, seed: int, place: int
) -> None:
    """The best rate of each hand-made rule, as a tensor `rates` of the stage.

    Args:
        stage: where they are kept; a finished stage is left alone.
        env: the environment in which they are tuned.
        names: some of `HAND_MADE`.
        config: has `rates` and `search_tasks`.
        seed: the root seed.
        place: tells the tasks of several searches apart.
    """
    if not stage.finished:
        rates = [
            tune(env, name, config.rates, config.search_tasks, seed, 10 * place) for name in names
        ]
        stage.save(1, {"rates": torch.tensor(rates)}, finished=True)


class Constant:
    """An actor with one constant coefficient of the drive, in every layer."""

    def __init__(self, env: WeightSpace, coefficient: float) -> None:
        action = torch.zeros(env.network.num_layers, len(SIGNALS))
        action[:, 0] = env.action_of(coefficient)
        self.action = action.flatten()

    def __call__(self, observation: Tensor, state: State) -> Tensor:
        """The same action for every row, `[B, A]`."""
        return self.action.expand(len(observation), -1)


class Recipe:
    """A plan of coefficients, written by hand after what the learned rules do.

    Drive and momentum have half of the coefficient c each. It falls to an eighth over the life,
    by a constant factor a step, and is a third of that in the last layer. For the first
    twentieth of the life the weights decay by a tenth a step.
    """

    def __init__(self, env: WeightSpace, coefficient: float) -> None:
        self.env, self.coefficient = env, coefficient

    def __call__(self, observation: Tensor, state: State) -> Tensor:
        """The same action for every row, `[B, A]`, by the time of the first."""
        age = float(state.time[0]) / self.env.steps
        action = torch.zeros(self.env.network.num_layers, len(SIGNALS))
        for layer in range(len(action)):
            last = layer == len(action) - 1
            c = 0.5 * self.coefficient * 8**-age / (3 if last else 1)
            action[layer, :2] = self.env.action_of(c)
            action[layer, 3] = self.env.action_of(0.1) if age < 0.05 else 0.0
        return action.flatten().expand(len(observation), -1)


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
