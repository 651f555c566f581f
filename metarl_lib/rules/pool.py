"""A pool of layers, and batches of networks that are put together from it.

A network has an input layer, up to D hidden ones and an output layer, each chosen from the pool;
its layers are copies, so that learning on one task leaves the pool, and every other row, alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from metarl_lib.rules.losses import Loss
from metarl_lib.rules.network import Params, like


class Pool(NamedTuple):
    """I input, M hidden and O output layers of networks with R_0 inputs, H units, R_L outputs.

    Weights are `[I, H, R_0]`, `[M, H, H]` and `[O, R_L, H]`, biases `[I, H]`, `[M, H]`, `[O, R_L]`.
    """

    input_weight: Tensor
    input_bias: Tensor
    hidden_weight: Tensor
    hidden_bias: Tensor
    output_weight: Tensor
    output_bias: Tensor

    @property
    def counts(self) -> tuple[int, int, int]:
        """I, M and O."""
        return len(self.input_bias), len(self.hidden_bias), len(self.output_bias)

    @property
    def num_weights(self) -> int:
        """The number of scalar parameters of all layers."""
        return sum(part.numel() for part in self)


class Plan(NamedTuple):
    """What was decided for each of B networks.

    `layers` is `[B, D + 2]`: which input layer, which hidden ones in order, which output layer,
    each counted from 0 among its kind; −1 where a place for a hidden layer stays empty. `rate` is
    α and `steps` n of the gradient steps on a task, `[B]` each. `tanh` `[B]` says where the hidden
    units are tanh rather than ReLU; None for ReLU throughout.
    """

    layers: Tensor
    rate: Tensor
    steps: Tensor
    tanh: Tensor | None = None


def make_pool(
    widths: tuple[int, int, int], counts: tuple[int, int, int], generator: torch.Generator
) -> Pool:
    """Draw a pool: Gaussian weights of variance 2 / fan-in (He et al., 2015), biases 0.

    Args:
        widths: R_0, H and R_L.
        counts: I, M and O.
        generator: the stream of the draws.
    """
    (inputs, units, outputs), parts = widths, []
    shapes = ((units, inputs), (units, units), (outputs, units))
    for count, (fan_out, fan_in) in zip(counts, shapes, strict=True):
        draw = torch.randn(count, fan_out, fan_in, generator=generator, device=generator.device)
        parts += [(2 / fan_in) ** 0.5 * draw, torch.zeros_like(draw[:, :, 0])]
    return Pool(*parts)


def check_pool(pool: Pool) -> None:
    """The layers of a pool must fit together, whatever is chosen.

    Raises:
        ValueError: names what does not fit.
    """
    units = pool.input_bias.shape[-1]
    wanted = {
        "input_weight": (*pool.input_bias.shape, pool.input_weight.shape[-1]),
        "hidden_weight": (*pool.hidden_bias.shape, units),
        "hidden_bias": (len(pool.hidden_bias), units),
        "output_weight": (*pool.output_bias.shape, units),
    }
    for name, shape in wanted.items():
        found = tuple(getattr(pool, name).shape)
        if found != shape:
            raise ValueError(
                f"{name} of the pool has shape {found}: {shape} is wanted, because the input "
                f"layers have {units} units"
            )
    if not all(pool.counts[::2]):
        raise ValueError(
            f"the pool has {pool.counts[0]} input and {pool.counts[2]} output layers: a network "
            "needs one of each"
        )


def check_layers(pool: Pool, layers: Int[Tensor, "B P"]) -> None:
    """Layers of a plan must be in the pool; numbers are looked at on the CPU only.

    Raises:
        ValueError: names the first that is not, and what there is.
    """
    if not layers.is_cpu:
        return
    inputs, hidden, outputs = pool.counts
    places = [("input", inputs, 0), *[("hidden", hidden, -1)] * (layers.shape[1] - 2)]
    for place, (kind, count, least) in enumerate([*places, ("output", outputs, 0)]):
        chosen = layers[:, place]
        bad = chosen[(chosen < least) | (chosen >= count)]
        if len(bad):
            empty = ", or −1 for none" if least < 0 else ""
            raise ValueError(
                f"layers hold {int(bad[0])} at place {place}: the {kind} layers of the pool are "
                f"0 to {count - 1}{empty}"
            )


def assemble(pool: Pool, layers: Int[Tensor, "B P"]) -> Params:
    """Copies of the chosen layers: W_0, b_0, W_1, b_1, …, each with a leading B.

    Where no layer was chosen, the first one stands and `outputs` passes it by.

    Raises:
        ValueError: for a layer that is not in the pool.
    """
    check_layers(pool, layers)
    first, last = layers[:, 0], layers[:, -1]
    params = [pool.input_weight[first], pool.input_bias[first]]
    for place in range(1, layers.shape[1] - 1):
        chosen = layers[:, place].clamp_min(0)
        params += [pool.hidden_weight[chosen], pool.hidden_bias[chosen]]
    return [*params, pool.output_weight[last], pool.output_bias[last]]


def outputs(params: Params, plan: Plan, x: Float[Tensor, "B N R_0"]) -> Float[Tensor, "B N R_L"]:
    """The outputs of each row's network on its own samples."""
    h = _activate(_affine(params, 0, x), plan.tanh)
    last = len(params) // 2 - 1
    for place in range(1, last):
        present = (plan.layers[:, place] >= 0)[:, None, None]
        h = torch.where(present, _activate(_affine(params, place, h), plan.tanh), h)
    return _affine(params, last, h)


def losses(
    params: Params,
    plan: Plan,
    x: Float[Tensor, "B N R_0"],
    y: Shaped[Tensor, "B N *R_L"],
    loss: Loss,
) -> Float[Tensor, " B"]:
    """The mean loss of each row's network on its own samples."""
    return loss(outputs(params, plan, x), y).mean(-1)


def adapt(
    params: Params,
    plan: Plan,
    x: Float[Tensor, "B N R_0"],
    y: Shaped[Tensor, "B N *R_L"],
    loss: Loss,
    most: int,
    *,
    graph: bool = False,
) -> Params:
    """The parameters of each row after its own n gradient steps, θ ← θ − α ∇L(θ).

    Args:
        params: θ, each with a leading B.
        plan: gives α and n.
        x: inputs of each row's task.
        y: targets.
        loss: L, one value per sample.
        most: the largest n there is.
        graph: keeps what a derivative through the steps needs.
    """
    with torch.enable_grad():
        for step in range(most):
            theta = params if graph else [p.detach().requires_grad_() for p in params]
            total = losses(theta, plan, x, y, loss).sum()
            slopes = torch.autograd.grad(total, theta, create_graph=graph)
            rate = torch.where(step < plan.steps, plan.rate, 0.0)
            params = [p - like(rate, p) * g for p, g in zip(theta, slopes, strict=True)]
    return params if graph else [p.detach() for p in params]


def _affine(params: Params, place: int, x: Tensor) -> Tensor:
    return torch.baddbmm(params[2 * place + 1].unsqueeze(1), x, params[2 * place].mT)


def _activate(z: Tensor, tanh: Tensor | None) -> Tensor:
    if tanh is None:
        return torch.relu(z)
    return torch.where(tanh[:, None, None], torch.tanh(z), torch.relu(z))
