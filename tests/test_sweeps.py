"""Sweeps on this machine: which seeds run, what is said of them, and how they are stopped."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import jaxtyping
import pytest
from test_reliability import TINY, assert_equal
from tiny_experiment import Config, half_way

from metarl_lib import cli, jobs, sweeps
from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.jobs import parse_seeds
from metarl_lib.runs import config_hash, read_json, write_json

CHILD = """
import json, os, signal, sys, time
from pathlib import Path

words = sys.argv[1:]
resumed = "--resume" in words
folder = Path(words[words.index("--resume" if resumed else "--out") + 1])
seed = int(folder.name[1:])
folder.mkdir(exist_ok=True, parents=True)
with open(folder.parent / "log", "a") as log:
    log.write(json.dumps([seed, os.getpid(), words, os.getpgid(0), os.environ["OMP_NUM_THREADS"]]))
    log.write("\\n")
header = {"experiment": "tiny", "scale": "smoke", "seed": seed, "hash": HASH, "config": {}}
(folder / "config.json").write_text(json.dumps(header))
if seed == 3 and not resumed:
    sys.exit("a warning\\nmetarl: walk diverged at step 4")
if seed == 4 and not resumed:
    os.kill(os.getpid(), signal.SIGKILL)
if seed >= 5 and not resumed:
    asked = []
    signal.signal(signal.SIGINT, lambda *_: asked.append(1))
    (folder / "ready").write_text(str(os.getpid()))
    while not asked or seed == 6:
        time.sleep(0.01)
    record = {"step": 2, "values": {}, "finished": False, "file": None}
    state = {"stages": {"walk": record}, "rows": 0, "cpu_seconds": 0.0}
    (folder / "state.json").write_text(json.dumps(state))
    sys.exit(130)
(folder / "running").touch()
limit = time.monotonic() + 0.7
while time.monotonic() < limit:
    count = len(list(folder.parent.glob("*/running")))
    (folder.parent / f"together-{seed}-{count}").touch()
    time.sleep(0.02)
(folder / "running").unlink()
(folder / "results.json").write_text("[]")
"""


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path) -> Path:
    """An empty folder, in which `tiny` is an experiment."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    return folder


@pytest.fixture
def child(monkeypatch, tmp_path) -> None:
    """Processes that start at once take the place of `metarl run`."""
    script = tmp_path / "child.py"
    script.write_text(CHILD.replace("HASH", repr(config_hash("tiny", Config()))))
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-S", str(script)))
    monkeypatch.setattr(sweeps, "POLL", 0.02)


def sweep(capsys, seeds: str, *words: str) -> tuple[int, list[str], str]:
    """Status, lines and errors of a sweep of `tiny` into `out`."""
    place = ["--seeds", seeds, "--scale", "smoke", "--out", "out"]
    status = cli.main(["sweep", "tiny", *place, *words])
    printed = capsys.readouterr()
    return status, [" ".join(line.split()) for line in printed.out.splitlines()], printed.err


def started() -> list[list]:
    return [json.loads(line) for line in Path("out/log").read_text().splitlines()]


def without_times(lines: list[str]) -> list[str]:
    return sorted(line.split(" in ")[0] for line in lines)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0", [0]),
        ("0-3", [0, 1, 2, 3]),
        ("0,3,5-7", [0, 3, 5, 6, 7]),
        ("4, 2", [4, 2]),
        ("9-9", [9]),
    ],
)
def test_seeds(text, seeds) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' cannot be read: give seeds such as 0-9 or 0,3,5-7"),
        ("a", "'a' cannot be read"),
        ("1,,2", "cannot be read"),
        ("1-", "cannot be read"),
        ("-1", "cannot be read"),
        ("1.5", "cannot be read"),
        ("1-2-3", "cannot be read"),
        ("٣", "cannot be read"),
        ("5-3", "5-3 runs backwards"),
        ("0,1,0", "0 more than once"),
        ("0-4,3-9", "3, 4 more than once"),
        ("0-10000", "at most 10000 seeds"),
        ("0-99999999999999", "at most 10000 seeds"),
    ],
)
def test_other_seeds_are_refused(capsys, elsewhere, text, words) -> None:
    with pytest.raises(ValueError, match=words):
        parse_seeds(text)
    status, lines, err = sweep(capsys, text)
    assert (status, lines) == (2, [])
    assert words in err
    assert len(err.splitlines()) == 1
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["sweep"], "sweep needs the name of an experiment: teacher_student"),
        (["sweep", "flat", "--seeds", "0"], "no experiment 'flat'"),
        (["sweep", "tiny"], "sweep needs --seeds, such as --seeds 0-9"),
        (["sweep", "tiny", "--seeds", "0", "--seed", "1"], "no option '--seed'"),
        (["sweep", "tiny", "--seeds", "0", "--step", "1"], "no option '--step'"),
        (["sweep", "tiny", "--seeds", "0", "--steps", "x"], "--steps 'x' cannot be read"),
        (["sweep", "digits", "--seeds", "0", "--hidden", "0"], "hidden=0"),
        (["sweep", "tiny", "--seeds", "0", "--jobs", "0"], "--jobs 0: must be"),
        (["sweep", "tiny", "--seeds", "0", "--backend", "slurm"], "'slurm'"),
        (["sweep", "tiny", "--seeds", "0", "--address", "auto"], "only with --backend ray"),
        (["sweep", "--steps", "3", "tiny"], "write the experiment's name before its fields"),
    ],
)
def test_wrong_words_are_one_line_and_start_nothing(capsys, elsewhere, words, named) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err
    assert len(err.splitlines()) == 1
    assert not list(elsewhere.iterdir())


