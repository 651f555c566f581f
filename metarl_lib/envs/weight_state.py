"""What is known about base networks in training: their state, and what an agent sees of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl_lib.datasets import Tasks
from metarl_lib.envs.signals import Signals
from metarl_lib.rules import Network
from metarl_lib.rules.network import Params, like

SIGNALS = ("drive", "momentum", "hebb", "decay")
STATISTICS = ("active share", "log activity", "log weights", "log momentum", "agreement")
GLOBALS = ("progress", "improvement", "improvement before", "improvement before that", "time left")
LOCALS = (*SIGNALS, "log momentum", "agreement", "progress", "improvement", "time left")

MEMORY = 0.9
CLIP = 10.0
TINY = 1e-12


class State(NamedTuple):
    """B base networks in training.

    `log_losses` is `[B, 5]`: at the start, then now and one, two, three steps ago. `momentum`
    is the running mean of `signals.drive` up to the step before. `scale` is ρ, `[B, L]`,
    `time` counts steps, `[B]`. In the modes set and delta the signals are empty but the error.
    """

    tasks: Tasks
    params: Params
    signals: Signals
    momentum: Params
    log_losses: Tensor
    scale: Tensor
    time: Tensor


def global_numbers(state: State, steps: int) -> Tensor:
    """`GLOBALS` of each network in an episode of `steps` steps, `[B, 5]`, clipped to ±10.

    Progress is log E at the start less log E now; an improvement is that of one step.
    """
    start, *recent = state.log_losses.unbind(-1)
    progress = start - recent[0]
    improvements = [before - now for now, before in zip(recent, recent[1:], strict=False)]
    left = 1 - state.time.to(progress) / steps
    return torch.stack([progress, *improvements, left], -1).clamp(-CLIP, CLIP)


def layer_statistics(network: Network, state: State) -> Tensor:
    """`STATISTICS` of each layer, `[B, L, 5]`, clipped to ±10.

    `log weights` is log rms(W_l) / ρ_l; `log momentum` the logarithm of the momentum's size
    over the drive's; `agreement` the cosine between this drive and the momentum before it.
    """
    rows = []
    for layer in range(network.num_layers):
        weight = network.weight(state.params, layer)
        drive = network.weight(state.signals.drive, layer)
        momentum = network.weight(state.momentum, layer)
        size = (rms(weight) / state.scale[:, layer].clamp_min(TINY)).clamp_min(TINY).log()
        ratio = rms(momentum).clamp_min(TINY).log() - rms(drive).clamp_min(TINY).log()
        ratio = torch.where(state.time == 0, 0.0, ratio)
        product = (drive * momentum).mean((-1, -2))
        agreement = product / (rms(drive) * rms(momentum)).clamp_min(TINY)
        rows.append(torch.stack([size, ratio, agreement], -1))
    return torch.cat([state.signals.activity, torch.stack(rows, -2)], -1).clamp(-CLIP, CLIP)


def next_momentum(state: State) -> Params:
    """m ← 0.9 m + 0.1 drive, without the bias of a start from zero (Kingma & Ba, 2015)."""
    rate = (1 - MEMORY) / (1 - MEMORY ** (state.time.to(state.scale) + 1))
    return [
        m + like(rate, d) * (d - m)
        for m, d in zip(state.momentum, state.signals.drive, strict=True)
    ]


def unit_signals(state: State, momentum: Params, index: int, layer: int) -> dict[str, Tensor]:
    """The four signals ŝ of parameter `index` in `layer`, by name.

    Each is divided by its root mean square over the parameter; the weights by ρ.
    """
    raw = {
        "drive": state.signals.drive[index],
        "momentum": momentum[index],
        "hebb": state.signals.hebb[index],
    }
    unit = {name: s / like(rms(s).clamp_min(TINY), s) for name, s in raw.items()}
    weights = state.params[index]
    return unit | {"decay": weights / like(state.scale[:, layer].clamp_min(TINY), weights)}


def rms(values: Tensor) -> Tensor:
    """Root mean square over all but the first dimension, `[B]`."""
    return values.flatten(1).square().mean(-1).sqrt()
