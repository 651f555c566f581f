"""What an agent believes of its task: a normal distribution made of one factor a transition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import softplus


class Belief(NamedTuple):
    """Normal distributions over z with independent components, `[*M, Z]` each."""

    mean: Tensor
    variance: Tensor

    def draw(self, generator: torch.Generator) -> Tensor:
        """z = μ + σ ε with ε from the given stream; gradients reach μ and σ."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + self.variance.sqrt() * noise


def product_of_gaussians(
    means: Float[Tensor, "*M n Z"],
    precisions: Float[Tensor, "*M n Z"],
    among: Bool[Tensor, "*M n"] | None = None,
) -> Belief:
    """The normal distribution proportional to N(z; 0, 1) Π_n N(z; μ_n, 1/λ_n).

        1/σ² = 1 + Σ_n λ_n,    μ = σ² Σ_n λ_n μ_n

    The factors are those of Rakelly et al. (2019, equation 3); the first one, the prior, is an
    addition. With it an empty context gives the prior, and none a belief wider than that.

    Args:
        means: μ_n.
        precisions: λ_n ≥ 0; a factor with 0 says nothing.
        among: which factors count; None for all.
    """
    if among is not None:
        precisions = precisions * among.unsqueeze(-1)
    variance = 1 / (1 + precisions.sum(-2))
    return Belief(variance * (precisions * means).sum(-2), variance)


def kl_to_prior(belief: Belief) -> Float[Tensor, "*M"]:
    """KL(N(μ, σ²) ‖ N(0, 1)) = ½ Σ_i (μ_i² + σ_i² − 1 − log σ_i²), in nats."""
    mean, variance = belief
    return 0.5 * (mean.square() + variance - 1 - variance.log()).sum(-1)


class ContextEncoder(nn.Module):
    """q(z|c): a network reads each transition by itself, and a product joins what it finds.

    So the order of the transitions does not matter, and a context can have any number of them.

    Args:
        inputs: numbers of a transition, C.
        latent: numbers of z, Z; 0 for an agent that believes nothing.
        hidden: units of the layers between.
        deterministic: the belief is a point, the mean of the product.
    """

    def __init__(
        self, inputs: int, latent: int, hidden: Sequence[int], deterministic: bool = False
    ) -> None:
        super().__init__()
        self.latent, self.deterministic = latent, deterministic
        self.network = mlp(inputs, 2 * latent, hidden) if latent else None

    def forward(
        self, context: Float[Tensor, "M n C"], among: Bool[Tensor, "M n"] | None = None
    ) -> Belief:
        """The belief of each of M tasks, of whose transitions those `among` count."""
        if self.network is None:
            nothing = context.new_zeros(len(context), 0)
            return Belief(nothing, nothing)
        means, raw = self.network(context).chunk(2, -1)
        belief = product_of_gaussians(means, softplus(raw), among)
        if self.deterministic:
            return Belief(belief.mean, torch.zeros_like(belief.variance))
        return belief


def mlp(inputs: int, outputs: int, hidden: Sequence[int]) -> nn.Sequential:
    """Layers of rectified units, and a linear one at the end."""
    widths = [inputs, *hidden]
    layers: list[nn.Module] = []
    for i, o in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
