"""`metarl eval`: a finished run's checkpoint, evaluated again."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from test_reliability import TINY
from tiny_experiment import Config, half_way, run_tiny

from metarl_lib import cli
from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.runs import Run, generator, read_json, stage_tensors


@pytest.fixture(autouse=True)
def registered(monkeypatch) -> None:
    """`metarl eval` knows the experiment `tiny`."""
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)


@pytest.fixture
def folder(tmp_path) -> Path:
    return run_tiny(tmp_path / "run").folder


def metarl_eval(capsys, *words) -> tuple[int, list[list[str]], str]:
    status = cli.main(["eval", *map(str, words)])
    printed = capsys.readouterr()
    return status, [line.split() for line in printed.out.splitlines()], printed.err


def test_each_row_stands_beside_the_runs(capsys, folder) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    status, lines, err = metarl_eval(capsys, folder)
    assert (status, err) == (0, "")
    size = float(stage_tensors(folder)["walk.place"].norm())
    other = float(torch.randn(3, generator=generator(7, "evaluation")).mean())
    assert lines == [
        ["variant", "metric", "results.json", "evaluated"],
        ["walk", "size", f"{size:.6g}", f"{size:.6g}"],
        ["walk", "other", f"{other:.6g}", f"{other:.6g}"],
        ["2", "of", "2", "rows", "are", "the", "same", "to", "the", "last", "bit"],
    ]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_row_that_differs_says_so(capsys, folder) -> None:
    rows = read_json(folder / "results.json")
    rows[0]["value"] *= 1 + 1e-12
    (folder / "results.json").write_text(json.dumps(rows[:1]))
    _, lines, _ = metarl_eval(capsys, folder)
    assert lines[1][2] == lines[1][3]  # shown alike
    assert lines[1][4] == "differs"
    assert lines[2][1:3] == ["other", "-"]
    assert lines[3][:3] == ["0", "of", "2"]


def test_more_trials(capsys, folder) -> None:
    status, lines, _ = metarl_eval(capsys, folder, "--trials", 50)
    other = float(torch.randn(50, generator=generator(7, "evaluation")).mean())
    assert status == 0
    assert lines[1][1:] == ["size", lines[1][2], lines[1][2]]
    assert lines[2][3:] == [f"{other:.6g}", "differs"]


@dataclass(frozen=True)
class Both(Config):
    test_trials: int = 1


def test_trials_mean_trials_where_there_are_such(capsys, tmp_path, monkeypatch) -> None:
    seen = []
    presets = dict.fromkeys(("smoke", "book", "full"), Both())
    both = replace(TINY, presets=presets, evaluate=lambda config, *more: seen.append(config) or [])
    monkeypatch.setitem(EXPERIMENTS, "tiny", both)
    assert cli.main(["run", "tiny", "--scale", "smoke", "--out", str(tmp_path / "run")]) == 0
    assert metarl_eval(capsys, tmp_path / "run", "--trials", 9)[0] == 0
    assert seen == [Both(test_trials=9)]


@pytest.mark.parametrize(
    ("name", "field"),
    [("epg", "test_lives"), ("meta_gradient", "test_episodes"), ("pearl", "test_tasks")],
)
def test_trials_are_what_an_experiment_calls_them(
    capsys, tmp_path, monkeypatch, name, field
) -> None:
    seen = []
    watched = replace(EXPERIMENTS[name], evaluate=lambda config, *more: seen.append(config) or [])
    monkeypatch.setitem(EXPERIMENTS, name, watched)
    config = watched.config("smoke")
    Run.create(tmp_path / "run", name, config, scale="smoke", seed=0).finish([])
    assert metarl_eval(capsys, tmp_path / "run", "--trials", 9)[0] == 0
    assert seen == [replace(config, **{field: 9})]


def test_a_registered_experiment(capsys, tmp_path) -> None:
    """Its own results again, from its own checkpoint; it has no trials to set."""
    words = ["--learning_rates", "1e-3", "--hidden", "5", "--steps", "4", "--search_steps", "4"]
    out = str(tmp_path / "run")
    assert cli.main(["run", "teacher_student", "--scale", "smoke", *words, "--out", out]) == 0
    capsys.readouterr()
    status, lines, _ = metarl_eval(capsys, out)
    assert status == 0
    assert len(lines) > 20
    assert {len(line) for line in lines[1:-1]} == {4}
    status, lines, err = metarl_eval(capsys, out, "--trials", 5)
    assert (status, lines) == (2, [])
    assert err == (
        "metarl: --trials 5: teacher_student has no number of test tasks to set, which is a field "
        "test_trials or test_tasks or test_lives or test_episodes\n"
    )


def cut(name: str):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


@pytest.mark.parametrize(
    ("damage", "words", "named"),
    [
        (shutil.rmtree, [], "is not a run folder: it has no config.json"),
        (lambda f: (f / "results.json").unlink(), [], "continue it with metarl run --resume"),
        (lambda f: (f / "results.json").write_text("[1]"), [], "results.json holds no results"),
        (lambda f: (f / "results.json").write_text("[{}]"), [], "results.json holds no results"),
        (lambda f: (f / "results.json").write_text("3"), [], "results.json holds no results"),
        (cut("results.json"), [], "results.json is not JSON"),
        (cut("config.json"), [], "config.json is not JSON"),
        (cut("state.json"), [], "state.json is not JSON"),
        (lambda f: (f / "state.json").unlink(), [], "state.json is missing"),
        (cut("ckpt-walk-6.safetensors"), [], "ckpt-walk-6.safetensors is not what this run wrote"),
        (lambda f: None, ["--trials", "0"], "--trials 0: must be a whole number >= 1"),
        (lambda f: None, ["--trials", "x"], "'x'"),
        (lambda f: None, ["--seed", "1"], "unknown argument '--seed'"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(capsys, folder, damage, words, named) -> None:
    damage(folder)
    status, lines, err = metarl_eval(capsys, folder, *words)
    assert (status, lines) == (2, [])
    assert err.startswith("metarl: ")
    assert named in err
    assert len(err.splitlines()) == 1


def test_an_unfinished_run(capsys, tmp_path) -> None:
    status, _, err = metarl_eval(capsys, half_way(tmp_path / "run"))
    assert status == 2
    assert f"is not finished: continue it with metarl run --resume {tmp_path / 'run'}" in err


def test_another_version_of_the_experiment(capsys, folder, monkeypatch) -> None:
    presets = dict.fromkeys(("smoke", "book", "full"), Both())
    monkeypatch.setitem(EXPERIMENTS, "tiny", replace(TINY, presets=presets))
    status, _, err = metarl_eval(capsys, folder)
    assert status == 2
    assert "was made by another version of 'tiny'" in err
