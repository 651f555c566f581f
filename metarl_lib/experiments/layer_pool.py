"""Networks out of a pool of layers: the thesis as it was coded, and few-shot learning as meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metarl_lib.algos import ActorCritic
from metarl_lib.algos.checkpoints import with_prefix
from metarl_lib.datasets import Tasks
from metarl_lib.envs.layer_pool import LayerPool
from metarl_lib.experiments.base import Experiment, row
from metarl_lib.experiments.errors import capped
from metarl_lib.experiments.meta_training import last_logged, streams_of
from metarl_lib.experiments.pool_baselines import Baseline, baseline_values, train_baseline
from metarl_lib.experiments.pool_readings import (
    Values,
    choose,
    decided_values,
    pool_values,
    routing_values,
    same_pool,
)
from metarl_lib.experiments.pool_training import first_layers, plan_of, random_layers, train_pool
from metarl_lib.experiments.pool_variants import (
    ALL,
    BASELINES,
    FEW,
    FORGETTING,
    POOLS,
    THESIS,
    UNRELATED,
    Config,
    baseline_of,
    family_of,
    make_env,
    start,
    trained_pool,
    updates_of,
)
from metarl_lib.experiments.thesis_pool import thesis_rows, train_thesis
from metarl_lib.experiments.training import trained_params
from metarl_lib.rules.pool import Plan
from metarl_lib.runs import Row, Run, Stage, generator

NAME = "layer_pool"

PRESETS = {
    "smoke": Config(
        counts=(2, 2, 2), units=6, updates=3, rows=4, router_units=4, digits_updates=2,
        iterations=4, digits_iterations=2, quick_iterations=3, tuning_rates=(1e-3, 0.1),
        tuning_tasks=6, test_tasks=8, forget_updates=2, epochs_of_visits=1, epochs_of_tuning=1,
        timesteps=6, inner_steps=2, rollout=8,
        variants=("routed-k5", "routed-k10", "random-trained-k10", "routed-options-k10",
                  "routed-digits", "maml-k5", "maml-k10", "joint-k10", "scratch-k10",
                  "thesis-recurrent-ppo"),
    ),
    "book": Config(
        updates=800, iterations=3200,
        forget_updates=100,
        variants=("routed-k10", "random-trained-k10", "maml-k10", "scratch-k10"),
    ),
    "full": Config(),
}  # fmt: skip


def run(config: Config, run: Run) -> list[Row]:
    """One seed: train every variant, then test all on the same tasks, never seen."""
    seed, rows = run.seed, []
    variants = config.trained(seed)
    for variant in variants:
        stage = run.stage(variant)
        if variant in POOLS:
            env = make_env(config, variant, seed)
            streams = streams_of(seed, list(POOLS).index(variant))
            updates = updates_of(config, variant)
            training = start(config, env, variant, seed, updates, streams)
            train_pool(stage, training)
        elif variant in THESIS:
            main, rollout = variant == "thesis-recurrent-ppo", config.rollout
            short: dict[str, Any] = {"n_steps": rollout, "batch_size": rollout} if rollout else {}
            train_thesis(
                stage, seed=seed, rate=config.thesis_rate, timesteps=config.timesteps,
                inner_steps=config.inner_steps, shots=(5, 10) if main else (),
                epochs=config.epochs_of_visits if main else config.epochs_of_tuning,
                **THESIS[variant], **short,
            )  # fmt: skip
            rows += thesis_rows(run.stage(variant))
        else:
            baseline = baseline_of(config, variant)
            meta = baseline.learner.init(generator(seed, "init"))
            tuning = family_of(variant, 100).sample(config.tuning_tasks, generator(seed, "tuning"))
            stream = generator(seed, "tasks", 100 + BASELINES.index(variant))
            train_baseline(stage, baseline, family_of(variant), meta, tuning, stream)
    tensors = run.tensors()
    for variant in variants:
        if variant in FORGETTING or variant == "maml-k10":
            rows += forget(config, run.stage(f"{variant}-forgets"), variant, seed, tensors)
    return rows + measured(config, seed, tensors, variants) + last_logged(run)


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """The tests of pools and initial weights, again, of all of which there are tensors."""
    names = {name.split(".")[0] for name in tensors}
    return measured(config, seed, tensors, [v for v in config.variants if v in names])


def measured(
    config: Config, seed: int, tensors: Mapping[str, Tensor], variants: list[str]
) -> list[Row]:
    """What every variant does on the same tasks, which no training holds.

    Metrics: `mse_0_steps`, `mse_1_step`, `mse_10_steps` after so many gradient steps, and the
    medians; `test_accuracy` of digits; the errors on other waves, `…_square` and `…_sawtooth`.
    Variants `random-`, `one-path-`, `support-best-` and `oracle-` choose otherwise from the pool of
    the routed one; see `same_pool`. Of the routed ones, `gain_1_step` is the error of random paths
    on the same pool less theirs, `gain_on_maml_1_step`, `gain_on_maml_1_step_square`, … MAML's
    error less theirs, and `of_maml_1_step`, … theirs divided by MAML's.
    """
    values: dict[str, Values] = {}
    for variant in variants:
        if variant in THESIS:
            continue
        found = pool_rows if variant in POOLS else baseline_rows
        values |= found(config, variant, seed, tensors)
    for variant in [v for v in values if v.startswith("routed-k")]:
        rest = variant.removeprefix("routed-")
        own, maml = values[variant], values.get(f"maml-{rest}", {})
        errors = {m: e for m, e in own.items() if m.startswith("mse_") and "median" not in m}
        for metric, error in errors.items():
            name = metric.removeprefix("mse_")
            if metric in values[f"random-{rest}"]:
                own[f"gain_{name}"] = values[f"random-{rest}"][metric] - error
            if metric in maml:
                own[f"gain_on_maml_{name}"] = maml[metric] - error
                own[f"of_maml_{name}"] = error / maml[metric]
    return [
        row(variant, metric, value, budget_of(config, variant))
        for variant, found in values.items()
        for metric, value in found.items()
    ]


def budget_of(config: Config, variant: str) -> int:
    """Tasks that a variant was trained on; 1, the least there is, of one that was not trained."""
    if variant in BASELINES:
        baseline = baseline_of(config, variant)
        return max(1, baseline.iterations * baseline.batch)
    if variant not in POOLS:  # another way to choose from the pool of the routed one
        variant = f"routed-{variant.rsplit('-', 1)[1]}"
    return config.rows * updates_of(config, variant)


def pool_rows(
    config: Config, variant: str, seed: int, tensors: Mapping[str, Tensor]
) -> dict[str, Values]:
    """The tests of a pool, by its own choice of layers and by others."""
    env, router = trained_pool(config, variant, seed, tensors)
    stream = generator(seed, "evaluation", 1)
    queries = 15 if variant.endswith(FEW) else 100
    tasks = tasks_of(config, variant, seed)
    plan = plan_for(env, variant, router, tasks, stream)
    values = {variant: pool_values(env, tasks, plan) | routing_values(plan)}
    if POOLS[variant].options:
        chosen = float(capped(env.judge(tasks, plan)).mean())
        values[variant] |= decided_values(plan) | {"mse_chosen": chosen}
        return values
    if POOLS[variant].routes == "learned" and variant.split("-k")[0] in ("routed", f"routed-{FEW}"):
        rest = variant.removeprefix("routed-")
        tuning = family_of(variant, queries).sample(config.tuning_tasks, generator(seed, "tuning"))
        others = same_pool(env, tasks, tuning, stream)
        values |= {f"{name}-{rest}": pool_values(env, tasks, p) for name, p in others.items()}
    if variant in FORGETTING:
        for shape in UNRELATED:
            waves = tasks_of(config, variant, seed, shape)
            plan = plan_for(env, variant, router, waves, stream)
            values[variant] |= pool_values(env, waves, plan, f"_{shape}")
    return values


def plan_for(
    env: LayerPool, variant: str, router: ActorCritic | None, tasks: Tasks, stream: torch.Generator
) -> Plan:
    """What a variant chooses for tasks."""
    if router is not None:
        return choose(env, router, tasks)
    if POOLS[variant].routes == "random":
        return plan_of(env, random_layers(env, len(tasks.x), stream))
    return plan_of(env, first_layers(env, len(tasks.x)))


def tasks_of(config: Config, variant: str, seed: int, shape: str = "sine") -> Tasks:
    """Tasks never seen, the same for all variants with as many samples."""
    family = family_of(variant, 15 if variant.endswith(FEW) else 100, shape)
    return family.sample(config.test_tasks, generator(seed, "evaluation"), "test")


def baseline_rows(
    config: Config, variant: str, seed: int, tensors: Mapping[str, Tensor]
) -> dict[str, Values]:
    """The tests of initial weights."""
    learner = replace(baseline_of(config, variant).learner, rate=float(tensors[f"{variant}.rate"]))
    meta = trained_params(tensors, variant)
    values = baseline_values(learner, meta, tasks_of(config, variant, seed))
    values["rate"] = learner.rate
    if variant in ("maml-k10", "joint-k10", "scratch-k10"):
        for shape in UNRELATED:
            waves = tasks_of(config, variant, seed, shape)
            values |= baseline_values(learner, meta, waves, f"_{shape}")
    return {variant: values}


def forget(
    config: Config, stage: Stage, variant: str, seed: int, tensors: Mapping[str, Tensor]
) -> list[Row]:
    """Train on with square waves, and look at these and at sinusoids again.

    Metrics: `mse_…_after` on sinusoids, `mse_…_square_after` on square waves.
    """
    updates, index = config.forget_updates, ALL.index(variant)
    if variant in BASELINES:
        baseline = replace_iterations(baseline_of(config, variant), config)
        family = family_of(variant, shape="square")
        train_baseline(
            stage, baseline, family, trained_params(tensors, variant),
            tasks_of(config, variant, seed), generator(seed, "tasks", 300 + index),
        )  # fmt: skip
        meta = trained_params(with_prefix(stage.name, stage.tensors), stage.name)
        values: Values = {}
        for shape, end in (("sine", "_after"), ("square", "_square_after")):
            waves = tasks_of(config, variant, seed, shape)
            values |= baseline_values(baseline.learner, meta, waves, end)
    else:
        env, router = trained_pool(config, variant, seed, tensors, "square")
        training = start(config, env, variant, seed, updates, streams_of(seed, 300 + index), router)
        train_pool(stage, training)
        kept = with_prefix(stage.name, stage.tensors)
        env, router = trained_pool(config, variant, seed, kept, prefix=stage.name)
        values = {}
        for shape, end in (("sine", "_after"), ("square", "_square_after")):
            waves = tasks_of(config, variant, seed, shape)
            plan = plan_for(env, variant, router, waves, generator(seed, "evaluation", 2))
            values |= pool_values(env, waves, plan, end)
    return [row(variant, metric, value, config.rows * updates) for metric, value in values.items()]


def replace_iterations(baseline: Baseline, config: Config) -> Baseline:
    """Of as many tasks as a pool meets when it is trained on."""
    count = max(1, config.rows * config.forget_updates // baseline.batch)
    return baseline._replace(iterations=count)


EXPERIMENT = Experiment(
    name=NAME,
    page="book/weights/04_layer_pool.md",
    claim="Networks put together from a pool, layer by layer, learn a task from a few samples",
    presets=PRESETS,
    cost={"smoke": "10 s", "book": "1 min", "full": "20 min, of the first two seeds 70 min"},
    run=run,
    evaluate=evaluate,
)
