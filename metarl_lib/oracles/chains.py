"""Chains of noisy rewards: what a learner's values settle to, and which γ and λ are best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

OUTER = ("full", "inner")
"""Targets of the outer loss; see `ChainProblem.field`."""


@dataclass(frozen=True)
class ChainProblem:
    """A walk s_1 → … → s_n → end with linear values V(s_i) = θ·φ_i, learned at a constant rate.

    Attributes:
        features: rows φ_i, `[n, F]`, float64.
        means: of the reward of the step out of each state, `[n]`.
        noise: its standard deviation, `[n]`.
        learning_rate: α.
    """

    features: Tensor
    means: Tensor
    noise: Tensor
    learning_rate: float

    @property
    def values(self) -> Float[Tensor, " n"]:
        """The undiscounted sums of rewards to come."""
        return self.means.flip(0).cumsum(0).flip(0)

    def returns(self, gamma: Tensor, lambda_: Tensor) -> tuple[Tensor, Tensor]:
        """The λ-returns g = P r + Q v of rewards r and of the values v = Φθ of the states.

        Args:
            gamma: γ on entering each state but the first, `[n − 1]`.
            lambda_: λ there, `[n − 1]`.

        Returns:
            P and Q, `[n, n]`.
        """
        n = len(self.means)
        one = torch.eye(n, dtype=self.means.dtype)
        rewards, values = [one[n - 1]], [torch.zeros_like(one[0])]
        for i in reversed(range(n - 1)):
            rewards.append(one[i] + gamma[i] * lambda_[i] * rewards[-1])
            ahead = (1 - lambda_[i]) * one[i + 1] + lambda_[i] * values[-1]
            values.append(gamma[i] * ahead)
        return torch.stack(rewards[::-1]), torch.stack(values[::-1])

    def step(self, gamma: Tensor, lambda_: Tensor) -> tuple[Tensor, Tensor]:
        """The update θ' = M θ + N r of one episode with rewards r: M `[F, F]` and N `[F, n]`."""
        rewards, values = self.returns(gamma, lambda_)
        phi = self.features
        pull = phi.mT @ (values @ phi - phi)
        eye = torch.eye(phi.shape[1], dtype=phi.dtype)
        return eye + self.learning_rate * pull, self.learning_rate * phi.mT @ rewards

    def settled(self, gamma: Tensor, lambda_: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of θ after very many episodes; differentiable.

        θ̄ = (I − M)⁻¹ N E[r], and Σ = M Σ Mᵀ + N diag(noise²) Nᵀ.
        """
        m, n = self.step(gamma, lambda_)
        eye = torch.eye(len(m), dtype=m.dtype)
        mean = torch.linalg.solve(eye - m, n @ self.means)
        return mean, _summed(m, (n * self.noise.square()) @ n.mT)

    def error(self, gamma: Tensor, lambda_: Tensor) -> Tensor:
        """½ E Σ_i (V(s_i) − θ·φ_i)² once settled: what a perfect choice of γ and λ minimises."""
        mean, covariance = self.settled(gamma, lambda_)
        bias = self.values - self.features @ mean
        return 0.5 * (bias.square().sum() + ((self.features @ covariance) * self.features).sum())

    def field(
        self,
        gamma: Tensor,
        lambda_: Tensor,
        decay: float | None,
        outer: str = "full",
    ) -> tuple[Tensor, Tensor]:
        """The expected meta-gradient with respect to every γ and λ, once θ has settled at them.

        With the trace's decay μ, D θ the outer loss's error less its constant c, and f of the
        update j episodes ago, it is −Σ_j μ^j E[(c − D θ')ᵀ Φ ∂f]: the mean part has the factor
        1/(1 − μ), the covariance with the noise (I − μM)⁻¹.

        Args:
            gamma: `[n − 1]`.
            lambda_: `[n − 1]`.
            decay: μ; None for the exact trace.
            outer: the target of the outer loss: `"full"`, the sum of rewards; `"inner"`,
                r + V_θ'(s').

        Raises:
            ValueError: for another target.
        """
        gamma, lambda_ = (v.detach().clone().requires_grad_() for v in (gamma, lambda_))
        phi, eye = self.features, torch.eye(self.features.shape[1], dtype=self.features.dtype)
        with torch.no_grad():
            mean, covariance = self.settled(gamma, lambda_)
            still, _ = self.step(gamma, lambda_)
            constant, slope = self._target(outer, 1.0)
            weight = phi.mT @ slope
            drive = (constant - slope @ mean) @ phi
        m, n = self.step(gamma, lambda_)
        moved = m @ mean + n @ self.means
        noise = self.noise.square()
        shared = still @ covariance @ m.mT + (n.detach() * noise) @ n.mT  # Cov(θ', f(η))
        if decay is None:
            carried = torch.linalg.inv(eye - still).mT @ drive
            lost = (weight * _summed(still, shared).mT).sum()
        else:
            carried = drive / (1 - decay)
            lost = (weight @ torch.linalg.inv(eye - decay * still) * shared.mT).sum()
        loss = -(carried @ moved) + lost
        found = torch.autograd.grad(loss, (gamma, lambda_))
        return found[0], found[1]

    def _target(self, outer: str, discount: float) -> tuple[Tensor, Tensor]:
        if outer not in OUTER:
            raise ValueError(f"outer={outer!r} is unknown: choose one of {', '.join(OUTER)}")
        phi = self.features
        if outer == "inner":
            following = torch.cat([phi[1:], torch.zeros_like(phi[:1])])
            return self.means, phi - discount * following
        gamma = torch.full_like(self.means[1:], discount)
        rewards, _ = self.returns(gamma, torch.ones_like(gamma))
        return rewards @ self.means, phi


def _summed(m: Tensor, c: Tensor) -> Tensor:
    """X = Σ_j M^j C (M^j)ᵀ, which solves X = M X Mᵀ + C; all eigenvalues of M within (−1, 1)."""
    size = len(m)
    lyapunov = torch.eye(size * size, dtype=m.dtype) - torch.kron(m, m)
    return torch.linalg.solve(lyapunov, c.reshape(-1)).reshape(size, size)


LEARNED = ("discount", "lambda")


def best(problem: ChainProblem, learned: str = "discount") -> tuple[Tensor, float]:
    """The γ (with λ = 1) or the λ (with γ = 1) of each state but the first of least `error`.

    Returns:
        The numbers, `[n − 1]`, and the error.
    """
    _check(learned)

    def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(numbers).requires_grad_()
        value = problem.error(*pair(x, learned))
        (slope,) = torch.autograd.grad(value, x)
        return float(value.detach()), slope.numpy()

    size = len(problem.means) - 1
    tries = [
        minimize(loss, np.full(size, start), jac=True, method="L-BFGS-B", bounds=[(0, 1)] * size,
                 options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-12})
        for start in (0.1, 0.5, 0.9)
    ]  # fmt: skip
    found = min(tries, key=lambda t: t.fun)
    return torch.from_numpy(found.x), float(found.fun)


def resting_point(
    problem: ChainProblem,
    learned: str = "discount",
    decay: float | None = 0.0,
    outer: str = "full",
    start: Sequence[float] | float = 0.5,
    steps: int = 400,
) -> Tensor:
    """Where slow meta-learning comes to rest: the `field` is 0, or points out of the unit box.

    Found by Adam on the field, with a rate that falls to 0.

    Returns:
        γ, or λ, of each state but the first, `[n − 1]`.
    """
    _check(learned)
    x = torch.zeros(len(problem.means) - 1, dtype=torch.float64) + torch.as_tensor(start)
    optimiser = torch.optim.Adam([x], betas=(0.9, 0.99))
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / steps) ** 2
        x.grad = problem.field(*pair(x, learned), decay, outer)[LEARNED.index(learned)]
        optimiser.step()
        x.clamp_(0, 1)
    return x


def pair(numbers: Tensor, learned: str) -> tuple[Tensor, Tensor]:
    """γ and λ, of the same shape, of which one is learned and the other is 1."""
    one = torch.ones_like(numbers)
    return (numbers, one) if learned == "discount" else (one, numbers)


def _check(learned: str) -> None:
    if learned not in LEARNED:
        raise ValueError(f"learned={learned!r} is unknown: choose one of {', '.join(LEARNED)}")
