"""The agents of the maze: their memories, and what they see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from torch import nn

from metarl_lib.algos import ActorCritic, Agent, MAMLPolicy
from metarl_lib.cores import GRU, SRWM, Backpropamine, Core, MetODS
from metarl_lib.envs.maze import Maze
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.meta_training import CoreOf, matched_units, metods, parameters_of

SIZE = 8
OUTPUTS = 5  # four actions and a value
ENVS = {target: Trial(Maze(SIZE, target=target)) for target in ("hidden", "visible")}

Build = Callable[[Any, Trial], Agent]
"""From a configuration and the trials to live in."""


@dataclass(frozen=True)
class Variant:
    """An agent: how it is made, and whether it can see the target."""

    build: Build
    target: str = "hidden"


def with_core(make: CoreOf, *, encoded: bool = True) -> Build:
    """An actor and critic on a memory cell, with a tanh layer in front of it or without."""

    def build(config: Any, env: Trial) -> Agent:
        size, encoder = env.observation_space.shape[0], None
        if encoded:
            encoder = nn.Sequential(nn.Linear(size, config.encoder_units), nn.Tanh())
            size = config.encoder_units
        return ActorCritic(
            make(config, size), env.observation_space, env.action_space, encoder=encoder,
            value_unit=config.value_unit,
        )  # fmt: skip

    return build


def wide(config: Any, size: int) -> Core:
    """S = 1 with as many numbers of W passed over in a step as S = 4, which passes S + 2 times."""
    units = round(config.num_units * (6 / 3) ** 0.5)
    return MetODS(size, units, 1, compile=config.compile)


def with_gru_state(config: Any, size: int) -> Core:
    """A W of about as many numbers as the GRU of `gru_units` units carries on."""
    return MetODS(size, max(1, round(config.gru_units**0.5)), compile=config.compile)


def matched_gru(config: Any, size: int) -> Core:
    """A GRU with as many parameters as the linear MetODS layer, and the heads that read it."""

    def count(core: Core) -> int:
        return parameters_of(core) + core.num_units * OUTPUTS

    target = count(MetODS(size, config.num_units))
    return GRU(size, matched_units(lambda units: count(GRU(size, units)), target))


def maml(rates: str) -> Build:
    """The feedforward agent that takes gradient steps; it sees what the others see."""

    def build(config: Any, env: Trial) -> Agent:
        return MAMLPolicy(
            env.observation_space, env.action_space, (config.maml_units,) * 2,
            horizon=config.maml_horizon, rate=config.maml_rate, rates=rates,
            discount=config.discount, gae_lambda=config.gae_lambda, value_unit=config.value_unit,
        )  # fmt: skip

    return build


ENDS = {"matrix": "", "scalar": "-scalar", "none": "-no-alpha"}
GRID: dict[str, Variant] = {
    f"metods-{write}-S{depth}{ENDS[plasticity]}": Variant(
        with_core(metods(depth, write, plasticity))
    )
    for write, depth, plasticity in product(("linear", "vanilla", "mlp"), (4, 2, 1), ENDS)
}
"""All that Chalvidal et al. vary, crossed."""

OTHERS: dict[str, Variant] = {
    "gru": Variant(with_core(lambda config, size: GRU(size, config.gru_units))),
    "gru-matched": Variant(with_core(matched_gru)),
    "backpropamine": Variant(with_core(lambda config, size: Backpropamine(size, config.num_units))),
    "srwm": Variant(with_core(lambda config, size: SRWM(size, config.num_units))),
    "metods-linear-S1-wide": Variant(with_core(wide)),
    "metods-linear-S4-state-matched": Variant(with_core(with_gru_state)),
    "maml": Variant(maml("fixed")),
    "maml-rates": Variant(maml("learned")),
}
SEEING = (
    "metods-linear-S4", "metods-linear-S2", "metods-linear-S1", "metods-mlp-S4",
    "metods-vanilla-S4", "metods-vanilla-S2", "metods-linear-S4-no-alpha", "gru", "maml",
    "maml-rates",
)  # fmt: skip
"""Those whose curves the paper draws; they live in mazes with a visible target, too."""

HIDDEN = GRID | OTHERS
VISIBLE = {f"{name}-visible": replace(HIDDEN[name], target="visible") for name in SEEING}
BARE = {"metods-linear-S4-no-encoder": Variant(with_core(metods(), encoded=False))}
VARIANTS: dict[str, Variant] = HIDDEN | VISIBLE | BARE
"""Every agent."""
