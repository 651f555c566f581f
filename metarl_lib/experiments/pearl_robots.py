"""PEARL on robots that find out how to run, and on an arm: the missing baseline, at our budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from metarl_lib.algos import PEARLAgent, PEARLSettings
from metarl_lib.algos.pearl_agent import Lived
from metarl_lib.envs.locomotion import AntDir, CheetahDir, CheetahVel
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.meta_agents import Variants, parameters_of
from metarl_lib.experiments.meta_training import last_logged, load_agent, make_model
from metarl_lib.experiments.pearl import adapt
from metarl_lib.experiments.pearl_training import at_each, train_pearl
from metarl_lib.experiments.robot_arm import arm
from metarl_lib.experiments.robots import SURE
from metarl_lib.runs import Row, Run

NAME = "pearl_robots"


class Body(NamedTuple):
    """An environment with episodes of so many steps, and which of the budgets is its."""

    make: Callable[[int], Any]
    kind: str


BODIES = {
    "cheetah-dir": Body(lambda steps: CheetahDir(steps=steps), "cheetah"),
    "cheetah-vel": Body(lambda steps: CheetahVel(steps=steps), "cheetah"),
    "ant-dir": Body(lambda steps: AntDir(steps=steps), "ant"),
    "ant-line": Body(lambda steps: AntDir("forward-backward", steps=steps), "ant"),
    "reach": Body(lambda steps: arm("reach-v3", steps, "v2", 0, 1), "arm"),
}
"""The directions of `ant-line` are forward and backward alone; `reach` is Meta-World's."""


@dataclass(frozen=True)
class Config(Variants, PEARLSettings):
    """Fields of the experiment with PEARL on robots.

    The settings of Rakelly et al. (2019) ask for about a million gradient steps, each on 4,096
    transitions. These are a twentieth of that, on a quarter of the transitions; and no more
    steps of the environment than the agents with a memory have on the same robot. Rakelly et al.
    multiply rewards by five where we divide the losses: a `temperature` of 1/5, and a
    `kl_weight` of 0.1 / 5².
    """

    tasks: int = option(100, "tasks to train on")
    iterations: int = option(250, "times that is lived and learned with a cheetah")
    ant_iterations: int = option(128, "the same with an ant")
    arm_iterations: int = option(120, "the same with an arm")
    steps: int = option(200, "steps of an episode of a cheetah or an ant")
    arm_steps: int = option(150, "steps of an episode of an arm, up to 500")
    posterior_episodes: int = option(2, "episodes after these, with z from the posterior")
    learning_rate: float = option(5e-4, "learning rate of all networks at the start")
    discount: float = option(0.99, "discount of future rewards")
    temperature: float = option(0.2, "reward that a nat of the policy's entropy is worth")
    kl_weight: float = option(0.004, "weight of the divergence of belief from prior")
    latent: int = option(5, "numbers of the belief")
    hidden: tuple[int, ...] = option((128, 128), "units of the layers of policy and critic")
    encoder_hidden: tuple[int, ...] = option((64, 64), "units of the layers of the encoder")
    variants: tuple[str, ...] = option(tuple(BODIES), "robots to train on")
    costly: tuple[str, ...] = option((), "those of them that few seeds train")
    costly_seeds: int = option(2, "only runs whose seed is below this number train the costly")
    test_tasks: int = option(100, "tasks of a test, never trained on where there are such")
    test_episodes: int = option(3, "episodes with each of them")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self, "ant_iterations", "arm_iterations", "steps", "arm_steps", "hidden",
            "encoder_hidden", "latent", "test_tasks", "test_episodes",
        )  # fmt: skip
        self.check_variants(BODIES)


PRESETS = {
    "smoke": Config(
        tasks=3, iterations=2, ant_iterations=1, arm_iterations=1, steps=10, arm_steps=3,
        collected=2, posterior_episodes=1, gradient_steps=2, meta_batch=2, batch=4, capacity=100,
        hidden=(8,), encoder_hidden=(8,), latent=2, test_tasks=4,
    ),
    "book": Config(
        tasks=10, iterations=10, ant_iterations=5, test_tasks=20,
        variants=("cheetah-dir", "cheetah-vel"),
    ),
    "full": Config(),
}  # fmt: skip


def settings_of(config: Config, variant: str) -> Config:
    """How an agent is trained: with the iterations of its body."""
    kind = BODIES[variant].kind
    own = {"cheetah": config.iterations, "ant": config.ant_iterations, "arm": config.arm_iterations}
    return replace(config, iterations=own[kind])


