"""Initial weights that are learned over many tasks, and gradient steps from them on one task."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from metarl_lib.algos.options import check_positive, check_whole
from metarl_lib.datasets.families import Tasks
from metarl_lib.rules.gradient import backpropagation, sgd
from metarl_lib.rules.losses import LOSS_GRADIENTS, Loss, mse
from metarl_lib.rules.network import Network, Params

# x [B, N, R_0], and y: [B, N, R_L] real numbers or [B, N] labels.
Samples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class MetaLearner(ABC):
    """What MAML, Reptile and joint training share: θ, and n gradient steps from it on a task.

    Args:
        network: f_θ.
        loss: L, one value per sample, of which the mean is taken.
        inner_steps: n.
        rate: α of the steps.

    Meta-parameters are a plain list of tensors, here θ alone.

    Raises:
        ValueError: for a number out of range.
    """

    network: Network
    loss: Loss = mse
    inner_steps: int = 1
    rate: float = 0.01

    def __post_init__(self) -> None:
        check_whole(self, "inner_steps")
        check_positive(self, "rate")

    @abstractmethod
    def meta_gradient(self, meta: Sequence[Tensor], tasks: Tasks) -> tuple[Tensor, Params]:
        """A loss of the meta-parameters on B tasks, a scalar, and what takes its gradient's place.

        Raises:
            ValueError: for samples that do not fit the network.
        """

    def init(self, generator: torch.Generator | None = None) -> Params:
        """Draw meta-parameters: θ as `Network.init` does."""
        return self.network.init(generator)

    def split(self, meta: Sequence[Tensor]) -> tuple[Params, float | Params]:
        """θ and α out of the meta-parameters."""
        return list(meta), float(self.rate)

    def path(
        self, meta: Sequence[Tensor], x: Float[Tensor, "B N R_0"], y: Shaped[Tensor, "B N *R_L"]
    ) -> Iterator[Params]:
        """The weights θ_i of each task after 0, 1, 2, … gradient steps, without end.

        Args:
            meta: the meta-parameters.
            x: inputs of each task, to learn from.
            y: their targets.

        Yields:
            The parameters, with a leading B.

        Raises:
            ValueError: for samples that do not fit the network, or NaN in them.
        """
        params, rates = self.split(meta)
        alphas = for_each(rates, params)
        rule = backpropagation if self.loss in LOSS_GRADIENTS else sgd
        theta = [p.expand(len(x), *p.shape) for p in params]
        while True:
            yield theta
            slopes = rule(self.network, theta, x, y, self.loss)
            theta = [p - a * g for p, a, g in zip(theta, alphas, slopes, strict=True)]

    def adapt(
        self,
        meta: Sequence[Tensor],
        x: Float[Tensor, "B N R_0"],
        y: Shaped[Tensor, "B N *R_L"],
        steps: int | None = None,
    ) -> Params:
        """θ_i of each task after some gradient steps, by default after n; see `path`."""
        count = self.inner_steps if steps is None else steps
        return next(itertools.islice(self.path(meta, x, y), count, None))


def for_each(rates: float | Sequence[Tensor], params: Sequence[Tensor]) -> Sequence[float | Tensor]:
    """One rate for each parameter."""
    return [rates] * len(params) if isinstance(rates, float) else rates


def fitted(network: Network, samples: Samples) -> Samples:
    """The samples, with labels as one-hot vectors.

    Raises:
        ValueError: when they do not fit the network.
    """
    x, y = samples
    wanted, outputs = x.shape[:2], network.widths[-1]
    if x.ndim != 3 or x.shape[2] != network.widths[0]:
        raise ValueError(
            f"x has shape {tuple(x.shape)}: the network reads [tasks, samples, {network.widths[0]}]"
        )
    if y.is_floating_point():
        if y.shape != (*wanted, outputs):
            raise ValueError(
                f"y has shape {tuple(y.shape)}: the network gives {(*wanted, outputs)}"
            )
        return x, y
    if y.shape != wanted:
        raise ValueError(f"y has shape {tuple(y.shape)}: labels must be {tuple(wanted)}")
    low, high = (int(value) for value in y.aminmax())
    if low < 0 or high >= outputs:
        raise ValueError(
            f"y holds labels from {low} to {high}: they must lie between 0 and {outputs - 1}, "
            "one for each output"
        )
    return x, torch.nn.functional.one_hot(y.long(), outputs).to(x.dtype)
