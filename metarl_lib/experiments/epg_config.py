"""The fields of the experiment on evolved losses, and what they say of learners and agents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from metarl_lib.algos import ActorCritic, EvolutionSettings, LifeSettings, Settings
from metarl_lib.algos.options import check_whole
from metarl_lib.cores import GRU
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.base import check_positive, option
from metarl_lib.experiments.epg_tasks import TASKS
from metarl_lib.experiments.meta_training import make_model
from metarl_lib.rules.checks import look_up


@dataclass(frozen=True)
class Config:
    """Fields of the experiment on evolved losses.

    Raises:
        ValueError: for an unknown task, a number out of range or that does not divide another, or
            another count of numbers than of tasks.
    """

    tasks: tuple[str, ...] = option(("point", "pendulum"), "families of tasks")
    generations: tuple[int, ...] = option(
        (2700, 160, 160), "generations of the loss, of each family"
    )
    losses: int = option(128, "perturbed losses of a generation, in antithetic pairs")
    learners: int = option(2, "lives that each perturbed loss is judged by")
    sigma: float = option(0.1, "deviation of the perturbations")
    loss_rate: float = option(0.04, "learning rate of the loss at the start")
    loss_rate_end: float = option(0.01, "and from half of the generations on")
    decay: float = option(1e-3, "weight of the loss's own parameters in its gradient")
    block: int = option(128, "perturbed losses that live in one batch")
    annealed: float = option(0.0, "share of the generations in which PPO's loss fades away")
    hidden: int = option(32, "units of both hidden layers of a learner")
    log_std: float = option(-0.5, "logarithm of the deviation of actions at the start")
    life: tuple[int, ...] = option((8, 8, 8), "episodes of a life, of each family")
    stretch: tuple[int, ...] = option((20, 100, 100), "steps between two updates, of each family")
    minibatch: tuple[int, ...] = option(
        (20, 50, 50), "steps of a minibatch, one gradient step each, of each family"
    )
    buffer: tuple[int, ...] = option(
        (40, 100, 100), "last steps that the loss sees, of each family"
    )
    learner_rate: float = option(8e-2, "learning rate of the learners of evolved losses")
    beyond: int = option(4, "how many times as long as in training lives last in a test")
    ppo_life: tuple[int, ...] = option((256, 80, 80), "episodes of a life with PPO, of each family")
    ppo_rates: tuple[float, ...] = option((1e-3, 3e-3, 1e-2, 3e-2), "learning rates PPO tries")
    ppo_stretches: tuple[int, ...] = option((1, 2, 4), "episodes between its updates it tries")
    ppo_passes: tuple[int, ...] = option((1, 4, 16), "passes over these that it tries")
    ppo_lives: int = option(16, "lives that each of its settings is judged by")
    rl2_updates: tuple[int, ...] = option((400, 200, 200), "updates of RL²'s agent, of each family")
    rl2_rows: int = option(64, "trials side by side that it learns from")
    rl2_segment: int = option(80, "steps of each between two updates")
    rl2_units: int = option(64, "units of its GRU")
    rl2_rates: tuple[float, ...] = option(
        (1e-3, 3e-3, 1e-2, 3e-2), "learning rates at the start that it tries"
    )
    rl2_search: int = option(60, "updates of the short training that judges each of them")
    test_lives: int = option(200, "lives of a test")

    def __post_init__(self) -> None:
        for task in self.tasks:
            look_up("tasks", task, TASKS)
        check_positive(
            self, "ppo_life", "ppo_stretches", "ppo_passes", "ppo_lives", "rl2_updates",
            "rl2_units", "rl2_rates", "rl2_search", "test_lives", "beyond", "life",
            "generations", "ppo_rates",
        )  # fmt: skip
        check_whole(self, "rl2_rows", "rl2_segment")
        for name in (
            "generations", "life", "stretch", "minibatch", "buffer", "ppo_life", "rl2_updates",
        ):  # fmt: skip
            if len(getattr(self, name)) != len(TASKS):
                raise ValueError(
                    f"{name}={getattr(self, name)}: needs a number for each of {', '.join(TASKS)}"
                )
        for task in self.tasks:
            life_of(self, task)
            evolution_of(self, task)
            for episodes in self.ppo_stretches:
                whole = self.of("ppo_life", task)
                if whole % episodes:
                    raise ValueError(f"ppo_stretches={episodes}: must divide ppo_life={whole}")

    def of(self, name: str, task: str) -> Any:
        """The value of a field for a family."""
        return getattr(self, name)[list(TASKS).index(task)]


def life_of(config: Config, task: str, episodes: int | None = None) -> LifeSettings:
    """How the learners of evolved losses live, or such as live longer."""
    length = TASKS[task]().env.max_steps
    stretch = config.of("stretch", task)
    return LifeSettings(
        steps=length * (episodes or config.of("life", task)), stretch=stretch,
        buffer=config.of("buffer", task), minibatch=config.of("minibatch", task),
        hidden=config.hidden, log_std=config.log_std, learner_rate=config.learner_rate,
        normalise=False,
    )  # fmt: skip


def evolution_of(config: Config, task: str) -> EvolutionSettings:
    """How the loss of a family is evolved."""
    return EvolutionSettings(
        config.of("generations", task), config.losses, config.learners, config.sigma,
        config.loss_rate, config.loss_rate_end, config.decay, config.annealed, config.block,
    )  # fmt: skip


def ppo_settings(
    config: Config, task: str, rate: float, episodes: int, passes: int
) -> LifeSettings:
    """How a learner lives with PPO; its minibatches are episodes, and so are its stretches."""
    length = TASKS[task]().env.max_steps
    return replace(
        life_of(config, task), steps=length * config.of("ppo_life", task),
        stretch=episodes * length, buffer=max(episodes * length, config.of("buffer", task)),
        minibatch=length, passes=passes, learner_rate=rate,
    )  # fmt: skip


def trial(config: Config, name: str, beyond: int = 1) -> Trial:
    """What RL²'s agent lives in: as many steps with one task as a learner's life has."""
    return Trial(TASKS[name]().env, beyond * config.of("life", name))


def make_agent(config: Config, name: str, seed: int = 0) -> ActorCritic:
    """RL²'s agent, fresh."""
    env = trial(config, name)
    size = env.observation_space.shape[0]

    def build() -> ActorCritic:
        return ActorCritic(
            GRU(size, config.rl2_units), env.observation_space, env.action_space,
            log_std=config.log_std, value_unit=None, normalise=True,
        )  # fmt: skip

    return make_model(build, seed, list(TASKS).index(name))


def rl2_of(config: Config, updates: int, rate: float) -> Settings:
    """How it is trained."""
    return Settings(
        rows=config.rl2_rows, segment=config.rl2_segment, updates=updates,
        learning_rate=rate, entropy=0.0, max_grad_norm=1.0, bootstrap=True,
    )  # fmt: skip
