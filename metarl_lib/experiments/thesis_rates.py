"""The thesis's agents with a learning rate of 0.01, whose returns its figure 5.1 has collapse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl_lib.algos.checkpoints import own_tensors
from metarl_lib.envs.layer_pool_thesis import ThesisLayerPool
from metarl_lib.experiments.base import Experiment, check_minibatch, check_positive, option, row
from metarl_lib.experiments.meta_training import last_logged
from metarl_lib.experiments.pool_variants import THESIS
from metarl_lib.experiments.thesis_pool import CURVE, train_thesis
from metarl_lib.experiments.thesis_visits import TASKS, seeds_of
from metarl_lib.rules.adam import adam
from metarl_lib.rules.checks import look_up
from metarl_lib.rules.network import Params
from metarl_lib.rules.pool import Pool
from metarl_lib.runs import Row, Run, generator

NAME = "thesis_rates"


@dataclass(frozen=True)
class Config:
    """Fields of the experiment on the thesis's learning rates."""

    variants: tuple[str, ...] = option(
        ("thesis-fast", "thesis-ppo-fast", "thesis-ppo"),
        f"the learners, of {', '.join(THESIS)}",
    )
    epochs: int = option(20, "rounds of visits to the six training tasks")
    timesteps: int = option(1000, "steps of a visit")
    rollout: int = option(0, "steps between two updates of a learner; 0 for its default")
    inner_steps: int = option(30, "steps of Adam in an episode")
    networks: int = option(20, "networks that are drawn from a pool, for each task")
    rate: float = option(0.01, "rate of Adam on these")

    def __post_init__(self) -> None:
        for variant in self.variants:
            look_up("variants", variant, THESIS)
        check_positive(self, "epochs", "timesteps", "inner_steps", "networks", "rate")
        if self.rollout:
            check_minibatch(self.rollout, f"rollout={self.rollout}")


PRESETS = {
    "smoke": Config(epochs=2, timesteps=6, rollout=8, inner_steps=2, networks=2),
    "book": Config(variants=("thesis-fast",), epochs=1, timesteps=250),
    "full": Config(),
}


def run(config: Config, run: Run) -> list[Row]:
    """One seed: let each learner visit the tasks, then look at what its pool has become."""
    rollout = config.rollout
    short: dict[str, Any] = {"n_steps": rollout, "batch_size": rollout} if rollout else {}
    for variant in config.variants:
        train_thesis(
            run.stage(variant), seed=run.seed, epochs=config.epochs, rate=config.rate,
            timesteps=config.timesteps, inner_steps=config.inner_steps,
            **THESIS[variant], **short,
        )  # fmt: skip
    # What is counted by network has no last number where no more networks are built.
    logged = [r for r in last_logged(run) if r["budget"] == config.epochs]
    return evaluate(config, run.seed, run.tensors()) + logged


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """What networks are worth whose layers are drawn from each learner's pool, from its tensors.

    Metrics: `train_mse@n` and `eval_mse@n`, the error before step n of Adam on all points, of the
    training tasks and of the one held out; no training within an episode has gone before. The
    variant `thesis-drawn` is the pool of the start.
    """
    env = ThesisLayerPool(inner_steps=0, **seeds_of(seed))
    pools = {"thesis-drawn": env.pool}
    pools |= {v: Pool(**own_tensors(tensors, f"{v}.pool")) for v in config.variants}
    rows = []
    for variant, pool in pools.items():
        params = drawn_networks(pool, TASKS * config.networks, generator(seed, "evaluation"))
        y = env.y.repeat_interleave(config.networks, 0)
        steps = CURVE[-1] + 1
        errors = adam(env.network, params, env.x, y, config.rate, steps)[1][:, 0]
        tasks = errors.unflatten(1, (TASKS, config.networks)).mean(-1)
        budget = 1 if variant == "thesis-drawn" else config.epochs
        for step in CURVE:
            rows.append(row(variant, f"train_mse@{step}", tasks[step, :-1], budget))
            rows.append(row(variant, f"eval_mse@{step}", tasks[step, -1], budget))
    return rows


def drawn_networks(pool: Pool, count: int, stream: torch.Generator) -> Params:
    """Networks of five layers of a pool, no hidden layer twice: `[count, …]` each."""
    inputs, hidden, outputs = pool.counts
    first = torch.randint(inputs, (count,), generator=stream)
    middle = torch.rand(count, hidden, generator=stream).argsort(-1)[:, :3].T
    last = torch.randint(outputs, (count,), generator=stream)
    params = [pool.input_weight[first], pool.input_bias[first]]
    for layer in middle:
        params += [pool.hidden_weight[layer], pool.hidden_bias[layer]]
    return [*params, pool.output_weight[last], pool.output_bias[last]]


EXPERIMENT = Experiment(
    name=NAME,
    page="book/weights/04_layer_pool.md",
    claim="With a learning rate of 0.01 the thesis's agents cease to build networks at all",
    presets=PRESETS,
    cost={"smoke": "5 s", "book": "1 min", "full": "45 min"},
    run=run,
    evaluate=evaluate,
)
