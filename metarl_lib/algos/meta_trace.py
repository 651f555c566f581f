"""How a learner's parameters depend on the parameters of its return, carried along as it learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

LEARNABLE = ("discount", "lambda")

# What a learner carries from update to update, by name; each [*L, …] for L learners.
Theta = dict[str, Tensor]

Update = Callable[[Theta, Tensor], Theta]
"""`update(θ, η)`: θ' = θ + f(τ, θ, η), for a sample τ that is held fixed."""


class ReturnParameters:
    """η: which of γ and λ are learned, and the numbers they are squashed from.

    Learned is the logit of each, so γ = σ(η_γ) and λ = σ(η_λ) stay within (0, 1). They are one
    number each; or, with `inputs`, a function of the state that a step leads to,
    γ(s) = σ(w·x(s)) with x(s) its observation: one for each state where that is one-hot.

    Args:
        learned: which of `"discount"` and `"lambda"` are learned; none of them for constants.
        discount: γ at the start, in [0, 1], without the ends if it is learned.
        lambda_: λ at the start, likewise.
        inputs: size of an observation where they depend on the state; None for one number.

    Raises:
        ValueError: for an unknown name, or a number out of range.
    """

    def __init__(
        self,
        learned: Sequence[str] = ("discount",),
        discount: float = 0.99,
        lambda_: float = 0.95,
        inputs: int | None = None,
    ) -> None:
        for name in learned:
            if name not in LEARNABLE:
                raise ValueError(
                    f"learned={name!r} is unknown: choose from {', '.join(LEARNABLE)}, or none"
                )
        if len(set(learned)) < len(learned):
            raise ValueError(f"learned={tuple(learned)}: name each once")
        self.start = {"discount": float(discount), "lambda": float(lambda_)}
        for name, value in self.start.items():
            inside = 0 < value < 1 if name in learned else 0 <= value <= 1
            if not inside:
                ends = "strictly " * (name in learned)
                raise ValueError(f"{name}={value}: must lie {ends}between 0 and 1")
        self.learned, self.inputs = tuple(learned), inputs
        self.size = len(self.learned) * (inputs or 1)

    def initial(self, *learners: int) -> Float[Tensor, "*L k"]:
        """η at the start, for any number of learners. With `inputs`, for one-hot observations."""
        logits = [math.log(self.start[n] / (1 - self.start[n])) for n in self.learned]
        eta = torch.tensor(logits).repeat_interleave(self.inputs or 1)
        return eta.expand(*learners, self.size).clone()

    def at(self, eta: Tensor, observations: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """γ and λ of η `[*L, k]`.

        With `inputs`, those of the states with these observations `[…, *L, inputs]`, without
        the last dimension; else `[*L]`.
        """
        found = []
        for name, start in self.start.items():
            if name not in self.learned:
                found.append(torch.full((), start, dtype=eta.dtype, device=eta.device))
                continue
            place = self.learned.index(name) * (self.inputs or 1)
            if self.inputs is None:
                found.append(torch.sigmoid(eta[..., place]))
            else:
                assert observations is not None
                own = eta[..., place : place + self.inputs]
                found.append(torch.sigmoid((observations * own).sum(-1)))
        return found[0], found[1]


def zero_trace(theta: Theta, eta: Float[Tensor, "*L k"]) -> Theta:
    """A trace that knows of no dependence yet, each `[k, *L, …]`."""
    return {name: t.new_zeros(eta.shape[-1], *t.shape) for name, t in theta.items()}


def advance(
    update: Update, theta: Theta, eta: Float[Tensor, "*L k"], trace: Theta, decay: float | None
) -> tuple[Theta, Theta]:
    """One update, and z ≈ dθ/dη after it (Xu, van Hasselt & Silver 2018, equations 6 to 8).

        exactly:        z' = (∂θ'/∂θ) z + ∂f/∂η
        with decay μ:   z' = μ z + ∂f/∂η

    The exact form is one forward derivative along (z_i, e_i) for each number in η, so the
    Jacobian ∂θ'/∂θ is never formed. With μ the Jacobian is replaced by μ times the identity;
    μ = 0 looks at the last update alone. Forward derivatives are made of two backward ones.

    Args:
        update: θ, η → θ'. Learners side by side must not depend on each other.
        theta: θ.
        eta: η.
        trace: z, `[k, *L, …]`.
        decay: μ in [0, 1]; None for the exact form.

    Returns:
        θ' and z'.
    """
    size = eta.shape[-1]
    ones = torch.eye(size, dtype=eta.dtype, device=eta.device)
    directions = ones.reshape(size, *(1,) * (eta.ndim - 1), size).expand(size, *eta.shape)
    names, exact = list(theta), decay is None
    with torch.enable_grad():
        leaf = eta.detach().requires_grad_()
        old = {name: t.detach().requires_grad_(exact) for name, t in theta.items()}
        new = update(old, leaf)
        after = [new[name] for name in names]
        # Jᵀu is linear in u, so its derivative with respect to u along w is J w.
        u = [torch.zeros_like(t, requires_grad=True) for t in after]
        before = [leaf, *(old[name] for name in names if exact)]
        along = [directions, *(trace[name] for name in names if exact)]
        pulled = torch.autograd.grad(after, before, u, create_graph=True, materialize_grads=True)
        pushed = torch.autograd.grad(
            pulled, u, along, is_grads_batched=True, materialize_grads=True
        )
    moved = dict(zip(names, pushed, strict=True))
    if decay:
        moved = {name: decay * trace[name] + z for name, z in moved.items()}
    return {name: t.detach() for name, t in new.items()}, moved


def through_trace(
    gradient: Theta, trace: Theta, eta: Float[Tensor, "*L k"]
) -> Float[Tensor, "*L k"]:
    """(∂J̄/∂θ') z: the gradient of the outer loss with respect to η."""
    learners = eta.shape[:-1]
    total = eta.new_zeros(eta.shape[-1], *learners)
    for name, part in gradient.items():
        product = part * trace[name]
        total = total + product.reshape(eta.shape[-1], *learners, -1).sum(-1)
    return total.movedim(0, -1)
