"""Learning values, and meanwhile the return that they are learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metarl_lib.algos.checkpoints import (
    copies,
    optimiser_tensors,
    own_tensors,
    restore_optimiser,
    with_prefix,
)
from metarl_lib.algos.lambda_returns import lambda_returns
from metarl_lib.algos.meta_trace import (
    ReturnParameters,
    Theta,
    advance,
    through_trace,
    zero_trace,
)

OUTER = ("full", "inner")


class MetaTD:
    """Linear values of L learners side by side, and one η for all (Xu et al. 2018, section 1.2).

    After each episode τ the values V_θ(s) = θ·φ(s) move towards the λ-return of η,

        f(τ, θ, η) = α Σ_t (g_η,t − V_θ(s_t)) φ(s_t),

    and η goes down the gradient of the outer loss, with targets that are held fixed,

        J̄(τ', θ') = ½ Σ_t (ḡ_t − V_θ'(s_t))²,

    on the next episode τ', which nobody has learned from yet. After that the agent learns from
    τ', too, so that no episode is spent on η alone.

    Args:
        parameters: η.
        features: numbers in φ(s).
        learners: L.
        learning_rate: α.
        meta_rate: β, the learning rate of Adam on η.
        decay: μ of the trace; None for the exact form.
        outer: the target ḡ: `"full"`, the whole sum of rewards, discounted by γ̄;
            `"inner"`, r + γ̄ V_θ'(s') with the learner's own values, which mean something else.
        outer_discount: γ̄.

    Raises:
        ValueError: for an unknown outer loss, or numbers out of range.
    """

    def __init__(
        self,
        parameters: ReturnParameters,
        features: int,
        learners: int,
        *,
        learning_rate: float = 0.1,
        meta_rate: float = 0.01,
        decay: float | None = 0.0,
        outer: str = "full",
        outer_discount: float = 1.0,
    ) -> None:
        if outer not in OUTER:
            raise ValueError(f"outer={outer!r} is unknown: choose one of {', '.join(OUTER)}")
        for name, value in (("learning_rate", learning_rate), ("meta_rate", meta_rate)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value}: must be 0 or more, and finite")
        for name, share in (("decay", decay), ("outer_discount", outer_discount)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name}={share}: must lie between 0 and 1")
        self.parameters, self.learning_rate = parameters, learning_rate
        self.decay, self.outer, self.outer_discount = decay, outer, outer_discount
        self.eta = parameters.initial()
        self.theta: Theta = {"weights": torch.zeros(learners, features)}
        self.trace = zero_trace(self.theta, self.eta.expand(learners, -1))
        self.optimiser = torch.optim.Adam([self.eta], lr=meta_rate)

    def learn(
        self,
        features: Float[Tensor, "T L F"],
        next_features: Float[Tensor, "T L F"],
        rewards: Float[Tensor, "T L"],
        ended: Bool[Tensor, "T L"],
        places: Float[Tensor, "T L I"] | None = None,
    ) -> Float[Tensor, "L k"]:
        """Meta-update, then update, from one segment of every learner.

        Args:
            features: φ(s_t).
            next_features: φ(s_{t+1}); 0 where the episode terminated.
            rewards: r_{t+1}.
            ended: where an episode ended.
            places: observations of s_{t+1} for a γ or λ that depends on the state.

        Returns:
            The meta-gradient of each learner; η follows their mean.
        """
        found = self.meta_gradient(features, next_features, rewards, ended)
        self.eta.grad = found.mean(0)
        self.optimiser.step()

        def update(theta: Theta, eta: Tensor) -> Theta:
            return self.update(theta, eta, features, next_features, rewards, ended, places)

        each = self.eta.expand(len(found), -1)
        self.theta, self.trace = advance(update, self.theta, each, self.trace, self.decay)
        return found

    def update(
        self,
        theta: Theta,
        eta: Tensor,
        features: Tensor,
        next_features: Tensor,
        rewards: Tensor,
        ended: Tensor,
        places: Tensor | None = None,
    ) -> Theta:
        """θ + f(τ, θ, η), with η `[L, k]` and the segment as in `learn`."""
        weights = theta["weights"]
        gamma, lambda_ = self.parameters.at(eta, places)
        values = read(weights, next_features)
        targets = lambda_returns(rewards, values, ended, gamma, lambda_)
        error = targets - read(weights, features)
        return {"weights": weights + self.learning_rate * (error.unsqueeze(-1) * features).sum(0)}

    def meta_gradient(
        self, features: Tensor, next_features: Tensor, rewards: Tensor, ended: Tensor
    ) -> Float[Tensor, "L k"]:
        """dJ̄/dη on an episode that was not learned from, through the trace.

        Args:
            features: φ(s_t), `[T, L, F]`.
            next_features: φ(s_{t+1}), `[T, L, F]`; 0 where the episode terminated.
            rewards: r_{t+1}, `[T, L]`.
            ended: where an episode ended, `[T, L]`.
        """
        weights = self.theta["weights"]
        if self.outer == "full":
            gamma = torch.full_like(rewards[:1], self.outer_discount)
            none, one = torch.zeros_like(rewards), torch.ones_like(gamma)
            target = lambda_returns(rewards, none, ended, gamma, one)
        else:
            target = rewards + self.outer_discount * read(weights, next_features)
        error = target - read(weights, features)
        gradient = {"weights": -(error.unsqueeze(-1) * features).sum(0)}
        return through_trace(gradient, self.trace, self.eta.expand(len(weights), -1))

    def checkpoint(self) -> dict[str, Tensor]:
        """All that learning needs to go on, bit for bit."""
        kept = {"eta": self.eta, "theta": self.theta["weights"], "trace": self.trace["weights"]}
        adam = own_tensors(optimiser_tensors(self.optimiser), "0")
        return copies(kept | with_prefix("adam", adam))

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint of equal learners."""
        self.eta.copy_(kept["eta"])
        self.theta, self.trace = {"weights": kept["theta"]}, {"weights": kept["trace"]}
        restore_optimiser(self.optimiser, with_prefix("0", own_tensors(kept, "adam")))


def read(weights: Float[Tensor, "*L F"], features: Float[Tensor, "T *L F"]) -> Tensor:
    """V(s) = θ·φ(s), `[T, *L]`."""
    return (features * weights).sum(-1)
