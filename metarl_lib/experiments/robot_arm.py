"""What the experiments on Meta-World share: an arm finds out what it is paid for, and does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from metarl_lib.algos import PPO, Agent
from metarl_lib.algos.options import check_choice, check_not_negative
from metarl_lib.envs.manipulation import LONGEST, REWARDS, Manipulation, ManipulationTasks
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.base import Experiment, check_positive, option
from metarl_lib.experiments.meta_agents import (
    Build,
    RobotAgents,
    maml,
    matched_gru,
    metods,
    parameters_of,
    with_core,
)
from metarl_lib.experiments.meta_training import (
    last_logged,
    less_others,
    load_agent,
    make_model,
    play,
    result_rows,
    streams_of,
    train_agent,
    tune_rate,
)
from metarl_lib.runs import Row, Run, generator

OUTPUTS = 5  # four actions and a value
PAPER_STEPS = 10**7
"""Environment steps of Chalvidal, Serre & VanRullen (2022); the presets have a part of them."""
AGENTS: dict[str, Build] = {
    "metods-linear-S4": with_core(metods(4, bounded=True)),
    "metods-linear-S1": with_core(metods(1, bounded=True)),
    "gru-matched": with_core(matched_gru(OUTPUTS)),
    "maml": maml("learned", standardised=True),
}
"""The agents of the robots that run, but with bounded weights: a trial is of many steps.

And MAML's gradient steps compare what was done with what else was done in the same task: how far
a goal is away decides what a step pays, and a critic cannot know it.
"""


@dataclass(frozen=True)
class Config(RobotAgents):
    """Fields of an experiment on Meta-World. A segment is an episode at full scale.

    Raises:
        ValueError: for an unknown variant or reward, or a number out of range.
    """

    rows: int = option(10, "arms side by side")
    segment: int = option(150, "steps of every row between two updates")
    updates: int = option(400, "segments that are collected and learned from")
    entropy: float = option(0.002, "weight of the policy's entropy at the start")
    steps: int = option(150, "steps of an episode, up to 500")
    episodes: int = option(10, "episodes of a trial, over which memory is carried")
    reward: str = option("v2", "version of Meta-World's rewards, v1 or v2")
    task_seed: int = option(0, "seed of Meta-World's tasks")
    maml_horizon: int = option(150, "steps between two of its gradient steps")
    workers: int = option(1, "processes that share the arms")
    rates: tuple[float, ...] = option((3e-4, 1e-3, 3e-3), "learning rates that are tried")
    search: int = option(40, "segments of a training that judge its rate")
    variants: tuple[str, ...] = option(tuple(AGENTS), "agents to train")
    costly: tuple[str, ...] = option((), "those of them that few seeds train")
    test_trials: int = option(10, "trials of a test, of each split's tasks")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "steps", "episodes", "workers", "test_trials", "rates", "search")
        check_not_negative(self, "task_seed")
        check_choice(self, "reward", REWARDS)
        if self.steps > LONGEST:
            raise ValueError(f"steps={self.steps}: must be at most {LONGEST}, as in Meta-World")
        self.check_variants(AGENTS)


PRESETS = {
    "smoke": Config(
        rows=2, segment=6, updates=2, epochs=1, minibatches=1, steps=3, episodes=4,
        encoder_units=4, num_units=4, maml_units=4, maml_horizon=3, test_trials=2,
        rates=(1e-3,), search=1, variants=("metods-linear-S4", "maml"),
    ),
    "book": Config(
        rows=4, segment=50, updates=10, steps=50, episodes=2, test_trials=4, maml_horizon=50,
        rates=(1e-3,), search=1,
        variants=("metods-linear-S4", "gru-matched"),
    ),
    "full": Config(compile=True),
}  # fmt: skip


def arm_experiment(benchmark: str, full: Config = PRESETS["full"], **about: Any) -> Experiment:
    """An experiment on a benchmark of Meta-World's; `about` has its name, page, claim and cost."""
    return Experiment(
        presets=PRESETS | {"full": full},
        run=partial(run, benchmark),
        evaluate=partial(evaluate, benchmark),
        **about,
    )


@lru_cache(maxsize=4)
def arm(benchmark: str, steps: int, reward: str, seed: int, workers: int) -> Manipulation:
    """The environment; Meta-World takes seconds to draw its tasks, so it is kept."""
    return Manipulation(benchmark, steps, reward, seed, workers)


def arm_of(benchmark: str, config: Config) -> Manipulation:
    """The environment of a configuration."""
    return arm(benchmark, config.steps, config.reward, config.task_seed, config.workers)


def trial(benchmark: str, config: Config) -> Trial:
    """Episodes of one task, over which memory is carried."""
    return Trial(arm_of(benchmark, config), config.episodes)


def make_agent(benchmark: str, config: Config, variant: str, seed: int = 0) -> Agent:
    """A fresh agent of a variant."""
    env, index = trial(benchmark, config), list(AGENTS).index(variant)
    return make_model(lambda: AGENTS[variant](config, env), seed, index)


