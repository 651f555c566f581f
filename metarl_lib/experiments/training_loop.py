"""The loop of a training in a stage: a bar, points of a learning curve, and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor
from tqdm import tqdm

from metarl_lib.algos import OuterLoop
from metarl_lib.envs.base import NotFiniteError
from metarl_lib.runs import Stage

Numbers = dict[str, float]


class Rhythm(NamedTuple):
    """At most how many points a learning curve has, and every which of them is a checkpoint."""

    logs: int
    logs_per_checkpoint: int

    def every(self, total: int) -> int:
        """Updates from point to point, of a training of `total` updates."""
        return max(1, math.ceil(total / self.logs))

    def keeps(self, done: int, total: int) -> bool:
        """Whether the point after `done` updates is a checkpoint."""
        return done // self.every(total) % self.logs_per_checkpoint == 0


@runtime_checkable
class Training(Protocol):
    """What goes on by updates, such as `PPO`."""

    done: int

    def update(self) -> Numbers:
        """One update, and what it says."""

    def checkpoint(self) -> dict[str, Tensor]:
        """All that the training needs to go on."""


def without_return(numbers: Numbers) -> Numbers:
    """All but the return, which is NaN where no trial ended."""
    return {name: value for name, value in numbers.items() if name != "return"}


def make_updates(
    stage: Stage,
    training: Training,
    total: int,
    average: Callable[[list[Numbers]], Numbers],
    rhythm: Rhythm,
    *,
    size: int = 1,
    checked: Callable[[Numbers], Numbers] = without_return,
    watch: Callable[[Numbers], None] | None = None,
    kept: Mapping[str, Tensor] | None = None,
) -> bool:
    """Make the updates that are left of a training, and say whether a bar was shown.

    The finished stage, the caller writes.

    Args:
        stage: where points and checkpoints go.
        training: restored, if there is a checkpoint.
        total: updates of the whole training.
        average: a point of the learning curve, from what the updates since the last one said.
        rhythm: of points and checkpoints.
        size: environment steps of an update; they are what points are logged at.
        checked: which numbers of an update must be finite.
        watch: looks on at the numbers of each update.
        kept: tensors beside the training's own in checkpoints.

    Raises:
        DivergenceError: when a number is not finite, or an action.
    """
    every = rhythm.every(total)
    window: list[Numbers] = []
    unit: dict[str, Any] = {"unit": "step", "unit_scale": True} if size > 1 else {}
    with tqdm(
        total=total * size, initial=training.done * size, desc=stage.name, leave=False,
        disable=None, **unit,
    ) as bar:  # fmt: skip
        while training.done < total:
            try:
                numbers = training.update()
            except NotFiniteError:  # an environment refuses such an action
                stage.check_finite(training.done * size, {"an action": math.nan})
                raise
            step, last = training.done * size, training.done == total
            stage.check_finite(step, checked(numbers))
            if watch is not None:
                watch(numbers)
            window.append(numbers)
            bar.update(size)
            if training.done % every and not last:
                continue
            values = average(window)
            window.clear()
            stage.log(step, values)
            returns = {k: f"{v:.3g}" for k, v in values.items() if "return" in k}
            bar.set_postfix(returns, refresh=False)
            if not last and (rhythm.keeps(training.done, total) or stage.stopping):
                stage.save(step, training.checkpoint() | dict(kept or {}))
    return not bar.disable


def advance_to_end(stage: Stage, loop: OuterLoop, total: int, rhythm: Rhythm) -> Numbers:
    """Make the meta-iterations that are left, from the stage's last checkpoint on.

    Logs `training_loss`, the mean since the log before of what the meta-iterations minimise, and
    returns the last; the finished stage, the caller writes.

    Raises:
        DivergenceError: when the loss is no longer finite.
    """
    if stage.tensors:
        loop.restore(stage.tensors)
    every = rhythm.every(total)
    values: Numbers = {}
    with tqdm(total=total, initial=loop.done, desc=stage.name, leave=False, disable=None) as bar:
        while loop.done < total:
            count = min(every, total - loop.done)
            values = {"training_loss": loop.advance(count)}
            stage.check_finite(loop.done, values)
            stage.log(loop.done, values)
            bar.update(count)
            bar.set_postfix(loss=f"{values['training_loss']:.3g}", refresh=False)
            if loop.done < total and (rhythm.keeps(loop.done, total) or stage.stopping):
                stage.save(loop.done, loop.checkpoint())
    return values
