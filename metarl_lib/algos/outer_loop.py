"""The outer loop of meta-learning: steps of the meta-parameters, each on tasks of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metarl_lib.algos.meta_learner import MetaLearner
from metarl_lib.algos.options import check_not_negative, check_whole
from metarl_lib.datasets.families import Family, Tasks
from metarl_lib.rules.adam import adam_step
from metarl_lib.rules.network import Params

BLOCK = 50
"""Meta-iterations whose tasks are drawn at once, which costs less than one by one."""


class OuterLoop:
    """Meta-parameters in training with Adam (Kingma & Ba, 2015).

    Args:
        learner: what is learned, such as `MAML`.
        family: what the tasks are drawn from.
        meta: initial meta-parameters, as `learner.init` draws them; not changed.
        stream: of the tasks.
        iterations: meta-iterations until the learning rate has reached its end.
        batch: B, tasks of a meta-iteration.
        learning_rate: β at the start.
        learning_rate_end: β at the end, approached linearly.

    Attributes:
        meta: the meta-parameters now.
        done: meta-iterations that were made.

    Raises:
        ValueError: for a number out of range, or a network that does not fit the family.
    """

    def __init__(
        self,
        learner: MetaLearner,
        family: Family,
        meta: Params,
        stream: torch.Generator,
        *,
        iterations: int,
        batch: int = 25,
        learning_rate: float = 1e-3,
        learning_rate_end: float = 1e-3,
    ) -> None:
        self.learner, self.family, self.stream = learner, family, stream
        self.iterations, self.batch = iterations, batch
        self.learning_rate, self.learning_rate_end = learning_rate, learning_rate_end
        check_whole(self, "iterations", "batch")
        check_not_negative(self, "learning_rate", "learning_rate_end")
        widths = learner.network.widths
        if (widths[0], widths[-1]) != (family.inputs, family.outputs):
            raise ValueError(
                f"widths={widths}: the tasks have {family.inputs} inputs and "
                f"{family.outputs} outputs"
            )
        self.done = 0
        # One vector, of which the meta-parameters are views: Adam is then a few operations.
        self._flat = torch.cat([p.reshape(-1) for p in meta])
        parts = self._flat.split([p.numel() for p in meta])
        self.meta = [part.view_as(p) for part, p in zip(parts, meta, strict=True)]
        self._first, self._second = torch.zeros_like(self._flat), torch.zeros_like(self._flat)

    def advance(self, iterations: int) -> float:
        """Make some meta-iterations; the mean loss of the tasks that they met.

        Tasks are drawn for up to 50 meta-iterations at once, so that calls of 50 are another
        training than calls of 25.
        """
        total, left = 0.0, iterations
        while left > 0:
            count = min(BLOCK, left)
            drawn = self.family.sample(count * self.batch, self.stream)
            cut = zip(*(part.split(self.batch) for part in drawn), strict=True)
            total += sum(float(self._step(Tasks(*tasks))) for tasks in cut)
            left -= count
        return total / iterations

    @torch.no_grad()
    def _step(self, tasks: Tasks) -> Tensor:
        """One meta-iteration, a step of Adam."""
        found, slopes = self.learner.meta_gradient(self.meta, tasks)
        slope = torch.cat([g.reshape(-1) for g in slopes])
        change = (self.learning_rate_end - self.learning_rate) / self.iterations
        rate = self.learning_rate + change * min(self.done, self.iterations)
        self.done += 1
        adam_step(self._flat, slope, self._first, self._second, self.done, rate)
        return found

    def checkpoint(self) -> dict[str, Tensor]:
        """All that the training needs to go on, bit for bit."""
        kept = {"meta": self._flat, "first": self._first, "second": self._second}
        kept = {name: tensor.clone() for name, tensor in kept.items()}
        return kept | {"stream": self.stream.get_state(), "done": torch.tensor(self.done)}

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint of an equal training."""
        for name, own in (("meta", self._flat), ("first", self._first), ("second", self._second)):
            own.copy_(kept[name])
        self.stream.set_state(kept["stream"])
        self.done = int(kept["done"])
