"""Running one seed to its end, in a way that can be stopped without loss."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from metarl_lib.experiments import EXPERIMENTS, Experiment
from metarl_lib.files import damaged
from metarl_lib.folder import read_header
from metarl_lib.runs import Row, Run

GRACE = 10.0  # seconds that a run which is asked to stop has to reach a checkpoint


def find_experiment(name: str) -> Experiment:
    """The experiment of this name.

    Raises:
        ValueError: when there is none.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"no experiment {name!r}: choose one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


def recorded(folder: Path) -> tuple[Experiment, Any, dict[str, Any]]:
    """The experiment and the configuration of a run folder, and what its `config.json` says.

    Raises:
        ValueError: when that is damaged, or of an experiment or fields that are no more.
    """
    header = read_header(folder)
    experiment = find_experiment(header["experiment"])
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in header["config"].items()
    }
    try:
        return experiment, experiment.config(header["scale"], fields), header
    except TypeError as error:
        raise damaged(folder / "config.json", f"holds a wrong value ({error})") from None


def execute(experiment: Experiment, run: Run) -> list[Row]:
    """Run an open run to its end.

    Ctrl-C, or a polite signal to end, lets it go on to its next checkpoint, though not for
    longer than `GRACE`; the second one stops it at once.

    Returns:
        The results, which are written too.

    Raises:
        KeyboardInterrupt: when it was stopped.
    """
    with _stoppable(run):
        rows = experiment.run(run.config, run)
        run.finish(rows)
    return rows


@contextlib.contextmanager
def stop_signals(asked: Callable[[], None]) -> Iterator[None]:
    """Have the signals that ask a process to end call `asked` instead.

    Only the main thread can; elsewhere nothing changes. A signal that is ignored stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # not every system has the last
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, lambda *_: asked())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _stoppable(run: Run) -> Iterator[None]:
    timer = threading.Timer(GRACE, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True

    def stop() -> None:
        if run.stopping:
            raise KeyboardInterrupt
        run.stopping = True
        timer.start()
        text = f"metarl: stopping at the next checkpoint, in {GRACE:.0f} s at the latest; "
        os.write(2, f"{text}once more stops at once\n".encode())  # print cannot be interrupted

    with stop_signals(stop):
        try:
            yield
        finally:
            timer.cancel()
