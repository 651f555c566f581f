"""The experiment on sinusoids: trainings, tests and tuned rates against plain loops."""

from dataclasses import replace

import pytest
import torch
from plain_lives import rows_of

from metarl_lib.algos import MAML, JointTraining, OuterLoop, Reptile
from metarl_lib.datasets import SinusoidFamily
from metarl_lib.experiments import maml_sinusoid
from metarl_lib.experiments.base import parse_field
from metarl_lib.experiments.maml_sinusoid import CAP, EXPERIMENT, PRESETS, VARIANTS, Config
from metarl_lib.rules import Network, mse
from metarl_lib.runs import SCALES, DivergenceError, Run, generator

pytestmark = pytest.mark.usefixtures("fast")

SMALL = Config(
    hidden=6, iterations=7, tasks=3, judged=8, rate=0.02, large_rate=0.05, learning_rate_end=1e-3,
    reptile_steps=3, tuning_rates=(1e-3, 2e-2, 5e-2), tuning_tasks=30, test_tasks=9,
    test_samples=11, test_steps=3,
)  # fmt: skip
NETWORK = Network((1, 6, 6, 1), bias=True)
SHOTS = {"k5": 5, "meta-sgd-k5": 5}
STEPS = ("mse_0_steps", "mse_1_step", "mse_2_steps", "mse_3_steps")
PLAIN = {
    "k5": MAML(NETWORK, mse, 1, 0.02),
    "k10": MAML(NETWORK, mse, 1, 0.02),
    "first-order-k10": MAML(NETWORK, mse, 1, 0.02, first_order=True),
    "large-rate-k10": MAML(NETWORK, mse, 1, 0.05),
    "five-steps-k10": MAML(NETWORK, mse, 5, 0.02),
    "meta-sgd-k5": MAML(NETWORK, mse, 1, 0.02, "learned"),
    "meta-sgd-k10": MAML(NETWORK, mse, 1, 0.02, "learned"),
    "reptile-k10": Reptile(NETWORK, mse, 3, 0.003),
    "joint-k10": JointTraining(NETWORK, mse),
}
"""Every variant, written out."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = Run.create(
        tmp_path_factory.mktemp("m") / "m", "maml_sinusoid", SMALL, scale="smoke", seed=4
    )
    return run, maml_sinusoid.run(SMALL, run)


def test_every_variant_is_trained_from_the_same_weights_on_tasks_of_its_own(finished) -> None:
    run, rows = finished
    assert list(VARIANTS) == list(PLAIN)
    for index, (variant, learner) in enumerate(PLAIN.items()):
        shots = SHOTS.get(variant, 10)
        loop = OuterLoop(
            learner, SinusoidFamily(shots, 8), learner.init(generator(4, "init")),
            generator(4, "tasks", index), iterations=7, batch=3, learning_rate=3e-3,
            learning_rate_end=1e-3,
        )  # fmt: skip
        losses = [loop.advance(1) for _ in range(7)]
        kept = run.stage(variant).tensors
        for k, p in enumerate(loop.meta):
            assert torch.equal(kept[str(k)], p), variant
        assert set(kept) - {"rate"} == {str(k) for k in range(len(loop.meta))}
        logged = run.metrics()
        part = logged[logged["name"] == f"{variant}/training_loss"]
        assert part["step"].tolist() == list(range(1, 8))
        assert part["value"].tolist() == pytest.approx(losses)
        assert rows_of(rows)[variant, "training_loss"] == pytest.approx(losses[-1])
    assert {row["budget"] for row in rows} == {7}


def plain_errors(learner, meta, rate, shots, tasks) -> list[list[float]]:
    """Each task by itself, with autograd: its errors after 0, 1, … steps."""
    found = []
    for x, y, held_out_x, held_out_y in zip(*tasks, strict=True):
        theta, errors = [p.clone().requires_grad_() for p in meta[:6]], []
        rates = meta[6:] or [rate] * 6
        for _ in range(4):
            difference = NETWORK(theta, held_out_x) - held_out_y
            errors.append(float(difference.detach().square().mean()))
            loss = (NETWORK(theta, x) - y).square().mean()
            slopes = torch.autograd.grad(loss, theta)
            theta = [
                (p - a * g).detach().requires_grad_()
                for p, a, g in zip(theta, rates, slopes, strict=True)
            ]
        found.append(errors)
    return found


def test_a_test_is_every_sinusoid_fitted_by_itself(finished) -> None:
    run, rows = finished
    for variant, learner in PLAIN.items():
        shots = SHOTS.get(variant, 10)
        kept = run.stage(variant).tensors
        meta = [kept[str(k)] for k in range(len(kept) - ("rate" in kept))]
        rate = float(kept.get("rate", torch.tensor(learner.rate, dtype=torch.float64)))
        tasks = SinusoidFamily(shots, 11).sample(9, generator(4, "evaluation"), "test")
        errors = torch.tensor(plain_errors(learner, meta, rate, shots, tasks))
        assert float(errors.max()) < CAP
        expected = {"diverged": 0.0, "training_loss": rows_of(rows)[variant, "training_loss"]}
        for name, column in zip(STEPS, errors.T, strict=True):
            expected[name] = float(column.mean())
            expected[f"{name}_median"] = sorted(column.tolist())[4]
        if "meta-sgd" not in variant:
            expected["rate"] = rate
        found = {
            metric: value for (name, metric), value in rows_of(rows).items() if name == variant
        }
        assert found == pytest.approx(expected, rel=1e-4)


def test_the_rate_that_is_chosen_is_the_best_of_those_tried(finished, monkeypatch) -> None:
    run, rows = finished
    for variant in ("reptile-k10", "joint-k10"):
        kept = run.stage(variant).tensors
        meta = [kept[str(k)] for k in range(6)]
        tasks = SinusoidFamily(10, 11).sample(30, generator(4, "tuning"))
        last = {
            rate: sum(e[-1] for e in plain_errors(PLAIN[variant], meta, rate, 10, tasks))
            for rate in SMALL.tuning_rates
        }
        assert rows_of(rows)[variant, "rate"] == min(last, key=last.get)
        monkeypatch.setattr(  # any may be it
            maml_sinusoid, "errors", lambda own, *_: torch.full((2, 1), abs(own.rate - 2e-2))
        )
        assert maml_sinusoid.tuned_rate(SMALL, variant, meta, 4) == 2e-2
        monkeypatch.undo()


def test_tasks_that_diverge_count_as_the_cap_and_are_counted(monkeypatch) -> None:
    each = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [CAP, 0.5, float("nan"), 2.0, float("inf")]])
    monkeypatch.setattr(maml_sinusoid, "errors", lambda *_: each)
    found = maml_sinusoid.measure(SMALL, PLAIN["k10"], [], 10, 0)
    assert float(found["mse_1_step"]) == pytest.approx((3 * CAP + 2.5) / 5)
    assert float(found["mse_1_step_median"]) == CAP
    assert float(found["mse_0_steps"]) == 3
    assert float(found["diverged"]) == pytest.approx(3 / 5)


def test_evaluating_repeats_the_tests_to_the_last_bit(finished) -> None:
    run, rows = finished
    found = maml_sinusoid.evaluate(SMALL, 4, run.tensors())
    assert found == [row for row in rows if row["metric"] != "training_loss"]


def test_a_second_run_of_a_finished_folder_trains_nothing(finished, monkeypatch) -> None:
    run, rows = finished
    monkeypatch.setattr(maml_sinusoid, "OuterLoop", None)
    again = Run.resume(run.folder, "maml_sinusoid", SMALL)
    assert maml_sinusoid.run(SMALL, again) == rows
    assert again.metrics().equals(run.metrics())


@pytest.mark.parametrize("variant", ["k10", "meta-sgd-k10", "joint-k10"])
def test_a_training_that_is_stopped_goes_on_as_if_it_had_not_been(variant, tmp_path) -> None:
    config = replace(SMALL, iterations=230, variants=(variant,), test_tasks=2)
    whole = Run.create(tmp_path / "a", "maml_sinusoid", config, scale="smoke", seed=1)
    expected = maml_sinusoid.run(config, whole)
    parts = Run.create(tmp_path / "b", "maml_sinusoid", config, scale="smoke", seed=1)
    parts.stopping = True
    for done in (3, 6):
        with pytest.raises(KeyboardInterrupt):
            maml_sinusoid.run(config, parts)
        parts = Run.resume(parts.folder, "maml_sinusoid", config)
        assert parts.stage(variant).step == done
        parts.stopping = done == 3
    assert maml_sinusoid.run(config, parts) == expected
    assert parts.metrics().equals(whole.metrics())


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch) -> None:
    run = Run.create(tmp_path / "d", "maml_sinusoid", SMALL, scale="smoke", seed=0)
    monkeypatch.setattr(OuterLoop, "advance", lambda loop, count: float("nan"))
    with pytest.raises(DivergenceError, match="k5 diverged at step 0: training_loss = nan"):
        maml_sinusoid.run(SMALL, run)


def test_presets_and_texts() -> None:
    assert EXPERIMENT.name == "maml_sinusoid"
    assert set(PRESETS) == set(EXPERIMENT.cost) == set(SCALES)
    full = EXPERIMENT.config("full")
    assert (full.iterations, full.tasks, full.test_tasks, full.test_samples) == (
        70_000,
        25,
        4000,
        100,
    )
    assert {"k5", "k10"} <= set(full.variants)
    assert full.network == Network((1, 40, 40, 1), bias=True)
    assert parse_field(full, "variants", "k5,k10") == ("k5", "k10")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"variants": ("k7",)}, "variants='k7' is unknown: choose one of 'k5', 'k10'"),
        ({"rate": 0.0}, "rate=0.0: must be greater than 0 and finite"),
        ({"iterations": 0}, "iterations=0: must be greater than 0 and finite"),
        ({"tuning_rates": (1e-3, -1.0)}, "tuning_rates=0.001,-1.0: must be greater than 0"),
        ({"learning_rate_end": -1.0}, "learning_rate_end=-1.0: must be 0 or more, and finite"),
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line(options, says) -> None:
    with pytest.raises(ValueError) as refusal:
        EXPERIMENT.config("smoke", options)
    assert str(refusal.value).startswith(says)
    assert "\n" not in str(refusal.value)
