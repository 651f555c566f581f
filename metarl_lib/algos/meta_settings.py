"""How an agent learns whose discount and λ are learned, too."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

LEARNED = {
    "none": (),
    "discount": ("discount",),
    "lambda": ("lambda",),
    "both": ("discount", "lambda"),
}
CRITICS, OPTIMISERS, TRACES = ("own", "inner"), ("rmsprop", "sgd"), ("truncated", "exact")


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class MetaSettings:
    """How `MetaGradient` trains.

    Raises:
        ValueError: for an unknown name, or a number out of its range.
    """

    rows: int = _option(32, "environments side by side")
    segment: int = _option(20, "steps of every row between two updates")
    updates: int = _option(1000, "segments that are collected and learned from")
    optimiser: str = _option("rmsprop", "of the agent: rmsprop or sgd")
    learning_rate: float = _option(2e-3, "learning rate of the agent, α")
    learned: str = _option("discount", "what is learned: none, discount, lambda or both")
    discount: float = _option(0.95, "γ at the start, or for good")
    gae_lambda: float = _option(0.95, "λ at the start, or for good")
    outer_discount: float = _option(0.99, "γ̄ of the outer loss")
    outer_lambda: float = _option(0.95, "λ̄ of the outer loss")
    outer_critic: str = _option("own", "whose values the outer loss uses: own or inner")
    meta_rate: float = _option(0.01, "learning rate of the logits of γ and λ, β")
    trace: str = _option("truncated", "truncated (μ times the trace before) or exact")
    trace_decay: float = _option(0.0, "μ of a truncated trace")
    entropy: float = _option(0.01, "weight of the policy's entropy")
    value_weight: float = _option(0.5, "weight of the value loss")
    max_grad_norm: float = _option(0.5, "the agent's gradients are scaled to this norm if larger")

    def __post_init__(self) -> None:
        for name in ("rows", "segment", "updates", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: must be greater than 0 and finite")
        for name in ("learning_rate", "meta_rate", "entropy", "value_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: must be 0 or more, and finite")
        for name in ("discount", "gae_lambda", "outer_discount", "outer_lambda", "trace_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: must lie between 0 and 1")
        choices = {
            "learned": LEARNED, "optimiser": OPTIMISERS, "outer_critic": CRITICS, "trace": TRACES,
        }  # fmt: skip
        for name, known in choices.items():
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise ValueError(f"{name}={value!r} is unknown: choose one of {', '.join(known)}")

    @property
    def decay(self) -> float | None:
        """μ as `advance` takes it: None for the exact form."""
        return None if self.trace == "exact" else self.trace_decay
