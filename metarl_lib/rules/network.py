"""The base network: a multilayer perceptron whose parameters are a plain list of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from metarl_lib.rules.checks import check_params, check_widths, look_up

Params = list[Tensor]


class Activation(NamedTuple):
    """A nonlinearity φ and its derivative φ′, both as functions of the pre-activation z."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


ACTIVATIONS: dict[str | None, Activation] = {
    "relu": Activation(torch.relu, lambda z: (z > 0).to(z.dtype)),
    "tanh": Activation(torch.tanh, lambda z: 1 - torch.tanh(z).square()),
    None: Activation(lambda z: z, torch.ones_like),
}


class Trace(NamedTuple):
    """What a forward pass leaves behind.

    `activations[l]` is X_l, `[*, N, R_l]`, with X_0 = x; `pre_activations[l]` is
    Z_{l+1} = X_l W_lᵀ (+ b_l), `[*, N, R_{l+1}]`.
    """

    activations: list[Tensor]
    pre_activations: list[Tensor]

    @property
    def output(self) -> Tensor:
        """X_L, `[*, N, R_L]`."""
        return self.activations[-1]


@dataclass(frozen=True)
class Network:
    """A multilayer perceptron in the notation of Cai & Cheng (2022), eq. 1: X_{l+1} = φ(X_l W_lᵀ).

    Args:
        widths: R_0, R_1, …, R_L, the number of units of each layer, input first.
        activation: φ of the hidden layers, `"relu"`, `"tanh"` or `None` (identity).
        output_activation: φ of the last layer, from the same names.
        bias: adds b_l to each layer's pre-activation. The seed's networks have none.

    Parameters are a plain list: W_0, W_1, …, or W_0, b_0, W_1, b_1, … with biases. W_l is
    `[R_{l+1}, R_l]`. Every parameter may carry the same leading batch dimensions `[*]`; the
    network then evaluates that many networks at once, and its output has those dimensions too.

    Raises:
        ValueError: for widths that are not two or more positive whole numbers, or an
            activation that is not known.
    """

    widths: Sequence[int]
    activation: str | None = "relu"
    output_activation: str | None = None
    bias: bool = False

    def __post_init__(self) -> None:
        check_widths(self.widths)
        object.__setattr__(self, "widths", tuple(self.widths))
        look_up("activation", self.activation, ACTIVATIONS)
        look_up("output_activation", self.output_activation, ACTIVATIONS)

    @property
    def num_layers(self) -> int:
        """L, the number of weight matrices."""
        return len(self.widths) - 1

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of every parameter, in order."""
        shapes: list[tuple[int, ...]] = []
        for fan_in, fan_out in zip(self.widths[:-1], self.widths[1:], strict=True):
            shapes.append((fan_out, fan_in))
            if self.bias:
                shapes.append((fan_out,))
        return shapes

    @property
    def num_weights(self) -> int:
        """P, the number of scalar parameters."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def num_units(self) -> int:
        """M = R_1 + … + R_L, the number of units that receive input."""
        return sum(self.widths[1:])

    def layer_activation(self, layer: int) -> Activation:
        """φ of the units that W_l feeds, with l = `layer`."""
        name = self.output_activation if layer == self.num_layers - 1 else self.activation
        return ACTIVATIONS[name]

    def weight(self, params: Sequence[Tensor], layer: int) -> Tensor:
        """W_l out of the parameter list, with l = `layer`."""
        return params[2 * layer if self.bias else layer]

    def init(
        self,
        generator: torch.Generator | None = None,
        *,
        std: float | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Params:
        """Draw parameters: Gaussian weights, zero biases.

        Args:
            generator: the stream that the draws come from (torch's own when absent).
            std: the standard deviation of every weight. By default that of He et al. (2015),
                sqrt(2 / R_l), which keeps the size of the signal through ReLU layers.
            dtype: of the parameters.
        """
        device = generator.device if generator is not None else None
        params = []
        for shape in self.shapes:
            if len(shape) == 1:
                params.append(torch.zeros(shape, dtype=dtype, device=device))
                continue
            scale = std if std is not None else math.sqrt(2 / shape[1])
            noise = torch.randn(shape, generator=generator, dtype=dtype, device=device)
            params.append(scale * noise)
        return params

    def trace(
        self,
        params: Sequence[Tensor],
        x: Float[Tensor, "*batch N R_0"],
        unit_noise: Sequence[Tensor] | None = None,
    ) -> Trace:
        """Forward pass that keeps every X_l and Z_l.

        Args:
            params: the parameter list, with or without leading batch dimensions.
            x: inputs, one row per sample.
            unit_noise: one tensor per layer, broadcastable to Z_{l+1}, added to it.

        Raises:
            ValueError: when the parameters do not have the shapes of this network.
        """
        check_params(self.shapes, params)
        activations, pre_activations = [x], []
        for layer in range(self.num_layers):
            z = activations[-1] @ self.weight(params, layer).mT
            if self.bias:
                z = z + params[2 * layer + 1].unsqueeze(-2)
            if unit_noise is not None:
                z = z + unit_noise[layer]
            pre_activations.append(z)
            activations.append(self.layer_activation(layer).value(z))
        return Trace(activations, pre_activations)

    def __call__(
        self, params: Sequence[Tensor], x: Float[Tensor, "*batch N R_0"]
    ) -> Float[Tensor, "*out N R_L"]:
        """X_L, the network's outputs."""
        return self.trace(params, x).output


def like(per_row: Shaped[Tensor, " B"], other: Tensor) -> Tensor:
    """A number for each row, `[B, 1, …]`, to go with another tensor of the rows, `[B, …]`."""
    return per_row.reshape(-1, *(1,) * (other.ndim - 1))
