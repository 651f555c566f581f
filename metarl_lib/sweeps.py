"""Many seeds of one experiment: side by side on this machine, or on a Ray cluster.

A seed that is finished is left alone and one that was begun is resumed, so that the same sweep
again continues it, and a seed whose process is killed loses nothing.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import IO, Any, NamedTuple

import torch

from metarl_lib.execution import GRACE, execute, stop_signals
from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.files import BusyError
from metarl_lib.jobs import Job, check

POLL = 0.1  # seconds between two looks at the running seeds
PATIENCE = GRACE + 20.0  # seconds that stopped seeds have before they are killed
RETRIES = 20  # times that Ray starts a seed again whose worker or node was lost
LOCK_WAIT = 120.0  # seconds until a file system surely knows that a lost node holds no lock


class Ended(NamedTuple):
    """How a seed ended: why it failed, empty when all went well, and after how many seconds."""

    job: Job
    failure: str
    seconds: float
    note: str = ""


def sweep(
    jobs: Sequence[Job],
    *,
    backend: str = "local",
    parallel: int | None = None,
    address: str | None = None,
) -> int:
    """Run every seed that is not finished, and print a line whenever one starts or ends.

    Args:
        jobs: the seeds.
        backend: `local`, a process for each seed; or `ray`.
        parallel: how many run at once; None for one a CPU, or for as many as the cluster can.
        address: of a Ray cluster, or `auto` for the one of this machine; None starts one here.

    Returns:
        How many seeds failed.

    Raises:
        ValueError: when a folder holds something else, or Ray is not installed.
        ConnectionError: when there is no Ray at the address.
        KeyboardInterrupt: when it was stopped; all seeds have stopped by then.
    """
    check(jobs)
    for job in jobs:
        if job.finished:
            _say(job, "is finished already")
    todo, failed = [job for job in jobs if not job.finished], 0
    if todo:
        limit: float
        place: Processes | OnRay
        if backend == "ray":
            limit, place = parallel or math.inf, OnRay(parallel, address)
        else:
            limit, place = parallel or cpus(), Processes()
        try:
            failed = _run_all(todo, place, limit)
        finally:
            place.close()
    print(f"{len(jobs) - failed} of {len(jobs)} seeds are finished", flush=True)
    return failed


def cpus() -> int:
    """CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not every system tells
        return os.cpu_count() or 1


def _run_all(jobs: Sequence[Job], backend: Processes | OnRay, limit: float) -> int:
    """How many failed."""
    asked = sent = running = failed = 0
    waiting, deadline = deque(jobs), math.inf

    def stop() -> None:
        nonlocal asked
        asked += 1

    with stop_signals(stop):
        while running or (waiting and not asked):
            while waiting and running < limit and not asked:
                job = waiting.popleft()
                _say(job, backend.start(job))
                running += 1
            for job, failure, seconds, note in backend.ended():
                running -= 1
                if not failure or job.finished:  # a late Ctrl-C finds the results written
                    _say(job, f"finished in {seconds:.0f} s{note}")
                elif asked:
                    _say(job, f"stopped at {job.place()}")
                else:
                    _say(job, f"failed: {failure}")
                    failed += 1
            if sent < asked:
                sent, deadline = asked, min(deadline, time.monotonic() + PATIENCE)
                print(f"stopping {running} seed(s)", flush=True)
                backend.interrupt()
            if time.monotonic() > deadline:
                break
    if asked:
        raise KeyboardInterrupt("the same command")
    return failed


def _say(job: Job, what: str) -> None:
    print(f"seed {job.seed:<5} {what}", flush=True)


