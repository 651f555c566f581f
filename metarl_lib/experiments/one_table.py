"""One task for every method: those that the page on evolved losses does not train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from metarl_lib.algos import (
    PPO,
    ActorCritic,
    AfterSteps,
    MAMLPolicy,
    PEARLAgent,
    PEARLSettings,
    Settings,
)
from metarl_lib.algos.pearl_agent import live
from metarl_lib.cores import MetODS
from metarl_lib.envs.point_robot import PointRobot, PointTasks
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments import epg, from_scratch, pearl
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.epg_evaluation import conditions, readings
from metarl_lib.experiments.epg_tasks import TASKS
from metarl_lib.experiments.meta_agents import parameters_of
from metarl_lib.experiments.meta_training import (
    last_logged,
    load_agent,
    make_model,
    play,
    streams_of,
    train_agent,
    tune_rate,
)
from metarl_lib.experiments.pearl_readings import knowing, towards
from metarl_lib.experiments.pearl_training import train_pearl
from metarl_lib.rules.checks import look_up
from metarl_lib.runs import Row, Run, Stage, generator

NAME = "one_table"
FAMILY = "point"
"""The family of tasks of the page on evolved losses: goals on a half circle, and outside."""

TRAINED = ("metods-linear-S4", "metods-bounded-S4", "maml", "pearl")
"""Those that are trained on other tasks first. PPO does it, but for PEARL."""
VARIANTS = (*TRAINED, *from_scratch.LEARNERS)
SHOWN = VARIANTS[1:]
"""Those that are published; a layer whose weights may grow without end can diverge in training."""

BLIND = 81
"""Heights between −1 and 1 at which the best path that knows no goal may stop."""


@dataclass(frozen=True)
class Config(Settings):
    """Fields of the experiment with the methods that evolved losses are compared with.

    Raises:
        ValueError: for an unknown name, a number out of range, or a segment that does not fit.
    """

    rows: int = option(64, "robots side by side")
    segment: int = option(160, "steps of a life in training, which is a whole trial")
    updates: int = option(200, "lives of every row that are learned from")
    minibatches: int = option(4, "parts of the rows in a pass, one gradient step each")
    discount: float = option(0.8, "discount of future rewards, in all loops")
    entropy: float = option(0.0, "weight of the policy's entropy at the start")
    max_grad_norm: float = option(1.0, "gradients are scaled to this norm where larger")
    whole_trials: bool = option(True, "start a new trial in every row with each segment")
    num_units: int = option(32, "units of the layer that rewrites its weights")
    hidden: int = option(64, "units of each of the two hidden layers of MAML's agent")
    shots: int = option(4, "episodes that its gradient step learns from")
    maml_rate: float = option(0.5, "size of its gradient step at the start; it is learned")
    log_std: float = option(-0.5, "logarithm of the deviation of actions at the start")
    rates: tuple[float, ...] = option((1e-3, 3e-3, 1e-2), "learning rates that are tried")
    search: int = option(60, "updates of a training that judge its rate")
    iterations: int = option(320, "times that PEARL lives and learns")
    scratch_rates: tuple[float, ...] = option(
        (1e-3, 3e-3, 1e-2), "learning rates that learners from nothing try"
    )
    scratch_discounts: tuple[float, ...] = option(
        (0.8, 0.95), "discounts that they try; a learned one starts there"
    )
    scratch_search: int = option(8, "lives that each of their settings is judged by")
    scratch_lives: int = option(50, "their lives in a test")
    compile: bool = option(False, "compile the cells that rewrite their weights")
    borrowed: str = option("full", "scale whose settings of other pages are taken: smoke, full")
    variants: tuple[str, ...] = option(SHOWN, "agents to train")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self, "num_units", "hidden", "shots", "maml_rate", "rates", "search", "iterations",
            "scratch_rates", "scratch_search", "scratch_lives",
        )  # fmt: skip
        if not self.scratch_discounts or not all(0 < d < 1 for d in self.scratch_discounts):
            tried = ",".join(map(str, self.scratch_discounts))
            raise ValueError(
                f"scratch_discounts={tried}: must lie strictly between 0 and 1, where a learned "
                "one starts"
            )
        look_up("borrowed", self.borrowed, dict.fromkeys(("smoke", "full")))
        for variant in self.variants:
            look_up("variants", variant, dict.fromkeys(VARIANTS))
        length = TASKS[FAMILY]().env.max_steps
        if self.segment != 2 * self.shots * length:
            raise ValueError(
                f"segment={self.segment}: must be {2 * self.shots * length}, so that as many "
                f"episodes of {length} steps come before MAML's gradient step as after it"
            )

    @property
    def episodes(self) -> int:
        """Of a life in training."""
        return 2 * self.shots


PRESETS = {
    "smoke": Config(
        rows=4, segment=40, updates=2, epochs=1, shots=1, num_units=4, hidden=4, rates=(3e-3,),
        search=1, iterations=2, borrowed="smoke", scratch_rates=(3e-3,),
        scratch_discounts=(0.8,), scratch_search=2, scratch_lives=2, variants=VARIANTS,
    ),
    "book": Config(
        rows=16, updates=10, search=1, rates=(3e-3,), variants=("metods-bounded-S4", "maml")
    ),
    "full": Config(compile=True),
}  # fmt: skip


def index_of(variant: str) -> int:
    """Tells the random numbers of the agents apart."""
    return VARIANTS.index(variant)


def robot() -> PointRobot:
    """The environment of the family."""
    env = TASKS[FAMILY]().env
    assert isinstance(env, PointRobot)
    return env


def pearl_settings(config: Config) -> PEARLSettings:
    """How PEARL is trained: as on its own page with dense rewards, in as many steps as others."""
    return replace(
        pearl.settings_of(pearl.PRESETS[config.borrowed], "pearl-dense"),
        iterations=config.iterations, prior_episodes=config.shots,
        posterior_episodes=config.episodes - config.shots,
    )  # fmt: skip


def make_agent(config: Config, variant: str, seed: int = 0) -> Any:
    """A fresh agent of a variant that is trained."""
    env = Trial(robot(), config.episodes)

    def build() -> nn.Module:
        if variant == "pearl":
            borrowed, inner = pearl.PRESETS[config.borrowed], robot()
            return PEARLAgent(
                inner.observation_space, inner.action_space, hidden=borrowed.hidden,
                encoder_hidden=borrowed.hidden, latent=borrowed.latent,
            )  # fmt: skip
        if variant == "maml":
            return MAMLPolicy(
                env.observation_space, env.action_space, (config.hidden,) * 2,
                horizon=config.segment // 2, rate=config.maml_rate, rates="learned",
                discount=config.discount, gae_lambda=config.gae_lambda, baseline="linear",
                standardised=True, state_only=True, log_std=config.log_std, value_unit=None,
                normalise=True,
            )  # fmt: skip
        core = MetODS(
            env.observation_space.shape[0], config.num_units, bounded="bounded" in variant,
            compile=config.compile,
        )  # fmt: skip
        return ActorCritic(
            core, env.observation_space, env.action_space, log_std=config.log_std,
            value_unit=None, normalise=True,
        )  # fmt: skip

    return make_model(build, seed, index_of(variant))


def run(config: Config, run: Run) -> list[Row]:
    """One seed: train every agent, then test all on the tasks of the page on evolved losses."""
    for variant in config.variants:
        if variant in TRAINED:
            train(config, run, variant)
        else:
            tune_scratch(config, run, variant)
    rows = evaluate(config, run.seed, run.tensors()) + by_hand(config, run.seed)
    for variant in config.variants:
        if variant not in TRAINED:
            rows += test_scratch(config, run.seed, variant, run.stage(variant).values)
    return rows + last_logged(run)


def train(config: Config, run: Run, variant: str) -> None:
    """Train an agent to the end of its stage."""
    index = index_of(variant)
    model = make_agent(config, variant, run.seed)
    if variant == "pearl":
        settings = pearl_settings(config)
        train_pearl(run.stage(variant), robot(), model, settings, run.seed, index)
        return
    search = run.stage(f"{variant}-rate")
    tune(search, config, variant, run.seed)
    train_agent(
        run.stage(variant), Trial(robot(), config.episodes), model,
        ppo_settings(config, variant, search.values["rate"]), run.seed, index,
        algorithm=algorithm_of(variant),
    )  # fmt: skip


def algorithm_of(variant: str) -> type[PPO]:
    """PPO, and for MAML the one that judges what follows the gradient step."""
    return AfterSteps if variant == "maml" else PPO


def ppo_settings(config: Config, variant: str, rate: float) -> Settings:
    """How an agent is trained by PPO; MAML's has no critic to train."""
    weight = 0.0 if variant == "maml" else config.value_weight
    return replace(config, learning_rate=rate, value_weight=weight)


