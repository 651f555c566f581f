"""Evolution strategies: gradients of a function that can only be evaluated, from noisy copies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from metarl_lib.algos.options import (
    check_not_negative,
    check_positive,
    check_share,
    check_whole,
    option,
)


@dataclass(frozen=True)
class EvolutionSettings:
    """How a loss is evolved. The defaults are those of the published code but for `losses`.

    Raises:
        ValueError: for a number out of its range, or an odd number of losses.
    """

    generations: int = option(2000, "updates of the loss")
    losses: int = option(64, "perturbed losses of a generation, in antithetic pairs")
    learners: int = option(1, "lives that each perturbed loss is judged by")
    sigma: float = option(0.01, "deviation of the perturbations")
    loss_rate: float = option(1e-2, "learning rate of the loss at the start")
    loss_rate_end: float = option(1e-3, "and from half of the generations on")
    decay: float = option(1e-3, "weight of the loss's own parameters in its gradient, an l2 term")
    annealed: float = option(0.125, "share of the generations in which PPO's loss fades away")
    block: int = option(16, "perturbed losses that live in one batch")

    def __post_init__(self) -> None:
        check_whole(self, "generations", "losses", "learners", "block")
        if self.losses % 2:
            raise ValueError(f"losses={self.losses}: must be even, because they come in pairs")
        check_positive(self, "sigma", "loss_rate")
        check_not_negative(self, "loss_rate_end", "decay")
        check_share(self, "annealed")


def antithetic(draws: int, size: int, generator: torch.Generator) -> Float[Tensor, "V P"]:
    """V = 2 `draws` vectors of normal noise, the second half minus the first."""
    noise = torch.randn(draws, size, generator=generator)
    return torch.cat([noise, -noise])


def shaped(fitness: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
    """Fitness as ranks, spread evenly from −½ for the worst to ½ for the best.

    Equal ones share the mean of their ranks, so that where nothing makes a difference, nothing
    is learned. (The published code gives them different ranks in the order in which they come.)
    """
    below = (fitness[:, None] > fitness).sum(1)
    equal = (fitness[:, None] == fitness).sum(1)
    ranks = below + (equal - 1) / 2
    return (ranks / (len(fitness) - 1) - 0.5).to(fitness)


def slope(
    noise: Float[Tensor, "V P"], fitness: Float[Tensor, " V"], sigma: float = 1.0
) -> Float[Tensor, " P"]:
    """Estimate of ∇_φ E[F(φ + σ ε)] = E[F(φ + σ ε) ε] / σ (Salimans et al., 2017).

        ĝ = 1/(V σ) Σ_v F(φ + σ ε_v) ε_v

    Args:
        noise: ε_v.
        fitness: F(φ + σ ε_v).
        sigma: σ.
    """
    return fitness @ noise / (len(noise) * sigma)


def weight_of_ppo(generation: int, settings: EvolutionSettings) -> float:
    """α of a generation: from 1 to 0, linearly, over the share that is annealed, then 0."""
    fading = settings.annealed * settings.generations
    return max(0.0, 1 - generation / fading) if fading > 0 else 0.0


def rate_of_loss(generation: int, settings: EvolutionSettings) -> float:
    """The learning rate of a generation: linear over the first half, then constant."""
    progress = min(1.0, 2 * generation / settings.generations)
    return settings.loss_rate + progress * (settings.loss_rate_end - settings.loss_rate)