def env_of(config: Config, variant: str, longest: int | None = None) -> Any:
    """The environment, with episodes of at most `longest` steps where that is given."""
    body = BODIES[variant]
    steps = config.arm_steps if body.kind == "arm" else config.steps
    return body.make(steps if longest is None else min(steps, longest))


def make_agent(config: Config, variant: str, seed: int = 0) -> PEARLAgent:
    """A fresh agent."""
    env = env_of(config, variant)

    def build() -> PEARLAgent:
        return PEARLAgent(
            env.observation_space, env.action_space, latent=config.latent, hidden=config.hidden,
            encoder_hidden=config.encoder_hidden,
        )  # fmt: skip

    return make_model(build, seed, list(BODIES).index(variant))


def run(config: Config, run: Run) -> list[Row]:
    """One seed: train an agent on each robot, then test it with tasks not trained on."""
    for variant in config.trained(run.seed):
        index, model = list(BODIES).index(variant), make_agent(config, variant, run.seed)
        env, settings = env_of(config, variant), settings_of(config, variant)
        train_pearl(run.stage(variant), env, model, settings, run.seed, index)
    tensors, rows = run.tensors(), []
    for variant in config.trained(run.seed):
        rows += test(config, run.seed, agent_of(config, tensors, variant), variant)
    return rows + last_logged(run)


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """The returns of the published agents, of robots that run in short episodes."""
    rows: list[Row] = []
    for variant in config.in_every_seed:
        agent = agent_of(config, tensors, variant)
        rows += _rows(config, variant, _sure(config, seed, agent, variant))
    return rows


def agent_of(config: Config, tensors: Mapping[str, Tensor], variant: str) -> PEARLAgent:
    """The trained agent of a robot."""
    return load_agent(make_agent(config, variant), tensors, variant)


def test(config: Config, seed: int, agent: PEARLAgent, variant: str) -> list[Row]:
    """What an agent earns in episode k = 1, 2, … with a task, by its policy's mean.

    Metrics: `return@<k>`; the same with `_mean`, with the mean of the belief instead of a draw,
    and with `_prior`, when it forgets each episode; of an arm `success@<k>`, too, and
    `train_success@<k>`, with tasks that were trained on; `gain`, the return of the last episode
    less that of the first; `short@<k>`, the return where episodes of robots that run end after
    `robots.SURE` steps; `gradient_steps` and `parameters`.
    """
    values = _sure(config, seed, agent, variant)
    for way, suffix in (("posterior", ""), ("mean", "_mean"), ("prior", "_prior")):
        lived = _lives(config, seed, agent, variant, way=way)
        values |= at_each(f"return{suffix}", lived.returns)
        if BODIES[variant].kind == "arm":
            values |= at_each(f"success{suffix}", _met(lived))
    if BODIES[variant].kind == "arm":
        known = _lives(config, seed, agent, variant, split="train")
        values |= at_each("train_success", _met(known))
    values["gain"] = values[f"return@{config.test_episodes}"] - values["return@1"]
    settings = settings_of(config, variant)
    values["gradient_steps"] = float(settings.iterations * settings.gradient_steps)
    values["parameters"] = float(parameters_of(agent))
    return _rows(config, variant, values)


def _lives(
    config: Config, seed: int, agent: PEARLAgent, variant: str, *, longest: int | None = None,
    **options: str,
) -> Lived:  # fmt: skip
    return adapt(env_of(config, variant, longest), config, seed, agent, **options)


def _met(lived: Lived) -> Tensor:
    """In which episodes the arm met its goal at any step, `[B, K]`."""
    return (lived.info["success"] & lived.real).any(-1)


def _sure(config: Config, seed: int, agent: PEARLAgent, variant: str) -> dict[str, float]:
    """Returns that are the same on another processor, but for what cannot be seen."""
    longest = None if BODIES[variant].kind == "arm" else SURE
    return at_each("short", _lives(config, seed, agent, variant, longest=longest).returns)


def _rows(config: Config, variant: str, values: Mapping[str, float]) -> list[Row]:
    length = env_of(config, variant).max_steps
    budget = settings_of(config, variant).environment_steps(length)
    return [row(variant, metric, value, budget) for metric, value in values.items()]


EXPERIMENT = Experiment(
    name=NAME,
    page="book/algorithms/02_pearl.md",
    claim="A belief that is drawn from tells robots how to run, from the second episode on",
    presets=PRESETS,
    cost={"smoke": "10 s", "book": "2 min", "full": "60 min"},
    run=run,
    evaluate=evaluate,
)
