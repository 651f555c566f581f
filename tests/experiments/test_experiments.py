"""Every experiment from end to end at smoke scale; its presets, fields and refusals."""

import dataclasses
import json
import math
import re
from pathlib import Path

import jaxtyping
import pytest
import torch
from extras import need_extra

from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.experiments.base import parse_field
from metarl_lib.runs import SCALES, Run

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(EXPERIMENTS)

# Settings far below smoke scale, for runs that are only compared with each other.
TINY = {
    "teacher_student": {"steps": 8, "search_steps": 4},
    "digits": {"hidden": 10, "num_as_coded": 32, "steps": 4, "search_steps": 4},
    "perturbation_noise": {
        "draw_counts": (1, 4),
        "widths": (10, 20),
        "variance_draws": 50,
        "linear_widths": (4,),
        "stability_steps": 6,
        "stability_widths": (10,),
        "lives": 3,
    },
    "weight_space": {"long_steps": 256, "more": 1, "seed_steps": 16, "reference_steps": 4},
    "update_rule": {
        "steps": 4,
        "rollouts": 2,
        "recurrent_rollouts": 2,
        "synapse_rollouts": 2,
        "search_tasks": 2,
        "conditions": ("held_out",),
    },
    "layerwise": {"steps": 4, "rollouts": 2, "search_tasks": 2},
    "layer_pool": {
        "variants": ("routed-k10", "maml-k10", "joint-k10"),
        "updates": 2,
        "iterations": 2,
        "quick_iterations": 2,
        "test_tasks": 4,
        "tuning_tasks": 4,
        "forget_updates": 1,
    },
    "thesis_rates": {"variants": ("thesis-fast",), "epochs": 1},
    "bandit": {"cells": ("2x10",), "lstm_cells": (), "updates": 2, "test_trials": 8},
    "two_step": {"segment": 12, "updates": 2},
    "harlow": {"variants": ("metods-linear-S1", "lstm"), "updates": 1, "test_trials": 4},
    "maze": {"variants": ("metods-linear-S4",), "updates": 1, "test_trials": 8},
    "maze_grid": {"variants": ("srwm",), "updates": 1, "test_trials": 8},
    "maze_long": {"variants": ("gru",), "updates": 1, "test_trials": 8},
    "ant_dir": {"variants": ("metods-linear-S4",), "updates": 1, "test_trials": 8},
    "cheetah_dir": {"variants": ("maml",), "updates": 1, "test_trials": 8},
    "cheetah_vel": {"variants": ("gru-matched",), "updates": 1, "test_trials": 8},
    "maml_sinusoid": {
        "variants": ("k10", "joint-k10"),
        "iterations": 3,
        "tuning_tasks": 4,
        "test_tasks": 4,
    },
    "maml_rl": {"variants": ("maml", "joint"), "updates": 1},
    "pearl": {
        "variants": ("pearl-dense", "told-dense"),
        "goal_radius": 0.8,  # so large that agents come near it whom nobody has taught
        "test_tasks": 50,
    },
    "pearl_robots": {"variants": ("cheetah-dir",), "iterations": 1},
    "meta_gradient": {"chains": (), "tasks": ("laps",)},
    "atari": {"games": ("pong",), "methods": ("mg-both",), "updates": 2},
    "epg": {"tasks": ("point",)},
    "ml1_reach": {"variants": ("metods-linear-S4",), "episodes": 1, "epochs": 2},
    "ml1_push": {"variants": ("gru-matched",), "episodes": 1, "epochs": 2},
    "ml10": {"variants": ("metods-linear-S1",), "episodes": 1, "epochs": 2},
    "one_table": {"variants": ("maml", "pearl", "meta-gradient"), "updates": 1},
}


def run_in(folder: Path, name: str, seed: int = 0, overrides: dict | None = None):
    need_extra(name)
    experiment = EXPERIMENTS[name]
    config = experiment.config("smoke", overrides)
    run = Run.create(folder, name, config, scale="smoke", seed=seed)
    rows = experiment.run(config, run)
    run.finish(rows)
    return run, rows


