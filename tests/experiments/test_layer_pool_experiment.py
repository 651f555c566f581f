"""The experiment on pools of layers: who is trained on what, and every result against a loop."""

import json
from dataclasses import replace

import pytest
import torch
from plain_pool import descend, error_of, layers_of

from metarl_lib.algos import MAML, OuterLoop
from metarl_lib.datasets import NWayFamily
from metarl_lib.datasets.waves import WaveFamily
from metarl_lib.experiments import layer_pool, pool_variants
from metarl_lib.experiments.base import parse_field
from metarl_lib.experiments.layer_pool import EXPERIMENT, PRESETS
from metarl_lib.experiments.pool_baselines import tuned
from metarl_lib.experiments.pool_readings import CAP, all_paths, choose
from metarl_lib.experiments.pool_variants import (
    ALL,
    BASELINES,
    COSTLY,
    LEFT_OUT,
    POOLS,
    THESIS,
    Config,
)
from metarl_lib.rules import Network
from metarl_lib.runs import SCALES, Run, generator

pytestmark = pytest.mark.usefixtures("fast")

SMALL = replace(
    PRESETS["smoke"],
    rate=0.02, updates=6, rows=3, test_tasks=5, tuning_tasks=4, iterations=7, quick_iterations=5,
    costly_seeds=9,
    variants=("routed-k5", "routed-k10", "random-trained-k10", "fixed-k10", "blind-k10",
              "routed-options-k10", "routed-reptile-k10", "maml-k5", "maml-k10", "maml-wide-k10",
              "reptile-k10", "joint-k10", "scratch-k5", "scratch-k10"),
)  # fmt: skip
SEED = 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("p") / "p"
    run = Run.create(folder, "layer_pool", SMALL, scale="smoke", seed=SEED)
    return run, layer_pool.run(SMALL, run)


def values_of(rows) -> dict[tuple[str, str], float]:
    found = {(r["variant"], r["metric"]): r["value"] for r in rows}
    assert len(found) == len(rows), "a result is there twice"
    return found


def plain_errors(pool, paths, tasks, rate) -> list[list[float]]:
    """Each task's errors after 0, 1 and 10 steps of the network on its path."""
    found = []
    for path, (x, y, query_x, query_y) in zip(paths, zip(*tasks, strict=True), strict=True):
        first, hidden, last = path
        chosen = [layers_of(pool, "input", first), layers_of(pool, "hidden", hidden),
                  layers_of(pool, "output", last)]  # fmt: skip
        errors = []
        for steps in (0, 1, 10):
            after = descend(chosen, x, y, rate, steps)
            errors.append(min(CAP, float(error_of(after, query_x, query_y))))
        found.append(errors)
    return found


STEPS = ("0_steps", "1_step", "10_steps")


def assert_errors(values, variant, errors, suffix="") -> None:
    for name, column in zip(STEPS, torch.tensor(errors).T, strict=True):
        assert values[variant, f"mse_{name}{suffix}"] == pytest.approx(
            float(column.mean()), rel=1e-3
        )
        assert values[variant, f"mse_{name}_median{suffix}"] == pytest.approx(
            float(column.median()), rel=1e-3
        )


@pytest.mark.parametrize("shots", [5, 10])
def test_routes_are_tested_task_by_task_on_waves_never_seen(finished, shots) -> None:
    run, rows = finished
    values, variant = values_of(rows), f"routed-k{shots}"
    env, router = pool_variants.trained_pool(SMALL, variant, SEED, run.tensors())
    tasks = WaveFamily("sine", shots, 100).sample(5, generator(SEED, "evaluation"), "test")
    plan = choose(env, router, tasks)
    errors = plain_errors(env.pool, plan.layers.tolist(), tasks, SMALL.rate)
    assert_errors(values, variant, errors)
    paths = [tuple(path) for path in plan.layers.tolist()]
    assert values[variant, "paths"] == len(set(paths))
    every = [[e[1] for e in plain_errors(env.pool, [path] * 5, tasks, SMALL.rate)]
             for path in all_paths(env).tolist()]  # fmt: skip
    best = torch.tensor(every).min(0).values.mean()
    assert values[f"oracle-k{shots}", "mse_1_step"] == pytest.approx(float(best), rel=1e-3)
    for name in STEPS:
        own, other = values[variant, f"mse_{name}"], values[f"random-k{shots}", f"mse_{name}"]
        assert values[variant, f"gain_{name}"] == pytest.approx(other - own)
        maml = values[f"maml-k{shots}", f"mse_{name}"]
        assert values[variant, f"of_maml_{name}"] == pytest.approx(own / maml)
        assert values[variant, f"gain_on_maml_{name}"] == pytest.approx(maml - own)


