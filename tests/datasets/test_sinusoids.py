"""Sinusoids: ranges, targets, and a chessboard of cells that training and test tasks share out."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from metarl_lib.datasets import sinusoid_samples, sinusoid_tasks
from metarl_lib.datasets.sinusoids import AMPLITUDES, CELLS, INPUTS, PHASES

SPLITS = ("train", "test")
DRAWS = 20_000


def draw(split, count=DRAWS, seed=0):
    return sinusoid_tasks(count, generator=torch.Generator().manual_seed(seed), split=split)


def cells(a, p):
    """Row and column of every task on a board of 16 × 16, from the ranges of the paper."""
    row = np.floor((a.double().numpy() - 0.1) / (5.0 - 0.1) * 16).astype(int)
    column = np.floor(p.double().numpy() / math.pi * 16).astype(int)
    return row, column


def test_the_ranges_are_those_of_the_paper() -> None:
    assert AMPLITUDES == (0.1, 5.0)
    assert pytest.approx((0.0, math.pi)) == PHASES
    assert INPUTS == (-5.0, 5.0)
    assert CELLS == 16


@pytest.mark.parametrize("split", SPLITS)
def test_amplitudes_and_phases_are_uniform_in_their_ranges(split) -> None:
    for values, low, high in zip(draw(split), (0.1, 0.0), (5.0, math.pi), strict=True):
        assert values.shape == (DRAWS,)
        assert values.dtype == torch.float32
        distribution = stats.uniform(low, high - low)
        assert stats.kstest(values.numpy(), distribution.cdf).pvalue > 1e-3
        assert float(values.min()) >= low
        assert float(values.max()) <= high + 1e-6


def test_training_tasks_lie_on_white_cells_and_test_tasks_on_black_ones() -> None:
    boards = {}
    for split, colour in zip(SPLITS, (0, 1), strict=True):
        row, column = cells(*draw(split))
        assert ((row + column) % 2 == colour).all()
        boards[split] = set(zip(row.tolist(), column.tolist(), strict=True))
        assert len(boards[split]) == 16 * 16 // 2
    assert not boards["train"] & boards["test"]


@pytest.mark.parametrize("split", SPLITS)
def test_every_cell_of_a_colour_is_equally_likely(split) -> None:
    row, column = cells(*draw(split))
    counts = np.unique(16 * row + column, return_counts=True)[1]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_the_targets_are_the_formula() -> None:
    generator = torch.Generator().manual_seed(1)
    a, p = sinusoid_tasks(5, generator=generator, split="test")
    x, y = sinusoid_samples(a, p, 7, generator=generator)
    assert x.shape == y.shape == (5, 7, 1)
    for task in range(5):
        for sample in range(7):
            angle = float(x[task, sample, 0]) + float(p[task])
            expected = float(a[task]) * math.sin(angle)
            assert float(y[task, sample, 0]) == pytest.approx(expected, abs=5e-6)


def test_inputs_are_uniform_and_differ_between_tasks() -> None:
    a, p = draw("train", 20)
    x, _ = sinusoid_samples(a, p, 1000, generator=torch.Generator().manual_seed(2))
    assert stats.kstest(x.flatten().numpy(), stats.uniform(-5, 10).cdf).pvalue > 1e-3
    assert len(x.flatten(1).unique(dim=0)) == 20


def test_the_seed_decides() -> None:
    one, same, other = draw("train", 9), draw("train", 9), draw("train", 9, seed=1)
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1], same[1])
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


def test_an_unknown_split_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"split='valid'.*train.*test") as caught:
        draw("valid")
    assert "\n" not in str(caught.value)
