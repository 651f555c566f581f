"""The pool of layers as the thesis trained it: visits to tasks, one after the other, with SB3."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import NormalizeObservation
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from torch import Tensor
from tqdm import tqdm

from metarl_lib.envs.adapters import SingleEnv
from metarl_lib.envs.layer_pool_thesis import CarriedRows, ThesisLayerPool, ThesisTasks
from metarl_lib.experiments.base import row
from metarl_lib.experiments.learners import learn_finite, seed_of
from metarl_lib.experiments.protocols import torch_default_init
from metarl_lib.rules.adam import adam
from metarl_lib.rules.network import Params
from metarl_lib.rules.pool import Pool
from metarl_lib.runs import Row, Stage, generator

TASKS = 7
KINDS: dict[str, Any] = {
    "recurrent-ppo": (RecurrentPPO, "MlpLstmPolicy"),
    "ppo": (PPO, "MlpPolicy"),
}
CURVE = (0, 1, 3, 10, 20, 30, 50, 99)
"""Steps of Adam at which an error is reported."""

PATIENCE = 200
"""Steps after which a policy that builds no network is given up, and layers are drawn for it."""


def seeds_of(seed: int) -> dict[str, Any]:
    """What draws the pool and the tasks of a run, as options of `ThesisLayerPool`."""
    names = {"pool_seed": "init", "task_seed": "tasks"}
    return {name: generator(seed, stream).initial_seed() for name, stream in names.items()}


@dataclass
class Diary:
    """What happened in a visit: of each episode the return, the errors and the last loss.

    `unfinished` is the return so far of the episode that the visit's end cuts off, and 0 where
    the visit ends with an episode.
    """

    returns: list[float] = field(default_factory=list)
    unfinished: float = 0.0
    errors: int = 0
    steps: int = 0
    final: list[float] = field(default_factory=list)


class Watcher(gymnasium.Wrapper):
    """Keeps a diary, and the losses of the episode that is going on."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.diary = Diary()
        self.losses: list[float] = []

    def reset(self, **options: Any) -> Any:
        """As the environment's."""
        self.losses, self.diary.unfinished = [], 0.0
        return self.env.reset(**options)

    def step(self, action: Any) -> Any:
        """As the environment's."""
        found = self.env.step(action)
        _, reward, ended, _, info = found
        self.losses.append(info["loss"])
        self.diary.unfinished += float(reward)
        self.diary.errors += int(info["error"])
        self.diary.steps += 1
        if ended:
            self.diary.returns.append(self.diary.unfinished)
            self.diary.final.append(info["loss"])
        return found


class Visits:
    """A learner of Stable-Baselines3 that visits the training tasks in turn.

    Each visit is an environment of its own, with one task and fresh running means of the
    observations; the pool goes on from visit to visit. The first round only finds the range of
    each task's losses. After each later visit the range takes in the losses of the last episode,
    which the visit's end may have cut off, as in the code.

    Args:
        kind: `"recurrent-ppo"` or `"ppo"`.
        seed: the root seed: of the tasks, the pool and the learner.
        scaling: of the rewards.
        timesteps: of a visit; the learner rounds them up to whole rollouts.
        inner_steps: of Adam in an episode.
        options: of the learner.
    """

    def __init__(
        self,
        kind: str,
        seed: int,
        *,
        scaling: str = "as_coded",
        timesteps: int = 1000,
        inner_steps: int = 30,
        **options: Any,
    ) -> None:
        self.common: dict[str, Any] = {
            "tasks": TASKS, "inner_steps": inner_steps, "scaling": scaling, **seeds_of(seed),
        }  # fmt: skip
        self.kind, self.timesteps, self.seed = kind, timesteps, seed
        self.bounds = [[math.inf, -math.inf] for _ in range(TASKS)]
        env = ThesisLayerPool(**self.common, task=0)
        self.pool = Pool(*(part[None].clone() for part in env.pool))
        make, policy = KINDS[kind]
        chosen = seed_of(seed, list(KINDS).index(kind))
        self.model = make(policy, SingleEnv(env), seed=chosen, device="cpu", **options)

    def visit(self, task: int, *, calibrate: bool = False) -> Diary:
        """Learn on one task."""
        bounds = None if calibrate else self.bounds
        env = ThesisLayerPool(**self.common, task=task, bounds=bounds)
        single = SingleEnv(env)
        single.rows = CarriedRows(env)
        low, high = torch.tensor(self.bounds[task])[:, None]
        single.rows.carried = (self.pool, low, high)
        watcher = Watcher(single)
        self.model.set_env(NormalizeObservation(watcher))
        self.model.learn(self.timesteps)
        end = single.rows.state.tasks
        self.pool = Pool(*(part.clone() for part in end.pool))
        if calibrate:
            self.bounds[task] = [float(end.low), float(end.high)]
        elif watcher.losses:
            low, high = self.bounds[task]
            self.bounds[task] = [min(low, *watcher.losses), max(high, *watcher.losses)]
        return watcher.diary

    def round(self, *, calibrate: bool = False) -> dict[str, float]:
        """Visit all training tasks; means over them, or over the networks that were built."""
        diaries = [self.visit(task, calibrate=calibrate) for task in range(TASKS - 1)]
        returns = [r for d in diaries for r in d.returns]
        values = {
            "errors": float(np.mean([d.errors for d in diaries])),
            "networks": len(returns) / len(diaries),
            "epoch_return": sum(d.unfinished for d in diaries),
        }
        if returns:
            values |= {
                "errors_per_episode": sum(d.errors for d in diaries) / len(returns),
                "return": float(np.mean(returns)),
                "positive_returns": float(np.mean([r > 0 for r in returns])),
                "final_loss": float(np.mean([loss for d in diaries for loss in d.final])),
            }
        return values


