"""`metarl`: what it prints, and one line and status 2 for each wrong word."""

import dataclasses
import subprocess
import sys
import tomllib
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

from metarl_lib import __version__, cli, cli_run, doctor
from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.runs import SCALES, DivergenceError, Run, read_json

SMALL = [
    "teacher_student", "--scale", "smoke", "--steps", "4", "--search_steps", "4", "--hidden=5"
]  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path) -> Path:
    """Commands run in an empty folder, at full speed, and publish into it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cli, "results_folder", lambda: folder / "results")
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    return folder


def metarl(capsys, *words: str) -> tuple[int, str, str]:
    status = cli.main(list(words))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_list_names_everything(capsys) -> None:
    status, out, err = metarl(capsys, "list")
    assert (status, err) == (0, "")
    for experiment in EXPERIMENTS.values():
        for text in (experiment.name, experiment.page, experiment.claim):
            assert text in out
        assert all(f"{scale} {experiment.cost[scale]}" in out for scale in SCALES)


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_help_shows_every_field(capsys, name) -> None:
    status, out, _ = metarl(capsys, "run", name, "--help", "--scale", "smoke")
    assert status == 0
    config = EXPERIMENTS[name].config("smoke")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        assert any(
            line.split()[:1] == [f"--{field.name}"]
            and field.metadata["help"] in line
            and line.endswith(f"({shown})")
            for line in out.splitlines()
        )


def test_help_without_a_name(capsys) -> None:
    status, out, _ = metarl(capsys, "run", "--help")
    assert status == 0
    assert "--resume" in out


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_top_level_help_and_version(capsys, word) -> None:
    with pytest.raises(SystemExit) as leave:
        cli.main([word])
    assert leave.value.code == 0
    out = capsys.readouterr().out
    assert __version__ in out if word == "--version" else "publish" in out


def test_doctor_reports_the_machine(capsys, monkeypatch) -> None:
    needed = ["torch>=2", "numpy (>1); python_version > '3'", 'ray[default]; extra == "ray"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: needed)
    status, out, _ = metarl(capsys, "doctor")
    assert status == 0
    for word in ("python", "CPUs", "threads   1", "extra mujoco", "browser", "disk", "results"):
        assert word in out
    assert f"torch                 {torch.__version__.split('+')[0]}" in out
    assert "MISSING" not in out
    assert "ray  " not in out.split("extra")[0]


def test_doctor_knows_every_extra(capsys, monkeypatch) -> None:
    """With the version of what is there; and of what is not, what that leaves out, and the fix."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert doctor.EXTRAS.keys() == project["optional-dependencies"].keys()
    gone = doctor.Extra(("torch", "not.there", "not_there"), "nothing is timed")
    monkeypatch.setattr(doctor, "EXTRAS", {"bench": gone, "ray": doctor.Extra(("numpy",), "")})
    _, out, _ = metarl(capsys, "doctor")
    fix = "pip install 'metarl_lib[bench]'; without it nothing is timed"
    assert f"extra bench   missing not.there, not_there: {fix}" in out
    assert f"extra ray     numpy {np.__version__}" in out


def test_doctor_names_the_peers_of_the_benchmarks() -> None:
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    named = extras["optional-dependencies"]["bench"]
    assert {line.split(">")[0] for line in named} == set(doctor.EXTRAS["bench"].modules)


@pytest.mark.parametrize("found", [None, "/usr/bin/chromium"])
def test_doctor_looks_for_a_browser(capsys, monkeypatch, found) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: found)
    _, out, _ = metarl(capsys, "doctor")
    assert f"browser   {found or 'none of chromium, '}" in out


def test_doctor_notices_a_missing_package(capsys, monkeypatch) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["torch>=2", "not_there[x]>=1"])
    status, out, _ = metarl(capsys, "doctor")
    assert status == 1
    assert "not_there             MISSING: pip install not_there" in out


