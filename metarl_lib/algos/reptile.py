"""What MAML is compared with: Reptile, and training on all tasks at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl_lib.algos.meta_learner import MetaLearner, Samples
from metarl_lib.datasets.families import Tasks
from metarl_lib.rules.gradient import sgd
from metarl_lib.rules.network import Params


@dataclass(frozen=True)
class Reptile(MetaLearner):
    """Reptile (Nichol, Achiam & Schulman, 2018): towards where gradient steps on the tasks lead.

        θ_i ← θ_i − α ∇L_i(θ_i),   n times, from θ_i = θ
        θ ← θ − β (1/B) Σ_i (θ − θ_i) / α

    L_i is the loss of all samples of task i, because there are none to be judged by. With n = 1
    this is `JointTraining`. Arguments and errors are those of a `MetaLearner`.
    """

    def meta_gradient(self, meta: Sequence[Tensor], tasks: Tasks) -> tuple[Tensor, Params]:
        """The mean of L_i before the steps, a scalar, and that of (θ − θ_i) / α over the tasks."""
        x, y = all_samples(tasks)
        with torch.no_grad():
            found = self.loss(self.network(meta, x), y).mean()
            adapted = self.adapt(meta, x, y)
            moved = [(p - q.mean(0)) / self.rate for p, q in zip(meta, adapted, strict=True)]
        return found, moved


@dataclass(frozen=True)
class JointTraining(MetaLearner):
    """One network for all tasks: θ ← θ − β ∇_θ (1/B) Σ_i L_i(θ), and no inner steps in training.

    L_i is the loss of all samples of task i. On a new task the network is fine-tuned by the
    gradient steps of a `MetaLearner`, whose arguments and errors it has.
    """

    def meta_gradient(self, meta: Sequence[Tensor], tasks: Tasks) -> tuple[Tensor, Params]:
        """The mean of L_i, a scalar, and its gradient."""
        x, y = (part.flatten(0, 1) for part in all_samples(tasks))
        with torch.no_grad():
            found = self.loss(self.network(meta, x), y).mean()
        return found, sgd(self.network, meta, x, y, self.loss)


def all_samples(tasks: Tasks) -> Samples:
    """The samples to learn from and the held-out ones of each task."""
    return torch.cat([tasks.x, tasks.held_out_x], 1), torch.cat([tasks.y, tasks.held_out_y], 1)
