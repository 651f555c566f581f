"""What the tests of the rules share: small random problems, and rules without shape checks."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from metarl_lib.rules import Network, cross_entropy, half_mse
from metarl_lib.rules.losses import Loss


class Problem(NamedTuple):
    network: Network
    params: list[Tensor]
    x: Tensor
    y: Tensor
    loss: Loss


def random_problem(
    widths: tuple[int, ...] = (3, 4, 2),
    activation: str | None = "tanh",
    output_activation: str | None = None,
    *,
    bias: bool = False,
    loss: str = "half_mse",
    samples: int = 5,
    batch: tuple[int, ...] = (),
    seed: int = 0,
) -> Problem:
    """A random network and random data, float64; `batch` leads the parameters, not the data."""
    network = Network(widths, activation, output_activation, bias)
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    params = [randn(*batch, *shape) for shape in network.shapes]
    x = randn(samples, widths[0])
    if loss == "half_mse":
        return Problem(network, params, x, randn(samples, widths[-1]), half_mse)
    if loss == "soft":
        return Problem(network, params, x, randn(samples, widths[-1]).softmax(-1), cross_entropy)
    labels = torch.randint(widths[-1], (samples,), generator=generator)
    return Problem(network, params, x, labels, cross_entropy)


@pytest.fixture
def problem() -> Callable[..., Problem]:
    return random_problem


@pytest.fixture
def stream() -> torch.Generator:
    return torch.Generator().manual_seed(11)