@pytest.mark.parametrize("shape", ["square", "sawtooth"])
def test_other_waves_are_met_with_the_same_pool(finished, shape) -> None:
    run, rows = finished
    env, _ = pool_variants.trained_pool(SMALL, "fixed-k10", SEED, run.tensors())
    tasks = WaveFamily(shape, 10, 100).sample(5, generator(SEED, "evaluation"), "test")
    errors = plain_errors(env.pool, [[0, 0, 0]] * 5, tasks, SMALL.rate)
    values = values_of(rows)
    assert_errors(values, "fixed-k10", errors, f"_{shape}")
    for name in STEPS:
        own, maml = (values[v, f"mse_{name}_{shape}"] for v in ("routed-k10", "maml-k10"))
        assert values["routed-k10", f"gain_on_maml_{name}_{shape}"] == pytest.approx(maml - own)


def test_forgetting_goes_on_from_the_trained_pool_with_square_waves(finished) -> None:
    run, rows = finished
    values = values_of(rows)
    before, after = (
        pool_variants.trained_pool(SMALL, "fixed-k10", SEED, run.tensors(), prefix=prefix)[0].pool
        for prefix in ("fixed-k10", "fixed-k10-forgets")
    )
    assert not torch.equal(before.output_weight[0], after.output_weight[0])
    assert torch.equal(before.output_weight[1], after.output_weight[1])
    for shape, end in (("sine", "_after"), ("square", "_square_after")):
        tasks = WaveFamily(shape, 10, 100).sample(5, generator(SEED, "evaluation"), "test")
        assert_errors(values, "fixed-k10", plain_errors(after, [[0] * 3] * 5, tasks, 0.02), end)
    assert {("maml-k10", "mse_1_step_after"), ("routed-k10", "mse_1_step_after")} <= set(values)


def test_maml_is_the_outer_loop_on_as_many_tasks_as_it_says(finished) -> None:
    run, rows = finished
    learner = MAML(Network((1, 6, 6, 1), bias=True), rate=0.02)
    loop = OuterLoop(
        learner, WaveFamily("sine", 10, 10), learner.init(generator(SEED, "init")),
        generator(SEED, "tasks", 100 + BASELINES.index("maml-k10")), iterations=7, batch=25,
        learning_rate=3e-3, learning_rate_end=0.0,
    )  # fmt: skip
    for _ in range(7):
        loop.advance(1)
    kept = run.stage("maml-k10").tensors
    for index, p in enumerate(loop.meta):
        assert torch.equal(kept[str(index)], p)
    budget = {row["variant"]: row["budget"] for row in rows if row["metric"] == "mse_1_step"}
    assert (budget["maml-k10"], budget["joint-k10"], budget["scratch-k10"]) == (175, 125, 1)
    assert budget["routed-k10"] == budget["random-trained-k10"] == 18


def test_the_wide_network_has_as_many_weights_as_the_pool() -> None:
    full = Config()
    wide = pool_variants.baseline_of(full, "maml-wide-k10").learner.network
    pool = pool_variants.make_env(full, "routed-k10", 0).pool
    assert wide.num_weights == pytest.approx(pool.num_weights, rel=0.02)
    assert pool_variants.baseline_of(full, "maml-k10").learner.network.num_weights * 4 == (
        pool.num_weights
    )


def test_the_rate_that_is_chosen_is_the_best_of_those_tried(finished) -> None:
    run, rows = finished
    baseline = pool_variants.baseline_of(SMALL, "reptile-k10")
    meta = [run.stage("reptile-k10").tensors[str(k)] for k in range(6)]
    tasks = pool_variants.family_of("reptile-k10", 100).sample(4, generator(SEED, "tuning"))
    network, last = Network((1, 6, 6, 1), bias=True), {}
    for rate in SMALL.tuning_rates:
        total = 0.0
        for x, y, query_x, query_y in zip(*tasks, strict=True):
            layers = list(zip(meta[::2], meta[1::2], strict=True))
            after = descend(layers, x, y, rate, 10)
            total += min(CAP, float(error_of(after, query_x, query_y)))
        last[rate] = total
    assert network.num_weights == sum(p.numel() for p in meta)
    best = min(last, key=last.get)
    assert tuned(baseline, meta, tasks) == best == values_of(rows)["reptile-k10", "rate"]


