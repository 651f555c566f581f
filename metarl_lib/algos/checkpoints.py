"""The parts of a checkpoint: named tensors from which a training goes on, bit for bit.

Names are joined with dots: what stands under `optimiser` has names such as `optimiser.0.step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metarl_lib.envs.base import map_tree


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `prefix.`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def own_tensors(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those that stand under `prefix.`, without it."""
    start = f"{prefix}."
    return {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are now, whatever happens to the given ones."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser keeps of its parameters, as `<parameter>.<name>`; nothing of its rates."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
    """Give an optimiser back what `optimiser_tensors` kept; its rates stay."""
    state = optimiser.state_dict()
    state["state"] = {}
    for key, tensor in kept.items():
        index, name = key.split(".")
        state["state"].setdefault(int(index), {})[name] = tensor.clone()
    optimiser.load_state_dict(state)


def stream_tensors(streams: Mapping[str, torch.Generator]) -> dict[str, Tensor]:
    """The states of random streams."""
    return {name: stream.get_state() for name, stream in streams.items()}


def restore_streams(streams: Mapping[str, torch.Generator], kept: Mapping[str, Tensor]) -> None:
    """Put streams back to where `stream_tensors` found them."""
    for name, stream in streams.items():
        stream.set_state(kept[name])


def tree_tensors(tree: Any) -> dict[str, Tensor]:
    """The tensors of a tree of tuples and lists, numbered as `map_tree` meets them."""
    found: list[Tensor] = []
    map_tree(lambda leaf: found.append(leaf) or leaf, tree)  # type: ignore[func-returns-value]
    return {str(index): leaf for index, leaf in enumerate(found)}


def restored_tree(tree: Any, kept: Mapping[str, Tensor]) -> Any:
    """A tree like the given one, of the tensors that `tree_tensors` kept."""
    leaves = iter(range(len(kept)))
    return map_tree(lambda _: kept[str(next(leaves))].clone(), tree)