def tune(stage: Stage, config: Config, variant: str, seed: int) -> None:
    """Choose the rate at which an agent is trained, by how its training begins at each."""

    def start(rate: float) -> PPO:
        env, agent = Trial(robot(), config.episodes), make_agent(config, variant, seed)
        settings, streams = ppo_settings(config, variant, rate), streams_of(seed, index_of(variant))
        return algorithm_of(variant)(env, agent, settings, streams)

    tune_rate(stage, "rates", config.rates, start, config.search)


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """What the agents earn, from the published ones; the metrics are `epg_evaluation.readings`."""
    borrowed, task, rows = epg.PRESETS[config.borrowed], TASKS[FAMILY](), []
    told = {"shown": config.episodes, "longest": borrowed.of("ppo_life", FAMILY)}
    for variant in filter(TRAINED.__contains__, config.variants):
        agent = load_agent(make_agent(replace(config, compile=False), variant), tensors, variant)
        budget = steps_of(config, variant)
        for place, (name, tasks, _) in enumerate(conditions(borrowed, seed, task, FAMILY)):
            rewards = lives(config, seed, agent, variant, tasks, place)
            rows += readings(variant, name, rewards, task, budget=budget, **told)
        rows.append(row(variant, f"parameters_{FAMILY}", float(parameters_of(agent)), budget))
    return rows


