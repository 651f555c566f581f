"""Kill a run at random moments, resume it until it ends, and compare it with an undisturbed one.

The run is the smoke test of the teacher-student experiment: eleven stages, with a checkpoint
every few steps. A process runs it, and gets SIGKILL after a random time, at most a third of what
the whole run takes; the next one resumes. Results, metrics and tensors have to be equal to the
last bit.

    python benchmarks/kill_and_resume.py [--quick | --kills N]
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch._dynamo  # a run imports it late, and here it is imported once for all processes

from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.runs import Run, stage_tensors

EXPERIMENT = EXPERIMENTS["teacher_student"]
CONFIG = EXPERIMENT.config("smoke", {"hidden": 10, "learning_rates": (1e-3,)})
MOST_KILLS = 60  # of one run; on a busy machine a process may get nowhere in its time
STUCK = 120.0  # seconds after which a process that goes on says where it is, and ends


def go_on(folder: Path) -> None:
    """Run it, or continue it, to its end."""
    if (folder / "config.json").exists():
        run = Run.resume(folder, EXPERIMENT.name, CONFIG)
    else:
        run = Run.create(folder, EXPERIMENT.name, CONFIG, scale="smoke", seed=0)
    if not run.finished:
        run.finish(EXPERIMENT.run(CONFIG, run))


def start(folder: Path) -> int:
    """Let it go on in a forked process; its number."""
    return fork(lambda: go_on(folder))


def fork(work: Callable[[], object]) -> int:
    """Work in a forked process, whose status says whether no error came; its number.

    Whatever starts threads has to go through here: a fork copies the locks that other threads
    hold, and who waits for one of these waits forever.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    faulthandler.dump_traceback_later(STUCK, exit=True)
    with contextlib.suppress(BaseException):
        work()
        status = 0
    os._exit(status)


def wait(child: int) -> int:
    """The exit status of a process; the number of a signal, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def step_of(folder: Path) -> int:
    """How many steps the checkpoints of a run hold, over all its stages."""
    path = folder / "state.json"
    if not path.exists():
        return 0
    return sum(record["step"] for record in json.loads(path.read_text())["stages"].values())


def compare(folder: Path, whole: Path) -> None:
    """An error unless `equal`."""
    if not equal(folder, whole):
        raise ValueError(f"{folder} differs from {whole}")


def equal(folder: Path, whole: Path) -> bool:
    """Whether two finished runs hold the same results, metrics and tensors, to the last bit."""
    if (folder / "results.json").read_bytes() != (whole / "results.json").read_bytes():
        return False
    tables = [pd.read_parquet(f / "metrics.parquet") for f in (folder, whole)]
    tensors = [stage_tensors(f) for f in (folder, whole)]
    same = tensors[0].keys() == tensors[1].keys()
    same = same and all(torch.equal(t, tensors[1][key]) for key, t in tensors[0].items())
    return same and tables[0].equals(tables[1])


def kill_until_done(folder: Path, seconds: float, most: int, chance: random.Random) -> list[int]:
    """Kill and resume one run until it ends; its steps at each kill."""
    steps: list[int] = []
    while len(steps) < most:
        child = start(folder)
        limit = time.monotonic() + chance.uniform(0, seconds)
        while time.monotonic() < limit:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                if status:
                    sys.exit(f"a resumed run failed in {folder}")
                return steps
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        if wait(child) == 0:  # it was faster
            return steps
        steps.append(step_of(folder))
    if wait(start(folder)):
        sys.exit(f"a resumed run failed in {folder}")
    return steps


def main() -> None:
    """Measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description="Kill a run at random moments and resume it.")
    parser.add_argument("--kills", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--quick", action="store_true", help="40 kills, at most a minute")
    options = parser.parse_args()
    kills = 40 if options.quick else options.kills
    torch.set_num_threads(1)
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as top:
        whole = Path(top) / "whole"
        gc.freeze()  # forks are cheaper
        if wait(start(whole)):
            sys.exit("the undisturbed run failed")
        times = []
        for repeat in range(3):
            begin = time.monotonic()
            if wait(start(Path(top) / f"again-{repeat}")):
                sys.exit("the undisturbed run failed")
            times.append(time.monotonic() - begin)
        seconds = statistics.median(times)
        runs, same, moments = 0, 0, []
        print(f"an undisturbed run takes {seconds:.2f} s and {step_of(whole)} steps")
        print(f"{'run':>4}{'kills':>7}  equal  steps at each kill")
        while len(moments) < kills:
            folder = Path(top) / str(runs)
            most = min(MOST_KILLS, kills - len(moments))
            steps = kill_until_done(folder, seconds / 3, most, chance)
            good = wait(fork(partial(compare, folder, whole))) == 0
            print(f"{runs:>4}{len(steps):>7}  {'yes' if good else 'NO':<5}  {steps}", flush=True)
            runs, same = runs + 1, same + good
            moments += steps
        distinct = len(set(moments))
        print(f"{len(moments)} kills, {distinct} different places, {same} of {runs} runs are equal")
        ratios = {"kills": len(moments), "places": distinct, "equal": same / runs}
        print(json.dumps({"benchmark": "kill_and_resume", "ratios": ratios}))


if __name__ == "__main__":
    main()
