"""The loop of a training: what it does when a policy's actions are no longer finite."""

import math

import pytest
import torch

from metarl_lib.envs.base import NotFiniteError
from metarl_lib.experiments import bandit
from metarl_lib.experiments.training_loop import Rhythm, make_updates
from metarl_lib.runs import DivergenceError, Run


class Doomed:
    """A training whose fifth update is refused by its environment."""

    def __init__(self) -> None:
        self.done = 0

    def update(self) -> dict[str, float]:
        if self.done == 4:
            raise NotFiniteError("action holds 12 NaN or infinite values")
        self.done += 1
        return {"loss": 1.0, "return": math.nan}

    def checkpoint(self) -> dict[str, torch.Tensor]:
        return {"done": torch.tensor(self.done)}


def test_an_action_that_is_refused_stops_a_run_with_its_step_and_checkpoint(tmp_path) -> None:
    run = Run.create(tmp_path / "run", "bandit", bandit.PRESETS["smoke"], scale="smoke", seed=0)
    stage = run.stage("agent")
    with pytest.raises(DivergenceError) as stopped:
        make_updates(stage, Doomed(), 10, lambda window: window[-1], Rhythm(10, 3), size=8)
    line = str(stopped.value)
    assert line.startswith("agent diverged at step 32: an action = nan; last good checkpoint: ckpt")
    assert "(step 24)" in line
    assert "\n" not in line
    assert int(stage.tensors["done"]) == 3, "what was kept is kept"
