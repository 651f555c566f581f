"""An encoder of a few samples of a task, in whatever order they come."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SetEncoder(nn.Module):
    """Samples as a set (Zaheer et al., 2017), and whatever else there is to see.

    With the K samples (x_i, y_i) and the rest r of an observation, which holds x, y and r, flat,

        relu(A [(1/K) Σ_i φ(x_i, y_i); r] + b),    φ two layers of `units` with ReLU.

    Args:
        shape: K, and how many numbers x_i and y_i have.
        inputs: numbers of an observation.
        units: of every layer, and of the output.

    Raises:
        ValueError: for an observation that is too small for the samples.
    """

    def __init__(self, shape: tuple[int, int, int], inputs: int, units: int) -> None:
        super().__init__()
        samples, x, y = shape
        rest = inputs - samples * (x + y)
        if rest < 0:
            raise ValueError(
                f"inputs={inputs}: {samples} samples of {x} + {y} numbers do not fit into it"
            )
        self.sizes = (samples * x, samples * y, rest)
        self.samples = samples
        self.point = nn.Sequential(
            nn.Linear(x + y, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU()
        )
        self.whole = nn.Sequential(nn.Linear(units + rest, units), nn.ReLU())

    def forward(self, observations: Float[Tensor, "*B I"]) -> Float[Tensor, "*B units"]:
        """The code of each observation."""
        x, y, rest = observations.split(self.sizes, -1)
        points = [part.unflatten(-1, (self.samples, -1)) for part in (x, y)]
        mean = self.point(torch.cat(points, -1)).mean(-2)
        found: Tensor = self.whole(torch.cat([mean, rest], -1))
        return found
