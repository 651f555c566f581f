"""How agents with a memory are made: a cell between what is seen and two heads, or MAML's steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from metarl_lib.algos import ActorCritic, Agent, MAMLPolicy, Settings
from metarl_lib.cores import GRU, Core, MetODS
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.base import check_positive, option
from metarl_lib.rules.checks import look_up

Build = Callable[[Any, Trial], Agent]
"""From a configuration and the trials to live in."""

CoreOf = Callable[[Any, int], Core]
"""A memory cell from a configuration and the number of inputs."""


class Variants:
    """What the configurations share that train a choice of agents, some by few seeds alone."""

    variants: tuple[str, ...]
    costly: tuple[str, ...]
    costly_seeds: int

    def check_variants(self, known: dict[str, Any]) -> None:
        """Raise ValueError with one line where an agent is not known."""
        check_positive(self, "costly_seeds")
        for name in ("variants", "costly"):
            for variant in getattr(self, name):
                look_up(name, variant, known)

    @property
    def in_every_seed(self) -> list[str]:
        """The agents that every run trains."""
        return [v for v in self.variants if v not in self.costly]

    def trained(self, seed: int) -> list[str]:
        """The agents that a run with this root seed trains."""
        return [v for v in self.variants if seed < self.costly_seeds or v not in self.costly]


@dataclass(frozen=True)
class RobotAgents(Variants, Settings):
    """Fields of an experiment whose agents steer a robot."""

    epochs: int = option(4, "passes over a segment")
    minibatches: int = option(2, "parts of the rows in a pass, one gradient step each")
    learning_rate: float = option(1e-3, "learning rate of MetODS at the start")
    gru_learning_rate: float = option(3e-3, "learning rate of the GRU at the start")
    maml_learning_rate: float = option(1e-3, "learning rate of MAML at the start")
    discount: float = option(0.99, "discount of future rewards")
    max_grad_norm: float = option(1.0, "gradients are scaled to this norm where larger")
    log_std: float = option(-0.5, "logarithm of the deviation of actions at the start")
    encoder_units: int = option(64, "units of the layer between what is seen and the memory")
    num_units: int = option(32, "units of the layer that rewrites its weights")
    maml_units: int = option(64, "units of each layer of the agent that takes gradient steps")
    maml_horizon: int = option(100, "steps between two of its gradient steps")
    maml_rate: float = option(0.1, "size of its gradient steps at the start; they are learned")
    compile: bool = option(False, "compile the cells that rewrite their weights")
    costly_seeds: int = option(2, "only runs whose seed is below this number train the costly")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self, "encoder_units", "num_units", "maml_units", "maml_horizon", "maml_rate",
            "gru_learning_rate", "maml_learning_rate",
        )  # fmt: skip

    @property
    def agent_options(self) -> dict[str, Any]:
        """What every agent is told beside its sizes."""
        return {"value_unit": None, "normalise": True, "log_std": self.log_std}


def with_core(make: CoreOf, *, encoded: bool = True) -> Build:
    """An actor and critic on a memory cell, with a tanh layer in front of it or without.

    The configuration has `encoder_units`, and `agent_options`, what else the agent is told.
    """

    def build(config: Any, env: Trial) -> Agent:
        size, encoder = env.observation_space.shape[0], None
        if encoded:
            encoder = nn.Sequential(nn.Linear(size, config.encoder_units), nn.Tanh())
            size = config.encoder_units
        return ActorCritic(
            make(config, size), env.observation_space, env.action_space, encoder=encoder,
            **config.agent_options,
        )  # fmt: skip

    return build


def maml(rates: str, *, standardised: bool = False) -> Build:
    """The feedforward agent that takes gradient steps; it sees what the others see."""

    def build(config: Any, env: Trial) -> Agent:
        return MAMLPolicy(
            env.observation_space, env.action_space, (config.maml_units,) * 2,
            horizon=config.maml_horizon, rate=config.maml_rate, rates=rates,
            discount=config.discount, gae_lambda=config.gae_lambda, standardised=standardised,
            **config.agent_options,
        )  # fmt: skip

    return build


def metods(
    depth: int = 4, write: str = "linear", plasticity: str = "matrix", *, bounded: bool = False
) -> CoreOf:
    """The layer of a choice, with `num_units` units."""
    return lambda config, size: MetODS(
        size, config.num_units, depth, write, plasticity, bounded=bounded, compile=config.compile
    )


def matched_gru(outputs: int) -> CoreOf:
    """A GRU with as many parameters as the linear MetODS layer, and the heads that read it."""

    def count(core: Core) -> int:
        return parameters_of(core) + core.num_units * outputs

    def make(config: Any, size: int) -> Core:
        target = count(MetODS(size, config.num_units))
        return GRU(size, matched_units(lambda units: count(GRU(size, units)), target))

    return make


def parameters_of(model: torch.nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def matched_units(count: Callable[[int], int], target: int, most: int = 2048) -> int:
    """The number of units whose `count` of parameters, which grows with it, is nearest a target."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if count(middle) < target else (low, middle)
    return low if low == 1 or count(low) - target <= target - count(low - 1) else low - 1
