"""The pool of layers as the thesis trained it, and what networks built from it are worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium.wrappers.utils import RunningMeanStd
from torch import Tensor
from tqdm import tqdm

from metarl_lib.envs.layer_pool_thesis import ThesisLayerPool, ThesisState, ThesisTasks
from metarl_lib.experiments.base import row
from metarl_lib.experiments.learners import learn_finite
from metarl_lib.experiments.protocols import torch_default_init
from metarl_lib.experiments.thesis_visits import TASKS, Visits
from metarl_lib.rules.adam import adam
from metarl_lib.rules.network import Params
from metarl_lib.rules.pool import Pool
from metarl_lib.runs import Row, Stage, generator

EPSILON = 1e-8
"""Under the root of the observations' deviation, as in Gymnasium's wrapper."""

CURVE = (0, 1, 3, 10, 20, 30, 50, 99)
"""Steps of Adam at which an error is reported."""

PATIENCE = 200
"""Steps after which a policy that builds no network is given up, and layers are drawn for it."""

WARM_UP = 20
"""Networks that a policy builds for a task before the one that counts.

A policy sees observations less their running mean, over their deviation, and both start anew with
every visit. So they do here, and have settled by then as they have within a visit.
"""


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
        *train, held_out = builder.errors
        found[f"{name}/train_errors"] = sum(train) / len(train)
        found[f"{name}/eval_errors"] = float(held_out)
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

    `errors` are those made on the way to each network, task by task.
    """

    def __init__(self, visits: Visits, policy: Any, pool: Pool | None, inner_steps: int) -> None:
        self.env = ThesisLayerPool(**(visits.common | {"inner_steps": inner_steps}))
        self.policy, self.seed = policy, visits.seed
        self.pool = self.env.pool if pool is None else pool
        self.errors = [0] * TASKS

    @torch.no_grad()
    def build(self, task: int) -> Params:
        """The parameters of the network for a task, `[1, …]` each."""
        stream = generator(self.seed, "evaluation", task)
        known = RunningMeanStd(shape=self.env.observation_space.shape, dtype=np.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream.initial_seed())
            for _ in range(WARM_UP + 1):
                state, self.errors[task] = self._episode(task, known, stream)
        return self.env.params(state)

    def _episode(
        self, task: int, known: RunningMeanStd, stream: torch.Generator
    ) -> tuple[ThesisState, int]:
        """The network at the end of an episode, which leaves the pool as it is, and its errors."""
        env, pool = self.env, Pool(*(part[None].clone() for part in self.pool))
        tasks = ThesisTasks(torch.tensor([task]), pool, torch.zeros(1), torch.ones(1))
        state, seen = env.reset(tasks, stream)
        memory, ended, errors, t = None, False, 0, 0
        while not ended:
            known.update(seen.numpy())
            normal = (seen.numpy() - known.mean) / np.sqrt(known.var + EPSILON)
            action, memory = self._act(normal.astype(np.float32), memory, t)
            state, step = env.step(state, action, stream)
            errors += int(step.info["error"])
            seen, ended, t = step.observation, bool(step.terminated), t + 1
        return state, errors

    def _act(self, seen: np.ndarray, memory: Any, t: int) -> tuple[Tensor, Any]:
        if t >= PATIENCE:
            return torch.randint(self.env.num_layers, (1,)), memory
        action, memory = self.policy.predict(seen, memory, np.array([t == 0]))
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
