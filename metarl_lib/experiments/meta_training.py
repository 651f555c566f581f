"""Agents with a memory: trained on trials in a stage, and played on tasks never seen."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from metarl_lib.algos import PPO, Agent, Settings, Streams
from metarl_lib.algos.actor_critic import Outputs, draw
from metarl_lib.algos.checkpoints import own_tensors
from metarl_lib.envs.base import BatchedEnv, NotFiniteError
from metarl_lib.experiments.base import row
from metarl_lib.experiments.training_loop import Rhythm, make_updates, without_return
from metarl_lib.runs import DivergenceError, Row, Run, Stage, generator

RHYTHM = Rhythm(logs=100, logs_per_checkpoint=5)

AgentT = TypeVar("AgentT", bound=nn.Module)
Choice = TypeVar("Choice")

Settled = tuple[Any, ...]  # a choice of settings, one value of each

Watch = Callable[[int, Tensor, Outputs, Tensor], None]
"""`watch(t, observation, outputs, action)` looks on at each step of a trial."""


def make_model(make: Callable[[], AgentT], seed: int, index: int) -> AgentT:
    """An agent whose initial parameters depend on the root seed and the index alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "init", index).initial_seed())
        return make()


def streams_of(seed: int, index: int) -> Streams:
    """The random streams of a training; the index tells the trainings of a run apart."""
    return Streams(*(generator(seed, name, index) for name in Streams._fields))


def train_agent(
    stage: Stage,
    env: BatchedEnv,
    model: Agent,
    settings: Settings,
    seed: int,
    index: int,
    *,
    algorithm: type[PPO] = PPO,
) -> None:
    """Train an agent to the end of its stage, from the stage's last checkpoint on.

    Logs, at most a hundred times, `training_return` (the mean return of the trials that ended
    since the log before), `entropy`, `value_loss` and `kl` at the environment step; the finished
    stage holds the agent's tensors alone.

    Args:
        stage: where it is kept.
        env: the trials.
        model: changed in place.
        settings: of the training.
        seed: the root seed.
        index: tells the agents of a run apart.
        algorithm: PPO, or one that judges actions otherwise.

    Raises:
        DivergenceError: when a loss is no longer finite.
    """
    if stage.finished:
        model.load_state_dict(stage.tensors)
        return
    if getattr(settings, "compile", False):
        torch.compiler.reset()  # a function is compiled for eight agents at most, and no others
    training = algorithm(env, model, settings, streams_of(seed, index))
    if stage.tensors:
        training.restore(stage.tensors)
    size = settings.rows * settings.segment
    if make_updates(stage, training, settings.updates, average, RHYTHM, size=size):
        report_times(stage.name, training)
    stage.save(settings.updates * size, model.state_dict(), finished=True)