def train_thesis(
    stage: Stage,
    kind: str,
    seed: int,
    *,
    epochs: int,
    rate: float,
    shots: tuple[int, ...] = (),
    **options: Any,
) -> None:
    """Train from the start to the end of a stage; it keeps the pool, and what it is worth.

    Logs, after each epoch (a round of visits), the `errors` of a visit and the `networks` that it
    built; where there are any, errors and `return` of an episode, the share of returns above 0,
    and the loss at the end; and `epoch_return`, what the thesis's figure 5.1 shows: the returns so
    far of the six episodes that the visits' ends cut off, added up. An agent that builds no
    network has a single episode in a visit.

    Args:
        stage: where it is kept.
        kind: of the learner.
        seed: the root seed.
        epochs: rounds of visits.
        rate: of Adam on the finished networks.
        shots: numbers of points for few-shot learning; none to leave finished networks out.
        options: of `Visits`.
    """
    if stage.finished:
        return
    visits = Visits(kind, seed, **options)
    visits.round(calibrate=True)
    for epoch in tqdm(range(1, epochs + 1), desc=stage.name, leave=False, disable=None):
        stage.log(epoch, learn_finite(visits.round, visits.model, stage))
    kept = finished_networks(visits, rate, shots) if shots else {}
    tensors = {f"pool.{k}": t[0] for k, t in visits.pool._asdict().items()}
    stage.save(epochs, tensors, kept, finished=True)


def finished_networks(visits: Visits, rate: float, shots: tuple[int, ...]) -> dict[str, float]:
    """What the networks are worth that are built with and without each of what was learned.

    `thesis` is what the thesis shows: the policy (meant to be the trained one), the trained pool,
    and the training on all points of a task within its episode. `-untrained` has a fresh policy
    instead, as the code does in fact, because it throws the loaded one away; `-no-leak` leaves out
    the training within the episode; `-fresh-pool` has the pool of the start. `scratch` is a network
    with as many layers as PyTorch draws them.
    """
    policy, pool = visits.model.policy, Pool(*(part[0] for part in visits.pool))
    fresh = Visits(visits.kind, visits.seed + 1).model.policy
    steps = int(visits.common["inner_steps"])
    cases = {
        "thesis": (policy, pool, steps),
        "thesis-untrained": (fresh, pool, steps),
        "thesis-no-leak": (policy, pool, 0),
        "thesis-untrained-no-leak": (fresh, pool, 0),
        "thesis-fresh-pool": (fresh, None, steps),
    }
    found: dict[str, float] = {}
    for name, (chooser, layers, inner) in cases.items():
        builder = Builder(visits, chooser, layers, inner)
        found |= network_values(name, builder.env, builder.build, visits.seed, rate, shots)
    env = ThesisLayerPool(**visits.common)

    def drawn(task: int) -> Params:
        stream = generator(visits.seed, "evaluation", 200 + task)
        return [p.unsqueeze(0) for p in torch_default_init(env.network, stream)]

    return found | network_values("thesis-scratch", env, drawn, visits.seed, rate, shots)


