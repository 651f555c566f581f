"""Sweeps on a real Ray cluster of two nodes on this machine, whose workers are killed."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from test_reliability import assert_equal

from metarl_lib import cli
from metarl_lib.runs import read_json

pytest.importorskip("ray", reason="the extra ray is missing: pip install 'metarl_lib[ray]'")
pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("unchecked")]

COMMON = ["teacher_student", "--scale", "smoke", "--steps", "400", "--hidden", "10"]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def processes_of_ray() -> set[str]:
    """The processes that run from Ray's folder, by number."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if b"/ray/" in words or words.startswith(b"ray::"):
            found.add(path.parent.name)
    return found


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of two nodes, one CPU each; nothing of it is left afterwards."""
    before = processes_of_ray()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        try:
            cluster.add_node(**NODE)
            cluster.wait_for_nodes()
            yield cluster.address
        finally:
            cluster.shutdown()
    limit = time.monotonic() + 30
    while processes_of_ray() - before:
        assert time.monotonic() < limit, "Ray left processes behind"
        time.sleep(0.1)


def sweep(capsys, address: str, seeds: str, out: Path, *words: str) -> tuple[int, list[str], str]:
    """Status, lines and errors of a sweep."""
    place = ["--seeds", seeds, "--out", str(out), "--backend", "ray", "--address", address]
    status = cli.main(["sweep", *COMMON, *words, *place])
    printed = capsys.readouterr()
    return status, [" ".join(line.split()) for line in printed.out.splitlines()], printed.err


def stages(folder: Path) -> dict:
    """The records of a run's checkpoints."""
    path = folder / "state.json"
    return read_json(path)["stages"] if path.exists() else {}


def last_place(folder: Path) -> str:
    """The last checkpoint of a run, which must not be its end."""
    name, record = list(stages(folder).items())[-1]
    assert name != "np-as-coded", "the run came to its last stage before it was interrupted"
    return f"{name} step {record['step']}"


def once_running(folder: Path, stage: str, act) -> threading.Thread:
    """Call `act` with the process of a run, as soon as a stage has a checkpoint."""

    def watch() -> None:
        limit = time.monotonic() + 300
        while stage not in stages(folder):
            if time.monotonic() > limit:
                return
            time.sleep(0.002)
        act(int((folder / ".lock").read_text().split()[1]))

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_killed_worker_loses_nothing(cluster, tmp_path, capsys) -> None:
    for seed in (0, 1):
        words = ["--seed", str(seed), "--out", str(tmp_path / "whole" / f"s{seed}")]
        assert cli.main(["run", *COMMON, *words]) == 0
    capsys.readouterr()
    killed = []

    def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        killed.append(last_place(tmp_path / "out" / "s1"))

    thread = once_running(tmp_path / "out" / "s1", "np", kill)
    status, lines, err = sweep(capsys, cluster, "0-1", tmp_path / "out")
    thread.join()
    assert (status, err) == (0, "")
    assert lines[:2] == ["seed 0 queued", "seed 1 queued"]
    assert lines[-1] == "2 of 2 seeds are finished"

    (place,) = killed  # in mid-run; the log says that it went on
    (line,) = [line for line in lines if line.startswith("seed 1 finished")]
    assert line.endswith(f"s, resumed at {place} after its worker was lost")
    assert not any("seed 0" in line and "resumed" in line for line in lines)
    for seed in (0, 1):
        assert_equal(tmp_path / "out" / f"s{seed}", tmp_path / "whole" / f"s{seed}")


def test_a_failure_and_a_stop(cluster, tmp_path, capsys) -> None:
    status, lines, _ = sweep(capsys, cluster, "0", tmp_path / "out", "--init_std", "1e30")
    assert status == 1
    assert lines[1].startswith("seed 0 failed: learning_rates=(0.0001, 0.001): sgd-search diverged")
    assert lines[2:] == ["0 of 1 seeds are finished"]

    folder = tmp_path / "stopped" / "s3"
    thread = once_running(folder, "np", lambda _: os.kill(os.getpid(), signal.SIGINT))
    status, lines, err = sweep(capsys, cluster, "3", tmp_path / "stopped")
    thread.join()
    assert (status, err) == (130, "metarl: stopped; continue with the same command\n")
    stopped = f"seed 3 stopped at {last_place(folder)}"
    assert lines == ["seed 3 queued", "stopping 1 seed(s)", stopped]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "here", "127.0.0.1:99999", "127.0.0.1:-1"])
def test_an_address_where_nothing_answers(tmp_path, capsys, address) -> None:
    status, lines, err = sweep(capsys, address, "0", tmp_path / "out")
    assert (status, lines) == (1, [])
    assert err.startswith(f"metarl: --address {address}: no Ray cluster answers")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
