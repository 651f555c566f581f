"""Meta-gradients on Atari: two games for a while on one machine, or the paper's on a cluster.

One run is one seed of all its games. At the paper's scale, on a Ray cluster:

    metarl sweep atari --seeds 0-2 --scale full --backend ray --address auto
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from metarl_lib.algos import MetaGradient
from metarl_lib.algos.feed_forward import FeedForward
from metarl_lib.algos.meta_settings import LEARNED, MetaSettings
from metarl_lib.envs.atari import Atari, check_game, import_ale
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.meta_control import averaged
from metarl_lib.experiments.meta_training import load_agent, make_model, streams_of, with_logged
from metarl_lib.runs import Row, Run, Stage

NAME = "atari"
METHODS: dict[str, dict[str, Any]] = {
    "fixed": {"learned": "none"}, "mg": {"learned": "discount"}, "mg-both": {"learned": "both"},
}  # fmt: skip
LOGS = 50
FRAMES = 4

# The games of the Arcade Learning Environment's usual set of 57, by the emulator's names.
GAMES = (
    "alien", "amidar", "assault", "asterix", "asteroids", "atlantis", "bank_heist", "battle_zone",
    "beam_rider", "berzerk", "bowling", "boxing", "breakout", "centipede", "chopper_command",
    "crazy_climber", "defender", "demon_attack", "double_dunk", "enduro", "fishing_derby",
    "freeway", "frostbite", "gopher", "gravitar", "hero", "ice_hockey", "jamesbond", "kangaroo",
    "krull", "kung_fu_master", "montezuma_revenge", "ms_pacman", "name_this_game", "phoenix",
    "pitfall", "pong", "private_eye", "qbert", "riverraid", "road_runner", "robotank", "seaquest",
    "skiing", "solaris", "space_invaders", "star_gunner", "surround", "tennis", "time_pilot",
    "tutankham", "up_n_down", "venture", "video_pinball", "wizard_of_wor", "yars_revenge", "zaxxon",
)  # fmt: skip


@dataclass(frozen=True)
class Config(MetaSettings):
    """Fields of the experiment on Atari.

    Raises:
        ValueError: for an unknown method or game, or a number out of range.
    """

    rows: int = option(32, "games side by side")
    updates: int = option(80_000, "segments that are collected and learned from")
    learning_rate: float = option(6e-4, "learning rate of the agent, α")
    discount: float = option(0.99, "γ at the start, or for good")
    outer_discount: float = option(0.995, "γ̄ of the outer loss")
    meta_rate: float = option(1e-3, "learning rate of the logits of γ and λ, β")
    games: tuple[str, ...] = option(GAMES, "games to play, by the emulator's names")
    methods: tuple[str, ...] = option(tuple(METHODS), "fixed, mg (γ learned), mg-both (λ too)")
    pixels: int = option(42, "side of the picture that is seen")
    units: int = option(512, "units of each of the two layers of policy and values")
    threads: int = option(1, "threads of the emulators")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "pixels", "units", "threads")
        for name in self.methods:
            if name not in METHODS:
                raise ValueError(f"methods={name!r} is unknown: choose from {', '.join(METHODS)}")
            settings_of(self, name)
        for game in self.games:
            if game not in GAMES:
                check_game(game)


def settings_of(config: Config, method: str) -> MetaSettings:
    """How an agent is trained by a method."""
    own = {field.name: getattr(config, field.name) for field in fields(MetaSettings)}
    return MetaSettings(**(own | METHODS[method]))


SMALL = ("pong", "breakout")
PRESETS = {
    "smoke": Config(rows=2, segment=5, updates=3, games=SMALL, methods=("fixed", "mg"),
                    pixels=10, units=8),
    "book": Config(rows=16, updates=150, games=SMALL, methods=("fixed", "mg"), pixels=21,
                   units=64),
    "full": Config(),
}  # fmt: skip


def make_agent(config: Config, game: str, method: str, seed: int = 0) -> FeedForward:
    """A fresh agent for a game."""
    env = Atari(game, config.pixels)
    context = len(LEARNED[METHODS[method]["learned"]])

    def build() -> FeedForward:
        return FeedForward(
            env.observation_space, env.action_space, hidden=(config.units, config.units),
            context=context,
        )  # fmt: skip

    return make_model(build, seed, list(METHODS).index(method))


def train(stage: Stage, config: Config, game: str, method: str, seed: int) -> None:
    """Play to the end of a stage. An emulator cannot be put back, so a stage starts over.

    Logs at environment steps `step_reward` and `return` (of the episodes that ended last), both
    clipped, `entropy`, `discount` and `lambda`; keeps the agent and the last tenth's reward of
    a step.
    """
    if stage.finished:
        return
    settings = settings_of(config, method)
    index = 50 + list(METHODS).index(method)
    streams = streams_of(seed, index)
    env = Atari(game, config.pixels, config.threads)
    model = make_agent(config, game, method, seed)
    training = MetaGradient(env, model, settings, streams)
    every, size = max(1, math.ceil(config.updates / LOGS)), config.rows * config.segment
    end: list[float] = []
    window: list[dict[str, float]] = []
    ended: dict[str, float] = {}
    for k in range(1, config.updates + 1):
        numbers = training.update()
        stage.check_finite(k * size, {n: v for n, v in numbers.items() if n != "return"})
        window.append(numbers | {"step_reward": numbers["reward"]})
        if k > 0.9 * config.updates or k == config.updates:
            end.append(numbers["reward"])
        if k % every == 0 or k == config.updates:
            values = ended | averaged(window, ("step_reward", "return", "entropy"))
            stage.log(k * size, values)
            ended = {n: v for n, v in values.items() if n == "return"}
            window.clear()
    env.close()
    reward = torch.tensor(sum(end) / len(end), dtype=torch.float64)
    tensors = model.state_dict() | {"learned": training.eta, "reward": reward}
    stage.save(config.updates * size, tensors, finished=True)


def run(config: Config, run: Run) -> list[Row]:
    """One seed: every method on every game.

    Raises:
        ImportError: without the extra `atari`; one line that names it.
    """
    import_ale()
    for game in config.games:
        for method in config.methods:
            train(run.stage(f"{game}-{method}"), config, game, method, run.seed)
    return with_logged(evaluate(config, run.seed, run.tensors()), run)


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """What each agent earned and learned, and how it judges the first screen.

    Metrics: `reward`, clipped, of a step in the last tenth of the training; `discount` and
    `lambda` at its end; `first_value` and `first_entropy`, what the agent says of an empty screen;
    `frames` that it has played.
    """
    rows = []
    for game in config.games:
        for method in config.methods:
            name = f"{game}-{method}"
            own = {k: t for k, t in tensors.items() if not k.endswith((".learned", ".reward"))}
            agent = load_agent(make_agent(config, game, method), own, name)
            logits = tensors[f"{name}.learned"]
            if len(agent.eta):
                agent.eta.copy_(logits)
            with torch.no_grad():
                said = agent.step(torch.zeros(1, agent.inputs), ())
            learned = LEARNED[METHODS[method]["learned"]]
            values = {"discount": config.discount, "lambda": config.gae_lambda}
            values |= {n: float(v) for n, v in zip(learned, torch.sigmoid(logits), strict=True)}
            values |= {
                "reward": float(tensors[f"{name}.reward"]), "first_value": float(said.values),
                "first_entropy": float(said.policy.entropy()),
            }  # fmt: skip
            steps = config.rows * config.segment * config.updates
            values["frames"] = float(FRAMES * steps)
            rows += [row(name, metric, value, steps) for metric, value in values.items()]
    return rows


EXPERIMENT = Experiment(
    name=NAME,
    page="book/algorithms/03_meta_gradients.md",
    claim="Does a learned discount do better than a fixed one on the games of Atari?",
    presets=PRESETS,
    cost={"smoke": "5 s", "book": "2 min", "full": "months on one core: split it by --games"},
    run=run,
    evaluate=evaluate,
)
