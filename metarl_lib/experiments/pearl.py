"""The point robot: a belief about the task that is drawn from, beside memory and oracles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from metarl_lib.algos import ActorCritic, PEARLAgent, PEARLSettings, Settings
from metarl_lib.algos.pearl_agent import Lesson, Lived, live
from metarl_lib.cores import GRU
from metarl_lib.envs.base import BoundedEnv, Step
from metarl_lib.envs.point_robot import PointRobot
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.meta_agents import Variants, parameters_of
from metarl_lib.experiments.meta_training import (
    last_logged,
    load_agent,
    make_model,
    play,
    train_agent,
)
from metarl_lib.experiments.pearl_readings import (
    Episodes,
    exact_posterior_sampling,
    knowing,
    readings,
)
from metarl_lib.experiments.pearl_training import Taught, Told, at_each, train_pearl
from metarl_lib.runs import Row, Run, generator

NAME = "pearl"


class Variant(NamedTuple):
    """An agent: its kind, whether rewards are sparse, whether its belief is a point, its budget."""

    kind: str
    sparse: bool = True
    deterministic: bool = False
    long: bool = False


VARIANTS = {
    "pearl": Variant("pearl"),
    "pearl-point": Variant("pearl", deterministic=True),
    "told": Variant("told"),
    "gru": Variant("gru"),
    "gru-long": Variant("gru", long=True),
    "pearl-dense": Variant("pearl", sparse=False),
    "told-dense": Variant("told", sparse=False),
    "gru-dense": Variant("gru", sparse=False),
}
"""`told` is soft actor-critic that sees the goal, `gru` RL² with PPO at as many steps as PEARL."""

COSTLY = ("gru-long",)
GRU_MINIBATCHES = 2


@dataclass(frozen=True)
class Config(Variants, PEARLSettings):
    """Fields of the experiment on the point robot.

    Raises:
        ValueError: for an unknown variant, a number out of range, or rows that minibatches do not
            divide.
    """

    iterations: int = option(400, "times that is lived and learned")
    collected: int = option(40, "tasks that are lived with in an iteration")
    prior_episodes: int = option(4, "episodes with each of them with z from the prior")
    posterior_episodes: int = option(6, "episodes after these, with z from the posterior")
    gradient_steps: int = option(50, "gradient steps of an iteration")
    batch: int = option(32, "transitions of each of them, from all its past")
    learning_rate: float = option(2e-3, "learning rate of all networks at the start")
    kl_weight: float = option(0.005, "weight of the divergence of belief from prior")
    polyak: float = option(0.02, "share of the critic that its slow copy takes over in a step")
    hold: bool = option(True, "whether episodes by the prior hold one random action each")
    dense_iterations: int = option(200, "iterations where rewards are dense")
    dense_kl_weight: float = option(0.0005, "weight of the divergence there")
    told_iterations: int = option(100, "iterations of the agent that sees the goal")
    latent: int = option(5, "numbers of the belief")
    hidden: tuple[int, ...] = option((64, 64), "units of the layers of policy, critic, encoder")
    shaped: bool = option(True, "whether is learned from distances where rewards are sparse")
    goal_radius: float = option(0.2, "how near the goal is paid where rewards are sparse")
    gru_units: int = option(64, "units of the GRU of RL², and of the layer in front of it")
    gru_rows: int = option(64, "robots side by side for RL²")
    gru_learning_rate: float = option(3e-3, "learning rate of RL² at the start")
    gru_long: int = option(4, "times the steps, for RL² with more of them")
    variants: tuple[str, ...] = option(tuple(VARIANTS), "agents to train")
    costly: tuple[str, ...] = option(COSTLY, "those of them that few seeds train")
    costly_seeds: int = option(3, "only runs whose seed is below this number train the costly")
    test_tasks: int = option(500, "goals of a test, none of them trained on")
    test_episodes: int = option(10, "episodes with each of them")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self, "dense_iterations", "told_iterations", "hidden", "goal_radius", "gru_units",
            "gru_rows", "gru_learning_rate", "gru_long", "test_tasks", "test_episodes", "latent",
        )  # fmt: skip
        if self.gru_rows % GRU_MINIBATCHES:
            raise ValueError(
                f"gru_rows={self.gru_rows}: must be a multiple of {GRU_MINIBATCHES}, because so "
                "many minibatches share the rows"
            )
        self.check_variants(VARIANTS)


PRESETS = {
    "smoke": Config(
        tasks=4, iterations=2, collected=2, prior_episodes=1, posterior_episodes=1,
        gradient_steps=2, meta_batch=2, batch=4, capacity=100, dense_iterations=1,
        told_iterations=1, hidden=(8,), latent=2, gru_units=4, gru_rows=4, gru_long=2,
        test_tasks=20, test_episodes=3,
    ),
    "book": Config(
        iterations=120, test_tasks=200, variants=("pearl", "told"), told_iterations=30,
    ),
    "full": Config(),
}  # fmt: skip


def robot(config: Config, sparse: bool) -> PointRobot:
    """The environment: goals on the half circle, or anywhere in the square."""
    goals = "circle" if sparse else "square"
    return PointRobot(sparse=sparse, goal_radius=config.goal_radius, goals=goals)


def env_of(config: Config, variant: str) -> Any:
    """What an agent lives in; RL² in trials."""
    chosen = VARIANTS[variant]
    env = robot(config, chosen.sparse)
    if chosen.kind == "told":
        return Told(env, 2)
    return Trial(env, config.episodes) if chosen.kind == "gru" else env


def distance(step: Step) -> Tensor:
    """The dense reward of a step, `[B]`, whatever it paid."""
    return -step.info["distance"]


def lesson_of(config: Config, variant: str) -> Lesson | None:
    """What an agent learns from in the place of its rewards: all of them from the same."""
    return distance if VARIANTS[variant].sparse and config.shaped else None


def settings_of(config: Config, variant: str) -> PEARLSettings:
    """How an agent with a critic is trained."""
    chosen = VARIANTS[variant]
    if not chosen.sparse:
        config = replace(
            config, iterations=config.dense_iterations, kl_weight=config.dense_kl_weight
        )
    return replace(config, iterations=config.told_iterations) if chosen.kind == "told" else config


def steps_of(config: Config, variant: str) -> int:
    """Environment steps of PEARL on the same task."""
    length = robot(config, VARIANTS[variant].sparse).max_steps
    return settings_of(config, variant).environment_steps(length)


def ppo_settings_of(config: Config, variant: str) -> Settings:
    """How RL² is trained: on whole trials, at PEARL's steps or some times as many."""
    segment = config.episodes * robot(config, True).max_steps
    steps = steps_of(config, variant) * (config.gru_long if VARIANTS[variant].long else 1)
    return Settings(
        rows=config.gru_rows, segment=segment, whole_trials=True,
        updates=max(1, round(steps / (config.gru_rows * segment))), minibatches=GRU_MINIBATCHES,
        learning_rate=config.gru_learning_rate, discount=config.discount, entropy=0.001,
        max_grad_norm=1.0,
    )  # fmt: skip


