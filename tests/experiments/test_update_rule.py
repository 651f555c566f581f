"""The experiment on learned update rules: its settings, its stages, and what they may cost."""

import dataclasses
import math

import jaxtyping
import pytest
from plain_lives import rows_of
from plain_training import runs_again_for_nothing

from metarl_lib.envs.weight_space import WeightSpace
from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.experiments.hand_made import HAND_MADE, tuned_rates
from metarl_lib.experiments.rule_comparison import CONDITIONS, LEARNED, environment
from metarl_lib.experiments.update_rule import Config, evaluate, settings
from metarl_lib.experiments.update_rule import run as run_experiment
from metarl_lib.runs import Run

SMALL = Config(
    hidden=5, samples=8, steps=4, rows=3, rollouts=2, recurrent_rows=2, recurrent_rollouts=3,
    synapse_rows=1, synapse_rollouts=2, epochs=1, minibatches=2, units=4, test_tasks=2,
    search_tasks=2, rates=(1e-2,), conditions=("width_2x", "held_out"),
)  # fmt: skip
BUDGETS = {
    "rule": 3 * 2 * 4,
    "rule-drive-only": 3 * 2 * 4,
    "rule-recurrent": 2 * 3 * 4,
    "rule-gradient": 3 * 2 * 4,
    "synapse": 1 * 2 * 4,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run far below smoke scale, its rows, and the updates that each training made."""
    run = Run.create(
        tmp_path_factory.mktemp("r") / "r", "update_rule", SMALL, scale="smoke", seed=1
    )
    updates: list[tuple[str, int]] = []
    real = WeightSpace.step

    def counted(env, state, action, generator):
        key = (env.action_mode, env.drive, len(env.signals), env.network.widths)
        updates.append((key, len(state.time)))
        return real(env, state, action, generator)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # for speed
        patch.setattr(WeightSpace, "step", counted)
        rows = run_experiment(SMALL, run)
    return run, rows, updates


def test_the_budget_is_the_number_of_updates_of_base_networks(finished) -> None:
    run, rows, updates = finished
    budgets = {r["variant"]: r["budget"] for r in rows if r["metric"] == "training_return"}
    assert budgets == BUDGETS
    assert {name: run.stage(name).step for name in LEARNED} == BUDGETS
    assert all(run.stage(name).finished for name in LEARNED)
    # A life of each of two test tasks in each of two conditions comes on top.
    tests = 2 * 4
    made = {}
    for key, count in updates:
        made[key] = made.get(key, 0) + count
    assert made["synapse", "perturbation", 4, (10, 5, 10)] == BUDGETS["synapse"] + tests
    # Trained with the drive alone: tested in `compare` and, once more, in `explain`.
    drive_only = made["rule", "perturbation", 1, (10, 5, 10)]
    assert drive_only == BUDGETS["rule-drive-only"] + 2 * tests


def test_the_return_of_the_last_rollout_is_reported(finished) -> None:
    run, rows, _ = finished
    metrics = run.metrics()
    for name in LEARNED:
        curve = metrics[metrics["name"] == f"{name}/training_return"]
        assert curve["step"].tolist()[-1] == BUDGETS[name]
        assert rows_of(rows)[name, "training_return"] == curve["value"].tolist()[-1]


def test_evaluating_repeats_the_first_condition_to_the_last_bit(finished) -> None:
    run, rows, _ = finished
    found = evaluate(SMALL, run.seed, run.tensors())
    assert found == [row for row in rows if row["metric"].endswith("_width_2x")]
    assert len(found) > 40


def test_every_condition_is_measured_for_every_variant(finished) -> None:
    rows = rows_of(finished[1])
    for condition in SMALL.conditions:
        measured = {v for v, metric in rows if metric == f"log_loss_{condition}"}
        hand_made = {"sgd", "adam", "wp", "np", "np-adam", "sgd-normalised", "np-normalised"}
        hand_made |= {"sgd-recipe", "np-recipe"}
        assert measured == set(LEARNED) | hand_made | {"zero", "constant"}
        for metric in ("area", "held_out_loss", "diverged"):
            ruled = {v for v, name in rows if name == f"{metric}_{condition}"}
            assert ruled >= set(LEARNED) | hand_made
        assert ("rule-open-loop", f"area_{condition}") in rows
    ablations = {v for v, metric in rows if metric == "area_held_out"} - measured
    without = {f"rule-without-{signal}" for signal in ("drive", "momentum", "hebb", "decay")}
    assert ablations == without | {"rule-open-loop"}


def test_recurrent_and_synaptic_policies_have_settings_of_their_own() -> None:
    config = EXPERIMENTS["update_rule"].config("full")
    assert settings(config, LEARNED["rule"]) == config
    assert settings(config, LEARNED["rule-gradient"]) == config
    recurrent = settings(config, LEARNED["rule-recurrent"])
    expected = {"rows": config.recurrent_rows, "rollouts": config.recurrent_rollouts}
    assert recurrent == dataclasses.replace(config, **expected)
    synapse = settings(config, LEARNED["synapse"])
    expected = {"rows": config.synapse_rows, "rollouts": config.synapse_rollouts}
    expected |= {"epochs": 3, "minibatches": 40}
    own = dataclasses.asdict(synapse)
    shared = {name: getattr(config, name) for name in own}
    assert own == shared | expected
    once = dataclasses.replace(config, epochs=1)
    assert settings(once, LEARNED["synapse"]).epochs == 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"conditions": ("held_out", "colder")}, "conditions='colder' is unknown: choose one of"),
        ({"rates": (0.1, -0.1)}, "rates=0.1,-0.1: must be greater than 0"),
        ({"rates": (0.1, 0.0)}, "rates=0.1,0.0: must be greater than 0"),
        ({"rates": ()}, "rates=: must be greater than 0"),
        ({"discount": 1.5}, "discount=1.5: must lie between 0 and 1"),
        ({"steps": 0}, "steps=0: must be greater than 0"),
        ({"hidden": 0}, "hidden=0: must be greater than 0"),
        ({"synapse_rows": 0}, "synapse_rows=0: must be greater than 0"),
        ({"recurrent_rollouts": -2}, "recurrent_rollouts=-2: must be greater than 0"),
        ({"search_tasks": 0}, "search_tasks=0: must be greater than 0"),
        ({"sigma": math.nan}, "sigma=nan: must be greater than 0 and finite"),
        ({"conditions": ()}, "conditions=: name one or more of held_out, "),
        ({"init_std": math.inf}, "init_std=inf: must be greater than 0 and finite"),
        (
            {"rows": 1, "minibatches": 8},
            "rows=1, steps=8, minibatches=8: a minibatch of PPO must have at least 2 steps",
        ),
        ({"recurrent_rows": 1, "minibatches": 8}, "recurrent_rows=1, steps=8, minibatches=8: a"),
        (  # 20 weights, and five times as many minibatches
            {"hidden": 1, "rows": 99, "recurrent_rows": 99, "synapse_rows": 1, "minibatches": 20},
            "synapse_rows=1, steps=8, minibatches=20: a minibatch of PPO must have at least 2",
        ),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(overrides, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        EXPERIMENTS["update_rule"].config("smoke", overrides)
    assert "\n" not in str(refusal.value)
    assert "conditions" not in overrides or all(name in str(refusal.value) for name in CONDITIONS)


def test_tasks_that_the_digits_cannot_fill_are_refused() -> None:
    """There are 2048 images for the training and the held-out samples of a task."""
    config = EXPERIMENTS["update_rule"].config
    assert "digits" in config("smoke").conditions
    assert config("smoke", {"samples": 1024}).samples == 1024
    with pytest.raises(ValueError, match="2050 is more than the 2048 samples") as refusal:
        config("smoke", {"samples": 1025})
    assert "\n" not in str(refusal.value)
    assert config("smoke", {"samples": 1025, "conditions": ("held_out",)}).samples == 1025


def test_a_second_run_of_a_finished_folder_logs_and_learns_nothing(finished, monkeypatch) -> None:
    run, rows, _ = finished
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # for speed
    runs_again_for_nothing(run, rows, SMALL, run_experiment, monkeypatch)


def test_the_book_has_a_rate_for_every_rule_made_by_hand(tmp_path, unchecked) -> None:
    """As its page is built: nothing but the searches, which refuse where all rates diverge."""
    config = EXPERIMENTS["update_rule"].config("book")
    run = Run.create(tmp_path / "book", "update_rule", config, scale="book", seed=0)
    for condition in config.conditions:
        stage, env = run.stage(condition), environment(config, condition)
        tuned_rates(stage, env, HAND_MADE, config, 0, CONDITIONS.index(condition))
        assert stage.tensors["rates"].shape == (len(HAND_MADE),)
        assert (stage.tensors["rates"] > 0).all()