def test_doctor_outside_of_an_installation(capsys, monkeypatch) -> None:
    def absent(name):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", absent)
    status, out, _ = metarl(capsys, "doctor")
    assert status == 1
    assert "metarl_lib            MISSING" in out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "command"),
        (["fly"], "'fly'"),
        (["list", "--all"], "'--all'"),
        (["doctor", "now"], "'now'"),
        (["run"], "teacher_student, digits, perturbation_noise"),
        (["run", "teacher"], "no experiment 'teacher'"),
        (["run", "digits", "--scale", "huge"], "'huge'"),
        (["run", "digits", "--seed", "one"], "'one'"),
        (["run", "digits", "--seed", "-1"], "--seed -1"),
        (["run", "digits", "--width", "3"], "no option '--width': choose one of --hidden"),
        (["run", "digits", "--hid", "3"], "'--hid'"),
        (["run", "digits", "extra"], "'extra'"),
        (["run", "digits", "--hidden"], "--hidden needs a value"),
        (["run", "digits", "--hidden", "x"], "--hidden 'x' cannot be read"),
        (["run", "digits", "--hidden=1.5"], "--hidden '1.5' cannot be read"),
        (["run", "digits", "--hidden", "0"], "hidden=0"),
        (["run", "digits", "--hidden", "-5"], "hidden=-5"),
        (["run", "digits", "--sigma", "nan"], "sigma=nan"),
        (["run", "digits", "--learning_rates", "0.1,,1"], "'0.1,,1'"),
        (["run", "digits", "--learning_rates", ""], "learning_rates=: must be greater than 0"),
        (["run", "digits", "--num_test", "5000"], "must be at most 5000"),
        (["run", "digits", "--components", "1000"], "components=1000"),
        (["run", "teacher_student", "--noise", "-1"], "noise=-1.0"),
        (["run", "perturbation_noise", "--linear_widths", "100"], "stability_samples=64"),
        (["run", "bandit", "--lstm-cells", "5"], "cell '5': write arms x pulls"),
        (["run", "maze", "--brief", "x"], "brief='x'"),
        (["run", "ml1_reach", "--costly", "x"], "costly='x' is unknown"),
        (["run", "ml1_reach", "--reward", "v3"], "reward='v3' is unknown: choose one of v2, v1"),
        (["run", "ml1_reach", "--steps", "600"], "steps=600: must be at most 500"),
        (["run", "ml1_reach", "--task-seed", "-1"], "task_seed=-1: must be 0 or more"),
        (["run", "pearl", "--latent=-1"], "latent=-1: must be greater than 0"),
        (["run", "layer_pool", "--counts", "4,4"], "counts=4,4: give the input, hidden and output"),
        (["run", "layer_pool", "--rollout", "1"], "rollout=1: a minibatch of PPO must have"),
        (["run", "weight_space", "--seed-steps", "1"], "seed_steps=1: a minibatch of PPO must"),
        (["run", "update_rule", "--rows", "1", "--minibatches", "100"], "rows=1, steps=50, min"),
        (["run", "--resume", "nowhere"], "nowhere: not a run folder"),
        (["run", "--resume", "nowhere", "--seed", "3"], "leave out --seed"),
        (["run", "digits", "--resume", "nowhere"], "leave out NAME"),
        (["run", "--resume", "nowhere", "--hidden", "3"], "leave out NAME --hidden"),
        (["publish"], "RUN_DIR"),
        (["publish", "nowhere"], "nowhere is not a run folder"),
        (["publish", "nowhere", "--force"], "--force"),
    ],
)
def test_wrong_words_are_one_line_and_write_nothing(capsys, elsewhere, words, named) -> None:
    status, out, err = metarl(capsys, *words)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("metarl: ")
    assert named in err
    assert not list(elsewhere.iterdir())


def noticed_late(config, run):
    raise ValueError("size=7: must be even")


def noticed_later(config, run):
    run.stage("first").save(1, {})
    run.log(1, {"x": 1.0})
    run.save()
    noticed_late(config, run)


