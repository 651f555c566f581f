"""How an agent learns whose discount and λ are learned, too."""

from __future__ import annotations

from dataclasses import dataclass

from metarl_lib.algos.options import (
    check_choice,
    check_not_negative,
    check_positive,
    check_share,
    check_whole,
    option,
)

LEARNED = {
    "none": (),
    "discount": ("discount",),
    "lambda": ("lambda",),
    "both": ("discount", "lambda"),
}
START = {"discount": "discount", "lambda": "gae_lambda"}
"""The fields with the numbers that learning starts from."""

CRITICS, OPTIMISERS, TRACES = ("own", "inner"), ("rmsprop", "sgd"), ("truncated", "exact")


@dataclass(frozen=True)
class MetaSettings:
    """How `MetaGradient` trains.

    Raises:
        ValueError: for an unknown name, or a number out of its range.
    """

    rows: int = option(32, "environments side by side")
    segment: int = option(20, "steps of every row between two updates")
    updates: int = option(1000, "segments that are collected and learned from")
    optimiser: str = option("rmsprop", "of the agent: rmsprop or sgd")
    learning_rate: float = option(2e-3, "learning rate of the agent, α")
    learned: str = option("discount", "what is learned: none, discount, lambda or both")
    discount: float = option(0.95, "γ at the start, or for good")
    gae_lambda: float = option(0.95, "λ at the start, or for good")
    outer_discount: float = option(0.99, "γ̄ of the outer loss")
    outer_lambda: float = option(0.95, "λ̄ of the outer loss")
    outer_critic: str = option("own", "whose values the outer loss uses: own or inner")
    meta_rate: float = option(0.01, "learning rate of the logits of γ and λ, β")
    trace: str = option("truncated", "truncated (μ times the trace before) or exact")
    trace_decay: float = option(0.0, "μ of a truncated trace")
    entropy: float = option(0.01, "weight of the policy's entropy")
    value_weight: float = option(0.5, "weight of the value loss")
    max_grad_norm: float = option(0.5, "the agent's gradients are scaled to this norm if larger")

    def __post_init__(self) -> None:
        check_whole(self, "rows", "segment", "updates")
        check_positive(self, "max_grad_norm")
        check_not_negative(self, "learning_rate", "meta_rate", "entropy", "value_weight")
        check_share(self, "discount", "gae_lambda", "outer_discount", "outer_lambda", "trace_decay")
        check_choice(self, "learned", tuple(LEARNED))
        for name in LEARNED[self.learned]:
            field = START[name]
            if not 0 < getattr(self, field) < 1:
                raise ValueError(
                    f"{field}={getattr(self, field)}: must lie strictly between 0 and 1 with "
                    f"learned={self.learned!r}"
                )
        check_choice(self, "optimiser", OPTIMISERS)
        check_choice(self, "outer_critic", CRITICS)
        check_choice(self, "trace", TRACES)

    @property
    def decay(self) -> float | None:
        """μ as `advance` takes it: None for the exact form."""
        return None if self.trace == "exact" else self.trace_decay
