"""A run is a folder: configuration, provenance, metrics, checkpoints.

Everything is written atomically (to a neighbouring temporary file, then renamed), so that a
run killed at any moment resumes from its last checkpoint, bit for bit. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SCALES = ("smoke", "book", "full")
STREAMS = ("init", "tasks", "environment", "actions", "minibatches", "evaluation", "tuning")
RL_PACKAGES = ("gymnasium", "stable-baselines3", "sb3-contrib")
RECORDED_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "mlxtend", "pandas", *RL_PACKAGES)

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
    """
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed={seed!r}: must be a whole number >= 0")
    if stream not in STREAMS:
        raise ValueError(f"stream={stream!r} is unknown: choose one of {', '.join(STREAMS)}")
    sequence = np.random.SeedSequence(seed, spawn_key=(STREAMS.index(stream), index))
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


def config_hash(experiment: str, config: Any) -> str:
    """A short fingerprint of an experiment's name and every field of its configuration."""
    text = json.dumps([experiment, dataclasses.asdict(config)], sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:12]


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` on a temporary neighbour of `path`, then rename it to `path`."""
    temporary = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    write(temporary)
    os.replace(temporary, path)


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, atomically, NaN refused."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def read_json(path: Path) -> Any:
    """The value that a JSON file holds."""
    return json.loads(path.read_text())


class Run:
    """An open run folder.

    Make one with `Run.create`, or open an unfinished one with `Run.resume`.
    """

    def __init__(self, folder: Path, experiment: str, config: Any, scale: str, seed: int) -> None:
        self.folder = folder
        self.experiment = experiment
        self.config = config
        self.scale = scale
        self.seed = seed
        self._state: State = {"stages": {}, "rows": 0, "cpu_seconds": 0.0}
        self._metrics: list[tuple[int, str, float]] = []
        self._events: Any = None
        self._written = 0
        self._cpu_start = time.process_time()

    @classmethod
    def create(cls, folder: Path, experiment: str, config: Any, *, scale: str, seed: int) -> Run:
        """Start a run in a folder that does not exist yet, or is empty.

        Raises:
            FileExistsError: when the folder holds something.
        """
        if folder.exists() and any(folder.iterdir()):
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

        Raises:
            ValueError: when the folder belongs to another configuration.
        """
        header = read_json(folder / "config.json")
        if header["hash"] != config_hash(experiment, config):
            raise ValueError(
                f"{folder} was started with another configuration of {experiment!r}: "
                "it cannot be resumed; start a new run"
            )
        run = cls(folder, experiment, config, header["scale"], header["seed"])
        if not (folder / "provenance.json").exists():
            record = provenance(experiment, config, run.scale, run.seed)
            write_json(folder / "provenance.json", record)
        if not (folder / "state.json").exists():
            run.save()
        run._state = read_json(folder / "state.json")
        if run._state["rows"]:
            metrics = pd.read_parquet(folder / "metrics.parquet")[: run._state["rows"]]
            run._metrics = list(metrics.itertuples(index=False, name=None))
        run._written = len(run._metrics)
        return run

    @property
    def finished(self) -> bool:
        """Whether the run's results are written."""
        return (self.folder / "results.json").exists()

    def stage(self, name: str) -> Stage:
        """The part of this run called `name`, at its last checkpoint."""
        return Stage(self, name)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add numbers to the metrics; they reach the disk with the next `save`."""
        self._metrics.extend((int(step), name, float(value)) for name, value in values.items())

    def metrics(self) -> pd.DataFrame:
        """Everything logged so far, as columns `step`, `name`, `value`."""
        return pd.DataFrame(self._metrics, columns=["step", "name", "value"])

    def tensors(self) -> dict[str, Tensor]:
        """What the last checkpoint of every stage holds, under `stage.key`."""
        return stage_tensors(self.folder)

    def save(self) -> None:
        """Write the metrics, then the state that says how many of them count."""
        if self._metrics:
            table = self.metrics()
            write_atomically(
                self.folder / "metrics.parquet", lambda path: table.to_parquet(path, index=False)
            )
        self._state["rows"] = len(self._metrics)
        now = time.process_time()
        self._state["cpu_seconds"] += now - self._cpu_start
        self._cpu_start = now
        write_json(self.folder / "state.json", self._state)
        self._write_events()

    def finish(self, rows: list[Row]) -> None:
        """Write the results and close the run."""
        self.save()
        if self._events is not None:
            self._events.close()
        record = read_json(self.folder / "provenance.json")
        record["end"] = _now()
        record["cpu_seconds"] = round(self._state["cpu_seconds"], 1)
        write_json(self.folder / "provenance.json", record)
        write_json(self.folder / "results.json", rows)

    def _write_events(self) -> None:
        if self._events is None:
            if not self._metrics:
                return
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.folder))
        for step, name, value in self._metrics[self._written :]:
            self._events.add_scalar(name, value, step)
        self._written = len(self._metrics)
        self._events.flush()


class Stage:
    """One resumable part of a run: a training, a search, a measurement.

    Attributes:
        step: how many steps are done, as of the last checkpoint.
        tensors: what the last checkpoint holds; empty at the start.
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
        self.tensors: dict[str, Tensor] = {}
        if self._file is not None:
            self.tensors = load_file(run.folder / self._file)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers under this stage's name."""
        self.run.log(step, {f"{self.name}/{key}": value for key, value in values.items()})

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        values: State | None = None,
        *,
        finished: bool = False,
    ) -> None:
        """Write a checkpoint; the one before is removed once the new one counts."""
        old = self._file
        self.step, self.finished = step, finished
        self.tensors = {key: tensor.detach().clone() for key, tensor in tensors.items()}
        self.values = dict(values or {})
        if self.tensors:
            self._file = f"ckpt-{self.name}-{step}.safetensors"
            contents = {key: t.contiguous() for key, t in self.tensors.items()}
            write_atomically(self.run.folder / self._file, lambda path: save_file(contents, path))
        self.run._state["stages"][self.name] = {
            "step": step,
            "values": self.values,
            "finished": finished,
            "file": self._file,
        }
        self.run.save()
        if old is not None and old != self._file:
            (self.run.folder / old).unlink(missing_ok=True)

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


def stage_tensors(folder: Path) -> dict[str, Tensor]:
    """Every stage's last tensors in a run folder, under `stage.key`; random streams left out."""
    collected = {}
    for name, record in read_json(folder / "state.json")["stages"].items():
        if record["file"] is not None:
            for key, tensor in load_file(folder / record["file"]).items():
                if key != "generator":
                    collected[f"{name}.{key}"] = tensor
    return collected


def provenance(experiment: str, config: Any, scale: str, seed: int) -> dict[str, Any]:
    """Where a result comes from: code, versions, hardware, command and start time."""
    return {
        "command": f"metarl run {experiment} --scale {scale} --seed {seed}",
        "argv": [portable(word) for word in sys.argv],
        "experiment": experiment,
        "hash": config_hash(experiment, config),
        **_code_version(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in RECORDED_PACKAGES},
        "hardware": {
            "machine": platform.machine(),
            "system": platform.system(),
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "start": _now(),
    }


def portable(word: str) -> str:
    """A word of the command line; of an absolute path, only the last part."""
    flag, equals, value = word.rpartition("=")
    return flag + equals + (Path(value).name if Path(value).is_absolute() else value)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _code_version() -> dict[str, str | None]:
    """The commit of this checkout and a hash of what differs from it; None outside of one."""
    root = Path(__file__).resolve().parent

    def git(*arguments: str) -> bytes | None:
        try:
            answer = subprocess.run(
                ["git", *arguments], cwd=root, capture_output=True, check=True, timeout=30
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout

    if git("ls-files", "--error-unmatch", "runs.py") is None:  # not this project's checkout
        return {"commit": None, "diff_hash": None}
    commit = git("rev-parse", "HEAD")
    difference = git("diff", "HEAD", "--", str(root)) or b""
    for name in (git("ls-files", "--others", "--exclude-standard") or b"").splitlines():
        difference += name + (root / name.decode()).read_bytes()
    return {
        "commit": commit.decode().strip() if commit else None,
        "diff_hash": hashlib.sha256(difference).hexdigest()[:12] if difference else None,
    }
