"""What a page of the book calls first: scale, seed, device, style, live and published results."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from metarl_lib import __version__, plots
from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.publishing import publish
from metarl_lib.report import Published, load_published
from metarl_lib.runs import SCALES, Run


@dataclass(frozen=True)
class Page:
    """The settings of a page.

    Attributes:
        scale: `smoke`, `book` or `full`, from the environment variable `METARL_SCALE`.
        seed: the page's root seed.
        device: where tensors live; `cuda` when there is one, else `cpu`.
    """

    scale: str
    seed: int
    device: torch.device

    def generator(self, index: int = 0) -> torch.Generator:
        """A fresh random stream on the CPU; equal indices give equal streams."""
        return torch.Generator().manual_seed(1000 * self.seed + index)

    def pick(self, smoke: int, book: int) -> int:
        """A count that is small at smoke scale."""
        return smoke if self.scale == "smoke" else book

    def published(self, experiment: str) -> Published:
        """The results of an experiment that ship with the book."""
        return load_published(experiment)

    def run(self, experiment: str, seeds: Sequence[int] = (0,)) -> Published:
        """Run an experiment here and now at this page's scale, in a folder that is thrown away."""
        chosen = EXPERIMENTS[experiment]
        config = chosen.config(self.scale)
        with tempfile.TemporaryDirectory() as folder:
            finished = []
            for seed in seeds:
                run = Run.create(
                    Path(folder) / str(seed), experiment, config, scale=self.scale, seed=seed
                )
                run.finish(chosen.run(config, run))
                finished.append(run.folder)
            publish(finished, Path(folder) / "results")
            return load_published(experiment, Path(folder) / "results")

    def glue(self, **values: str | float) -> None:
        """Hand values to the page's prose, under their names; outside the book, do nothing more."""
        try:
            from myst_nb import glue
        except ImportError:
            return
        for name, value in values.items():
            glue(name, value, display=False)


def setup(seed: int = 0) -> Page:
    """Read the scale, seed torch, set the figures' style, and say so in one line.

    Raises:
        ValueError: when `METARL_SCALE` is none of smoke, book, full.
    """
    scale = os.environ.get("METARL_SCALE", "book")
    if scale not in SCALES:
        raise ValueError(f"METARL_SCALE={scale!r} is unknown: choose one of {', '.join(SCALES)}")
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    plots.use_style()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"metarl_lib {__version__} · scale {scale} · seed {seed} · device {device}")
    return Page(scale, seed, device)
