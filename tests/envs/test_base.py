"""Registration, trees of tensors, and what is said about a wrong action."""

from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import VectorizeMode
from torch import Tensor

import metarl_lib.envs
from metarl_lib.envs.adapters import SingleEnv, VectorEnv, draw_seed
from metarl_lib.envs.base import NotFiniteError, check_action, map_tree, replace_rows
from metarl_lib.envs.weight_space import WeightSpace
from metarl_lib.envs.weight_state import State

ID = "metarl/WeightSpace-v0"
OPTIONS = {"widths": (10, 7, 10), "steps": 5, "action_mode": "delta", "observation": "weights"}


def started(seed: int, batch: int, split: str = "train") -> tuple[State, Tensor]:
    """The batched environment, started by hand from the seed that Gymnasium's stream gives."""
    stream, _ = gymnasium.utils.seeding.np_random(seed)
    generator = torch.Generator().manual_seed(draw_seed(stream))
    env = WeightSpace(**OPTIONS)
    return env.reset(env.sample_tasks(batch, generator, split), generator)


def test_every_environment_is_registered_with_a_vector_version() -> None:
    assert ID in metarl_lib.envs.IDS
    for name in metarl_lib.envs.IDS:
        assert gymnasium.spec(name).vector_entry_point is not None


def test_make_gives_one_row_with_the_options() -> None:
    env = gymnasium.make(ID, **OPTIONS)
    assert type(env.unwrapped) is SingleEnv
    assert env.unwrapped.rows.env.steps == 5
    observation, info = env.reset(seed=3)
    assert np.array_equal(observation, started(3, 1)[1][0].numpy())
    assert info == {}
    ends = [env.step(env.action_space.sample())[2] for _ in range(5)]
    assert ends == [False, False, False, False, True]


def test_make_vec_takes_the_native_version_by_default() -> None:
    venv = gymnasium.make_vec(ID, num_envs=4, **OPTIONS)
    assert type(venv.unwrapped) is VectorEnv
    assert venv.num_envs == 4
    observation, _ = venv.reset(seed=3)
    assert np.array_equal(observation, started(3, 4)[1].numpy())
    assert venv.observation_space.shape == venv.action_space.shape == (4, 140)


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_the_split_decides_which_tasks_are_drawn(make) -> None:
    """Teachers of both splits are the same up to the sign of one weight, so inputs are equal."""
    drawn = {}
    for split in ("train", "test"):
        env = make(ID, split=split, **OPTIONS).unwrapped
        env.reset(seed=3)
        drawn[split] = env.rows.state.tasks
        assert torch.equal(drawn[split].y, started(3, 1, split)[0].tasks.y)
    assert not torch.equal(drawn["train"].y, drawn["test"].y)
    assert torch.equal(drawn["train"].x, drawn["test"].x)


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_an_unknown_option_is_an_error(make) -> None:
    with pytest.raises(TypeError, match="lerning_rate"):
        make(ID, lerning_rate=1.0)


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"split='validation' is unknown.*train, test"):
        gymnasium.make(ID, split="validation", **OPTIONS).reset(seed=0)


def test_both_vectorizations_are_there_to_choose_from() -> None:
    venv = gymnasium.make_vec(ID, 2, vectorization_mode=VectorizeMode.SYNC, **OPTIONS)
    assert isinstance(venv.unwrapped, gymnasium.vector.SyncVectorEnv)
    observation, _ = venv.reset(seed=3)  # row i has seed 3 + i there
    assert np.array_equal(observation[1], started(4, 1)[1][0].numpy())


class Pair(NamedTuple):
    first: Tensor
    rest: list


def tree(start: int, batch: int) -> Pair:
    def block(offset: int, *shape: int) -> Tensor:
        count = batch * int(np.prod(shape))
        return torch.arange(float(count)).reshape(batch, *shape) + 1000 * start + 100 * offset

    return Pair(block(0), [block(1, 3), (block(2, 2, 2), []), Pair(block(3).long(), [])])


