"""What a pool of layers is worth, and what the one who chooses from it adds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metarl_lib.algos import ActorCritic
from metarl_lib.algos.actor_critic import draw
from metarl_lib.datasets import Tasks
from metarl_lib.envs.layer_pool import LayerPool
from metarl_lib.experiments.errors import CAP, capped, step_name
from metarl_lib.experiments.pool_training import plan_of, random_layers
from metarl_lib.rules.pool import Plan, adapt, assemble, losses, outputs

STEPS = (0, 1, 10)
"""Gradient steps on a test task after which it is looked at."""

Values = dict[str, float]


@torch.no_grad()
def choose(
    env: LayerPool, router: ActorCritic, tasks: Tasks, stream: torch.Generator | None = None
) -> Plan:
    """What a router decides for each task: the most likely, or, with a stream, what it draws."""
    state, seen = env.reset(tasks, stream or torch.Generator())
    memory = router.initial_state(len(seen))
    for _ in range(env.max_steps):
        policy, _, memory = router.step(seen, memory)
        action = policy.mode if stream is None else draw(policy, stream)
        state, step = env.step(state, action, stream or torch.Generator())
        seen = step.observation
        if bool(step.terminated.all()):
            break
    return env.plan(state)


def all_paths(env: LayerPool) -> Tensor:
    """Every path with one hidden layer in each place, `[paths, D + 2]`."""
    inputs, hidden, last = env.pool.counts
    middles = itertools.permutations(range(hidden), env.depth)
    paths = itertools.product(range(inputs), middles, range(last))
    return torch.tensor([[first, *middle, end] for first, middle, end in paths])


class Exhaustive(NamedTuple):
    """The loss of every path on every task, `[paths, B]`, after the environment's steps:
    on the samples to learn from, `support`, and on those held out, `query`.
    """

    paths: Tensor
    support: Tensor
    query: Tensor


@torch.no_grad()
def exhaust(env: LayerPool, tasks: Tasks) -> Exhaustive:
    """Try every path on every task."""
    paths, support, query = all_paths(env), [], []
    for path in paths:
        plan = plan_of(env, path.expand(len(tasks.x), -1))
        params = assemble(env.pool, plan.layers)
        params = adapt(params, plan, tasks.x, tasks.y, env.loss, max(env.steps))
        support.append(losses(params, plan, tasks.x, tasks.y, env.loss))
        query.append(losses(params, plan, tasks.held_out_x, tasks.held_out_y, env.loss))
    worst = torch.nan_to_num  # a path that diverged is no path to take
    return Exhaustive(
        paths, worst(torch.stack(support), torch.inf), worst(torch.stack(query), torch.inf)
    )


def error_values(errors: Callable[[int], Tensor], suffix: str = "") -> Values:
    """`mse_n_steps` of each n, the mean over tasks of errors cut off at `CAP`, and the median."""
    found = {}
    for steps in STEPS:
        error = capped(errors(steps))
        name = step_name("mse", steps)
        found[name + suffix] = float(error.mean())
        found[f"{name}_median{suffix}"] = float(error.median())
    return found


def accuracy_values(accuracy: Callable[[int], Tensor], usual: int) -> Values:
    """`test_accuracy` after as many steps as in training, and `test_accuracy_n_steps`."""
    found = {step_name("test_accuracy", n): float(accuracy(n).mean()) for n in STEPS}
    return {"test_accuracy": float(accuracy(usual).mean())} | found


def pool_values(env: LayerPool, tasks: Tasks, plan: Plan, suffix: str = "") -> Values:
    """The errors, or accuracies, of a plan on test tasks after 0, 1 and 10 steps."""
    if env.family.kind == "regression":
        return error_values(lambda steps: env.judge(tasks, plan, steps), suffix)
    return accuracy_values(lambda steps: accuracy_of(env, tasks, plan, steps), env.steps[0])


@torch.no_grad()
def accuracy_of(env: LayerPool, tasks: Tasks, plan: Plan, steps: int) -> Tensor:
    """The share of each task's held-out samples that are labelled correctly, `[B]`."""
    plan = plan._replace(steps=torch.full_like(plan.steps, steps))
    params = assemble(env.pool, plan.layers)
    params = adapt(params, plan, tasks.x, tasks.y, env.loss, steps)
    chosen = outputs(params, plan, tasks.held_out_x).argmax(-1)
    return (chosen == tasks.held_out_y).to(tasks.x).mean(-1)


def routing_values(plan: Plan) -> Values:
    """How many paths are in use: `paths`, and `effective_paths`, exp of the entropy of their
    shares.
    """
    _, counts = plan.layers.unique(dim=0, return_counts=True)
    shares = counts / counts.sum()
    return {
        "paths": float(len(counts)),
        "effective_paths": float((-(shares * shares.log()).sum()).exp()),
    }


def decided_values(plan: Plan) -> Values:
    """What was chosen beside layers: means over tasks of the rate, the steps, the number of hidden
    layers, and the share of tanh networks.
    """
    tanh = torch.zeros_like(plan.rate) if plan.tanh is None else plan.tanh.to(plan.rate)
    return {
        "chosen_rate": float(plan.rate.mean()),
        "chosen_steps": float(plan.steps.to(plan.rate).mean()),
        "chosen_hidden_layers": float((plan.layers[:, 1:-1] >= 0).sum(-1).to(plan.rate).mean()),
        "chosen_tanh": float(tanh.mean()),
    }


def same_pool(
    env: LayerPool, tasks: Tasks, tuning: Tasks, stream: torch.Generator
) -> dict[str, Plan]:
    """Other ways to choose from a pool, without learning.

    `random` draws a path for each task. `one-path` takes the same for all, the best on the
    training tasks `tuning`. `support-best` tries all paths and takes the one that fits the task's
    own samples best, `oracle` the one that is best on the held-out ones, which nobody can know.
    """
    size = len(tasks.x)
    tried = exhaust(env, tasks)
    single = exhaust(env, tuning).query.clamp_max(CAP).mean(1).argmin()
    return {
        "random": plan_of(env, random_layers(env, size, stream)),
        "one-path": plan_of(env, tried.paths[single].expand(size, -1)),
        "support-best": plan_of(env, tried.paths[tried.support.argmin(0)]),
        "oracle": plan_of(env, tried.paths[tried.query.argmin(0)]),
    }
