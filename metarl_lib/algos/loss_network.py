"""A loss that is a network: it reads what a learner did, and the learner descends it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional

KERNELS, STRIDES = (6, 4), (5, 2)
CHANNELS, CONTEXT, HIDDEN, MEMORY = (16, 32), 32, 16, 32
"""Sizes of the published code."""


class Layer(NamedTuple):
    """Parts of a layer of V networks, by what they read; each `[V, inputs, outputs]`."""

    seen: Tensor
    mean: Tensor
    constant: Tensor
    bias: Tensor


class Losses(NamedTuple):
    """The layers of V loss networks; plain ones are matrix and bias, in turn."""

    first: Layer
    head: Layer
    plain: tuple[Tensor, ...]


class Prepared(NamedTuple):
    """What does not change while a learner takes its steps on one buffer.

    `first` are pre-activations of the first convolution, `[V, W K, 16]`, and `head` those of
    the head, for each step of the last stretch, `[L, M, 16]`.
    """

    first: Tensor
    head: Tensor


@dataclass(frozen=True)
class LossNetwork:
    """L_φ of Evolved Policy Gradients (Houthooft et al., 2018), of V parameter vectors at once.

    Step t of a learner's buffer is described by

        x_t = [s_t, a_t, r_t, d_t, μ_θ(s_t), log σ, m],

    what it saw, did and earned, whether an episode ended, its policy there, and its memory.
    Two convolutions over the buffer's N steps (kernels 6 and 4, strides 5 and 2, 16 and 32
    channels), a mean over time and a linear layer make of them the context c, 32 numbers. The
    loss of a minibatch is the mean over its steps of a network of one hidden layer of 16 units,

        L_φ = 1/n Σ_t w₂ · lrelu(W₁ [x_t, c] + b₁) + b₂.

    These are the sizes and the form of the published code, with the derivative reaching the
    policy through the context, too, and the memory through the head alone. The code has one
    input more, a count of visits that it leaves at 0.

    The first layer of either part is linear in x_t, so the share of what does not depend on
    the policy is computed once for all steps on a buffer (`prepare`), and that of what does
    not change over time once for all time. This changes nothing but the order of sums.

    Args:
        observations: I, numbers that a learner sees.
        actions: A, numbers of an action.

    Parameters are vectors `[P]`: weights and biases, as torch's modules order them, of both
    convolutions, the context layer, the hidden and the last layer.
    """

    observations: int
    actions: int

    @property
    def seen(self) -> int:
        """R, numbers of a step that do not depend on the policy's parameters."""
        return self.observations + self.actions + 2

    @property
    def described(self) -> int:
        """Numbers of x_t."""
        return self.seen + 2 * self.actions + MEMORY

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of weights and biases, in order."""
        return [
            (CHANNELS[0], self.described, KERNELS[0]), (CHANNELS[0],),
            (CHANNELS[1], CHANNELS[0], KERNELS[1]), (CHANNELS[1],),
            (CONTEXT, CHANNELS[1]), (CONTEXT,),
            (HIDDEN, self.described + CONTEXT), (HIDDEN,),
            (1, HIDDEN), (1,),
        ]  # fmt: skip

    @property
    def parameters(self) -> int:
        """P, the length of a parameter vector."""
        return sum(map(math.prod, self.shapes))

    def initial(self, generator: torch.Generator) -> Float[Tensor, " P"]:
        """Weights from N(0, 1/inputs), biases 0."""
        parts = []
        for shape in self.shapes:
            scale = math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.0
            parts.append(scale * torch.randn(math.prod(shape), generator=generator))
        return torch.cat(parts)

    def layers(self, phi: Float[Tensor, "V P"]) -> Losses:
        """V parameter vectors as layers."""
        parts = phi.split([math.prod(shape) for shape in self.shapes], 1)
        c0, b0, c1, b1, d0, e0, h0, g0, h1, g1 = (
            part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)
        )
        ends = [self.seen, self.seen + self.actions]
        seen, mean, constant = c0.tensor_split(ends, 2)
        first = Layer(_taps(seen), _taps(mean), constant.sum(3).mT, b0.unsqueeze(1))
        seen, mean, constant = (part.mT for part in h0.tensor_split(ends, 2))
        head = Layer(seen, mean, constant, g0.unsqueeze(1))
        plain = (_taps(c1), b1, d0.mT, e0, h1.mT, g1)
        return Losses(first, head, plain)

    def prepare(self, losses: Losses, seen: Float[Tensor, "L N R"], last: int) -> Prepared:
        """What one buffer gives whatever the policy is; `last` is M, the steps of a stretch."""
        rows = seen[:, -last:]
        return Prepared(
            _per_loss(losses, _windows(seen, 0)) @ losses.first.seen + losses.first.bias,
            (_per_loss(losses, rows) @ losses.head.seen + losses.head.bias).reshape(
                len(seen), last, HIDDEN
            ),
        )

    def __call__(
        self,
        losses: Losses,
        prepared: Prepared,
        mean: Float[Tensor, "L N A"],
        log_std: Float[Tensor, "L A"],
        memory: Float[Tensor, "L 32"],
        chosen: Integer[Tensor, " n"],
    ) -> Float[Tensor, " L"]:
        """The loss of every learner, L = V W of them, the W of one loss side by side.

        Args:
            losses: of `layers`.
            prepared: of `prepare`.
            mean: μ_θ(s_t) on the whole buffer.
            log_std: log σ.
            memory: m.
            chosen: which steps of the last stretch are in the minibatch, 0 … M − 1.
        """
        c1, b1, d0, e0, h1, g1 = losses.plain
        lives, stretch = len(mean), prepared.head.shape[1]
        constant = _per_life(losses, torch.cat([log_std, memory.detach()], 1), losses.first)
        z = prepared.first + _per_loss(losses, _windows(mean, 0)) @ losses.first.mean
        z = z.reshape(lives, -1, CHANNELS[0]) + constant
        h = _per_loss(losses, _windows(functional.leaky_relu(z, 0.2), 1)) @ c1 + b1[:, None]
        h = functional.leaky_relu(h, 0.2).reshape(lives, -1, CHANNELS[1]).mean(1)
        context = (_per_loss(losses, h[:, None]) @ d0 + e0[:, None]).reshape(lives, CONTEXT)
        constant = _per_life(losses, torch.cat([log_std, memory, context], 1), losses.head)
        batch = mean[:, mean.shape[1] - stretch + chosen]
        z = (_per_loss(losses, batch) @ losses.head.mean).reshape(lives, -1, HIDDEN)
        z = functional.leaky_relu(z + prepared.head[:, chosen] + constant, 0.2)
        return (_per_loss(losses, z.mean(1, keepdim=True)) @ h1 + g1[:, None]).flatten()


def fewest_steps() -> int:
    """The shortest buffer that both convolutions can read."""
    return KERNELS[0] + (KERNELS[1] - 1) * STRIDES[0]


def _taps(weight: Tensor) -> Tensor:
    """A convolution's weights `[V, outputs, inputs, k]` as a matrix `[V, inputs k, outputs]`."""
    return weight.flatten(2).mT


def _windows(x: Tensor, layer: int) -> Tensor:
    """What a convolution reads at each of its K places: `[L, N, c]` to `[L, K, c k]`."""
    return x.unfold(1, KERNELS[layer], STRIDES[layer]).flatten(2)


def _per_loss(losses: Losses, x: Tensor) -> Tensor:
    """The W learners of a loss in one matrix: `[V W, n, c]` to `[V, W n, c]`."""
    return x.reshape(len(losses.plain[0]), -1, x.shape[-1])


def _per_life(losses: Losses, constant: Tensor, layer: Layer) -> Tensor:
    """What numbers that do not change over time add, `[L, 1, outputs]`."""
    added = _per_loss(losses, constant[:, None]) @ layer.constant
    return added.reshape(len(constant), 1, -1)
