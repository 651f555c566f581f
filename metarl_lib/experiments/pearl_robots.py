"""PEARL on robots that find out how to run: the baseline of the MetODS paper, at our budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from metarl_lib.algos import PEARLAgent, PEARLSettings
from metarl_lib.envs.locomotion import AntDir, CheetahVel, Robot
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.meta_agents import parameters_of
from metarl_lib.experiments.meta_training import last_logged, load_agent, make_model
from metarl_lib.experiments.pearl import adapt
from metarl_lib.experiments.pearl_training import at_each, train_pearl
from metarl_lib.runs import Row, Run

VARIANT = "pearl"

RobotOf = Callable[[int], Robot]
"""A robot whose episodes last so many steps."""


@dataclass(frozen=True)
class Config(PEARLSettings):
    """Fields of an experiment with PEARL on a robot.

    The settings of Rakelly et al. ask for about a million gradient steps, each on 4,096
    transitions. These are a twentieth of that, on a quarter of the transitions.
    """

    steps: int = option(200, "steps of an episode")
    tasks: int = option(100, "tasks to train on")
    iterations: int = option(250, "times that is lived and learned")
    posterior_episodes: int = option(2, "episodes after these, with z from the posterior")
    learning_rate: float = option(5e-4, "learning rate of all networks at the start")
    discount: float = option(0.99, "discount of future rewards")
    temperature: float = option(0.2, "reward that a nat of the policy's entropy is worth")
    kl_weight: float = option(0.03, "weight of the divergence of belief from prior")
    latent: int = option(5, "numbers of the belief")
    hidden: tuple[int, ...] = option((128, 128), "units of the layers of policy and critic")
    encoder_hidden: tuple[int, ...] = option((64, 64), "units of the layers of the encoder")
    test_tasks: int = option(100, "tasks of a test, never trained on where there are such")
    test_episodes: int = option(3, "episodes with each of them")

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("steps", "hidden", "encoder_hidden", "latent", "test_tasks", "test_episodes")
        check_positive(self, *names)


PRESETS = {
    "smoke": Config(
        steps=10, tasks=3, iterations=2, collected=2, posterior_episodes=1,
        gradient_steps=2, meta_batch=2, batch=4, capacity=100, hidden=(8,), encoder_hidden=(8,),
        latent=2, test_tasks=4, test_episodes=2,
    ),
    "book": Config(iterations=10, tasks=10, test_tasks=20),
    "full": Config(),
}  # fmt: skip


def make_agent(make: RobotOf, config: Config, seed: int = 0) -> PEARLAgent:
    """A fresh agent."""
    env = make(config.steps)

    def build() -> PEARLAgent:
        return PEARLAgent(
            env.observation_space, env.action_space, latent=config.latent, hidden=config.hidden,
            encoder_hidden=config.encoder_hidden,
        )  # fmt: skip

    return make_model(build, seed, 0)


def run(make: RobotOf, config: Config, run: Run) -> list[Row]:
    """One seed: train, then test with tasks that were not trained on."""
    stage, model = run.stage(VARIANT), make_agent(make, config, run.seed)
    train_pearl(stage, make(config.steps), model, config, run.seed, 0)
    return test(make, config, run.seed, model, stage.values["steps"]) + last_logged(run)


def evaluate(make: RobotOf, config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """The returns of the published agent."""
    agent = load_agent(make_agent(make, config), tensors, VARIANT)
    returns = at_each("return", adapt(make(config.steps), config, seed, agent).returns)
    return [row(VARIANT, metric, value, 1) for metric, value in returns.items()]


def test(make: RobotOf, config: Config, seed: int, agent: PEARLAgent, steps: int) -> list[Row]:
    """What an agent earns in episode k = 1, 2, … with a task, by its policy's mean.

    Metrics: `return@<k>`; the same with `_mean`, with the mean of the belief instead of a draw,
    and with `_prior`, when it forgets each episode; `gradient_steps` and `parameters`.
    """
    values = {"gradient_steps": float(config.iterations * config.gradient_steps)}
    values["parameters"] = float(parameters_of(agent))
    for way, suffix in (("posterior", ""), ("mean", "_mean"), ("prior", "_prior")):
        lived = adapt(make(config.steps), config, seed, agent, way=way)
        values |= at_each(f"return{suffix}", lived.returns)
    return [row(VARIANT, metric, value, steps) for metric, value in values.items()]


def robot_experiment(make: RobotOf, **about: Any) -> Experiment:
    """PEARL on a robot; `about` has the experiment's `name` and `claim`."""
    return Experiment(
        presets=PRESETS,
        page="book/algorithms/02_pearl.md",
        cost={"smoke": "5 s", "book": "2 min", "full": "60 min"},
        run=partial(run, make),
        evaluate=partial(evaluate, make),
        **about,
    )


CHEETAH_VEL = robot_experiment(
    lambda steps: CheetahVel(steps=steps),
    name="pearl_cheetah_vel",
    claim="PEARL runs as fast as is wanted, by the second episode",
)
ANT_DIR = robot_experiment(
    lambda steps: AntDir("forward-backward", steps=steps),
    name="pearl_ant_dir",
    claim="PEARL finds out in an episode whether to run forward or backward",
)
