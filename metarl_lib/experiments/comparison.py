"""What every comparison of rules keeps: curves, and the numbers of whole lives."""

from __future__ import annotations

from torch import Tensor

from metarl_lib.datasets import Tasks
from metarl_lib.envs.weight_space import WeightSpace
from metarl_lib.experiments.base import row
from metarl_lib.experiments.hand_made import references
from metarl_lib.experiments.learners import Life, Log
from metarl_lib.runs import Row


class Comparison:
    """Rules side by side on the same tasks, in one condition.

    Metrics, each followed by the condition: `area` is the mean log training loss over the
    steps of a life, `log_loss` that of the last step (and, logged, of the steps before),
    `held_out_loss` its value on held-out samples, `held_out_accuracy` the share of them that is
    classified correctly, `diverged` the share of networks that diverged.

    Args:
        env: the environment of the condition.
        tasks: the tasks, the same for every rule.
        condition: its name.
        log: where the curves go.
        stride: how many steps lie between two logged ones; the last is always logged.

    Attributes:
        rows: the results so far.
        lives: every recorded life, by variant.
    """

    def __init__(
        self, env: WeightSpace, tasks: Tasks, condition: str, log: Log, stride: int = 1
    ) -> None:
        self.env, self.tasks, self.condition = env, tasks, condition
        self.log, self.stride = log, stride
        self.rows: list[Row] = []
        self.lives: dict[str, Life] = {}

    def add(self, variant: str, metric: str, value: Tensor | float) -> None:
        """Keep one number, the mean over tasks where there is one for each, `[B]`."""
        self.rows.append(row(variant, f"{metric}_{self.condition}", value, self.env.steps))

    def record(self, variant: str, life: Life) -> None:
        """Keep a life: its curve and its numbers."""
        self.lives[variant] = life
        mean, last = life.log_losses.mean(1).tolist(), self.env.steps
        for step in sorted({*range(0, last + 1, self.stride), last}):
            self.log(step, {f"{variant}/log_loss_{self.condition}": mean[step]})
        self.add(variant, "area", area(life))
        self.add(variant, "log_loss", life.log_losses[-1])
        self.add(variant, "held_out_loss", life.held_out)
        self.add(variant, "diverged", life.diverged.float())
        if self.env.family.kind == "classification":
            self.add(variant, "held_out_accuracy", life.accuracy)

    def add_references(self) -> None:
        """Keep the log losses of the predictors that ignore the input."""
        for name, value in references(self.env, self.tasks).items():
            self.add(name, "log_loss", value)


def area(life: Life) -> Tensor:
    """The mean log loss over the steps of each life, `[B]`."""
    return life.log_losses[1:].mean(0)
