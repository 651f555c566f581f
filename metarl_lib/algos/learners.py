"""Learners side by side, each with weights of its own: they act, and descend a loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metarl_lib.algos.loss_network import (
    MEMORY,
    Losses,
    LossNetwork,
    Prepared,
    fewest_steps,
)
from metarl_lib.algos.losses import gae
from metarl_lib.algos.normalisation import RunningMoments
from metarl_lib.algos.options import check_positive, check_share, check_whole, option

MEMORY_INPUTS = 64
"""Inputs, all 1, of the layer whose output the memory is in the published code."""


@dataclass(frozen=True)
class LifeSettings:
    """How a learner lives. The defaults are those of the published code.

    Raises:
        ValueError: for a number out of its range, or one that does not divide another.
    """

    steps: int = option(8192, "steps of a life")
    stretch: int = option(64, "steps between two updates")
    buffer: int = option(512, "last steps that the loss sees")
    minibatch: int = option(32, "steps of a minibatch, one gradient step each")
    passes: int = option(1, "passes over a stretch")
    learner_rate: float = option(1e-3, "learning rate of the learners")
    hidden: int = option(64, "units of both hidden layers of a learner")
    log_std: float = option(0.0, "logarithm of the deviation of actions at the start")
    discount: float = option(0.99, "discount of future rewards, for PPO")
    gae_lambda: float = option(0.95, "decay of the advantage estimate, for PPO")
    clip: float = option(0.2, "how far the probability ratio counts, for PPO")
    normalise: bool = option(True, "take what is seen and done in deviations from its mean")
    test_episodes: int = option(3, "episodes after a life that tell how good it was")

    def __post_init__(self) -> None:
        names = ("steps", "stretch", "buffer", "minibatch", "passes", "hidden", "test_episodes")
        check_whole(self, *names)
        check_positive(self, "learner_rate", "clip")
        check_share(self, "discount", "gae_lambda")
        for whole, part in (("steps", "stretch"), ("stretch", "minibatch")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"{part}={getattr(self, part)}: must divide {whole}={getattr(self, whole)}"
                )
        least = max(fewest_steps(), self.stretch)
        if self.buffer < least:
            raise ValueError(
                f"buffer={self.buffer}: must be >= {least}, for a stretch and the convolutions"
            )


class Stretch(NamedTuple):
    """What L learners did in M steps, `[M, L, …]`.

    `following` is what each step led to, before any reset.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    ended: Tensor
    following: Tensor


class Targets(NamedTuple):
    """What PPO compares a stretch with, `[L, M]`."""

    log_probs: Tensor
    advantages: Tensor
    returns: Tensor