class Processes:
    """A process for each seed, which Ctrl-C on the terminal does not reach by itself."""

    def __init__(self) -> None:
        self._running: list[tuple[Job, subprocess.Popen[bytes], IO[bytes], float]] = []

    def start(self, job: Job) -> str:
        """Start the process."""
        what = f"resumed at {job.place()}" if job.begun else "started"
        errors = tempfile.TemporaryFile()  # noqa: SIM115
        process = subprocess.Popen(
            job.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            process_group=0,
        )
        self._running.append((job, process, errors, time.monotonic()))
        return what

    def ended(self) -> list[Ended]:
        """The seeds whose processes have ended, after a short wait."""
        time.sleep(POLL)
        found = []
        for child in list(self._running):
            job, process, errors, start = child
            if process.poll() is None:
                continue
            self._running.remove(child)
            errors.seek(0)
            lines = errors.read().decode(errors="replace").split("\n")
            errors.close()
            failure = ""
            if process.returncode < 0:
                failure = f"killed by {signal.Signals(-process.returncode).name}"
            elif process.returncode > 0:
                # Its last line of errors says why.
                last = next((line for line in reversed(lines) if line.strip()), "")
                failure = last.removeprefix("metarl: ") or f"exit status {process.returncode}"
            found.append(Ended(job, failure, time.monotonic() - start))
        return found

    def interrupt(self) -> None:
        """Pass Ctrl-C on."""
        for _, process, _, _ in self._running:
            process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Kill what still runs."""
        for _, process, errors, _ in self._running:
            process.kill()
            process.wait()
            errors.close()


class OnRay:
    """A task on a Ray cluster for each seed; a lost worker's seed goes on elsewhere.

    The run folders have to be on a file system that all nodes share, under the same path, and
    this library on every node.

    Args:
        parallel: CPUs of a cluster that is started here.
        address: of a cluster; None to start one here.

    Raises:
        ValueError: when Ray is not installed.
        ConnectionError: when nothing answers at the address.
        KeyboardInterrupt: when it was stopped meanwhile.
    """

    def __init__(self, parallel: int | None, address: str | None) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ValueError("--backend ray needs the extra ray: pip install 'metarl_lib[ray]'")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        options: dict[str, Any] = {"address": address}
        if address is None:
            options = {
                "address": "local",
                "num_cpus": parallel or cpus(),
                "include_dashboard": False,
                "object_store_memory": 100 * 2**20,  # bytes; results are a few words
            }
        elif address != "auto":
            _answers(address)
        self._ray = ray
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command") from None
        self._work = ray.remote(num_cpus=1, max_retries=RETRIES)(run_here)
        self._running: dict[Any, tuple[Job, str]] = {}
        self._asked = 0

    def start(self, job: Job) -> str:
        """Hand the seed to the cluster, which starts it when a CPU is free."""
        place = job.place()
        folder = job.folder.resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._running[self._work.remote(replace(job, folder=folder))] = job, place
        return f"queued, to go on at {place}" if job.begun else "queued"

    def ended(self) -> list[Ended]:
        """The seeds whose tasks have ended, after a short wait."""
        found = []
        for task in self._ray.wait(list(self._running), timeout=POLL)[0]:
            job, place = self._running.pop(task)
            note, seconds = "", 0.0
            try:
                failure, resumed, seconds = self._ray.get(task)
                if resumed != place:
                    note = f", resumed at {resumed} after its worker was lost"
            except self._ray.exceptions.RayError as error:
                failure = str(error).strip().split("\n")[0] or type(error).__name__
            found.append(Ended(job, failure, seconds, note))
        return found

    def interrupt(self) -> None:
        """Cancel the tasks, the second time by force."""
        self._asked += 1
        for task in self._running:
            self._ray.cancel(task, force=self._asked > 1)

    def close(self) -> None:
        """Leave the cluster, and end it when it was started here."""
        self._ray.shutdown()


def _answers(address: str) -> None:
    """Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConnectionError(f"--address {address}: no Ray cluster answers ({error})") from None


def run_here(job: Job) -> tuple[str, str, float]:
    """What a Ray worker does: run a seed, or continue it where a lost worker left it.

    Returns:
        Why it failed, empty when all went well; where it went on; its seconds.
    """
    torch.set_num_threads(1)
    start, place = time.monotonic(), job.place()
    failure = ""
    try:
        if not job.folder.parent.is_dir():
            raise OSError(
                f"{socket.gethostname()} does not see {job.folder.parent}: all nodes must"
            )
        execute(EXPERIMENTS[job.experiment], _open_when_free(job))
    except KeyboardInterrupt:
        failure = "stopped"
    except (RuntimeError, ArithmeticError, ValueError, OSError) as error:
        failure = " ".join(str(error).split())
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    return failure, place, time.monotonic() - start


def _open_when_free(job: Job) -> Any:
    limit = time.monotonic() + LOCK_WAIT
    while True:
        try:
            return job.open()
        except BusyError:
            if time.monotonic() > limit:
                raise
            time.sleep(1.0)
