"""What the tests of the experiments share: an open run, and small settings of each experiment."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from full_speed import full_speed

from metarl_lib.runs import Run

# The plain environments that stand beside the tests of environments.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "envs"))


@dataclass(frozen=True)
class Settings:
    """Any frozen dataclass can be a run's configuration."""

    steps: int = 10


@pytest.fixture(scope="module")
def fast() -> Iterator[pytest.MonkeyPatch]:
    """All runs of a module at full speed."""
    with full_speed() as patch:
        yield patch


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "test", Settings(), scale="smoke", seed=0)
