"""What a pool of layers learns from the networks that were put together from it.

With a path z_i for task i, copies θ_i = Φ[z_i] of the pool's layers Φ and n gradient steps U_i,

    J(Φ) = (1/B) Σ_i L̄_i(U_i(Φ[z_i])),    ∂J/∂Φ_k = (1/B) Σ_i Σ_{l: z_il = k} λ_il

where λ_i = ∂ L̄_i(U_i(θ_i)) / ∂θ_i is MAML's gradient of one task. Taking copies is a linear map,
whose transpose adds up what comes back: a layer learns from the rows that used it, and only from
these. Steps follow with any optimiser of `torch.optim`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from metarl_lib.datasets.families import Tasks
from metarl_lib.rules.losses import Loss
from metarl_lib.rules.network import like
from metarl_lib.rules.pool import Plan, Pool, adapt, assemble, losses

WAYS = ("maml", "first-order", "reptile")


def write_back(
    pool: Pool, plan: Plan, tasks: Tasks, loss: Loss, most: int, way: str = "maml"
) -> tuple[Float[Tensor, " B"], Pool]:
    """The loss of each row's network after its steps, and what the pool's gradient is.

    Args:
        pool: Φ.
        plan: z_i, and the rate and number of the steps of each row.
        tasks: L_i is the loss of `x` and `y`, L̄_i that of the held-out samples.
        loss: one value per sample, of which the mean is taken.
        most: the largest number of steps.
        way: `"maml"`; `"first-order"`, which takes ∂U_i/∂θ_i for 1; or `"reptile"`, which has
            (θ_i − U_i(θ_i)) / α in place of λ_i and learns from the held-out samples as well,
            because it needs none to be judged by.

    A network that diverged, so that its loss or a slope is no finite number, teaches nothing.

    Returns:
        L̄_i after the steps on `x` and `y` (with `"reptile"`: on all samples), `[B]`, and a
        tensor for each of the pool's.

    Raises:
        ValueError: for an unknown way, or a layer that is not in the pool.
    """
    if way not in WAYS:
        raise ValueError(f"way={way!r} is unknown: choose one of {', '.join(WAYS)}")
    theta = [p.detach().requires_grad_() for p in assemble(pool, plan.layers)]
    if way == "reptile":
        x = torch.cat([tasks.x, tasks.held_out_x], 1)
        y = torch.cat([tasks.y, tasks.held_out_y], 1)
        with torch.no_grad():
            after = adapt(theta, plan, x, y, loss, most)
            found = losses(after, plan, tasks.held_out_x, tasks.held_out_y, loss)
            slopes = [(p - q) / like(plan.rate, p) for p, q in zip(theta, after, strict=True)]
        return found, route(pool, plan, _finite(found, slopes))
    if way == "first-order":
        after = adapt(theta, plan, tasks.x, tasks.y, loss, most)
        leaves = [p.requires_grad_() for p in after]
    else:
        after = adapt(theta, plan, tasks.x, tasks.y, loss, most, graph=True)
        leaves = theta
    with torch.enable_grad():
        found = losses(after, plan, tasks.held_out_x, tasks.held_out_y, loss)
    slopes = list(torch.autograd.grad(found.sum(), leaves))
    return found.detach(), route(pool, plan, _finite(found.detach(), slopes))


def _finite(found: Tensor, slopes: list[Tensor]) -> list[Tensor]:
    """The slopes, with zeros in rows that diverged."""
    good = found.isfinite()
    for slope in slopes:
        good = good & slope.flatten(1).isfinite().all(-1)
    return [torch.where(like(good, slope), slope, 0.0) for slope in slopes]


def route(pool: Pool, plan: Plan, slopes: Sequence[Tensor]) -> Pool:
    """(1/B) Σ_i Σ_{l: z_il = k} λ_il for each layer k of the pool.

    Args:
        pool: gives the shapes.
        plan: z_i.
        slopes: λ_i, in the order of `assemble`, each with a leading B.
    """
    found = Pool(*(torch.zeros_like(part) for part in pool))
    last = plan.layers.shape[1] - 1
    for place in range(last + 1):
        chosen = plan.layers[:, place]
        share = (chosen >= 0).to(slopes[0]) / len(chosen)
        first = 0 if place == 0 else 4 if place == last else 2
        for part, slope in zip(found[first : first + 2], slopes[2 * place :], strict=False):
            part.index_add_(0, chosen.clamp_min(0), like(share, slope) * slope)
    return found