def test_no_field_has_the_name_of_an_option() -> None:
    taken = {
        "name",
        "seed",
        "seeds",
        "scale",
        "out",
        "resume",
        "backend",
        "jobs",
        "address",
        "help",
    }
    for name, experiment in EXPERIMENTS.items():
        assert not taken & set(vars(experiment.config("smoke"))), name


def test_help(capsys) -> None:
    assert cli.main(["sweep", "--help"]) == 0
    assert "--seeds" in capsys.readouterr().out
    assert cli.main(["sweep", "tiny", "--help"]) == 0
    assert "--steps" in capsys.readouterr().out


@pytest.mark.usefixtures("child")
def test_a_sweep_goes_on_after_failures_and_can_be_repeated(capsys) -> None:
    status, lines, err = sweep(capsys, "0-4", "--jobs", "2")
    assert (status, err) == (1, "")
    assert without_times(lines) == [
        "3 of 5 seeds are finished",
        *(f"seed {seed} {what}" for seed in (0, 1, 2) for what in ("finished", "started")),
        "seed 3 failed: walk diverged at step 4",
        "seed 3 started",
        "seed 4 failed: killed by SIGKILL",
        "seed 4 started",
    ]
    assert lines.index("seed 2 started") > min(lines.index(x) for x in lines if "finished in" in x)
    words = ["run", "tiny", "--scale", "smoke", "--seed", "1", "--out", "out/s1"]
    assert [w for seed, _, w, *_ in started() if seed == 1] == [words]
    for _, pid, _, group, threads in started():
        assert (group, threads) == (pid, "1")  # the terminal's Ctrl-C does not reach them
    together = {int(p.name.split("-")[-1]) for p in Path("out").glob("together-*")}
    assert together == {1, 2}

    before = len(started())
    status, lines, err = sweep(capsys, "0-4", "--jobs", "2")
    assert (status, err) == (0, "")
    assert without_times(lines) == [
        "5 of 5 seeds are finished",
        *(f"seed {seed} is finished already" for seed in (0, 1, 2)),
        *(f"seed {s} {what}" for s in (3, 4) for what in ("finished", "resumed at its start")),
    ]
    assert sorted(seed for seed, *_ in started()[before:]) == [3, 4]


@pytest.mark.usefixtures("child")
def test_fields_reach_the_runs(capsys) -> None:
    status, _, err = sweep(capsys, "0", "--steps", "6", "--test-tasks=3")
    assert (status, err) == (0, "")
    assert started()[0][2][-3:] == ["--steps", "6", "--test-tasks=3"]


def interrupt(folders: list[str], times: int = 1) -> threading.Thread:
    """Press Ctrl-C once these folders' seeds are running."""

    def press() -> None:
        limit = time.monotonic() + 60
        while not all((Path(folder) / "ready").exists() for folder in folders):
            if time.monotonic() > limit:
                return
            time.sleep(0.01)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.usefixtures("child")
def test_ctrl_c_stops_all_seeds_which_save(capsys) -> None:
    thread = interrupt(["out/s5", "out/s7"])
    status, lines, err = sweep(capsys, "5,7,0", "--jobs", "2")
    thread.join()
    assert (status, err) == (130, "metarl: stopped; continue with the same command\n")
    assert lines[:3] == ["seed 5 started", "seed 7 started", "stopping 2 seed(s)"]
    assert sorted(lines[3:]) == [f"seed {s} stopped at walk step 2" for s in (5, 7)]
    assert all(is_gone(pid) for _, pid, *_ in started())
    assert not Path("out/s0").exists()

    status, lines, _ = sweep(capsys, "5,7,0", "--jobs", "3")
    assert status == 0
    assert {"seed 5 resumed at walk step 2", "seed 0 started"} < set(lines)


