"""Evolved Policy Gradients: a loss that is evolved so that those who descend it learn fast."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metarl_lib.algos.checkpoints import (
    copies,
    optimiser_tensors,
    own_tensors,
    restore_optimiser,
    with_prefix,
)
from metarl_lib.algos.evolution import (
    EvolutionSettings,
    antithetic,
    rate_of_loss,
    shaped,
    slope,
    weight_of_ppo,
)
from metarl_lib.algos.lives import Lives

Map = Callable[[Callable[..., Tensor], list[tuple[Any, ...]]], list[Tensor]]
"""`map(function, calls)` gives what the function says of each tuple of arguments, in order."""

NOISE, LIVES, FIRST = 0, 1, 2
"""What a key of random numbers is for."""


class EPG:
    """Evolved Policy Gradients (Houthooft et al., 2018).

    Two loops. Inside, learners with fresh weights live for U steps and descend the loss L_φ;
    see `Lives`. Outside, an evolution strategy moves φ towards losses whose learners earn more
    in the end. In a generation V losses φ + σ ε_v are judged, each by the mean fitness F_v of
    W lives, and

        φ ← Adam(φ, 1/V Σ_v shaped(F)_v ε_v − λ φ),    β₁ = 0,

    as in the published code, where σ is left to Adam. The losses' weight in the learners' steps
    is 1 − α, that of PPO's loss α, which falls from 1 to 0 in the first generations.

    Like the published code: the networks and the learners' optimiser, ranks, Adam with β₁ = 0,
    the decay, the schedules. Not like it: the perturbations come in antithetic pairs, all
    of a generation live through the same tasks and the same random numbers, and each is judged
    by W lives rather than one. (The paper shares each of its V perturbations among workers.)

    All draws of a generation follow from the seed and its number. So a checkpoint needs no
    generators, and where the lives are computed makes no difference: `map` may send the blocks
    of losses anywhere.

    Args:
        lives: environment and learners.
        settings: of the evolution.
        seed: a whole number >= 0.
        map: computes the blocks; by default here, one by one, or on Ray's workers when this
            process belongs to a Ray cluster.
    """

    def __init__(
        self, lives: Lives, settings: EvolutionSettings, seed: int, map: Map | None = None
    ) -> None:
        self.lives, self.settings, self.seed = lives, settings, seed
        self.map = map or (on_ray if in_ray_cluster() else one_by_one)
        self.phi = lives.network.initial(self._generator(FIRST, 0)).requires_grad_()
        self.optimiser = torch.optim.Adam([self.phi], lr=settings.loss_rate, betas=(0.0, 0.999))
        self.done = 0

    def update(self) -> dict[str, float]:
        """Judge the losses of a generation, and move on.

        Returns:
            `fitness`, the mean over all perturbed losses; `spread`, the standard deviation
            among them; `alpha`; and `size`, the root mean square of φ after the step.
        """
        s = self.settings
        noise = antithetic(s.losses // 2, len(self.phi), self._generator(NOISE, self.done))
        alpha = weight_of_ppo(self.done, s)
        fitness = self.fitness(self.phi.detach() + s.sigma * noise, alpha).mean(1)
        gradient = slope(noise, shaped(fitness)) - s.decay * self.phi.detach()
        for group in self.optimiser.param_groups:
            group["lr"] = rate_of_loss(self.done, s)
        self.phi.grad = -gradient
        self.optimiser.step()
        self.done += 1
        size = self.phi.detach().square().mean().sqrt()
        return {
            "fitness": float(fitness.mean()),
            "spread": float(fitness.std()),
            "alpha": alpha,
            "size": float(size),
        }

    def fitness(self, phis: Float[Tensor, "V P"], alpha: float) -> Float[Tensor, "V W"]:
        """The fitness of losses in the lives of this generation."""
        s, key = self.settings, (self.seed, LIVES, self.done)
        calls = [(self.lives, block, alpha, s.learners, key) for block in phis.split(s.block)]
        return torch.cat(self.map(fitness_of, calls))

    def checkpoint(self) -> dict[str, Tensor]:
        """All that the evolution needs to go on, bit for bit."""
        kept = {"phi": self.phi, "done": torch.tensor(self.done)}
        adam = own_tensors(optimiser_tensors(self.optimiser), "0")
        return copies(kept | with_prefix("optimiser", adam))

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint of an equal evolution."""
        with torch.no_grad():
            self.phi.copy_(kept["phi"])
        self.done = int(kept["done"])
        restore_optimiser(self.optimiser, with_prefix("0", own_tensors(kept, "optimiser")))

    def _generator(self, purpose: int, index: int) -> torch.Generator:
        seeds = np.random.SeedSequence([self.seed, purpose, index]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(seeds[0] >> 1))


def fitness_of(
    lives: Lives, phis: Float[Tensor, "V P"], alpha: float, learners: int, key: tuple[int, ...]
) -> Float[Tensor, "V W"]:
    """The fitness of a block of losses."""
    return lives.live(phis, alpha, learners, key).fitness


def one_by_one(function: Callable[..., Tensor], calls: list[tuple[Any, ...]]) -> list[Tensor]:
    """Compute all blocks here."""
    return [function(*call) for call in calls]


def in_ray_cluster() -> bool:
    """Whether this process belongs to a Ray cluster, as that of `metarl sweep --backend ray`."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def on_ray(function: Callable[..., Tensor], calls: list[tuple[Any, ...]]) -> list[Tensor]:
    """Compute the blocks on the workers of the Ray cluster that this process belongs to."""
    ray = sys.modules["ray"]
    work = ray.remote(num_cpus=1)(_alone)
    return ray.get([work.remote(function, call) for call in calls])


def _alone(function: Callable[..., Tensor], call: tuple[Any, ...]) -> Tensor:
    torch.set_num_threads(1)
    return function(*call)
