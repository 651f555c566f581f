"""Runs at full speed: no shape checks, no curves for TensorBoard, no questions to git."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import pytest


@contextmanager
def full_speed() -> Iterator[pytest.MonkeyPatch]:
    """Gives the patch, for what else a test wants to change for as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        patch.setattr("metarl_lib.metrics.Metrics.write_events", lambda metrics: None)
        patch.setattr("metarl_lib.provenance._code_version", dict)
        yield patch