def tune_rate(
    stage: Stage, field: str, rates: Sequence[float], start: Callable[[float], PPO], updates: int
) -> None:
    """Train short at every rate; the best earns most in the second half of its training.

    Args:
        stage: keeps the `rate` and its `score`, the mean reward of a step in that half.
        field: the configuration's, which an error names.
        rates: to try.
        start: a fresh training at a rate.
        updates: of each training.

    Raises:
        DivergenceError: when there is no rate at which rewards stay finite.
    """

    def judge(rate: float) -> float:
        training, earned = start(rate), []
        for _ in range(updates):
            numbers = training.update()
            earned.append(numbers["reward"])
            if not all(math.isfinite(n) for n in without_return(numbers).values()):
                return math.nan  # the next step would be refused
        half = earned[len(earned) // 2 :]
        return sum(half) / len(half)

    choose(stage, f"{field}={rates}", {"rate": rates}, judge)


def choose(
    stage: Stage, tried: str, settings: Mapping[str, Sequence[float]], judge: Callable[..., float]
) -> None:
    """Judge every choice of settings; the stage keeps the best one and its `score`.

    Args:
        stage: finished by it.
        tried: the configuration's field with the rates, and its value, for an error.
        settings: what to try of each, by name.
        judge: the score of one choice, from its settings in this order.

    Raises:
        DivergenceError: when no score is finite.
    """
    if stage.finished:
        return
    grid = list(itertools.product(*settings.values()))
    scores = scores_of(stage.name, tried, grid, judge)
    best = best_of(scores)
    values = dict(zip(settings, best, strict=True))
    stage.save(len(grid), {}, values | {"score": scores[best]}, finished=True)


def scores_of(
    name: str, tried: str, grid: Sequence[Settled], judge: Callable[..., float]
) -> dict[Settled, float]:
    """The score of every choice; NaN where an environment refuses actions that are not finite.

    Args:
        name: of the search, beside its bar.
        tried: as of `choose`.
        grid: the choices.
        judge: the score of one choice, from its settings in their order.

    Raises:
        DivergenceError: when no score is finite.
    """

    def score(choice: Settled) -> float:
        try:
            return judge(*choice)
        except NotFiniteError:
            return math.nan

    scores = {choice: score(choice) for choice in tqdm(grid, desc=name, leave=False, disable=None)}
    if not any(math.isfinite(found) for found in scores.values()):
        raise DivergenceError(f"{tried}: every one diverged; add smaller ones")
    return scores


def best_of(scores: Mapping[Choice, float]) -> Choice:
    """The choice of the highest score; what diverged is no choice."""
    finite = {choice: score for choice, score in scores.items() if math.isfinite(score)}
    return max(finite, key=lambda choice: finite[choice])


def report_times(name: str, training: PPO) -> None:
    """Say in one line how long a training took, and which part of it took how much."""
    whole = sum(training.seconds.values())
    shares = ", ".join(f"{part} {s / whole:.0%}" for part, s in training.seconds.items())
    tqdm.write(f"{name}: {whole:.0f} s, of which {shares}", file=sys.stderr)


def average(window: list[dict[str, float]]) -> dict[str, float]:
    """The mean of what updates said; of returns, over the updates in which a trial ended."""
    returns = [numbers["return"] for numbers in window if math.isfinite(numbers["return"])]
    values = {"training_return": sum(returns) / len(returns)} if returns else {}
    for name in ("entropy", "value_loss", "kl"):
        values[name] = sum(numbers[name] for numbers in window) / len(window)
    return values


def last_logged(run: Run) -> list[Row]:
    """A result for every curve `variant/metric` of a run: its last number, at its last step."""
    last = run.metrics().groupby("name", sort=False).last()
    rows = []
    for name, step, value in last.itertuples():
        variant, metric = name.split("/")
        rows.append(row(variant, metric, value, step))
    return rows


def with_logged(rows: list[Row], run: Run) -> list[Row]:
    """Results, and the last number of every curve that is not among them."""
    known = {(r["variant"], r["metric"]) for r in rows}
    return rows + [r for r in last_logged(run) if (r["variant"], r["metric"]) not in known]


def result_rows(config: Settings, variant: str, values: Mapping[str, float | Tensor]) -> list[Row]:
    """A result for each number of an agent; the budget is the environment steps it learned from."""
    budget = config.rows * config.segment * config.updates
    return [row(variant, metric, value, budget) for metric, value in values.items()]


def less_others(rows: list[Row], metrics: Sequence[str], others: Sequence[str]) -> list[Row]:
    """What agents have more of a metric than some of them, one result for each other agent.

    Metrics: `<metric>_minus_<other>`, with the budget of the agent.
    """
    known = {(r["variant"], r["metric"]): r for r in rows}
    found = []
    for (variant, metric), own in known.items():
        for other in others:
            if metric in metrics and variant != other and (other, metric) in known:
                gap = own["value"] - known[other, metric]["value"]
                found.append(row(variant, f"{metric}_minus_{other}", gap, own["budget"]))
    return found


class Played(NamedTuple):
    """Whole trials of B rows.

    `rewards` and `alive` are `[T, B]`, where T is the longest trial; after its end a row has
    rewards of 0 and is not alive. `actions` is `[T, B, …]`, `info` the environment's, `[T, B]`.
    """

    rewards: Tensor
    alive: Tensor
    actions: Tensor
    info: dict[str, Tensor]

    @property
    def returns(self) -> Tensor:
        """The sum of each row's rewards, `[B]`."""
        return self.rewards.sum(0)


@torch.no_grad()
def play(
    env: Any,
    model: Any,
    tasks: Any,
    stream: torch.Generator,
    *,
    greedy: bool = True,
    wiped: bool = False,
    frozen_after: int | None = None,
    watch: Watch | None = None,
) -> Played:
    """Let an agent live one trial of each task.

    Args:
        env: the trials.
        model: the agent, with `initial_state`, `step` and `clip` as an `ActorCritic` has.
        tasks: B tasks.
        stream: of the environment, and of the actions where they are drawn.
        greedy: takes the most likely action; else actions are drawn.
        wiped: makes the memory new before every step, so that nothing can be learned in a
            trial but what the observation repeats.
        frozen_after: from this number of steps on, every step starts from the same memory.
        watch: looks on.
    """
    state, observation = env.reset(tasks, stream)
    initial = model.initial_state(len(observation))
    memory, alive = initial, torch.ones(len(observation), dtype=torch.bool)
    rewards, lives, actions, infos = [], [], [], []
    for t in range(env.max_steps):
        outputs = model.step(observation, initial if wiped else memory)
        if frozen_after is None or t < frozen_after:
            memory = outputs.state
        action = outputs.policy.mode if greedy else draw(outputs.policy, stream)
        if watch is not None:
            watch(t, observation, outputs, action)
        state, step = env.step(state, model.clip(action), stream)
        rewards.append(step.reward * alive)
        lives.append(alive)
        actions.append(action)
        infos.append(step.info)
        alive = alive & ~(step.terminated | step.truncated)
        observation = step.observation
        if not bool(alive.any()):
            break
    info = {name: torch.stack([i[name] for i in infos]) for name in infos[0]}
    return Played(torch.stack(rewards), torch.stack(lives), torch.stack(actions), info)


def load_agent(model: AgentT, tensors: Mapping[str, Tensor], variant: str) -> AgentT:
    """The agent whose tensors stand under `variant.`."""
    model.load_state_dict(own_tensors(tensors, variant))
    return model