def leaves(nested) -> list[Tensor]:
    if isinstance(nested, Tensor):
        return [nested]
    return [leaf for part in nested for leaf in leaves(part)]


def skeleton(nested):
    """The tree without its numbers: types, and dimensions beyond the first."""
    if isinstance(nested, Tensor):
        return nested.dtype, nested.shape[1:]
    return type(nested), [skeleton(part) for part in nested]


def test_a_function_reaches_every_tensor_and_keeps_the_tree() -> None:
    a, b, c = (tree(i, 4) for i in range(3))
    mapped = map_tree(lambda x, y, z: x + 10 * y - z, a, b, c)
    assert skeleton(mapped) == skeleton(a)
    for x, y, z, result in zip(*map(leaves, (a, b, c, mapped)), strict=True):
        expected = [p + 10 * q - r for p, q, r in zip(
            x.flatten().tolist(), y.flatten().tolist(), z.flatten().tolist(), strict=True
        )]  # fmt: skip
        assert result.flatten().tolist() == expected


def test_unequal_trees_are_refused() -> None:
    with pytest.raises(ValueError):
        map_tree(torch.add, [torch.ones(1)], [torch.ones(1), torch.ones(1)])


@pytest.mark.parametrize("mask", [(0, 0, 0, 0), (0, 1, 0, 1), (1, 0, 0, 0), (1, 1, 1, 1)])
def test_replaced_rows_are_the_fresh_ones_in_order(mask) -> None:
    rows = torch.tensor(mask, dtype=torch.bool)
    old, fresh = tree(0, 4), tree(1, sum(mask))
    merged = replace_rows(old, rows, fresh)
    assert skeleton(merged) == skeleton(old)
    for before, new, result in zip(*map(leaves, (old, fresh, merged)), strict=True):
        stack = new.tolist()
        expected = [stack.pop(0) if m else b for m, b in zip(mask, before.tolist(), strict=True)]
        assert result.tolist() == expected
        assert result.dtype == before.dtype
    assert all(torch.equal(a, b) for a, b in zip(leaves(old), leaves(tree(0, 4)), strict=True))


def test_rows_of_an_expanded_tensor_are_replaced_one_by_one() -> None:
    """Tasks that all rows share are expanded, so that their rows are the same memory."""
    shared = torch.zeros(1, 2).expand(3, 2)
    merged = replace_rows([shared], torch.tensor([False, True, False]), [torch.ones(1, 2)])
    assert merged[0].tolist() == [[0, 0], [1, 1], [0, 0]]
    assert shared.tolist() == [[0, 0]] * 3


SPACE = spaces.Box(-1.0, 1.0, (2, 3), np.float32)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((4, 3, 2), r"shape \(4, 3, 2\), \(4, 2, 3\) is wanted"),
        ((3, 2, 3), r"shape \(3, 2, 3\), \(4, 2, 3\) is wanted"),
        ((4, 6), r"shape \(4, 6\), \(4, 2, 3\) is wanted"),
        ((2, 3), r"shape \(2, 3\), \(4, 2, 3\) is wanted"),
    ],
)
def test_an_action_of_the_wrong_shape_is_refused_in_one_line(shape, words) -> None:
    check_action(torch.zeros(4, 2, 3), 4, SPACE)
    with pytest.raises(ValueError, match=words) as refusal:
        check_action(torch.zeros(shape), 4, SPACE)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_action_that_is_not_finite_is_refused_in_one_line(bad) -> None:
    action = torch.full((4, 2, 3), 1e30)
    check_action(action, 4, SPACE)
    action[1, 0, 2] = action[3, 1, 1] = bad
    with pytest.raises(NotFiniteError, match=r"2 NaN or infinite.*finite numbers") as refusal:
        check_action(action, 4, SPACE)
    assert "\n" not in str(refusal.value)