def settings_of(config: Config, variant: str, rate: float) -> Config:
    """How an agent is trained.

    MAML's weights reach a later segment as numbers, with no way back to what they were at the
    start; so its segments are whole trials, in so many more minibatches, each of one row.
    """
    config = replace(config, learning_rate=rate)
    if variant != "maml":
        return config
    trial_steps = config.steps * config.episodes
    updates, search = (
        max(1, n * config.segment // trial_steps) for n in (config.updates, config.search)
    )
    return replace(
        config, segment=trial_steps, updates=updates, search=search, minibatches=config.rows
    )


def run(benchmark: str, config: Config, run: Run) -> list[Row]:
    """One seed: train every agent, then test all on tasks that they know, and on others.

    Metrics: those of `test`, and the `learning_rate` that was found.
    """
    for variant in config.trained(run.seed):
        train(benchmark, config, run, variant)
    tensors = run.tensors()
    rows: list[Row] = []
    for variant in config.trained(run.seed):
        rows += test(
            benchmark, config, run.seed, agent_of(benchmark, config, tensors, variant), variant
        )
        searched = run.stage(rate_stage(variant)).values
        rows += result_rows(config, variant, {"learning_rate": searched["rate"]})
    others = "gru-matched", "maml"
    rows += less_others(rows, ("train_success", "test_success", "test_return"), others)
    return rows + last_logged(run)


def rate_stage(variant: str) -> str:
    """The name of the stage that finds an agent's learning rate."""
    return f"{variant}-rate"


def train(benchmark: str, config: Config, run: Run, variant: str) -> None:
    """Train an agent, at the rate at which its training begins best."""
    index, env = list(AGENTS).index(variant), trial(benchmark, config)

    def start(rate: float) -> PPO:
        agent, settings = make(), settings_of(config, variant, rate)
        return PPO(env, agent, settings, streams_of(run.seed, index))

    def make() -> Agent:
        return make_agent(benchmark, config, variant, run.seed)

    search = run.stage(rate_stage(variant))
    tune_rate(search, "rates", config.rates, start, settings_of(config, variant, 1.0).search)
    settings = settings_of(config, variant, search.values["rate"])
    train_agent(run.stage(variant), env, make(), settings, run.seed, index)


def evaluate(benchmark: str, config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """The returns of the published agents in test tasks.

    A success may turn where another processor rounds otherwise: it is a matter of yes or no.
    """
    rows: list[Row] = []
    for variant in config.in_every_seed:
        agent = agent_of(benchmark, config, tensors, variant)
        tasks = drawn(benchmark, config, seed, "test")
        found = outcomes(*live(benchmark, config, seed, agent, tasks), config.episodes)
        returns = {f"test_{k}": v for k, v in found.items() if k.startswith("return")}
        rows += result_rows(config, variant, returns)
    return rows


def agent_of(benchmark: str, config: Config, tensors: Mapping[str, Tensor], variant: str) -> Agent:
    """The trained agent of a variant."""
    fresh = make_agent(benchmark, replace(config, compile=False), variant)
    return load_agent(fresh, tensors, variant)


def test(benchmark: str, config: Config, seed: int, agent: Agent, variant: str) -> list[Row]:
    """What an agent does, by drawn actions, in training and in test tasks.

    Metrics, each with `train_` or `test_` in front: those of `outcomes`; and of test tasks
    `test_success_wiped`, with memory made new before each step; `parameters`. With ML10, also
    those of `by_kind`.
    """
    values: dict[str, Tensor | float] = {}
    for split in ("train", "test"):
        tasks = drawn(benchmark, config, seed, split)
        rewards, met = live(benchmark, config, seed, agent, tasks)
        found = outcomes(rewards, met, config.episodes)
        values |= {f"{split}_{name}": value for name, value in found.items()}
        if benchmark == "ML10":
            values |= by_kind(arm_of(benchmark, config).kinds, tasks, met, config.episodes)
    wiped = live(benchmark, config, seed, agent, tasks, wiped=True)
    values["test_success_wiped"] = outcomes(*wiped, config.episodes)["success"]
    values["parameters"] = float(parameters_of(agent))
    return result_rows(config, variant, values)


def drawn(benchmark: str, config: Config, seed: int, split: str) -> ManipulationTasks:
    """The tasks of a split that agents are tested on, B of them."""
    env = arm_of(benchmark, config)
    return env.sample_tasks(config.test_trials, generator(seed, "evaluation"), split)


def live(
    benchmark: str, config: Config, seed: int, agent: Agent, tasks: ManipulationTasks,
    *, wiped: bool = False,
) -> tuple[Float[Tensor, "T B"], Bool[Tensor, "T B"]]:  # fmt: skip
    """The rewards of whole trials, and at which steps the goal was met."""
    stream = generator(seed, "evaluation", 1)
    played = play(trial(benchmark, config), agent, tasks, stream, greedy=False, wiped=wiped)
    return played.rewards, played.info["success"] & played.alive


def outcomes(
    rewards: Float[Tensor, "T B"], met: Bool[Tensor, "T B"], episodes: int
) -> dict[str, Tensor]:
    """What came of trials of equally long episodes.

    `success`, the share of last episodes in which the goal is met at any step, as Meta-World
    counts; `return`, the sum of the rewards of an episode, a mean over all; `success@<k>` and
    `return@<k>`, those of the k-th episodes, from 1.
    """
    succeeded = met.unflatten(0, (episodes, -1)).any(1).float()
    earned = rewards.unflatten(0, (episodes, -1)).sum(1)
    values = {"success": succeeded[-1], "return": earned.mean(0)}
    for k in range(episodes):
        values |= {f"success@{k + 1}": succeeded[k], f"return@{k + 1}": earned[k]}
    return values


def by_kind(
    kinds: Sequence[str], tasks: ManipulationTasks, met: Bool[Tensor, "T B"], episodes: int
) -> dict[str, Tensor]:
    """The share of episodes in which the goal is met at any step, for each kind of the tasks.

    Metrics: `success:<kind>`, over all episodes of the trials with a task of that kind.
    """
    succeeded = met.unflatten(0, (episodes, -1)).any(1).float()
    return {
        f"success:{kinds[kind]}": succeeded[:, tasks.kind == kind].mean(0)
        for kind in tasks.kind.unique().tolist()
    }