@pytest.fixture(scope="module", params=NAMES)
def smoke(request, tmp_path_factory):
    """One run of each experiment at smoke scale, at full speed, so without shape checks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield run_in(tmp_path_factory.mktemp(request.param) / "run", request.param)


@pytest.fixture(scope="module", params=NAMES)
def tiny(request, tmp_path_factory):
    """One run of each experiment with its tiny settings and seed 0, as fast as `smoke`."""
    name = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield run_in(tmp_path_factory.mktemp(f"tiny-{name}") / "run", name, 0, TINY[name])


def test_rows_are_finite_and_complete(smoke) -> None:
    run, rows = smoke
    seen = [(row["variant"], row["metric"]) for row in rows]
    assert len(set(seen)) == len(seen) > 10
    for row in rows:
        assert set(row) == {"variant", "metric", "value", "budget"}
        assert isinstance(row["value"], float)
        assert math.isfinite(row["value"]), row
        assert isinstance(row["budget"], int)
        assert row["budget"] > 0
    assert json.loads((run.folder / "results.json").read_text()) == rows
    assert run.finished


def test_evaluate_gives_the_rows_of_the_run(smoke) -> None:
    run, rows = smoke
    found = EXPERIMENTS[run.experiment].evaluate(run.config, run.seed, run.tensors())
    expected = {(row["variant"], row["metric"]): row for row in rows}
    assert len(found) >= 10
    for row in found:
        assert row == expected[row["variant"], row["metric"]]


def test_evaluate_reads_the_tensors(smoke) -> None:
    """Headline rows that would not change with the weights would prove nothing."""
    run, rows = smoke
    noise = torch.Generator().manual_seed(0)
    others = {
        name: tensor * 0.5 + 0.1 * torch.rand(tensor.shape, generator=noise)  # rates stay positive
        for name, tensor in run.tensors().items()
    }
    found = EXPERIMENTS[run.experiment].evaluate(run.config, run.seed, others)
    expected = {(row["variant"], row["metric"]): row["value"] for row in rows}
    changed = [r for r in found if r["value"] != expected[r["variant"], r["metric"]]]
    assert len(changed) >= 3  # tiny agents often draw the same actions; how often, rounding says


def test_the_seed_decides(tiny, tmp_path) -> None:
    one, name = tiny, tiny[0].experiment
    same, other = (run_in(tmp_path / str(seed), name, seed, TINY[name]) for seed in (0, 1))
    assert one[1] == same[1]
    assert one[0].metrics().equals(same[0].metrics())
    tensors, again = one[0].tensors(), same[0].tensors()
    assert tensors.keys() == again.keys()
    assert all(tensors[key].equal(again[key]) for key in tensors)
    values = [[row["value"] for row in rows] for _, rows in (one, other)]
    # Successes that no seed has after so little training are 0 and 0, and say nothing of the seed.
    told = [(a, b) for a, b in zip(*values, strict=True) if a or b]
    assert len(told) > 0.25 * len(values[0])
    assert sum(a != b for a, b in told) > 0.5 * len(told)


def test_a_finished_run_gives_the_same_rows_again(tiny) -> None:
    """Every stage is done, so a second call trains nothing and reads all from the folder."""
    run, rows = tiny
    resumed = Run.resume(run.folder, run.experiment, run.config)
    assert EXPERIMENTS[run.experiment].run(run.config, resumed) == rows
    assert resumed.metrics().equals(run.metrics())


@pytest.mark.parametrize("name", NAMES)
def test_presets_and_texts(name) -> None:
    experiment = EXPERIMENTS[name]
    assert experiment.name == name
    assert set(experiment.presets) == set(experiment.cost) == set(SCALES)
    assert re.fullmatch(r"book/[a-z_]+/\d\d_[a-z_]+\.md", experiment.page)
    assert (ROOT / experiment.page).is_file()
    for text in (experiment.claim, *experiment.cost.values()):
        assert text
        assert "\n" not in text
    for field in dataclasses.fields(experiment.config("full")):
        assert field.metadata["help"]
        assert field.metadata["help"][0].islower() or field.metadata["help"][0] == "η"
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment.config("full").steps = 3


def refused(words, function, *arguments) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        function(*arguments)
    assert "\n" not in str(refusal.value)


def test_unknown_scale_and_field() -> None:
    config = EXPERIMENTS["digits"].config
    refused(r"scale='huge' is unknown: choose one of smoke, book, full", config, "huge")
    refused(r"digits has no field 'widths': choose one of.*hidden", config, "smoke", {"widths": 3})


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("teacher_student", {"hidden": 0}, "hidden=0: must be greater than 0"),
        ("teacher_student", {"sigma": -1.0}, "sigma=-1.0: must be greater than 0"),
        ("teacher_student", {"noise": -0.1}, "noise=-0.1.*>= 0"),
        ("teacher_student", {"noise": math.nan}, "noise=nan.*>= 0"),
        ("teacher_student", {"learning_rates": (0.1, 0.0)}, "learning_rates=0.1,0.0"),
        ("teacher_student", {"learning_rates": ()}, "learning_rates="),
        ("digits", {"sigma": math.inf}, "sigma=inf"),
        ("digits", {"components": 129}, "components=129: must be at most 128"),
        ("digits", {"num_train": 4900}, r"num_test = 5092: must be at most 5000"),
        ("digits", {"num_as_coded": 2500}, r"num_as_coded \+ 1 = 5001: must be at most 5000"),
        ("perturbation_noise", {"lives": -1}, "lives=-1"),
        ("perturbation_noise", {"linear_widths": (8, 65)}, "linear_widths=.*65.*64"),
    ],
)
def test_values_out_of_range(name, overrides, words) -> None:
    refused(words, EXPERIMENTS[name].config, "smoke", overrides)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("hidden", "30", 30),
        ("sigma", "1e-2", 0.01),
        ("learning_rates", "0.1,1", (0.1, 1.0)),
        ("learning_rates", "0.3", (0.3,)),
    ],
)
def test_fields_are_read_as_their_kind(field, text, value) -> None:
    found = parse_field(EXPERIMENTS["digits"].config("smoke"), field, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "field", "text", "value"),
    [
        ("bandit", "lstm_cells", "5x10", ("5x10",)),
        ("maze", "brief", "gru", ("gru",)),
        ("ml1_reach", "costly", "maml,gru-matched", ("maml", "gru-matched")),
        ("ml1_reach", "costly", "", ()),
        ("bandit", "lstm_cells", "", ()),
        ("digits", "learning_rates", "", ()),
    ],
)
def test_a_list_may_be_empty_before_and_after(name, field, text, value) -> None:
    """Whatever it holds now: at book scale no cell has an LSTM, and no agent is costly."""
    assert parse_field(EXPERIMENTS[name].config("book"), field, text) == value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", SCALES)
def test_every_field_is_read_back_as_it_is_shown(name, scale) -> None:
    config = EXPERIMENTS[name].config(scale)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        text = text.lower() if isinstance(value, bool) else text
        assert parse_field(config, field.name, text) == value


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("hidden", "3.5", "--hidden '3.5' cannot be read: give a whole number, such as 50"),
        ("sigma", "small", "--sigma 'small' cannot be read: give a number, such as 0.001"),
        ("learning_rates", "0.1,x", "--learning_rates '0.1,x'.*numbers separated by commas"),
    ],
)
def test_fields_that_cannot_be_read(field, text, words) -> None:
    refused(words, parse_field, EXPERIMENTS["digits"].config("smoke"), field, text)


@dataclasses.dataclass(frozen=True)
class Switched:
    """Settings with a switch."""

    quick: bool = True


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_a_switch_is_written_true_or_false(text, value) -> None:
    assert parse_field(Switched(), "quick", text) is value


@pytest.mark.parametrize("text", ["False", "0", "no", ""])
def test_no_other_word_turns_a_switch(text) -> None:
    words = f"--quick {text!r} cannot be read: give true or false, such as true"
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_field(Switched(), "quick", text)