def thesis_rows(stage: Stage) -> list[Row]:
    """What the finished networks of a stage are worth."""
    rows = []
    for name, value in stage.values.items():
        variant, metric = name.split("/")
        rows.append(row(variant, metric, value, stage.step))
    return rows


class Builder:
    """Puts a network together for each task: by a policy, on a given pool.

    Args:
        visits: gives the tasks.
        policy: of Stable-Baselines3.
        pool: trained; None for that of the start.
        inner_steps: of Adam on all points of the task, at the start of an episode and at its
            end; 0 to leave both out, so that the network is what the pool's layers are.
    """

    def __init__(self, visits: Visits, policy: Any, pool: Pool | None, inner_steps: int) -> None:
        self.env = ThesisLayerPool(**(visits.common | {"inner_steps": inner_steps}))
        self.policy, self.seed = policy, visits.seed
        self.pool = self.env.pool if pool is None else pool

    @torch.no_grad()
    def build(self, task: int) -> Params:
        """The parameters of the network for a task, `[1, …]` each."""
        env, stream = self.env, generator(self.seed, "evaluation", task)
        pool = Pool(*(part[None].clone() for part in self.pool))
        tasks = ThesisTasks(torch.tensor([task]), pool, torch.zeros(1), torch.ones(1))
        state, seen = env.reset(tasks, stream)
        memory, ended, t = None, False, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream.initial_seed())
            while not ended:
                action, memory = self._act(seen, memory, t)
                state, step = env.step(state, action, stream)
                seen, ended, t = step.observation, bool(step.terminated), t + 1
        return env.params(state)

    def _act(self, seen: Tensor, memory: Any, t: int) -> tuple[Tensor, Any]:
        if t >= PATIENCE:
            return torch.randint(self.env.num_layers, (1,)), memory
        action, memory = self.policy.predict(seen.numpy(), memory, np.array([t == 0]))
        return torch.as_tensor(action), memory


def adam_curve(env: ThesisLayerPool, task: int, params: Params, rate: float) -> Tensor:
    """The error on all points before each of 100 steps of Adam on all points, `[100]`."""
    y = env.y[task : task + 1]
    return adam(env.network, params, env.x, y, rate, CURVE[-1] + 1)[1][:, 0, 0]


def few_shots(
    env: ThesisLayerPool,
    task: int,
    params: Params,
    rate: float,
    shots: int,
    stream: torch.Generator,
) -> dict[str, Tensor]:
    """The error on all points after 0, 1 and 10 steps of Adam on a few of them."""
    chosen = torch.randperm(len(env.x), generator=stream)[:shots]
    x, y = env.x[chosen], env.y[task : task + 1]
    found = {}
    for steps, name in ((0, "mse_0_steps"), (1, "mse_1_step"), (10, "mse_10_steps")):
        after = adam(env.network, params, x, y[:, chosen], rate, steps)[0] if steps else params
        found[name] = (env.network(after, env.x) - y).square().mean()
    return found


def network_values(
    variant: str,
    env: ThesisLayerPool,
    build: Callable[[int], Params],
    seed: int,
    rate: float,
    shots: tuple[int, ...],
) -> dict[str, float]:
    """What networks are worth before and while they learn, on the training tasks and the other.

    `train_mse@n` and `eval_mse@n` are the error before step n of Adam on all points, of training
    tasks and of the one held out; `mse_0_steps`, `mse_1_step` and `mse_10_steps` of
    `variant-k<K>` that after so many steps on K points of the task held out.
    """
    curves: list[Tensor] = []
    found: dict[str, float] = {}
    for task in range(TASKS):
        params = build(task)
        curves.append(adam_curve(env, task, params, rate))
        if task == TASKS - 1:
            for count in shots:
                stream = generator(seed, "evaluation", 100 + count)
                values = few_shots(env, task, params, rate, count, stream)
                found |= {f"{variant}-k{count}/{name}": float(v) for name, v in values.items()}
    for step in CURVE:
        train = torch.stack([curve[step] for curve in curves[:-1]])
        found[f"{variant}/train_mse@{step}"] = float(train.mean())
        found[f"{variant}/eval_mse@{step}"] = float(curves[-1][step])
    return found