def test_what_only_the_run_notices_leaves_no_folder(capsys, elsewhere, monkeypatch) -> None:
    """Also nothing in one that was there, and was empty; so the next try can have the same."""
    experiment = EXPERIMENTS["teacher_student"]
    late = dataclasses.replace(experiment, run=noticed_late)
    monkeypatch.setitem(EXPERIMENTS, "teacher_student", late)
    (elsewhere / "there").mkdir()
    for out in ("new", "there"):
        status, printed, err = metarl(capsys, "run", *SMALL, "--out", out)
        assert (status, printed, err) == (2, "", "metarl: size=7: must be even\n")
    assert [path.name for path in elsewhere.rglob("*")] == ["there"]
    monkeypatch.setitem(EXPERIMENTS, "teacher_student", experiment)
    assert metarl(capsys, "run", *SMALL, "--learning-rates", "1e-3", "--out", "there")[0] == 0


def test_what_was_saved_stays(capsys, elsewhere, monkeypatch) -> None:
    later = dataclasses.replace(EXPERIMENTS["teacher_student"], run=noticed_later)
    monkeypatch.setitem(EXPERIMENTS, "teacher_student", later)
    assert metarl(capsys, "run", *SMALL, "--out", "new")[0] == 2
    assert Run.resume(elsewhere / "new", later.name, later.config("smoke", {
        "steps": 4, "search_steps": 4, "hidden": 5})).stage("first").step == 1  # fmt: skip
    late = dataclasses.replace(later, run=noticed_late)
    monkeypatch.setitem(EXPERIMENTS, "teacher_student", late)
    assert metarl(capsys, "run", "--resume", "new")[0] == 2
    assert (elsewhere / "new" / "state.json").exists()


def test_a_run_that_was_begun_before_is_not_removed(capsys, elsewhere, monkeypatch) -> None:
    """Not even one that has saved nothing yet."""
    late = dataclasses.replace(EXPERIMENTS["teacher_student"], run=noticed_late)
    monkeypatch.setitem(EXPERIMENTS, "teacher_student", late)
    Run.create(elsewhere / "old", late.name, late.config("smoke"), scale="smoke", seed=0)
    assert metarl(capsys, "run", "--resume", "old")[0] == 2
    assert (elsewhere / "old" / "config.json").exists()


def test_an_out_that_cannot_be_written(capsys, elsewhere) -> None:
    (elsewhere / "file").write_text("mine")
    (elsewhere / "full").mkdir()
    (elsewhere / "full" / "notes").write_text("mine")
    for out in ("file", "full", "file/below"):
        status, _, err = metarl(capsys, "run", *SMALL, "--out", out)
        assert status == 2
        assert len(err.splitlines()) == 1
        assert out.split("/")[0] in err
    assert (elsewhere / "file").read_text() == "mine"
    assert sorted(p.name for p in elsewhere.rglob("*")) == ["file", "full", "notes"]


def test_run_resume_and_publish(capsys, elsewhere) -> None:
    status, out, _ = metarl(capsys, "run", *SMALL, "--learning-rates", "1e-3", "--seed", "4")
    assert status == 0
    folder = elsewhere / "runs" / "teacher_student" / "smoke-s4"
    assert "finished: runs/teacher_student/smoke-s4" in out
    header = read_json(folder / "config.json")
    assert header["seed"] == 4
    assert header["config"]["hidden"] == 5
    assert header["config"]["learning_rates"] == [1e-3]
    assert header["config"]["num_train"] == EXPERIMENTS["teacher_student"].config("smoke").num_train
    rows = read_json(folder / "results.json")
    assert all(f"{row['metric']}" in out for row in rows)

    before = (folder / "results.json").stat().st_mtime_ns
    status, out, _ = metarl(capsys, "run", "--resume", str(folder))
    assert (status, "finished already" in out) == (0, True)
    assert (folder / "results.json").stat().st_mtime_ns == before

    status, _, err = metarl(capsys, "run", *SMALL, "--out", str(folder))
    assert status == 2
    assert "--resume" in err

    status, out, _ = metarl(capsys, "publish", str(folder))
    assert (status, "published 1 run(s)" in out) == (0, True)
    assert (elsewhere / "results" / "teacher_student" / "summary.json").exists()
    status, _, err = metarl(capsys, "publish", str(folder), str(folder))
    assert status == 2
    assert "seeds=[4, 4]" in err
    status, _, err = metarl(capsys, "publish", str(folder), "--add")
    assert status == 2
    assert "seeds=[4]: published already" in err


