"""A run is a folder: configuration, provenance, metrics, checkpoints.

A run that is killed at any moment resumes from its last checkpoint, bit for bit. `state.json`
decides: it names the checkpoints that count, says how many rows of metrics do, and holds the
SHA-256 of both, so that a file which is damaged or comes from elsewhere is refused. Whatever a
kill left beyond that is removed on resuming. Nothing is unpickled.

A kill takes nothing that was written. A power failure can, so a run that has cost more than a
minute waits for the disk at every checkpoint; a shorter one is sooner repeated than lost.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor

from metarl_lib.files import (
    Lock,
    damaged,
    hold,
    read_json,
    remove_lock,
    write_atomically,
    write_json,
)
from metarl_lib.folder import (
    is_vacant,
    load_checkpoint,
    read_header,
    read_state,
    stage_tensors,
)
from metarl_lib.metrics import Metrics
from metarl_lib.provenance import config_hash, now, provenance

SCALES = ("smoke", "book", "full")
STREAMS = ("init", "tasks", "environment", "actions", "minibatches", "evaluation", "tuning")
SYNC_AFTER = 60.0  # CPU seconds

State = dict[str, Any]
Row = dict[str, Any]


class DivergenceError(RuntimeError):
    """A number that training needs is no longer finite."""


def generator(seed: int, stream: str, index: int = 0) -> torch.Generator:
    """One of the independent random streams that a root seed spawns.

    Args:
        seed: the root seed, >= 0.
        stream: one of `STREAMS`. Drawing from one never moves another, so that evaluating more
            often cannot change training.
        index: tells several generators of one stream apart.

    Raises:
        ValueError: for a seed below 0, or an unknown stream.
    """
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed={seed!r}: must be a whole number >= 0")
    if stream not in STREAMS:
        raise ValueError(f"stream={stream!r} is unknown: choose one of {', '.join(STREAMS)}")
    sequence = np.random.SeedSequence(seed, spawn_key=(STREAMS.index(stream), index))
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


class Run:
    """An open run folder.

    Make one with `Run.create`, or open an unfinished one with `Run.resume`. It is locked
    against other processes for as long as it is open.
    """

    def __init__(self, folder: Path, experiment: str, config: Any, scale: str, seed: int) -> None:
        self.folder = folder
        self.experiment = experiment
        self.config = config
        self.scale = scale
        self.seed = seed
        self.stopping = False  # set it, and the next checkpoint ends the run
        identity = [config_hash(experiment, config), seed]
        self._state: State = {"run": identity, "stages": {}, "rows": 0, "cpu_seconds": 0.0}
        self._metrics = Metrics(folder)
        self._lock: Lock | None = None
        self._cpu_start = time.process_time()

    @classmethod
    def create(cls, folder: Path, experiment: str, config: Any, *, scale: str, seed: int) -> Run:
        """Start a run in a folder that does not exist yet, or is empty.

        Raises:
            FileExistsError: when the folder holds something.
            StorageError: when it cannot be written.
        """
        if folder.exists() and not is_vacant(folder):
            raise FileExistsError(
                f"{folder} is not empty: choose another --out, or continue it with --resume"
            )
        write_json(
            folder / "config.json",
            {
                "experiment": experiment,
                "scale": scale,
                "seed": seed,
                "hash": config_hash(experiment, config),
                "config": dataclasses.asdict(config),
            },
        )
        return cls.resume(folder, experiment, config)

    @classmethod
    def resume(cls, folder: Path, experiment: str, config: Any) -> Run:
        """Open a run folder at its last checkpoint, or at the start when it has none.

        Folders from before there were hashes in `state.json` open unchecked.

        Raises:
            ValueError: when the folder belongs to another configuration, or a file in it is
                damaged, missing, or another run's; nothing is changed then.
            BusyError: when another process runs it.
            StorageError: when it cannot be written.
        """
        header = read_header(folder)
        if header["hash"] != config_hash(experiment, config):
            raise ValueError(
                f"{folder} was started with another configuration of {experiment!r}: "
                "it cannot be resumed; start a new run"
            )
        run = cls(folder, experiment, config, header["scale"], header["seed"])
        if not run.finished:
            run._lock = hold(folder)
        try:
            run._read()
        except ValueError:
            remove_lock(folder)
            raise
        if run.finished:  # a kill at the last moment left it
            remove_lock(folder)
        return run

    @property
    def finished(self) -> bool:
        """Whether the run's results are written."""
        return (self.folder / "results.json").exists()

    def stage(self, name: str) -> Stage:
        """The part of this run called `name`, at its last checkpoint."""
        return Stage(self, name)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add numbers to the metrics; they reach the disk with the next `save`.

        A resumed run that comes by here again logs them again: guard them with a stage that is
        finished afterwards, or log them through a stage.
        """
        self._metrics.rows += [(int(step), name, float(v)) for name, v in values.items()]

    def metrics(self) -> pd.DataFrame:
        """Everything logged so far, as columns `step`, `name`, `value`."""
        return self._metrics.frame()

    def tensors(self) -> dict[str, Tensor]:
        """What the last checkpoint of every stage holds, under `stage.key`."""
        return stage_tensors(self.folder)

    def save(self) -> None:
        """Write the metrics, then the state that says how many of them count."""
        self._metrics.write(sync=self._sync)
        self._state["rows"] = len(self._metrics.rows)
        self._state["metrics"] = self._metrics.sha256()
        self._count_cpu()
        write_json(self.folder / "state.json", self._state, sync=self._sync)
        self._metrics.write_events()

    def finish(self, rows: list[Row]) -> None:
        """Write the results and close the run.

        What no checkpoint counted joins the metrics here, but not the state: a kill before the
        results are there logs it again.
        """
        self._metrics.release(*self._metrics.waiting)
        self._metrics.write(sync=self._sync)
        self._metrics.write_events()
        self._metrics.close()
        self._count_cpu()
        record = read_json(self.folder / "provenance.json")
        record["end"] = now()
        record["cpu_seconds"] = round(self._state["cpu_seconds"], 1)
        record["stage_cpu_seconds"] = {
            name: round(stage["cpu_seconds"], 1)
            for name, stage in self._state["stages"].items()
            if "cpu_seconds" in stage  # not in runs from before it was counted
        }
        write_json(self.folder / "provenance.json", record)
        write_json(self.folder / "results.json", rows, sync=self._sync)
        remove_lock(self.folder)

    def discard(self) -> bool:
        """Empty the folder where no stage was saved, so that the next run can start there.

        Returns:
            Whether it was emptied.
        """
        if self._state["stages"]:
            return False
        self._metrics.close()
        for path in self.folder.iterdir():
            path.unlink()
        return True

    @property
    def _sync(self) -> bool:
        return self._state["cpu_seconds"] > SYNC_AFTER

    def _count_cpu(self) -> None:
        used = time.process_time()
        self._state["cpu_seconds"] += used - self._cpu_start
        self._cpu_start = used

    def _read(self) -> None:
        """Check all that the folder holds and take it up; write what it lacks at the start."""
        path = self.folder / "provenance.json"
        started = (self.folder / "state.json").exists()
        if started or self.finished or any(self.folder.glob("ckpt-*")):
            self._read_state()
        if path.exists():
            read_json(path)
        if self.finished:
            return
        if not path.exists():
            write_json(path, provenance(self.experiment, self.config, self.scale, self.seed))
        if not started:
            self.save()
        self._tidy()

    def _read_state(self) -> None:
        state = read_state(self.folder)
        if state.get("run", self._state["run"]) != self._state["run"]:
            raise damaged(self.folder / "state.json", "belongs to another run than config.json")
        for record in state["stages"].values():
            load_checkpoint(self.folder, record)
        self._metrics.read(state["rows"], state.get("metrics"), beyond=self.finished)
        self._state |= state

    def _tidy(self) -> None:
        """Remove what a kill left: temporary files, and checkpoints that do not count."""
        counted = {record["file"] for record in self._state["stages"].values()}
        for path in [*self.folder.glob(".*.partial"), *self.folder.glob("ckpt-*")]:
            if path.name not in counted:
                path.unlink()


class Stage:
    """One resumable part of a run: a training, a search, a measurement.

    Attributes:
        step: how many steps are done, as of the last checkpoint.
        tensors: what the last checkpoint holds, on the CPU; empty at the start.
        values: small numbers and strings kept beside the tensors.
        finished: whether the stage has run to its end.
    """

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name
        record = run._state["stages"].get(name, {})
        self.step: int = record.get("step", 0)
        self.values: State = record.get("values", {})
        self.finished: bool = record.get("finished", False)
        self._file: str | None = record.get("file")
        self._cpu: float = record.get("cpu_seconds", 0.0)
        self._cpu_start = time.process_time()
        self.tensors: dict[str, Tensor] = load_checkpoint(run.folder, record) if record else {}

    @property
    def stopping(self) -> bool:
        """Whether the run is asked to stop: a loop that sees it saves at once, which ends it."""
        return self.run.stopping

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers under this stage's name; they count from this stage's next checkpoint on."""
        rows = self.run._metrics.waiting.setdefault(self.name, [])
        rows += [(int(step), f"{self.name}/{key}", float(v)) for key, v in values.items()]

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        values: State | None = None,
        *,
        finished: bool = False,
    ) -> None:
        """Write a checkpoint; the one before is removed once the new one counts.

        Args:
            step: how many steps are done.
            tensors: all that resuming needs, of any dtype and on any device, the states of
                generators included. Only what is here when the stage is finished is published.
            values: small numbers and strings, as JSON holds them.
            finished: whether the stage has run to its end.

        Raises:
            StorageError: when the disk refuses; the checkpoint before still counts.
            KeyboardInterrupt: when the run was asked to stop; the checkpoint is written.
        """
        old = self._file
        kept = {key: tensor.detach().clone() for key, tensor in tensors.items()}
        record: State = {"step": step, "values": dict(values or {}), "finished": finished}
        record["cpu_seconds"] = self._cpu + time.process_time() - self._cpu_start
        record["file"] = None
        if kept:
            data = save({key: tensor.contiguous() for key, tensor in kept.items()})
            names = (f"ckpt-{self.name}-{step}{again}.safetensors" for again in ("", "b"))
            path = self.run.folder / next(name for name in names if name != old)
            write_atomically(path, lambda p: p.write_bytes(data), sync=self.run._sync)
            record |= {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}
        self.run._metrics.release(self.name)
        self.run._state["stages"][self.name] = record
        self.run.save()
        self.step, self.tensors, self.values = step, kept, record["values"]
        self.finished, self._file = finished, record["file"]
        if old is not None:
            (self.run.folder / old).unlink(missing_ok=True)
        if self.run.stopping:
            raise KeyboardInterrupt

    def check_finite(self, step: int, values: Mapping[str, float]) -> None:
        """Stop the run when a number is NaN or infinite.

        Raises:
            DivergenceError: names the number, the step and the last good checkpoint.
        """
        bad = [f"{key} = {value}" for key, value in values.items() if not np.isfinite(value)]
        if bad:
            kept = self._file or "none yet"
            raise DivergenceError(
                f"{self.name} diverged at step {step}: {', '.join(bad)}; last good checkpoint: "
                f"{kept} (step {self.step}); use a smaller learning rate"
            )