@pytest.mark.usefixtures("child")
def test_a_seed_that_does_not_listen_is_killed(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sweeps, "PATIENCE", 0.5)
    thread = interrupt(["out/s6"], times=2)
    status, _, err = sweep(capsys, "6")
    thread.join()
    assert (status, err) == (130, "metarl: stopped; continue with the same command\n")
    assert all(is_gone(pid) for _, pid, *_ in started())


@pytest.mark.parametrize(
    ("contents", "named"),
    [
        ({"s1": "text"}, "out/s1 holds a file"),
        ({"s1/notes": "mine"}, "out/s1 holds something else than a run"),
        ({"s1/config.json": ("hash", "0")}, "out/s1 holds a run of another configuration"),
        ({"s1/config.json": ("seed", 2)}, "out/s1 holds a run of another configuration"),
        ({"s1/config.json": ("scale", "book")}, "out/s1 holds a run of another configuration"),
    ],
)
@pytest.mark.usefixtures("child")
def test_folders_that_hold_something_else(capsys, contents, named) -> None:
    header = {"experiment": "tiny", "scale": "smoke", "seed": 1, "config": {}}
    header["hash"] = config_hash("tiny", Config())
    for name, what in contents.items():
        path = Path("out") / name
        path.parent.mkdir(parents=True)
        path.write_text(what if isinstance(what, str) else json.dumps(header | dict([what])))
    status, lines, err = sweep(capsys, "0-1")
    assert (status, lines) == (2, [])
    assert (
        err
        == f"metarl: {named}"
        + (", scale or seed" if "configuration" in named else "")
        + ": choose another --out\n"
    )
    assert not Path("out/log").exists()


def test_a_damaged_folder_fails_by_itself(capsys, monkeypatch) -> None:
    """Real processes: one seed is damaged, the other ends as it does alone."""
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))
    words = ["--learning_rates", "1e-3", "--hidden", "5", "--steps", "16", "--search_steps", "4"]
    common = ["teacher_student", "--scale", "smoke", *words]
    assert cli.main(["run", *common, "--seed", "1", "--out", "whole"]) == 0
    config = read_json(Path("whole/config.json")) | {"seed": 0}
    write_json(Path("out/s0/config.json"), config)
    Path("out/s0/ckpt-sgd-3.safetensors").touch()
    capsys.readouterr()
    assert cli.main(["sweep", *common, "--seeds", "0-1", "--jobs", "2", "--out", "out"]) == 1
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "seed 0 resumed at its start" in lines
    assert (
        "seed 0 failed: out/s0/state.json is missing: delete the folder out/s0 and start the run "
        "anew" in lines
    )
    assert lines[-1] == "1 of 2 seeds are finished"
    assert_equal(Path("out/s1"), Path("whole"))


def test_the_folders_are_those_of_run(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr("metarl_lib.cli_run.sweep", lambda jobs, **more: seen.extend(jobs) or 0)
    assert cli.main(["sweep", "tiny", "--seeds", "3,5"]) == 0
    assert [job.folder for job in seen] == [Path("runs/tiny/book-s3"), Path("runs/tiny/book-s5")]
    assert [(job.scale, job.seed) for job in seen] == [("book", 3), ("book", 5)]


def test_where_a_seed_goes_on(elsewhere) -> None:
    job = jobs.Job("tiny", "smoke", 7, half_way(elsewhere / "run"), {}, ())
    assert (job.begun, job.finished, job.place()) == (True, False, "walk step 3")
    run = job.open()
    assert run.stage("walk").step == 3
    assert job.command()[-3:] == ["run", "--resume", str(job.folder)]
    new = jobs.Job("tiny", "smoke", 8, elsewhere / "new", {"steps": 4}, ("--steps", "4"))
    assert (new.begun, new.place()) == (False, "its start")
    assert new.open().config == Config(steps=4)
    assert read_json(elsewhere / "new" / "config.json")["seed"] == 8


def test_ray_that_is_missing_is_one_line(capsys, elsewhere, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(sweeps.importlib.util, "find_spec", lambda name: None)
    status, _, err = sweep(capsys, "0", "--backend", "ray")
    assert status == 2
    assert err == "metarl: --backend ray needs the extra ray: pip install 'metarl_lib[ray]'\n"
    assert not list(elsewhere.iterdir())