def scratch_of(config: Config) -> dict[str, Any]:
    """How learners from nothing live: as long and in networks as large as PPO's on that page."""
    borrowed = epg.PRESETS[config.borrowed]
    return {
        "episodes": borrowed.of("ppo_life", FAMILY), "hidden": borrowed.hidden,
        "log_std": config.log_std,
    }  # fmt: skip


def tune_scratch(config: Config, run: Run, variant: str) -> None:
    """Choose the learning rate and the discount of a learner from nothing, on training tasks."""
    tasks = robot().sample_tasks(config.scratch_search, generator(run.seed, "tuning"))
    from_scratch.tune(
        run.stage(variant), robot(), tasks, variant, config.scratch_rates,
        config.scratch_discounts, seed=run.seed, **scratch_of(config),
    )  # fmt: skip


def test_scratch(config: Config, seed: int, variant: str, best: Mapping[str, float]) -> list[Row]:
    """What fresh learners earn in the first of the tasks of the others.

    Metrics beside those of `epg_evaluation.readings`: `rate` and `discount`, which the search
    found, and `discount_end` and `lambda_end`, which they had after lives in tasks of the test.
    """
    borrowed, task = epg.PRESETS[config.borrowed], TASKS[FAMILY]()
    told = {"shown": config.episodes, "longest": borrowed.of("ppo_life", FAMILY), "budget": 1}
    found, rows = {name: best[name] for name in ("rate", "discount")}, []
    for name, tasks, _ in conditions(borrowed, seed, task, FAMILY):
        first = PointTasks(tasks.goal[: config.scratch_lives])
        lived = from_scratch.live(
            robot(), first, variant, (best["rate"], best["discount"]), seed=seed,
            **scratch_of(config),
        )  # fmt: skip
        rewards = lived.rewards.repeat_interleave(robot().max_steps, 0)
        rows += readings(variant, name, rewards, task, **told)
        found.setdefault("discount_end", float(lived.discounts.mean()))
        found.setdefault("lambda_end", float(lived.lambdas.mean()))
    return rows + [row(variant, metric, value, 1) for metric, value in found.items()]


def steps_of(config: Config, variant: str) -> int:
    """Environment steps of an agent's training, the search for its rate not counted."""
    if variant != "pearl":
        return config.rows * config.segment * config.updates
    return pearl_settings(config).environment_steps(robot().max_steps)


def lives(
    config: Config, seed: int, agent: Any, variant: str, tasks: PointTasks, place: int
) -> Tensor:
    """The rewards `[U, W]` of lives as long as in training, with given tasks."""
    streams = [generator(seed, "evaluation", n + place) for n in (300, 400)]
    if variant == "pearl":
        context = pearl_settings(config).context
        lived = live(robot(), agent, tasks, config.episodes, *streams, context=context, greedy=True)
        return lived.rewards.flatten(1).T
    env = Trial(robot(), config.episodes)
    return play(env, agent, tasks, streams[0], greedy=False).rewards


def by_hand(config: Config, seed: int) -> list[Row]:
    """What an episode returns to who knows the goal, and to the best path that knows no goal.

    `blind` goes straight up or down and stays where it is best to be for the tasks of the
    test on average: by symmetry that is on the axis of their half circle.
    """
    places = [torch.tensor([0.0, y]) for y in torch.linspace(-1, 1, BLIND).tolist()]
    rows = []
    for name, tasks, _ in conditions(epg.PRESETS[config.borrowed], seed, TASKS[FAMILY](), FAMILY):
        told = knowing(robot(), tasks).rewards.sum((1, 2))
        rows.append(row("shortest-path", f"return_{name}", told, 1))
        blind = max(returned(tasks, place) for place in places)
        rows.append(row("blind", f"return_{name}", blind, 1))
    return rows


def returned(tasks: PointTasks, place: Tensor) -> float:
    """The mean return of an episode that goes straight to a place, `[2]`, and stays there."""
    episode, _ = towards(robot(), tasks, place.expand_as(tasks.goal))
    return float(episode.rewards.sum((1, 2)).mean())


EXPERIMENT = Experiment(
    name=NAME,
    page="book/algorithms/05_one_table.md",
    claim="Do memories adapt in fewer steps than gradients, and generalise less?",
    presets=PRESETS,
    cost={"smoke": "5 s", "book": "1 min", "full": "30 min"},
    run=run,
    evaluate=evaluate,
)
