"""The meta-gradient of MAML for multilayer perceptrons, with every derivative written out.

Autograd builds a graph of the inner steps and goes back through it operation by operation. Here
one product of a Hessian and a vector for each inner step does the same, batched over the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl_lib.rules.losses import LOSS_CURVATURES, LOSS_GRADIENTS, Loss
from metarl_lib.rules.network import Network, Params

Function = Callable[[Tensor], Tensor]
Samples = tuple[Tensor, Tensor]  # x [T, N, R_0] and y

SLOPES: dict[str | None, Function | None] = {
    "relu": torch.sign,
    "tanh": lambda x: 1 - x * x,
    None: None,
}
"""φ′(z) as a function of x = φ(z); `None` where it is 1 throughout."""

BENDS: dict[str | None, Function | None] = {"relu": None, "tanh": lambda x: -2 * x, None: None}
"""φ″(z) / φ′(z) as a function of x = φ(z); `None` where it is 0 throughout."""


class Tape(NamedTuple):
    """What a forward and a backward pass of T networks leave behind.

    `values[l]` is X_l, `[T, N, R_l]`, inputs first and outputs last; `slopes[l]` is φ′(Z_{l+1}),
    or `None` for 1, and `deltas[l]` is Δ_{l+1} = ∂L/∂Z_{l+1} of each task's mean loss L, both of
    the shape of X_{l+1}.
    """

    values: list[Tensor]
    slopes: list[Tensor | None]
    deltas: list[Tensor]


def meta_gradient_by_hand(
    network: Network,
    loss: Loss,
    params: Sequence[Tensor],
    rates: float | Sequence[Tensor],
    support: Samples,
    query: Samples,
    steps: int,
    first_order: bool,
) -> tuple[Tensor, Params]:
    """The loss after n inner steps, mean over the tasks, and its gradient.

    With L_i the loss on what task i is learned from and L̄_i that on what it is judged by, the
    chain rule goes back through θ^{k+1} = θ^k − α ⊙ ∇L_i(θ^k), from λ^n = ∇L̄_i(θ^n) to λ⁰:

        λ^k = λ^{k+1} − ∇²L_i(θ^k) (α ⊙ λ^{k+1})
        ∂L̄_i/∂θ = λ⁰,    ∂L̄_i/∂α = − Σ_k ∇L_i(θ^k) ⊙ λ^{k+1}

    Args:
        network: f_θ.
        loss: one that `LOSS_CURVATURES` holds.
        params: θ.
        rates: α, a number, or a tensor for each parameter.
        support: x and y of the tasks, to learn from; y are real numbers, labels one-hot.
        query: the same, to be judged by.
        steps: n.
        first_order: leaves the Hessians out.

    Returns:
        The loss, a scalar, and a gradient for each parameter; after those, one for each tensor
        of rates.
    """
    theta = [p.expand(len(support[0]), *p.shape) for p in params]
    path = []
    for _ in range(steps):
        tape = record(network, theta, support, loss)
        path.append((theta, tape))
        if isinstance(rates, float):
            theta = plus_gradient(network, theta, -rates, tape.deltas, tape.values)
        else:
            slopes = gradient(network, tape)
            theta = [p - a * g for p, a, g in zip(theta, rates, slopes, strict=True)]
    last = record(network, theta, query, loss)
    found = loss(last.values[-1], query[1]).mean()
    adjoint = gradient(network, last)  # λ
    of_rates = [] if isinstance(rates, float) else [torch.zeros_like(a) for a in rates]
    for theta, tape in reversed(path):
        if isinstance(rates, float):
            scale, direction = rates, adjoint
        else:
            scale, direction = 1.0, [a * v for a, v in zip(rates, adjoint, strict=True)]
            slopes = gradient(network, tape)
            triples = zip(of_rates, slopes, adjoint, strict=True)
            of_rates = [a - (g * v).mean(0) for a, g, v in triples]
        if not first_order:
            moved = derivative(network, theta, tape, support[1], loss, direction)
            adjoint = plus_gradient(network, adjoint, -scale, moved.deltas, tape.values)
            adjoint = plus_gradient(
                network, adjoint, -scale, tape.deltas, moved.values, biases=False
            )
    return found, [v.mean(0) for v in adjoint] + of_rates


def record(network: Network, params: Params, samples: Samples, loss: Loss) -> Tape:
    """Forward and backward pass of T networks; every parameter leads with T."""
    x, y = samples
    values, slopes = [x], []
    for layer in range(network.num_layers):
        z = affine(network, params, layer, values[-1])
        values.append(network.layer_activation(layer).value(z))
        slope = SLOPES[name_of(network, layer)]
        slopes.append(None if slope is None else slope(values[-1]))
    change = LOSS_GRADIENTS[loss](values[-1], y) / x.shape[1]
    deltas: list[Tensor] = []
    for layer in range(network.num_layers - 1, -1, -1):
        deltas.insert(0, times(change, slopes[layer]))
        if layer:
            change = torch.bmm(deltas[0], network.weight(params, layer))
    return Tape(values, slopes, deltas)


def derivative(
    network: Network, params: Params, tape: Tape, y: Tensor, loss: Loss, direction: Params
) -> Tape:
    """How a tape's values and deltas change as the parameters move in a direction.

    This is the operator R{·} of Pearlmutter (1994); each line is the derivative of a line of
    `record`. The inputs stay as they are: instead of zeros, `values[0]` is empty. Every parameter
    and its direction lead with T; `y`, with labels as one-hot vectors, is `[T, N, R_L]`.
    """
    values, before = [tape.values[0].new_empty(0)], []
    for layer in range(network.num_layers):
        z = affine(network, direction, layer, tape.values[layer])
        if layer:
            z = torch.baddbmm(z, values[-1], network.weight(params, layer).mT)
        before.append(z)
        values.append(times(z, tape.slopes[layer]))
    x = tape.values[-1]
    change = LOSS_CURVATURES[loss](x, y, values[-1]) / x.shape[1]
    deltas: list[Tensor] = []
    for layer in range(network.num_layers - 1, -1, -1):
        delta, bend = times(change, tape.slopes[layer]), BENDS[name_of(network, layer)]
        if bend is not None:
            delta = delta + bend(tape.values[layer + 1]) * tape.deltas[layer] * before[layer]
        deltas.insert(0, delta)
        if layer:
            change = torch.bmm(tape.deltas[layer], network.weight(direction, layer))
            change = torch.baddbmm(change, delta, network.weight(params, layer))
    return Tape(values, tape.slopes, deltas)


def gradient(network: Network, tape: Tape) -> Params:
    """∂L/∂W_l = Δ_{l+1}ᵀ X_l and ∂L/∂b_l = Σ_i Δ_{l+1,i} of each task."""
    found = []
    for delta, x in zip(tape.deltas, tape.values, strict=False):
        found.append(torch.bmm(delta.mT, x))
        if network.bias:
            found.append(delta.sum(1))
    return found


def plus_gradient(
    network: Network,
    params: Params,
    scale: float,
    deltas: list[Tensor],
    values: list[Tensor],
    *,
    biases: bool = True,
) -> Params:
    """`params` + scale · Δᵀ X, in one operation for each matrix; empty X are left out."""
    found = list(params)
    per_layer = 2 if network.bias else 1
    for layer, (delta, x) in enumerate(zip(deltas, values, strict=False)):
        k = per_layer * layer
        if x.numel():
            found[k] = torch.baddbmm(params[k], delta.mT, x, alpha=scale)
        if network.bias and biases:
            found[k + 1] = torch.add(params[k + 1], delta.sum(1), alpha=scale)
    return found


def affine(network: Network, params: Params, layer: int, x: Tensor) -> Tensor:
    """x W_lᵀ + b_l, `[T, N, R_{l+1}]`, of x `[T, N, R_l]`; every parameter leads with T."""
    w = network.weight(params, layer).mT
    return torch.baddbmm(params[2 * layer + 1].unsqueeze(1), x, w) if network.bias else x @ w


def times(x: Tensor, slope: Tensor | None) -> Tensor:
    """x ⊙ slope, both of the same shape; x where there is no slope."""
    return x if slope is None else x * slope


def name_of(network: Network, layer: int) -> str | None:
    """The name of the activation of the units that W_l feeds."""
    last = layer == network.num_layers - 1
    return network.output_activation if last else network.activation
