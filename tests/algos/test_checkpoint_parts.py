"""What a checkpoint is put together from: names, and a training that goes on bit for bit."""

from typing import NamedTuple

import pytest
import torch

from metarl_lib.algos.checkpoints import (
    copies,
    optimiser_tensors,
    own_tensors,
    restore_optimiser,
    restore_streams,
    restored_tree,
    stream_tensors,
    tree_tensors,
    with_prefix,
)


class Pair(NamedTuple):
    left: torch.Tensor
    right: tuple[torch.Tensor, ...]


def test_a_prefix_is_a_whole_part_of_a_name() -> None:
    one, other = torch.tensor(1.0), torch.tensor(2.0)
    kept = with_prefix("a", {"x.y": one}) | with_prefix("ab", {"x": other})
    assert set(kept) == {"a.x.y", "ab.x"}
    assert own_tensors(kept, "a") == {"x.y": one}
    assert own_tensors(kept, "b") == {}


def test_copies_stay_as_they_are() -> None:
    weight = torch.ones(2, requires_grad=True)
    kept = copies({"weight": weight})
    with torch.no_grad():
        weight += 1
    assert kept["weight"].tolist() == [1.0, 1.0]
    assert not kept["weight"].requires_grad


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop])
def test_a_restored_optimiser_takes_the_same_steps(kind) -> None:
    """Also one that had taken other steps before; its own learning rate stays."""
    slopes = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))

    def steps(optimiser, weight, some) -> None:
        for slope in some:
            weight.grad = slope
            optimiser.step()

    weight, other = torch.zeros(3), torch.zeros(3)
    first, second = kind([weight], lr=0.1), kind([other], lr=0.2)
    steps(first, weight, slopes[:3])
    steps(second, other, slopes.flip(0))
    kept = optimiser_tensors(first)
    assert {name.split(".")[0] for name in kept} == {"0"}
    restore_optimiser(second, copies(kept))
    assert second.param_groups[0]["lr"] == 0.2
    second.param_groups[0]["lr"] = 0.1
    other.copy_(weight)
    steps(first, weight, slopes[3:])
    steps(second, other, slopes[3:])
    torch.testing.assert_close(other, weight, rtol=0, atol=0)


def test_an_optimiser_that_took_no_step_keeps_nothing() -> None:
    weight = torch.zeros(2)
    fresh, used = torch.optim.Adam([weight]), torch.optim.Adam([weight])
    assert optimiser_tensors(fresh) == {}
    weight.grad = torch.ones(2)
    used.step()
    restore_optimiser(used, {})
    assert optimiser_tensors(used) == {}


def test_restored_streams_draw_the_same() -> None:
    streams = {name: torch.Generator().manual_seed(i) for i, name in enumerate("ab")}
    torch.rand(3, generator=streams["a"])
    kept = stream_tensors(streams)
    drawn = [torch.rand(3, generator=stream) for stream in streams.values()]
    restore_streams(streams, kept)
    again = [torch.rand(3, generator=stream) for stream in streams.values()]
    torch.testing.assert_close(again, drawn, rtol=0, atol=0)


def test_a_restored_tree_has_the_same_branches_and_tensors_of_its_own() -> None:
    tree = Pair(torch.tensor(1), (torch.tensor(2), torch.tensor(3)))
    kept = tree_tensors(tree)
    assert {name: int(leaf) for name, leaf in kept.items()} == {"0": 1, "1": 2, "2": 3}
    empty = Pair(torch.tensor(0), (torch.tensor(0), torch.tensor(0)))
    found = restored_tree(empty, kept)
    assert found == tree
    found.left.add_(5)
    assert int(tree.left) == 1
