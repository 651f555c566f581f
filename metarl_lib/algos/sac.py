"""Soft actor-critic (Haarnoja et al., 2018): policy, twin critic and target, one formula each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from metarl_lib.algos.context_encoder import mlp

LOG_STD = (-20.0, 2.0)
"""Between these lies the logarithm of the policy's deviation, before the tanh."""

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class TanhGaussian(nn.Module):
    """A policy over (−1, 1)^A: a = tanh(u) with u ~ N(μ(x), σ(x)²).

    Args:
        inputs: numbers of x.
        actions: A.
        hidden: units of the layers between.
    """

    def __init__(self, inputs: int, actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.network = mlp(inputs, 2 * actions, hidden)

    def forward(self, x: Float[Tensor, "*B I"]) -> tuple[Tensor, Tensor]:
        """μ and log σ, `[*B, A]` each."""
        mean, log_std = self.network(x).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)

    def sample(
        self, x: Float[Tensor, "*B I"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "*B A"], Float[Tensor, "*B"]]:
        """An action, through which gradients go, and its exact log-density."""
        mean, log_std = self(x)
        noise = torch.empty_like(mean).normal_(generator=generator)
        u = mean + log_std.exp() * noise
        return torch.tanh(u), log_density(u, mean, log_std)


def log_density(u: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log π(tanh u), `[*B]`, for u ~ N(μ, σ²), `[*B, A]`, summed over the last dimension.

        log π = Σ_i log N(u_i; μ_i, σ_i²) − log(1 − tanh² u_i)
        log(1 − tanh² u) = 2 (log 2 − u − softplus(−2u))

    The last form neither overflows nor takes the logarithm of 0 (Haarnoja et al. 2018,
    appendix C, has the first).
    """
    unit = (u - mean) * (-log_std).exp()
    normal = -0.5 * unit.square() - log_std - HALF_LOG_2PI
    squashed = 2 * (math.log(2) - u - softplus(-2 * u))
    return (normal - squashed).sum(-1)


class TwinQ(nn.Module):
    """Two action values at once: the layers of both are one batch of matrices.

    Args:
        inputs: numbers of what they see, action included.
        hidden: units of the layers between.
    """

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [inputs, *hidden, 1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for i, o in zip(widths[:-1], widths[1:], strict=True):
            bound = 1 / math.sqrt(i)  # as in nn.Linear
            self.weights.append(nn.Parameter(torch.empty(2, i, o).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(2, 1, o).uniform_(-bound, bound)))

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "2 ..."]:
        """Q_1(x) and Q_2(x)."""
        y = x.reshape(-1, x.shape[-1]).expand(2, -1, -1)
        last = len(self.weights) - 1
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            y = torch.baddbmm(bias, y, weight)
            if k < last:
                y = y.relu()
        return y.reshape(2, *x.shape[:-1])


def soft_target(
    reward: Tensor,
    terminal: Tensor,
    next_values: Float[Tensor, "2 ..."],
    next_log_prob: Tensor,
    discount: float,
    temperature: float,
) -> Tensor:
    """y = r + γ (1 − d) (min_j Q̄_j(s', a') − α log π(a'|s')) with a' drawn from π(·|s').

    Args:
        reward: r, `[*B]`.
        terminal: d, true where nothing comes after.
        next_values: Q̄_1 and Q̄_2, of the target networks.
        next_log_prob: log π(a'|s').
        discount: γ in [0, 1].
        temperature: α ≥ 0, what a nat of entropy is worth.
    """
    following = next_values.amin(0) - temperature * next_log_prob
    return reward + discount * torch.where(terminal, 0.0, following)


def bellman_loss(values: Float[Tensor, "2 ..."], target: Tensor) -> Tensor:
    """½ Σ_j mean (Q_j − y)², a scalar, with y of the same shape as each Q_j."""
    return 0.5 * (values - target).square().flatten(1).mean(1).sum()


def policy_loss(values: Float[Tensor, "2 ..."], log_prob: Tensor, temperature: float) -> Tensor:
    """Mean of α log π(a|s) − min_j Q_j(s, a), a scalar, with a drawn from π(·|s).

    `log_prob` is of the same shape as each Q_j.
    """
    return (temperature * log_prob - values.amin(0)).mean()


@torch.no_grad()
def polyak(target: Iterable[Tensor], source: Iterable[Tensor], rate: float) -> None:
    """θ̄ ← θ̄ + τ (θ − θ̄) for each tensor, in place."""
    torch._foreach_lerp_(list(target), list(source), rate)
