"""MAML as plain loops over tasks, steps and layers, in double precision, and small problems."""

import torch
from streams import stream
from torch import Tensor

from metarl_lib.datasets import Tasks
from metarl_lib.rules import Network, cross_entropy, half_mse, mse

PHI = {"relu": torch.relu, "tanh": torch.tanh, None: lambda z: z}
LOSSES = {"mse": mse, "half_mse": half_mse, "cross_entropy": cross_entropy}


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=stream(seed), dtype=torch.float64)


def problem(network: Network, loss: str, tasks: int = 3, learned: bool = False, seed: int = 0):
    """Meta-parameters, and tasks with 4 samples to learn from and 5 held out."""
    params = [0.5 * randn(*shape, seed=seed + i) for i, shape in enumerate(network.shapes)]
    rates = [0.05 + 0.03 * randn(*p.shape, seed=seed + 20 + i) for i, p in enumerate(params)]
    inputs, outputs = network.widths[0], network.widths[-1]
    parts = []
    for k, samples in enumerate((4, 5)):
        parts.append(randn(tasks, samples, inputs, seed=seed + 40 + k))
        if loss == "cross_entropy":
            labels = torch.randint(outputs, (tasks, samples), generator=stream(seed + 50 + k))
            parts.append(labels)
        else:
            parts.append(randn(tasks, samples, outputs, seed=seed + 50 + k))
    return params + (rates if learned else []), Tasks(*parts)


def forward(network: Network, params: list[Tensor], x: Tensor) -> Tensor:
    """The outputs of one network."""
    stride = 2 if network.bias else 1
    for layer in range(len(network.widths) - 1):
        z = x @ params[stride * layer].T
        if network.bias:
            z = z + params[stride * layer + 1]
        last = layer == len(network.widths) - 2
        x = PHI[network.output_activation if last else network.activation](z)
    return x


def task_loss(network: Network, loss: str, params: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The mean loss of one task's samples."""
    out = forward(network, params, x)
    if loss == "cross_entropy":
        return (torch.logsumexp(out, 1) - out[torch.arange(len(y)), y]).mean()
    return ((out - y) ** 2).mean() / (1 if loss == "mse" else 2)


def adapted(
    network: Network, loss: str, params, rates, x, y, steps: int, first_order: bool = False
) -> list[Tensor]:
    """One task's parameters after the inner steps, as a function of θ and α that can be derived."""
    theta = [p + 0 for p in params]
    if not theta[0].requires_grad:
        theta = [p.requires_grad_() for p in theta]
    for _ in range(steps):
        error = task_loss(network, loss, theta, x, y)
        slopes = torch.autograd.grad(error, theta, create_graph=True)
        if first_order:
            slopes = [g.detach() for g in slopes]
        theta = [p - a * g for p, a, g in zip(theta, rates, slopes, strict=True)]
    return theta


def meta_loss(
    network: Network, loss: str, meta, rate, tasks: Tasks, steps: int, first_order: bool = False
) -> Tensor:
    """The loss on held-out samples after the inner steps, mean over a loop of tasks."""
    count = len(network.shapes)
    params, rates = meta[:count], meta[count:] or [rate] * count
    losses = []
    for x, y, held_out_x, held_out_y in zip(*tasks, strict=True):
        theta = adapted(network, loss, params, rates, x, y, steps, first_order)
        losses.append(task_loss(network, loss, theta, held_out_x, held_out_y))
    return sum(losses) / len(losses)


def finite_differences(function, values: list[Tensor], step: float = 1e-5) -> list[Tensor]:
    """The slope of a function in every entry of every tensor, each moved up and down."""
    slopes = []
    for index, value in enumerate(values):
        slope = torch.zeros_like(value)
        for place in range(value.numel()):
            found = []
            for sign in (1, -1):
                moved = [v.detach().clone() for v in values]
                moved[index].view(-1)[place] += sign * step
                found.append(float(function(moved).detach()))
            slope.view(-1)[place] = (found[0] - found[1]) / (2 * step)
        slopes.append(slope)
    return slopes