def make_agent(config: Config, variant: str, seed: int = 0) -> Any:
    """A fresh agent of a variant."""
    chosen, env = VARIANTS[variant], env_of(config, variant)
    index = list(VARIANTS).index(variant)

    def build() -> nn.Module:
        if chosen.kind == "gru":
            size = config.gru_units
            encoder = nn.Sequential(nn.Linear(env.observation_space.shape[0], size), nn.Tanh())
            return ActorCritic(
                GRU(size, size), env.observation_space, env.action_space, encoder=encoder,
                value_unit=None, log_std=-0.5,
            )  # fmt: skip
        return PEARLAgent(
            env.observation_space, env.action_space, hidden=config.hidden,
            encoder_hidden=config.hidden, deterministic=chosen.deterministic,
            latent=0 if chosen.kind == "told" else config.latent,
        )  # fmt: skip

    return make_model(build, seed, index)


def run(config: Config, run: Run) -> list[Row]:
    """One seed: train every agent, then test all on the same goals."""
    rows = by_hand(config, run.seed)
    for variant in config.trained(run.seed):
        train(config, run, variant)
    tensors = run.tensors()
    for variant in config.trained(run.seed):
        agent = agent_of(config, tensors, variant)
        rows += test(config, run.seed, agent, variant)
    return rows + last_logged(run)


def train(config: Config, run: Run, variant: str) -> None:
    """Train an agent to the end of its stage."""
    stage, index = run.stage(variant), list(VARIANTS).index(variant)
    model, env = make_agent(config, variant, run.seed), env_of(config, variant)
    lesson = lesson_of(config, variant)
    if VARIANTS[variant].kind == "gru":
        taught = env if lesson is None else Taught(env, lesson)
        train_agent(stage, taught, model, ppo_settings_of(config, variant), run.seed, index)
    else:
        settings = settings_of(config, variant)
        train_pearl(stage, env, model, settings, run.seed, index, lesson)


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """What the agents that every seed trains earn, from the published ones."""
    rows: list[Row] = []
    for variant in config.in_every_seed:
        episodes = lives(config, seed, agent_of(config, tensors, variant), variant)
        rows += _rows(config, variant, _at_each(config, episodes))
    # `kept` is there only where goals were found before, which depends on the agent.
    return [r for r in rows if not r["metric"].startswith("kept")]