class Learners:
    """L = V W learners; the W side by side that share one of V losses differ in their tasks.

    Each has a policy N(μ_θ(s), σ²) with two hidden layers of tanh units, a memory of 32
    numbers and, for PPO, a value function like the policy. All parameters have a leading L, so
    one product of batched matrices, one backward pass and one step of `torch.optim.Adam` serve
    all learners; that optimiser takes each number by itself, so its step is that of L
    optimisers.

    In the published code the memory is tanh(W 1 + b), with 64 inputs that are all 1. Their
    weights have equal gradients, hence equal steps: together with the bias they move the
    argument of the tanh by 65 steps of one weight. Here it is a parameter with that rate.

    Args:
        network: the form of the loss.
        settings: how they live.
        learners: W.
        copies: V. Initial weights are drawn for W learners, and the same for every loss.
        generator: of these draws.
    """

    def __init__(
        self,
        network: LossNetwork,
        settings: LifeSettings,
        learners: int,
        copies: int,
        generator: torch.Generator,
    ) -> None:
        self.network, self.settings = network, settings
        self.lives = learners * copies
        inputs, outputs, units = network.observations, network.actions, settings.hidden
        policy = _layers((inputs, units, units, outputs), learners, generator)
        memory = torch.randn(learners, MEMORY, generator=generator)
        memory *= 0.01 * math.sqrt(MEMORY_INPUTS / MEMORY)
        value = _layers((inputs, units, units, 1), learners, generator)

        def own(tensor: Tensor) -> Tensor:
            return tensor.repeat(copies, *(1,) * (tensor.ndim - 1)).requires_grad_()

        self.policy, self.value = [own(p) for p in policy], [own(p) for p in value]
        self.memory = own(memory)
        self.log_std = own(torch.full((learners, outputs), settings.log_std))
        rate = settings.learner_rate
        groups: list[dict[str, Any]] = [
            {"params": [*self.policy, self.log_std, *self.value]},
            {"params": [self.memory], "lr": (MEMORY_INPUTS + 1) * rate},
        ]
        self.optimiser = torch.optim.Adam(groups, lr=rate, fused=True)
        self.of_seen = RunningMoments(self.lives * inputs)
        self.of_done = RunningMoments(self.lives * outputs)
        self.lived = 0
        size = settings.buffer, self.lives, network.seen
        self.buffer = torch.zeros(size)

    @torch.no_grad()
    def act(self, observations: Float[Tensor, "L I"], noise: Float[Tensor, "L A"]) -> Tensor:
        """Actions μ_θ(s) + σ · noise, `[L, A]`."""
        seen = self.look(observations[None])
        return mlp(self.policy, seen)[:, 0] + self.log_std.exp() * noise

    def look(self, observations: Float[Tensor, "n L I"]) -> Float[Tensor, "L n I"]:
        """Observations as the networks take them."""
        return _scaled(self.of_seen, observations, self.settings.normalise).transpose(0, 1)

    def learn(
        self, stretch: Stretch, losses: Losses | None, alpha: float, orders: list[Tensor]
    ) -> None:
        """Take the gradient steps after a stretch, on (1 − α) L_φ + α L_PPO.

        Args:
            stretch: what was done.
            losses: the V losses; None where α = 1.
            alpha: α, from 0 to 1.
            orders: a permutation of the stretch's steps for each pass.
        """
        s = self.settings
        self._take_in(stretch)
        observations = self.look(self.buffer[..., : self.network.observations])
        rows = torch.arange(s.buffer - s.stretch, s.buffer)
        prepared = seen = None
        if alpha < 1:
            assert losses is not None
            seen = self._described(observations)
            prepared = self.network.prepare(losses, seen, s.stretch)
            observations = seen[..., : self.network.observations]
        last = observations[:, rows]
        targets = self._targets(stretch, last) if alpha > 0 else None
        for order in orders:
            for chosen in order.split(s.minibatch):
                loss = torch.zeros(())
                if prepared is not None and losses is not None:
                    mean = mlp(self.policy, observations)
                    found = self._evolved(losses, prepared, mean, chosen)
                    loss = (1 - alpha) * found.sum()
                    mean = mean[:, rows[chosen]]
                else:
                    mean = mlp(self.policy, last[:, chosen])
                if targets is not None:
                    actions = stretch.actions[chosen].transpose(0, 1)
                    log_probs = log_prob(mean, self.log_std, actions)
                    values = mlp(self.value, last[:, chosen])[..., 0]
                    loss = (
                        loss + alpha * ppo_losses(log_probs, values, targets, chosen, s.clip).sum()
                    )
                self.optimiser.zero_grad()
                loss.backward()
                self.optimiser.step()

    def _evolved(
        self, losses: Losses, prepared: Prepared, mean: Tensor, chosen: Tensor
    ) -> Float[Tensor, " L"]:
        return self.network(
            losses, prepared, mean, self.log_std, self.memory.tanh(), chosen
        )  # fmt: skip

    def _take_in(self, stretch: Stretch) -> None:
        """Move the buffer on, and learn the size of what is seen and done."""
        new = torch.cat(
            [
                stretch.observations, stretch.actions, stretch.rewards[..., None],
                stretch.ended[..., None].to(stretch.rewards),
            ],
            -1,
        )  # fmt: skip
        self.buffer = torch.cat([self.buffer[len(new) :], new])
        self.lived += len(new)
        if self.settings.normalise:
            self.of_seen.see(stretch.observations.flatten(1))
            self.of_done.see(stretch.actions.flatten(1))

    def _described(self, observations: Float[Tensor, "L N I"]) -> Float[Tensor, "L N R"]:
        """The buffer as the loss reads it; steps before the life began are 0."""
        inputs, outputs = self.network.observations, self.network.actions
        done = self.buffer[..., inputs : inputs + outputs]
        actions = _scaled(self.of_done, done, self.settings.normalise)
        rest = torch.cat([actions, self.buffer[..., inputs + outputs :]], -1).transpose(0, 1)
        seen = torch.cat([observations, rest], -1)
        seen[:, : max(0, self.settings.buffer - self.lived)] = 0
        return seen

    @torch.no_grad()
    def _targets(self, stretch: Stretch, seen: Float[Tensor, "L M I"]) -> Targets:
        """Advantages, standardised for each learner, what the critic learns, and log π_old."""
        s = self.settings
        values = mlp(self.value, seen)[..., 0]
        following = mlp(self.value, self.look(stretch.following))[..., 0]
        following = following.masked_fill(stretch.terminated.T, 0.0)
        advantages = gae(
            stretch.rewards, values.T, following.T, stretch.ended, s.discount, s.gae_lambda
        ).T
        spread = advantages.std(1, keepdim=True) + 1e-8
        standard = (advantages - advantages.mean(1, keepdim=True)) / spread
        actions = stretch.actions.transpose(0, 1)
        old = log_prob(mlp(self.policy, seen), self.log_std, actions)
        return Targets(old, standard, advantages + values)


