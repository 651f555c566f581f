"""How a rule is run: the corrected rules in one form, the seed's rules each in its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl_lib.datasets import Split
from metarl_lib.experiments.training import Estimate
from metarl_lib.rules import Network, node_perturbation, sgd, weight_perturbation
from metarl_lib.rules.losses import Loss
from metarl_lib.rules.network import Params


def corrected_estimate(
    rule: str, network: Network, data: Split, loss: Loss, sigma: float = 1e-3
) -> Estimate:
    """`"sgd"`, `"wp"` or `"np"` as a function of parameters and noise.

    The perturbation rules take one antithetic draw a step. Parameters may have leading batch
    dimensions.
    """
    arguments = (data.x, data.y, loss)

    def estimate(params: Sequence[Tensor], stream: torch.Generator) -> Params:
        if rule == "sgd":
            return sgd(network, params, *arguments)
        perturb = {"wp": weight_perturbation, "np": node_perturbation}[rule]
        return perturb(network, params, *arguments, generator=stream, antithetic=True, sigma=sigma)

    return estimate


@dataclass(frozen=True)
class Protocol:
    """One rule as the seed's code runs it.

    Attributes:
        estimate: the rule, on the seed's data and loss.
        initial: the parameters it starts from.
        learning_rate: η.
        measure: losses (and accuracies) of some parameters.
        project: what is done to the parameters after each step, if anything.
    """

    estimate: Estimate
    initial: Params
    learning_rate: float
    measure: Callable[[Sequence[Tensor]], dict[str, Tensor]]
    project: Callable[[Params], Params] | None = None


TINY = torch.finfo(torch.float32).tiny


def finite_log(loss: Tensor) -> Tensor:
    """The natural logarithm, of any shape, bounded below, because a perfect fit has loss zero."""
    return loss.clamp_min(TINY).log()


def mean_loss(network: Network, loss: Loss, split: Split, params: Sequence[Tensor]) -> Tensor:
    """E of the samples of a split, `[*]`, with the parameters' leading batch dimensions."""
    return loss(network(params, split.x), split.y).mean(-1)


def torch_default_init(network: Network, stream: torch.Generator) -> Params:
    """Uniform on ±1/√R_l for weights and biases: what `torch.nn.Linear` starts from."""
    params = []
    for shape in network.shapes:
        if len(shape) == 2:
            bound = 1 / math.sqrt(shape[1])
        params.append((2 * torch.rand(shape, generator=stream) - 1) * bound)
    return params
