"""An experiment that takes milliseconds, with stages that take turns; run as a script, it breaks.

    python tiny_experiment.py FOLDER FAULT …

runs it once for every operation on files that it needs, in a process that is killed at that
operation (the fault `kill`), or whose operations fail from that one on (a name such as `ENOSPC`),
and then once more without the fault.
"""

import contextlib
import errno
import gc
import os
import signal
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import torch

from metarl_lib import runs
from metarl_lib.runs import Run, generator


@dataclass(frozen=True)
class Config:
    """Fields of the experiment."""

    steps: int = field(default=6, metadata={"help": "steps of the walk"})
    test_tasks: int = field(default=3, metadata={"help": "walks that the test averages"})


def walk(config: Config, run: Run) -> list[dict]:
    """A random walk with a checkpoint every third step, and a test in between."""
    stage, test = run.stage("walk"), run.stage("test")
    place, stream = torch.zeros(256), generator(run.seed, "actions")
    if stage.tensors:
        place = stage.tensors["place"].clone()
        stream.set_state(stage.tensors["generator"])
    for step in range(stage.step + 1, config.steps + 1):
        place += torch.randn(256, generator=stream)
        stage.log(step, {"size": float(place.norm())})
        if step % 3 == 1 and test.step < step:
            test.log(step, {"first": float(place[0])})
            test.save(step, {})
        if step % 3 == 0 or stage.stopping:
            tensors = {"place": place, "generator": stream.get_state()}
            stage.save(step, tensors, {"step": step}, finished=step == config.steps)
    run.log(config.steps, {"end": float(place.sum())})
    return evaluate(config, run.seed, run.tensors())


def evaluate(config: Config, seed: int, tensors: dict) -> list[dict]:
    """The size of the walk, and the mean of a few others."""
    others = torch.randn(config.test_tasks, generator=generator(seed, "evaluation"))
    values = {"size": tensors["walk.place"].norm(), "other": others.mean()}
    return [
        {"variant": "walk", "metric": name, "value": float(value), "budget": config.steps}
        for name, value in values.items()
    ]


def run_tiny(folder: Path) -> Run:
    """Start it in a folder, or continue it there, to its end."""
    if (folder / "config.json").exists():
        run = Run.resume(folder, "tiny", Config())
    else:
        run = Run.create(folder, "tiny", Config(), scale="smoke", seed=7)
    folder.with_suffix(".opened").write_text(str(run.stage("walk").step))
    if not run.finished:
        run.finish(walk(Config(), run))
    return run


def half_way(folder: Path, seed: int = 7) -> Path:
    """A run that stopped at its middle checkpoint."""
    run = Run.create(folder, "tiny", Config(), scale="smoke", seed=seed)
    save = run.save

    def save_and_ask() -> None:
        save()
        run.stopping = "walk" in run._state["stages"]

    run.save = save_and_ask
    with contextlib.suppress(KeyboardInterrupt):
        walk(Config(), run)
    (folder / ".lock").unlink()
    return folder


def break_at(number: int, folder: Path, fault: str) -> None:
    """Break this process at its `number`-th operation on the folder's files."""
    count = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if event not in ("open", "os.rename", "os.remove", "os.mkdir"):
            return
        if folder not in (Path(str(arguments[0])), *Path(str(arguments[0])).parents):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        count += 1
        if fault == "kill" and count == number:
            if event == "os.rename":  # what was written is torn, too
                os.truncate(arguments[0], Path(arguments[0]).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        if fault != "kill" and count >= number and event != "os.remove":
            code = getattr(errno, fault)
            raise OSError(code, os.strerror(code))

    sys.addaudithook(watch)


def in_child(folder: Path, number: int | None, fault: str) -> int:
    """Run it in a forked process, with the fault where there is a number; its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 70
    try:
        if number is not None:
            break_at(number, folder, fault)
        try:
            run_tiny(folder)
            status = 0
        except OSError as error:
            folder.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")
            left = sorted(path.name for path in folder.glob(".*.partial"))
            folder.with_suffix(".left").write_text("\n".join(left))
            status = 2
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    """Break it everywhere; both exit statuses go to `FOLDER/FAULT/NUMBER.statuses`."""
    top = Path(sys.argv[1]).resolve()
    torch.set_num_threads(1)
    runs.provenance = lambda *words: {}  # the real one asks git
    gc.freeze()  # forks are cheaper
    if in_child(top / "whole", None, "") != 0:
        sys.exit("it fails without a fault, too")
    for fault in sys.argv[2:]:
        for number in range(1, 1000):
            folder = top / fault / str(number)
            folder.parent.mkdir(exist_ok=True)
            statuses = [in_child(folder, number, fault), in_child(folder, None, fault)]
            folder.with_suffix(".statuses").write_text(" ".join(map(str, statuses)))
            if statuses[0] == 0 or 70 in statuses:
                break


if __name__ == "__main__":
    main()