def agent_of(config: Config, tensors: Mapping[str, Tensor], variant: str) -> Any:
    """The trained agent of a variant."""
    return load_agent(make_agent(config, variant), tensors, variant)


def test(config: Config, seed: int, agent: Any, variant: str) -> list[Row]:
    """What an agent does with goals that it has never seen, in episode k = 1, 2, ….

    Metrics: `return@<k>`, `solved@<k>`, `found@<k>` and `kept@<k>` as in `readings`; of PEARL
    the same with `_mean`, with the mean of the belief instead of a draw, and with `_prior`,
    when it forgets each episode; `std@<k>`, the mean deviation of the belief with which an
    episode begins; `gain`, the return of the last episode less that of the first;
    `gradient_steps` and `parameters`. PEARL acts by its policy's mean, RL² by drawn actions.
    """
    values = _at_each(config, lives(config, seed, agent, variant))
    values["gain"] = values[f"return@{config.test_episodes}"] - values["return@1"]
    if VARIANTS[variant].kind == "pearl":
        for way in ("mean", "prior"):
            episodes = lives(config, seed, agent, variant, way=way)
            values |= _at_each(config, episodes, f"_{way}")
        beliefs = adapt(env_of(config, variant), config, seed, agent).beliefs
        values |= at_each("std", beliefs.variance.sqrt().mean(-1))
    if VARIANTS[variant].kind != "gru":
        settings = settings_of(config, variant)
        values["gradient_steps"] = float(settings.iterations * settings.gradient_steps)
    values["parameters"] = float(parameters_of(agent))
    return _rows(config, variant, values)


def adapt(
    env: BoundedEnv,
    config: Any,
    seed: int,
    agent: PEARLAgent,
    *,
    way: str = "posterior",
    split: str = "test",
) -> Lived:
    """The episodes of an agent with a belief, with the tasks of a configuration's test."""
    tasks = env.sample_tasks(config.test_tasks, generator(seed, "evaluation"), split)
    streams = generator(seed, "evaluation", 1), generator(seed, "evaluation", 2)
    return live(
        env, agent, tasks, config.test_episodes, *streams, context=config.context, greedy=True,
        way=way,
    )  # fmt: skip


def lives(config: Config, seed: int, agent: Any, variant: str, **options: Any) -> Episodes:
    """The episodes of any agent with these goals."""
    if VARIANTS[variant].kind != "gru":
        lived = adapt(env_of(config, variant), config, seed, agent, **options)
        return Episodes(lived.rewards, lived.info["distance"])
    env = Trial(robot(config, VARIANTS[variant].sparse), config.test_episodes)
    tasks = env.sample_tasks(config.test_tasks, generator(seed, "evaluation"), "test")
    played = play(env, agent, tasks, generator(seed, "evaluation", 1), greedy=False)
    shape = config.test_tasks, config.test_episodes, -1
    return Episodes(played.rewards.T.reshape(shape), played.info["distance"].T.reshape(shape))


def by_hand(config: Config, seed: int) -> list[Row]:
    """Who knows the goal, in both tasks; and exact posterior sampling where rewards are sparse."""
    rows: list[Row] = []
    for suffix, sparse in (("", True), ("-dense", False)):
        env = robot(config, sparse)
        tasks = env.sample_tasks(config.test_tasks, generator(seed, "evaluation"), "test")
        rows.append(row(f"shortest-path{suffix}", "return", readings(
            knowing(env, tasks), config.goal_radius)["return"], 1))  # fmt: skip
        if sparse:
            stream = generator(seed, "evaluation", 3)
            episodes = exact_posterior_sampling(env, tasks, config.test_episodes, stream)
            numbers = _at_each(config, episodes)
            rows += [row("exact-posterior", name, value, 1) for name, value in numbers.items()]
    return rows


def _at_each(config: Config, episodes: Episodes, suffix: str = "") -> dict[str, float]:
    values: dict[str, float] = {}
    for name, numbers in readings(episodes, config.goal_radius).items():
        values |= at_each(f"{name}{suffix}", numbers)
    return values


def _rows(config: Config, variant: str, values: Mapping[str, float]) -> list[Row]:
    budget = steps_of(config, variant)
    if VARIANTS[variant].kind == "gru":
        settings = ppo_settings_of(config, variant)
        budget = settings.rows * settings.segment * settings.updates
    return [row(variant, metric, value, budget) for metric, value in values.items()]


EXPERIMENT = Experiment(
    name=NAME,
    page="book/algorithms/02_pearl.md",
    claim="An agent that draws its task from a belief finds a goal it cannot see",
    presets=PRESETS,
    cost={"smoke": "5 s", "book": "2 min", "full": "50 min"},
    run=run,
    evaluate=evaluate,
)
