"""One agent per layer: shared or independent policies against one agent for the whole network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from metarl_lib.datasets import Tasks, TeacherFamily
from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.envs.agents import SharedAgents, learn_independently, one_agent
from metarl_lib.envs.layerwise import Layerwise
from metarl_lib.envs.weight_space import WeightSpace
from metarl_lib.envs.weight_state import SIGNALS, State
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.comparison import Comparison
from metarl_lib.experiments.hand_made import train_by_hand, tuned_rates
from metarl_lib.experiments.learners import (
    Actor,
    Follow,
    LearnerConfig,
    Life,
    Log,
    Progress,
    follow,
    keep_nothing,
    log_once,
    make_ppo,
    policy_size,
    policy_tensors,
    rebuild,
    seed_of,
    train_policy,
)
from metarl_lib.runs import Row, Run, Stage, generator

NAME = "layerwise"
HAND_MADE = ("np", "wp", "np-normalised", "np-recipe")


@dataclass(frozen=True)
class Config(LearnerConfig):
    """Fields of the experiment with one agent per layer."""

    hidden: int = option(25, "units of each hidden layer of the base networks")
    depth: int = option(2, "hidden layers of the base networks")
    samples: int = option(64, "training samples of a task")
    rollouts: int = option(60, "rollouts of PPO, one whole life of every row each")
    test_tasks: int = option(64, "held-out tasks")
    search_tasks: int = option(16, "tasks on which the hand-made rules are tuned")
    rates: tuple[float, ...] = option(
        (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 6e-3, 1e-2, 2e-2, 3e-2, 6e-2, 1e-1),
        "learning rates that the search tries",
    )
    sigma: float = option(1e-3, "standard deviation of every perturbation")
    init_std: float = option(0.5, "standard deviation of the initial weights")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "hidden", "depth", "samples", "test_tasks", "search_tasks")
        check_positive(self, "rates", "sigma", "init_std")
        self.check_minibatches()


PRESETS = {
    "smoke": Config(
        hidden=5, samples=8, steps=8, rows=4, rollouts=2, epochs=1, minibatches=2, units=8,
        test_tasks=4, search_tasks=4, rates=(1e-3, 1e-2),
    ),
    "book": Config(
        samples=32, steps=50, rows=32, rollouts=15, epochs=4, test_tasks=32, search_tasks=8,
        rates=(1e-3, 1e-2),
    ),
    "full": Config(),
}  # fmt: skip


@dataclass(frozen=True)
class Team:
    """Who acts on the layers.

    Attributes:
        kind: `"single"` (one agent for all), `"shared"` (one policy at every layer) or
            `"independent"` (a policy for each layer).
        view: `"global"`, or `"local"`, which hides the loss, its history and the time.
    """

    kind: str
    view: str = "global"


TEAMS = {
    "single": Team("single"),
    "shared": Team("shared"),
    "independent": Team("independent"),
    "shared-local": Team("shared", "local"),
    "independent-local": Team("independent", "local"),
}
CONDITIONS = ("held_out", "deeper")
"""Teachers never seen; then students with one more layer, for the teams that can."""


def environment(config: Config, condition: str = "held_out") -> WeightSpace:
    """Base networks of `depth` hidden layers, one more in the condition `deeper`."""
    depth = config.depth + (condition == "deeper")
    return WeightSpace(**_options(config, depth))


def _options(config: Config, depth: int) -> dict[str, Any]:
    family = TeacherFamily(
        hidden=(config.hidden,), num_train=config.samples, num_held_out=config.samples
    )
    return {
        "widths": (family.inputs, *[config.hidden] * depth, family.outputs),
        "family": family,
        "output_activation": "relu",
        "init_std": config.init_std,
        "steps": config.steps,
        "sigma": config.sigma,
    }


def agents(config: Config, view: str, condition: str = "held_out") -> Layerwise:
    """The same with one agent per layer."""
    depth = config.depth + (condition == "deeper")
    return Layerwise(view=view, **_options(config, depth))


def run(config: Config, run: Run) -> list[Row]:
    """One seed: train every team for equally many updates, then test all on the same tasks."""
    rows: list[Row] = []
    budget = config.rows * config.steps * config.rollouts
    for index, (variant, team) in enumerate(TEAMS.items()):
        stage = run.stage(variant)
        learn(stage, config, team, seed_of(run.seed, index))
        rows.append(row(variant, "training_return", stage.values["training_return"], budget))
    for place, condition in enumerate(CONDITIONS):
        stage, env = run.stage(f"search-{condition}"), environment(config, condition)
        tuned_rates(stage, env, HAND_MADE, config, run.seed, place)
    tensors, tests = run.tensors(), run.stage("tests")
    for condition in CONDITIONS:
        rows += compare(config, run.seed, tensors, condition, log_once(run, tests))
    rows += take_away(config, run.seed, tensors)
    tests.save(1, {}, finished=True)
    return rows


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """The test on held-out teachers again, from the published policies and rates."""
    return compare(config, seed, tensors, CONDITIONS[0], keep_nothing)


def learn(stage: Stage, config: Config, team: Team, seed: int) -> None:
    """Train one team in its stage; each sees equally many updates of base networks."""
    if team.kind != "independent":
        env: Any = environment(config) if team.kind == "single" else agents(config, team.view)
        count = 1 if team.kind == "single" else env.num_agents

        def venv() -> VecEnv:
            rows = SB3VecEnv(env, config.rows, seed=seed)
            return rows if team.kind == "single" else SharedAgents(rows)

        train_policy(stage, venv, config, seed, agents=count)
        return
    if stage.finished:
        return
    rows = SB3VecEnv(agents(config, team.view), config.rows, seed=seed)
    total = config.rows * config.steps * config.rollouts
    progress = Progress(stage, total)
    learners = learn_independently(
        rows,
        lambda own, agent: make_ppo(own, config, seed + agent),
        total,
        progress,
    )
    for learner in learners:
        stage.check_finite(total, policy_size(learner))
    tensors = {
        f"{agent}.{name}": tensor
        for agent, learner in enumerate(learners)
        for name, tensor in policy_tensors(learner.policy).items()
    }
    stage.save(total, tensors, {"training_return": progress.last}, finished=True)


def compare(
    config: Config, seed: int, tensors: Mapping[str, Tensor], condition: str, log: Log
) -> list[Row]:
    """Every team that can, and the hand-made rules, on the same test tasks from the same weights.

    Metrics beside those of `Comparison`: `loss_minus_single` and `loss_minus_shared` are
    differences of the last log losses, task by task.
    """
    env = environment(config, condition)
    tasks = unseen_tasks(config, seed, env, condition)
    kept = Comparison(env, tasks, condition, log)
    for name, rate in zip(HAND_MADE, tensors[f"search-{condition}.rates"].tolist(), strict=True):
        kept.record(name, train_by_hand(env, name, rate, tasks, unseen_stream(seed, condition)))
        kept.add(name, "rate", rate)

    def lost(variant: str, other: str) -> Tensor:
        return kept.lives[variant].log_losses[-1] - kept.lives[other].log_losses[-1]

    for variant, team in TEAMS.items():
        if condition == "deeper" and team.kind != "shared":
            continue
        kept.record(variant, live(config, seed, tensors, variant, condition, tasks))
        if condition == "held_out" and variant != "single":
            difference = lost(variant, "single")
            kept.rows.append(row(variant, "loss_minus_single", difference, env.steps))
    if condition == "held_out":
        hidden = lost("shared-local", "shared")
        kept.rows.append(row("shared-local", "loss_minus_shared", hidden, env.steps))
    kept.add_references()
    return kept.rows


def take_away(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """`loss_without_<layer>`: the last log loss when the agent of one layer does nothing."""
    env = environment(config)
    tasks = unseen_tasks(config, seed, env, "held_out")
    rows = []
    for variant in ("single", "shared", "independent"):
        for layer in range(env.network.num_layers):
            keep = torch.ones(env.network.num_layers, len(SIGNALS))
            keep[layer] = 0.0
            life = live(config, seed, tensors, variant, "held_out", tasks, keep)
            last = life.log_losses[-1]
            rows.append(row(variant, f"loss_without_{layer}", last, env.steps))
    return rows


def live(
    config: Config,
    seed: int,
    tensors: Mapping[str, Tensor],
    variant: str,
    condition: str,
    tasks: Tasks,
    keep: Tensor | None = None,
) -> Life:
    """One team on the test tasks; `keep` `[L, 4]` multiplies the actions."""
    team, inner = TEAMS[variant], environment(config, condition)
    stream = unseen_stream(seed, condition)
    if team.kind == "single":
        policy = rebuild(
            tensors, variant, inner.observation_space, inner.action_space, config.units
        )
        flat = None if keep is None else keep.flatten()
        return follow(inner, Follow(policy, change=_scaled(flat)), tasks, stream)
    env = agents(config, team.view, condition)
    spaces = one_agent(env.observation_space), one_agent(env.action_space)
    if team.kind == "shared":
        policy = rebuild(tensors, variant, *spaces, config.units)
        actor: Actor = Follow(policy, agents=True, change=_scaled(keep))
    else:
        own = [
            Follow(rebuild(tensors, f"{variant}.{agent}", *spaces, config.units))
            for agent in range(env.num_agents)
        ]
        actor = Together(own, _scaled(keep))
    return follow(env, actor, tasks, stream, env.inner)


class Together:
    """An actor made of one for each agent."""

    def __init__(self, actors: list[Follow], change: Callable[[Tensor], Tensor]) -> None:
        self.actors, self.change = actors, change

    def __call__(self, observation: Tensor, state: State) -> Tensor:
        """The actions `[B, A, …]`."""
        parts = [actor(observation[:, i], state) for i, actor in enumerate(self.actors)]
        return self.change(torch.stack(parts, 1))


def _scaled(keep: Tensor | None) -> Callable[[Tensor], Tensor]:
    return lambda action: action if keep is None else action * keep


def unseen_tasks(config: Config, seed: int, env: WeightSpace, condition: str) -> Tasks:
    """The test tasks of a condition: the same for every team."""
    place = CONDITIONS.index(condition)
    return env.sample_tasks(config.test_tasks, generator(seed, "evaluation", 2 * place), "test")


def unseen_stream(seed: int, condition: str) -> torch.Generator:
    """Initial weights, then noise: the same for every team."""
    return generator(seed, "evaluation", 2 * CONDITIONS.index(condition) + 1)


EXPERIMENT = Experiment(
    name=NAME,
    page="book/weights/03_one_agent_per_layer.md",
    claim="One agent per layer, sharing a policy or not, does as well as one for the network",
    presets=PRESETS,
    cost={"smoke": "5 s", "book": "60 s", "full": "12 min"},
    run=run,
    evaluate=evaluate,
)
