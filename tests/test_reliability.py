"""Runs that are killed, meet a full disk or a read-only folder, or are asked to stop."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jaxtyping
import pandas as pd
import pytest
import tiny_experiment
import torch
from tiny_experiment import Config, run_tiny, walk

from metarl_lib import cli, execution
from metarl_lib.experiments import EXPERIMENTS, Experiment
from metarl_lib.files import StorageError, cannot_write
from metarl_lib.runs import Stage, read_json, stage_tensors

TINY = Experiment(
    name="tiny",
    page="none",
    claim="a walk",
    presets=dict.fromkeys(("smoke", "book", "full"), Config()),
    cost=dict.fromkeys(("smoke", "book", "full"), "0 s"),
    run=walk,
    evaluate=tiny_experiment.evaluate,
)
KILL_EVERYWHERE = Path(tiny_experiment.__file__)


@pytest.fixture(autouse=True)
def registered(monkeypatch) -> None:
    """`metarl run tiny` works, at full speed."""
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    return run_tiny(tmp_path_factory.mktemp("whole") / "run").folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    """Runs that were killed, or met a full disk, at every operation on their files, and resumed."""
    top = tmp_path_factory.mktemp("broken")
    subprocess.run(
        [sys.executable, str(KILL_EVERYWHERE), str(top), "kill", "ENOSPC"],
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])},
        timeout=900,
        check=True,
    )
    return top


def assert_equal(folder: Path, whole: Path) -> None:
    """Results, metrics, tensors and TensorBoard's numbers to the last bit, and no other files."""
    assert (folder / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    tables = [pd.read_parquet(f / "metrics.parquet") for f in (folder, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    tensors = [stage_tensors(f) for f in (folder, whole)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(t, tensors[1][key]) for key, t in tensors[0].items())
    events = [list(f.glob("events.out.tfevents.*")) for f in (folder, whole)]
    assert len(events[0]) == len(events[1]) == 1
    assert events[0][0].stat().st_size == events[1][0].stat().st_size
    names = [{p.name for p in f.iterdir()} for f in (folder, whole)]
    assert names[0] - {events[0][0].name} == names[1] - {events[1][0].name}


def broken_runs(top: Path, fault: str) -> list[Path]:
    count = len(list((top / fault).glob("*.statuses")))
    return [top / fault / str(number) for number in range(1, count + 1)]


@pytest.mark.parametrize(("fault", "status"), [("kill", "-9"), ("ENOSPC", "2")])
def test_a_run_broken_at_any_operation_ends_as_if_it_had_not_been(
    broken, whole, fault, status
) -> None:
    folders = broken_runs(broken, fault)
    found = [folder.with_suffix(".statuses").read_text() for folder in folders]
    assert found == [f"{status} 0"] * (len(folders) - 1) + ["0 0"]  # the last was not broken
    assert len(folders) > 40
    for folder in folders:
        assert_equal(folder, whole)


@pytest.mark.parametrize("fault", ["kill", "ENOSPC"])
def test_it_goes_on_from_its_last_checkpoint(broken, fault) -> None:
    opened = [int(f.with_suffix(".opened").read_text()) for f in broken_runs(broken, fault)]
    assert opened == sorted(opened)
    assert set(opened) == {0, 3, 6}


def test_a_full_disk_is_one_line_and_leaves_no_half_a_file(broken) -> None:
    for folder in broken_runs(broken, "ENOSPC")[:-1]:
        error = folder.with_suffix(".error").read_text()
        assert error.startswith(f"StorageError: cannot write {folder}/"), error
        assert error.endswith(": No space left on device")
        assert "\n" not in error
        assert folder.with_suffix(".left").read_text() == ""


@pytest.mark.parametrize("limit", [150, 400, 900, 1500, 3000, 5000])
def test_a_file_that_the_system_cuts_off(tmp_path, whole, limit) -> None:
    """The kernel writes the first `limit` bytes of a file, then refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StorageError, match=r"^cannot write .*: File too large$"):
            run_tiny(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "run").glob(".*.partial"))
    assert_equal(run_tiny(tmp_path / "run").folder, whole)


def metarl_as_anybody(*words: str) -> tuple[int, str]:
    """Status and errors of a command, without the rights of root, who may write everywhere."""
    with tempfile.TemporaryFile("w+") as file:
        child = os.fork()
        if child == 0:
            status = 70
            try:
                sys.stderr = file
                if os.geteuid() == 0:
                    os.setuid(65534)
                status = cli.main(words)
                file.flush()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        file.seek(0)
        return status, file.read()


def stopped(folder: Path, *signals: int) -> int:
    """The status of a run that gets signals in its fifth step, between two checkpoints."""
    log = Stage.log

    def log_and_signal(stage, step, values):
        log(stage, step, values)
        if (stage.name, step) == ("walk", 5):
            for number in signals:
                signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "log", log_and_signal)
        return cli.main(["run", "tiny", "--seed", "7", "--scale", "smoke", "--out", str(folder)])


def walked(folder: Path) -> int:
    return read_json(folder / "state.json")["stages"]["walk"]["step"]


def test_a_folder_that_is_read_only(whole) -> None:
    with tempfile.TemporaryDirectory() as top:  # pytest's own folders are closed to others
        folder, empty = Path(top) / "run", Path(top) / "empty"
        assert stopped(folder, signal.SIGINT) == 130
        (folder / ".lock").unlink()
        empty.mkdir()
        before = {path: path.read_bytes() for path in folder.iterdir()}
        closed = (folder, empty, Path(top))
        for path in closed:
            path.chmod(0o555)
        try:
            found = [
                metarl_as_anybody("run", "--resume", str(folder)),
                metarl_as_anybody("run", "tiny", "--out", str(empty)),
                metarl_as_anybody("run", "tiny", "--out", str(folder.with_name("new"))),
            ]
        finally:
            for path in closed:
                path.chmod(0o755)
        assert found == [
            (2, f"metarl: cannot write {path}: Permission denied\n")
            for path in (f"{folder}/.lock", f"{empty}/config.json", f"{top}/new/config.json")
        ]
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
        assert_equal(run_tiny(folder).folder, whole)


def test_a_full_disk_on_the_command_line(tmp_path, capsys, monkeypatch) -> None:
    """Status 2, and one line that says how to go on."""
    folder = tmp_path / "run"

    def full(*words):
        raise cannot_write(folder / "ckpt", OSError(28, "No space left on device"))

    monkeypatch.setattr(Stage, "save", full)
    assert cli.main(["run", "tiny", "--out", str(folder)]) == 2
    assert capsys.readouterr().err == (
        f"metarl: cannot write {folder}/ckpt: No space left on device; what was saved is intact: "
        f"continue with metarl run --resume {folder}\n"
    )


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGHUP does what it does by default, in tests under `nohup`, too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_asked_to_stop_saves_first(tmp_path, whole, capfd, number, heard) -> None:
    folder = tmp_path / "run"
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert stopped(folder, number) == 130
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("metarl: stopping at the next checkpoint, in 10 s at the latest")
    assert lines[1:] == [f"metarl: stopped; continue with --resume {folder}"]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert walked(folder) == 5
    assert cli.main(["run", "--resume", str(folder)]) == 0
    assert_equal(folder, whole)


def test_who_asks_twice_does_not_wait(tmp_path, whole) -> None:
    folder = tmp_path / "run"
    assert stopped(folder, signal.SIGINT, signal.SIGINT) == 130
    assert walked(folder) == 3
    assert_equal(run_tiny(folder).folder, whole)


def test_a_run_without_checkpoints_stops_all_the_same(tmp_path, monkeypatch, capfd) -> None:
    def forever(config, run):
        signal.raise_signal(signal.SIGINT)
        for _ in range(600):
            time.sleep(0.1)
        raise AssertionError("nobody stopped it")

    monkeypatch.setattr(execution, "GRACE", 0.2)
    monkeypatch.setitem(EXPERIMENTS, "tiny", replace(TINY, run=forever))
    assert cli.main(["run", "tiny", "--out", str(tmp_path / "run")]) == 130
    assert "continue with --resume" in capfd.readouterr().err


def test_a_run_that_ends_in_time_is_finished(tmp_path, whole, monkeypatch) -> None:
    """The timer that would stop it is stopped itself."""
    monkeypatch.setattr(execution, "GRACE", 0.3)

    def ask_at_the_end(config, run):
        rows = walk(config, run)
        signal.raise_signal(signal.SIGINT)
        return rows

    monkeypatch.setitem(EXPERIMENTS, "tiny", replace(TINY, run=ask_at_the_end))
    words = ["run", "tiny", "--seed", "7", "--scale", "smoke", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    time.sleep(0.6)
    assert_equal(tmp_path / "run", whole)


def test_a_signal_that_is_ignored_stays_so(tmp_path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        assert stopped(tmp_path / "run", signal.SIGHUP) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