def test_the_default_is_book_scale_and_seed_0(monkeypatch, elsewhere) -> None:
    seen = []
    monkeypatch.setattr(cli_run, "_execute", lambda experiment, run: seen.append(run) or 0)
    assert cli.main(["run", "digits"]) == 0
    assert (seen[0].scale, seen[0].seed) == ("book", 0)
    assert seen[0].config == EXPERIMENTS["digits"].config("book")
    assert seen[0].folder == Path("runs/digits/book-s0")


def test_resume_refuses_a_folder_of_older_fields(capsys, elsewhere) -> None:
    config = EXPERIMENTS["teacher_student"].config("smoke")
    run = Run.create(elsewhere / "old", "teacher_student", config, scale="smoke", seed=0)
    path = run.folder / "config.json"
    path.write_text(path.read_text().replace('"hidden"', '"units"'))
    status, _, err = metarl(capsys, "run", "--resume", "old")
    assert status == 2
    assert len(err.splitlines()) == 1
    assert "no field 'units'" in err


def test_resume_refuses_a_field_of_the_wrong_kind(capsys, elsewhere) -> None:
    config = EXPERIMENTS["teacher_student"].config("smoke")
    run = Run.create(elsewhere / "old", "teacher_student", config, scale="smoke", seed=0)
    path = run.folder / "config.json"
    path.write_text(path.read_text().replace('"hidden": 20', '"hidden": "x"'))
    status, _, err = metarl(capsys, "run", "--resume", "old")
    assert status == 2
    assert len(err.splitlines()) == 1
    assert err.startswith("metarl: old/config.json holds a wrong value")


def test_learning_rates_that_all_diverge(capsys) -> None:
    """Weights of 10³⁰ overflow at the first forward pass."""
    status, _, err = metarl(
        capsys, "run", *SMALL, "--learning_rates", "0.1,1", "--init_std", "1e30"
    )
    assert status == 1
    assert len(err.splitlines()) == 1
    assert "learning_rates=(0.1, 1.0): sgd-search diverged with every one" in err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DivergenceError("sgd diverged\nat step 3"), (1, "metarl: sgd diverged at step 3")),
        (ConnectionError("offline"), (1, "metarl: offline")),
        (PermissionError("read only"), (2, "metarl: read only")),
        (KeyboardInterrupt(), (130, "metarl: stopped; continue with --resume")),
    ],
)
def test_failures_are_one_line(capsys, monkeypatch, error, expected) -> None:
    def fail(experiment, run):
        raise error

    monkeypatch.setattr(cli_run, "_execute", fail)
    status, _, err = metarl(capsys, "run", *SMALL)
    assert (status, err.strip()) == expected


def test_as_a_process() -> None:
    command = [sys.executable, "-m", "metarl_lib.cli", "run", "digits", "--hidden", "none"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "metarl: --hidden 'none' cannot be read: give a whole number, such as 100\n"
    )


def test_a_perfect_fit_is_no_divergence(capsys, tmp_path) -> None:
    """One sample and one hidden unit: the loss reaches exactly zero, whose logarithm is bounded."""
    small = ["run", "teacher_student", "--scale", "smoke", "--hidden", "1", "--num_train", "1"]
    out = ["--noise", "0", "--seed", "1", "--out", str(tmp_path / "run")]
    status, _, err = metarl(capsys, *small, *out)
    assert (status, err) == (0, "")


def test_a_field_before_the_name_says_where_it_belongs(capsys) -> None:
    status, _, err = metarl(capsys, "run", "--hidden", "12", "teacher_student")
    assert status == 2
    assert "write the experiment's name before its fields" in err
