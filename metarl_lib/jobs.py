"""The seeds of a sweep: which they are, where each of them runs, and what is left of it."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.folder import is_vacant, read_header, read_state
from metarl_lib.runs import Run, config_hash

COMMAND = (sys.executable, "-m", "metarl_lib.cli")
MOST_SEEDS = 10_000


@dataclass(frozen=True, eq=False)
class Job:
    """One seed of a sweep.

    Attributes:
        experiment: its name.
        scale: the preset.
        seed: the root seed.
        folder: the run folder, on a file system that every worker sees.
        fields: what replaces the preset's values.
        words: the same as words of the command line.
    """

    experiment: str
    scale: str
    seed: int
    folder: Path
    fields: dict[str, Any]
    words: tuple[str, ...]

    @property
    def begun(self) -> bool:
        """Whether there is something to resume."""
        return (self.folder / "config.json").exists()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.begun and (self.folder / "results.json").exists()

    def config(self) -> Any:
        """The configuration."""
        return EXPERIMENTS[self.experiment].config(self.scale, self.fields)

    def command(self) -> list[str]:
        """The words that run it, or continue it, in a process of its own."""
        if self.begun:
            return [*COMMAND, "run", "--resume", str(self.folder)]
        place = ["--scale", self.scale, "--seed", str(self.seed), "--out", str(self.folder)]
        return [*COMMAND, "run", self.experiment, *place, *self.words]

    def open(self) -> Run:
        """The run, new or resumed."""
        if self.begun:
            return Run.resume(self.folder, self.experiment, self.config())
        return Run.create(
            self.folder, self.experiment, self.config(), scale=self.scale, seed=self.seed
        )

    def place(self) -> str:
        """Where it would go on, as words; "its start" before the first checkpoint."""
        try:
            stages = read_state(self.folder)["stages"] if self.begun else {}
        except ValueError:  # opening it will say what is wrong
            stages = {}
        return next((f"{n} step {r['step']}" for n, r in reversed(stages.items())), "its start")


def parse_seeds(text: str) -> list[int]:
    """The seeds that `0-9` or `0,3,5-7` names, in that order.

    Raises:
        ValueError: for anything else, a seed named twice, or more than `MOST_SEEDS`.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", part)
        if match is None:
            raise ValueError(f"--seeds {text!r} cannot be read: give seeds such as 0-9 or 0,3,5-7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"--seeds {text!r}: {first}-{last} runs backwards")
        if last - first + len(seeds) >= MOST_SEEDS:
            raise ValueError(f"--seeds {text!r}: at most {MOST_SEEDS} seeds in one sweep")
        seeds += range(first, last + 1)
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ValueError(f"--seeds {text!r}: {', '.join(map(str, twice))} more than once")
    return seeds


def check(jobs: Sequence[Job]) -> None:
    """Refuse a sweep of which a folder holds something else.

    Raises:
        ValueError: names the folder; nothing was started.
    """
    for job in jobs:
        other = _other_contents(job)
        if other:
            raise ValueError(f"{job.folder} holds {other}: choose another --out")


def _other_contents(job: Job) -> str:
    if job.begun:
        with contextlib.suppress(ValueError):  # a damaged folder fails when it is opened
            header = read_header(job.folder)
            wanted = (config_hash(job.experiment, job.config()), job.scale, job.seed)
            if (header["hash"], header["scale"], header["seed"]) != wanted:
                return "a run of another configuration, scale or seed"
    elif job.folder.is_dir():
        if not is_vacant(job.folder):
            return "something else than a run"
    elif job.folder.exists():
        return "a file"
    return ""
