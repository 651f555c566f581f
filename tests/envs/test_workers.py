"""Processes that share rows: what comes back, what fails, and that none is left behind."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from shared_rows import Arithmetic

from metarl_lib.envs.workers import Workers

HERE = Path(__file__).parent


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def gone(pids, patience=20.0) -> bool:
    until = time.monotonic() + patience
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(alive, pids))


@pytest.fixture(scope="module")
def crew():
    workers = Workers(Arithmetic(), 3)
    yield workers
    workers.close()


def pids_of(workers, rows=6) -> set[int]:
    return set(workers.call("who", np.zeros(rows))[0].tolist())


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_rows_come_back_in_their_order(crew, rows) -> None:
    """Also where they do not divide, or some processes get none."""
    a, b = np.arange(rows) + 0.5, np.arange(rows)[::-1]
    found, plain = (w.call("both", a, b) for w in (crew, Workers(Arithmetic())))
    assert [array.tolist() for array in found] == [array.tolist() for array in plain]


def test_the_rows_are_shared(crew) -> None:
    assert len(pids_of(crew)) == 3
    assert os.getpid() not in pids_of(crew)
    assert pids_of(Workers(Arithmetic())) == {os.getpid()}


def test_what_fails_there_fails_here_and_the_work_goes_on(crew) -> None:
    before = pids_of(crew)
    with pytest.raises(ValueError, match="2 rows are too many"):
        crew.call("fail", np.zeros(6))
    assert pids_of(crew) == before


def test_after_a_death_one_line_says_so_and_new_ones_are_started() -> None:
    workers = Workers(Arithmetic(), 2)
    before = pids_of(workers)
    with pytest.raises(RuntimeError, match="a process that steps rows has died") as refusal:
        workers.call("die", np.zeros(4))
    assert "\n" not in str(refusal.value)
    assert gone(before)
    after = pids_of(workers)
    assert len(after) == 2
    assert after.isdisjoint(before)
    workers.close()
    assert gone(after)
    workers.close()


def test_an_interrupted_call_leaves_no_answer_for_the_next_one() -> None:
    workers = Workers(Arithmetic(), 2)
    pids_of(workers)
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            workers.call("wait", np.full(4, 1.0))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert workers.call("both", np.zeros(4), np.ones(4))[0].tolist() == [1.0] * 4
    workers.close()


def test_they_end_with_the_object() -> None:
    workers = Workers(Arithmetic(), 2)
    pids = pids_of(workers)
    del workers
    gc.collect()
    assert gone(pids)


SCRIPT = """
import sys, time
import numpy as np
sys.path[:0] = {places!r}
from metarl_lib.envs.workers import Workers
from shared_rows import Arithmetic
if __name__ == "__main__":
    workers = Workers(Arithmetic(), 2)
    print(*set(workers.call("who", np.zeros(4))[0].tolist()), flush=True)
    {end}
"""


@pytest.mark.parametrize("end", ["pass", "time.sleep(60)"])
def test_they_end_with_their_parent(end, tmp_path) -> None:
    """Which ends by itself, or is killed."""
    places = [str(HERE), str(HERE.parents[1])]
    (tmp_path / "script.py").write_text(SCRIPT.format(places=places, end=end), encoding="utf-8")
    command = [sys.executable, "script.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        if end != "pass":
            assert all(map(alive, pids))
            parent.kill()
        parent.wait(30)
    assert gone(pids)
