"""The size of what an agent sees and earns, learned while it lives."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

LIMIT = 10.0
"""In standard deviations: how far a normalised number can be from 0."""

EPSILON = 1e-8


class RunningMoments(nn.Module):
    """Mean and variance of all vectors seen so far, by the formula of Chan et al. (1979).

    With n old and m new vectors, means μ and ν and variances v and w (those of a population),

        μ' = μ + (ν − μ) m / (n + m)
        v' = (n v + m w) / (n + m) + (ν − μ)² n m / (n + m)².

    Before any are seen, the mean is 0 and the variance 1.

    Args:
        size: of a vector.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))

    @torch.no_grad()
    def see(self, vectors: Float[Tensor, "*m size"]) -> None:
        """Take in more vectors."""
        vectors = vectors.reshape(-1, vectors.shape[-1])
        n, m = self.count, len(vectors)
        change = vectors.mean(0) - self.mean
        share = (m / (n + m)).to(change)
        variance = vectors.var(0, correction=0)
        self.variance += share * (variance - self.variance) + share * (1 - share) * change**2
        self.mean += share * change
        self.count += m

    def forward(self, vectors: Float[Tensor, "*m size"]) -> Float[Tensor, "*m size"]:
        """Vectors with the mean 0 and the variance 1 by what was seen, cut off at the limit."""
        scaled = (vectors - self.mean) / (self.variance + EPSILON).sqrt()
        return scaled.clamp(-LIMIT, LIMIT)

    @property
    def size(self) -> Float[Tensor, " size"]:
        """The root mean square of all vectors seen, 1 before any."""
        return (self.mean**2 + self.variance + EPSILON).sqrt()
