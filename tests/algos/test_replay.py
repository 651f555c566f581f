"""What has been lived: rings against lists, and contexts that a test could have."""

import pytest
import torch
from streams import stream

from metarl_lib.algos.replay import Contexts, Replay, Transitions, subset

S, A = 2, 1


def numbered(first: int, rows: int, steps: int) -> Transitions:
    """Transitions whose every part tells their number."""
    n = torch.arange(first, first + rows * steps, dtype=torch.float32).reshape(rows, steps)
    one = n.unsqueeze(-1)
    return Transitions(one.expand(-1, -1, S), -one, 2 * n, one + torch.tensor([0.25, 0.5]),
                       n % 2 == 0, 3 * n)  # fmt: skip


def test_a_ring_keeps_the_last_ones_as_a_list_does() -> None:
    """Episodes of different lengths, tasks in any order, over several rounds of the ring."""
    capacity, steps = 7, 5
    replay, lists = Replay(4, capacity, S, A), [[] for _ in range(4)]
    for k in range(12):
        tasks = torch.randperm(4, generator=stream(k))[:3]
        real = torch.rand(3, steps, generator=stream(50 + k)) < 0.7
        new = numbered(100 * k, 3, steps)
        replay.add(tasks, new, real)
        for row, task in enumerate(tasks.tolist()):
            lists[task] += new.reward[row][real[row]].tolist()
        for task, kept in enumerate(lists):
            size = int(replay.size[task])
            assert size == min(len(kept), capacity)
            rewards = replay.rows[task, :size, S + A].tolist()
            assert sorted(rewards) == sorted(kept[-capacity:])


def test_draws_are_whole_transitions_of_the_right_task_and_uniform() -> None:
    replay = Replay(3, 50, S, A)
    replay.add(torch.tensor([2, 0]), numbered(0, 2, 10), torch.ones(2, 10, dtype=torch.bool))
    tasks = torch.tensor([0, 2, 2])
    drawn = replay.draw(tasks, 20_000, stream())
    n = drawn.observation[..., 0]
    assert set(n[0].tolist()) == set(map(float, range(10, 20)))
    assert set(n[1].tolist()) == set(map(float, range(10)))
    counts = n[0].long().bincount(minlength=20)[10:]
    assert (counts - 2000).abs().max() < 5 * 2000**0.5
    assert torch.equal(drawn.action[..., 0], -n)
    assert torch.equal(drawn.reward, 2 * n)
    assert torch.equal(drawn.following, n[..., None] + torch.tensor([0.25, 0.5]))
    assert torch.equal(drawn.terminal, n % 2 == 0)
    assert torch.equal(drawn.shown, 3 * n)


def test_what_does_not_fit_is_refused() -> None:
    replay, real = Replay(3, 4, S, A), torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"5 steps do not fit into capacity=4"):
        replay.add(torch.tensor([0, 1]), numbered(0, 2, 5), real)
    with pytest.raises(ValueError, match="named twice"):
        replay.add(torch.tensor([1, 1]), numbered(0, 2, 4), real[:, :4])


def test_a_context_is_made_of_what_a_belief_may_see() -> None:
    row = Transitions(*(part[0, 0] for part in numbered(5, 1, 1))).context()
    assert row.tolist() == [5, 5, -5, 15, 5.25, 5.5]  # s, a, the reward that is shown, s'


def test_contexts_are_the_latest_episodes_of_a_task() -> None:
    """All real steps of the three episodes of the right task, or some of them; none from before."""
    contexts = Contexts(5, 3, 4, 1)
    rows = torch.arange(24.0).reshape(2, 3, 4, 1)
    real = torch.ones(2, 3, 4, dtype=torch.bool)
    real[:, 1, 2:] = False  # the second one ends after two steps
    contexts.put(torch.tensor([3, 1]), -rows - 1, real)
    contexts.put(torch.tensor([3, 1]), rows, real)
    drawn, which = contexts.draw(torch.tensor([1, 3, 1]), 99, stream())
    for row, first in enumerate((12, 0, 12)):
        expected = [first + k for k in (0, 1, 2, 3, 4, 5, 8, 9, 10, 11)]
        assert drawn[row, :, 0][which[row]].tolist() == expected
    few, which = contexts.draw(torch.tensor([1] * 500), 3, stream())
    assert which.all()
    assert few.shape == (500, 3, 1)
    assert set(few.flatten().tolist()) == set(range(12, 24)) - {18, 19}


def test_a_subset_is_drawn_from_the_real_rows_without_repetition() -> None:
    rows = torch.arange(6.0).expand(4000, -1)[..., None]
    real = torch.tensor([True, False, True, True, False, True]).expand(4000, -1)
    few, all_real = subset(rows, real, 3, stream())
    assert all_real.all()
    assert few.shape == (4000, 3, 1)
    values = few[..., 0].sort(1).values
    assert (values.diff(dim=1) > 0).all()
    counts = values.long().flatten().bincount(minlength=6)
    assert counts[[1, 4]].tolist() == [0, 0]
    assert (counts[[0, 2, 3, 5]] - 3000).abs().max() < 5 * 3000**0.5
    more, some = subset(rows, real, 5, stream())
    assert more.shape == (4000, 5, 1)
    assert (some.sum(1) == 4).all()
    assert torch.equal(more[..., 0][some].reshape(4000, 4).sort(1).values[0],
                       torch.tensor([0.0, 2, 3, 5]))  # fmt: skip
    assert subset(rows, real, 6, stream())[0] is rows