def mlp(weights: list[Tensor], x: Float[Tensor, "L n I"]) -> Float[Tensor, "L n O"]:
    """Networks of tanh layers, each row with its own weights: matrix and bias in turn."""
    for k in range(0, len(weights), 2):
        x = torch.baddbmm(weights[k + 1], x, weights[k])
        if k + 2 < len(weights):
            x = torch.tanh(x)
    return x


def log_prob(
    mean: Float[Tensor, "L n A"], log_std: Float[Tensor, "L A"], actions: Float[Tensor, "L n A"]
) -> Float[Tensor, "L n"]:
    """log π(a|s) of normal policies."""
    log_std = log_std[:, None]
    squares = ((actions - mean) * (-log_std).exp()).square()
    return -(0.5 * squares + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)


def ppo_losses(
    log_probs: Tensor, values: Tensor, targets: Targets, chosen: Tensor, clip: float
) -> Float[Tensor, " L"]:
    """Of each learner, the clipped surrogate and half the mean square of V − R, on a minibatch.

    See `losses.ppo_loss` and `losses.value_loss`, which take the mean over all learners. The m
    steps of the minibatch are `chosen` `[m]`; `log_probs` and `values` are `[L, m]`.
    """
    advantages = targets.advantages[:, chosen]
    ratio = (log_probs - targets.log_probs[:, chosen]).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    policy = -torch.minimum(ratio * advantages, clipped * advantages).mean(1)
    return policy + 0.5 * (values - targets.returns[:, chosen]).square().mean(1)


def _layers(widths: tuple[int, ...], learners: int, generator: torch.Generator) -> list[Tensor]:
    """Matrices `[W, inputs, outputs]` with rows of length 1, of 0.01 in the last, and biases."""
    found = []
    for k, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        matrix = torch.randn(learners, inputs, outputs, generator=generator)
        length = 1.0 if k + 2 < len(widths) else 0.01
        found += [length * torch.nn.functional.normalize(matrix, dim=2)]
        found += [torch.zeros(learners, 1, outputs)]
    return found


def _scaled(moments: RunningMoments, x: Float[Tensor, "n L c"], normalise: bool) -> Tensor:
    """Vectors of each learner in deviations from the mean of its own."""
    return moments(x.flatten(1)).reshape(x.shape) if normalise else x
