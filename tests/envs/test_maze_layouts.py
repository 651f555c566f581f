"""Random mazes against Prim's algorithm in plain Python, and what their pictures have in common."""

import math

import pytest
import torch
from plain_tasks import twin
from scipy import stats
from streams import stream

from metarl_lib.envs.maze_layouts import layouts, touching

SIZES = {2: 300, 3: 400, 4: 400, 6: 400, 8: 300, 10: 300, 16: 150}
SIDES = ((-1, 0), (1, 0), (0, -1), (0, 1))
Cells = set[tuple[int, int]]


def cells_of(maze: list[list[bool]]) -> Cells:
    return {(r, c) for r, line in enumerate(maze) for c, is_open in enumerate(line) if is_open}


def open_beside(cell: tuple[int, int], opened: Cells) -> int:
    return sum((cell[0] + down, cell[1] + right) in opened for down, right in SIDES)


def reached(opened: Cells) -> Cells:
    """All that can be reached from one of the open cells."""
    first = next(iter(opened))
    found, edge = {first}, [first]
    while edge:
        row, column = edge.pop()
        near = {(row + down, column + right) for down, right in SIDES} & opened - found
        found |= near
        edge += near
    return found


@pytest.mark.parametrize("size", SIZES)
def test_all_open_cells_are_connected_and_about_as_many_as_in_the_paper(size) -> None:
    """From round(42/64 n²) to round(53/64 n²): no tree is larger than that."""
    mazes = layouts(SIZES[size], size, stream())
    assert (mazes.dtype, mazes.shape) == (torch.bool, (SIZES[size], size, size))
    counts = set()
    for maze in mazes.tolist():
        opened = cells_of(maze)
        assert reached(opened) == opened
        counts.add(len(opened))
    allowed = set(range(round(42 / 64 * size**2), round(53 / 64 * size**2) + 1))
    assert counts == allowed if size <= 10 else counts <= allowed


def prim(weight, first: int, order: list[float], share: float) -> tuple[Cells, int]:
    """The open cells from the numbers drawn, one at a time, and in how many rounds loops came."""
    size = len(weight)
    every = {(r, c) for r in range(size) for c in range(size)}
    opened = {divmod(first, size)}
    while True:
        frontier = [cell for cell in every - opened if open_beside(cell, opened) == 1]
        if not frontier:
            break
        opened.add(min(frontier, key=lambda cell: weight[cell[0]][cell[1]]))
    assert sum(open_beside(cell, opened) for cell in opened) == 2 * (len(opened) - 1), "a tree"
    low, high = round(42 / 64 * size**2), round(53 / 64 * size**2)
    wanted, rounds = low + int(share * (high - low + 1)), 0
    while len(opened) < wanted:
        near = [cell for cell in every - opened if open_beside(cell, opened) > 0]
        near.sort(key=lambda cell: order[cell[0] * size + cell[1]])
        opened |= set(near[: wanted - len(opened)])
        rounds += 1
    return opened, rounds


@pytest.mark.parametrize(
    ("size", "count", "loops"),
    [(2, 30, {0}), (3, 60, {0, 1}), (4, 400, {0, 1, 2}), (6, 40, {0, 1}), (8, 40, {0, 1}),
     (13, 8, {1})],
)  # fmt: skip
def test_mazes_are_those_of_prims_algorithm_one_cell_at_a_time(size, count, loops) -> None:
    """Loops come in no round, where the tree suffices, in one, or seldom in more of them."""
    generator = stream(size)
    other = twin(generator)
    weight = torch.rand(count, size, size, generator=other).tolist()
    first = torch.randint(size**2, (count,), generator=other).tolist()
    order = torch.rand(count, size**2, generator=other).tolist()
    share = torch.rand(count, generator=other).tolist()
    rounds = set()
    for maze, *draws in zip(
        layouts(count, size, generator).tolist(), weight, first, order, share, strict=True
    ):
        opened, often = prim(*draws)
        assert cells_of(maze) == opened
        rounds.add(often)
    assert rounds == loops
    assert torch.equal(generator.get_state(), other.get_state()), "nothing else is drawn"


def test_how_many_cells_are_open_is_even_where_no_tree_is_as_large() -> None:
    """At n = 8 that is from 46 on; with fewer, the tree itself may be larger than was drawn."""
    counts = torch.bincount(layouts(6000, 8, stream(1)).sum((1, 2)), minlength=65)
    found = torch.cat([counts[:46].sum()[None], counts[46:54]]).double()
    assert int(found.sum()) == 6000
    assert stats.chisquare(found, [6000 * 4 / 12, *[6000 / 12] * 8]).pvalue > 1e-3
    assert int(counts[42:46].min()) > 250, "the others are not rare"


def test_in_large_mazes_every_count_of_open_cells_is_equally_likely() -> None:
    """At n = 16 hardly any tree has as many as 168 cells."""
    counts = torch.bincount(layouts(1800, 16, stream(1)).sum((1, 2)), minlength=257)
    assert int(counts[168:213].sum()) == 1800
    assert stats.chisquare(counts[168:213].double()).pvalue > 1e-3


def test_no_direction_is_preferred() -> None:
    """Cells are open as often as those they are mirrored to: within 4.5 standard errors each.

    Of the mazes and their mirror images nothing else differs in law; so the same holds for
    pairs of neighbours that are both open.
    """
    count = 4000
    mazes = layouts(count, 8, stream(2)).double()
    across, down = mazes[:, :, 1:] * mazes[:, :, :-1], mazes[:, 1:] * mazes[:, :-1]
    for image in (mazes, mazes.flip(1), mazes.flip(2), mazes.mT):
        within(image - mazes)
    for image in (across.flip(1), across.flip(2), down.mT):
        within(image - across)
    spread = mazes.mean(0)
    assert float(spread.std()) > 0.01, "the corners differ from the middle, or nothing is tested"


def within(difference: torch.Tensor) -> None:
    error = difference.std(0) / math.sqrt(len(difference))
    assert bool((difference.mean(0).abs() <= 4.5 * error).all())


def test_equal_generators_give_equal_mazes() -> None:
    first, again, other = (layouts(30, 8, stream(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(maze.flatten().tolist()) for maze in first}) == 30, "one like another"


@pytest.mark.parametrize("size", [1, 2, 5])
def test_what_touches_a_cell_is_counted_one_neighbour_at_a_time(size) -> None:
    inside = (torch.rand(9, size, size, generator=stream()) < 0.6).float()
    found = touching(torch.nn.functional.pad(inside, (1, 1, 1, 1)))
    for maze, counts in zip(inside.bool().tolist(), found.tolist(), strict=True):
        opened = cells_of(maze)
        assert counts == [[open_beside((r, c), opened) for c in range(size)] for r in range(size)]