def test_decisions_are_read_from_the_plan(finished) -> None:
    _, rows = finished
    values = values_of(rows)
    name = "routed-options-k10"
    assert 0.0199 <= values[name, "chosen_rate"] <= 0.2001
    assert 1 <= values[name, "chosen_steps"] <= 5
    assert 0 <= values[name, "chosen_hidden_layers"] <= 2
    assert 0 <= values[name, "chosen_tanh"] <= 1
    assert 0 < values[name, "mse_chosen"] <= CAP


def test_evaluating_repeats_the_tests_to_the_last_bit(finished) -> None:
    run, rows = finished
    found, values = layer_pool.evaluate(SMALL, SEED, run.tensors()), values_of(rows)
    assert {row["variant"] for row in found} >= {
        "routed-k10",
        "random-k5",
        "maml-k10",
        "oracle-k10",
    }
    assert {row["variant"] for row in found} >= set(COSTLY) - set(pool_variants.THESIS)
    for row in found:
        assert values[row["variant"], row["metric"]] == row["value"]


def test_a_second_run_of_a_finished_folder_trains_nothing(finished, monkeypatch) -> None:
    run, rows = finished
    monkeypatch.setattr("metarl_lib.experiments.pool_training.write_back", None)
    monkeypatch.setattr(OuterLoop, "advance", None)
    again = Run.resume(run.folder, "layer_pool", SMALL)
    assert layer_pool.run(SMALL, again) == rows
    assert again.metrics().equals(run.metrics())


@pytest.mark.parametrize("variant", ["routed-k10", "joint-k10"])
def test_a_training_that_is_stopped_goes_on_as_if_it_had_not_been(variant, tmp_path) -> None:
    config = replace(
        SMALL, updates=30, quick_iterations=30, rows=2, variants=(variant,), forget_updates=1
    )
    config = replace(config, variants=(variant, "maml-k10")) if variant == "routed-k10" else config
    whole = Run.create(tmp_path / "a", "layer_pool", config, scale="smoke", seed=1)
    expected = layer_pool.run(config, whole)
    parts = Run.create(tmp_path / "b", "layer_pool", config, scale="smoke", seed=1)
    parts.stopping = True
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            layer_pool.run(config, parts)
        parts = Run.resume(parts.folder, "layer_pool", config)
        parts.stopping = parts.stage(variant).step < 2
    assert 0 < parts.stage(variant).step < 30
    parts.stopping = False
    assert layer_pool.run(config, parts) == expected


def test_only_few_seeds_train_the_costly() -> None:
    full = EXPERIMENT.config("full")
    assert full.trained(1) == [v for v in ALL if v not in LEFT_OUT]
    assert set(full.trained(2)) == set(ALL) - set(COSTLY)
    assert set(ALL) == {*POOLS, *BASELINES, *THESIS}


def test_presets_and_texts() -> None:
    assert EXPERIMENT.name == "layer_pool"
    assert set(PRESETS) == set(EXPERIMENT.cost) == set(SCALES)
    full = EXPERIMENT.config("full")
    assert (full.counts, full.units, full.updates * full.rows) == ((4, 4, 4), 40, 200_000)
    assert 25 * full.iterations == 25 * full.quick_iterations == full.updates * full.rows
    assert 25 * full.digits_iterations == full.digits_updates * full.rows
    assert parse_field(full, "variants", "routed-k5,maml-k5") == ("routed-k5", "maml-k5")
    assert pool_variants.family_of("routed-digits") == NWayFamily(3, 1, 5)
    assert pool_variants.family_of("routed-k5") == WaveFamily("sine", 5, 5)
    json.dumps(full.__dict__)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"variants": ("routed-k7",)},
            "variants='routed-k7' is unknown: choose one of 'routed-k5'",
        ),
        ({"rate": 0.0}, "rate=0.0: must be greater than 0 and finite"),
        ({"counts": (4, 0, 4)}, "counts=4,0,4: must be greater than 0 and finite"),
        ({"entropy": -1.0}, "entropy=-1.0: must be 0 or more, and finite"),
        ({"counts": (4, 4)}, "counts=4,4: give the input, hidden and output layers"),
        ({"rollout": 1}, "rollout=1: a minibatch of PPO must have at least 2 steps"),
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line(options, says) -> None:
    with pytest.raises(ValueError) as refusal:
        EXPERIMENT.config("smoke", options)
    assert str(refusal.value).startswith(says)
    assert "\n" not in str(refusal.value)
