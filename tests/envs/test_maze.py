"""The maze against a plain row, its jumps, its tasks and their splits."""

import math

import pytest
import torch
from plain_maze import PlainMaze, drawn_maze
from plain_tasks import close, same, twin
from scipy import stats
from streams import stream

from metarl_lib.envs.base import map_tree
from metarl_lib.envs.maze import Maze, MazeTasks

ROWS = 12
UP, DOWN, LEFT, RIGHT = range(4)
ROOM = """
.#.
...
T#.
"""


def tasks_of(text: str, count: int = 1) -> MazeTasks:
    free, target = drawn_maze(text)
    return MazeTasks(torch.tensor([free] * count), torch.tensor([target] * count))


def number(env: Maze, cell: tuple[int, int]) -> int:
    """The cell's number when the wall around the maze is counted, too."""
    return env.width * (cell[0] + 1) + cell[1] + 1


def put(env: Maze, state, cell: tuple[int, int]):
    return state._replace(position=torch.full_like(state.position, number(env, cell)))


def begin(env: Maze, generator: torch.Generator, split: str = "train"):
    """State, observation and the plain rows, which start where the first draws say."""
    tasks = env.sample_tasks(ROWS, generator, split)
    pairs = zip(tasks.open.tolist(), tasks.target.tolist(), strict=True)
    plain = [PlainMaze(*pair, env.steps, visible=env.visible) for pair in pairs]
    for row, u in zip(plain, torch.rand(ROWS, generator=twin(generator)).tolist(), strict=True):
        row.start(row.jump(u))
    kept = map_tree(torch.clone, tasks)
    state, observation = env.reset(tasks, generator)
    assert all(map(torch.equal, tasks, kept)), "the given tasks stay as they were"
    return state, observation, plain


@pytest.mark.parametrize(("size", "steps"), [(8, 100), (3, 30), (5, 60), (5, 1)])
@pytest.mark.parametrize("purpose", [0.0, 0.8])
@pytest.mark.parametrize("target", ["hidden", "visible"])
def test_every_step_is_that_of_the_plain_row(size, steps, purpose, target) -> None:
    """Random walks, and walks with a purpose: most of their steps lead to the target."""
    env, generator = Maze(size, steps, target), stream(size)
    assert env.observation_space.shape == (18 if target == "visible" else 9,)
    state, observation, plain = begin(env, generator)
    close(observation, [row.observation() for row in plain], 0)
    tasks, kept_tasks = state.tasks, map_tree(torch.clone, state.tasks)
    ways, hits, stays, ends = [row.ways() for row in plain], 0, 0, []
    for _ in range(steps):
        action = torch.randint(4, (ROWS,), generator=generator)
        aims = torch.rand(ROWS, generator=generator) < purpose
        best = torch.tensor([way[row.here] for way, row in zip(ways, plain, strict=True)])
        action = torch.where(aims, best, action)
        drawn = torch.rand(ROWS, generator=twin(generator)).tolist()
        before, kept = state, map_tree(torch.clone, state)
        state, step = env.step(state, action, generator)
        same(step, [*map(PlainMaze.step, plain, action.tolist(), drawn)])
        assert state.position.tolist() == [number(env, row.here) for row in plain]
        assert all(map(torch.equal, before[1:], kept[1:])), "the given state stays as it was"
        hits += int(step.info["hit"].sum())
        stays += int((state.position == before.position).sum())
        ends.append(bool(step.terminated.any()))
    assert ends == [False] * (steps - 1) + [True]
    if steps > 1:
        assert hits >= (60 if purpose else 3), "the target was hardly reached"
        assert stays > 20, "hardly a step went against a wall"
    assert all(map(torch.equal, tasks, kept_tasks))


def test_a_walk_by_hand() -> None:
    env, generator = Maze(3, 8), stream()
    state, _ = env.reset(tasks_of(ROOM), generator)
    state = put(env, state, (0, 0))
    seen, rewards = [env.observe(state)], []
    for action in (UP, DOWN, RIGHT, UP, LEFT, LEFT, DOWN):
        state, step = env.step(state, torch.tensor([action]), generator)
        seen.append(step.observation)
        rewards += step.reward.tolist()
        assert step.info["hit"].tolist() == [rewards[-1] > 0]
    corner = [1, 1, 1, 1, 0, 1, 1, 0, 0]
    side = [1, 0, 1, 1, 0, 0, 1, 0, 1]
    middle = [0, 1, 0, 0, 0, 0, 0, 1, 0]
    assert [view[0].tolist() for view in seen[:-1]] == [
        corner, corner, side, middle, middle, side, side,
    ]  # fmt: skip
    assert rewards == [0, 0, 0, 0, 0, 0, 10]
    assert state.position.tolist() != [number(env, (2, 0))], "it jumped"


def test_in_two_cells_one_step_leads_to_the_target_again_and_again() -> None:
    """A jump can lead to one cell only; steps against the walls bring and cost nothing."""
    env, generator = Maze(3, 9), stream()
    state, observation = env.reset(tasks_of("### #.T ###"), generator)
    alone = [[1, 1, 1, 1, 0, 0, 1, 1, 1]]
    assert observation.tolist() == alone
    rewards, ends = [], []
    for action in (RIGHT, UP, RIGHT, RIGHT, DOWN, LEFT, RIGHT, RIGHT, UP):
        state, step = env.step(state, torch.tensor([action]), generator)
        assert step.observation.tolist() == alone
        rewards += step.reward.tolist()
        ends.append((*step.terminated.tolist(), *step.truncated.tolist()))
    assert rewards == [10, 0, 10, 10, 0, 0, 10, 10, 0]
    assert ends == [(False, False)] * 8 + [(True, False)]


def test_the_target_looks_like_any_other_cell() -> None:
    """In one maze with each of its targets, every place has the same view."""
    env, generator = Maze(3), stream()
    free, _ = drawn_maze(ROOM)
    targets = torch.tensor(free).flatten().nonzero()[:, 0]
    tasks = MazeTasks(torch.tensor([free] * len(targets)), targets)
    state, _ = env.reset(tasks, generator)
    for cell in ((0, 0), (1, 0), (1, 1), (2, 2), (2, 0)):
        views = env.observe(put(env, state, cell)).tolist()
        assert views == [PlainMaze(free, 0, 9).start(cell).observation()] * len(targets)


@pytest.mark.parametrize("text", [ROOM, "..... .##.. ..T.. #.#.. ....."])
def test_starts_and_jumps_are_uniform_over_the_open_cells_but_the_target(text) -> None:
    """Everybody is put beside the target, and steps on it."""
    env, count = Maze(len(text.split())), 12_000
    tasks, generator = tasks_of(text, count), stream(1)
    others = PlainMaze(*drawn_maze(text), 1).others
    state, _ = env.reset(tasks, generator)
    beside = put(env, state, (1, 0) if env.size == 3 else (2, 1))
    action = torch.full((count,), DOWN if env.size == 3 else RIGHT)
    after, step = env.step(beside, action, generator)
    assert step.info["hit"].all()
    for places in (state.position, after.position):
        counts = torch.bincount(places, minlength=env.width**2)
        found = counts[[number(env, cell) for cell in others]]
        assert int(found.sum()) == count, "nobody is elsewhere"
        assert stats.chisquare(found.double()).pvalue > 1e-3
    pairs = torch.bincount(state.position * env.width**2 + after.position)
    pairs = pairs[pairs > 0].double()
    assert len(pairs) == len(others) ** 2, "where it jumps does not depend on where it started"
    assert stats.chisquare(pairs).pvalue > 1e-3


@pytest.mark.parametrize("size", [3, 5, 8])
@pytest.mark.parametrize("split", ["train", "test"])
def test_targets_tell_the_split_and_are_even_apart_from_that(size, split) -> None:
    """Which of the allowed cells the target is, counted; within 4 standard errors of even."""
    tasks = Maze(size).sample_tasks(3000, stream(2), split)
    found, expected, variance = [0] * size**2, [0.0] * size**2, [0.0] * size**2
    for free, target in zip(tasks.open.flatten(1).tolist(), tasks.target.tolist(), strict=True):
        cells = [cell for cell, is_open in enumerate(free) if is_open]
        allowed = [cell for r, cell in enumerate(cells)
                   if ((r + len(cells)) % 5 == 0) == (split == "test")]  # fmt: skip
        found[allowed.index(target)] += 1  # fails where the target is no such cell
        for i in range(len(allowed)):
            expected[i] += 1 / len(allowed)
            variance[i] += (1 - 1 / len(allowed)) / len(allowed)
    assert sum(found) == 3000
    for count, mean, square in zip(found, expected, variance, strict=True):
        assert abs(count - mean) <= 4 * math.sqrt(square), (count, mean)


def test_mazes_are_those_of_both_splits() -> None:
    train, test = (Maze().sample_tasks(50, stream(), split) for split in ("train", "test"))
    assert torch.equal(train.open, test.open)
    assert bool((train.target != test.target).all())


@pytest.mark.parametrize("row", [0, 7])
def test_another_maze_in_one_row_changes_no_other_row(row) -> None:
    """Other actions in one row are tried for every environment, elsewhere."""
    env = Maze(5, 40)
    tasks, others = env.sample_tasks(ROWS, stream()), [b for b in range(ROWS) if b != row]
    changed = map_tree(torch.clone, tasks)
    changed.open[row], changed.target[row] = Maze(5).sample_tasks(1, stream(9)).open[0], 0
    changed.open[row, 0, 0] = True
    assert not torch.equal(changed.open[row], tasks.open[row])
    runs = []
    for given in (tasks, changed):
        generator = stream(5)
        state, observation = env.reset(given, generator)
        found = [observation, state.position]
        for _ in range(40):
            action = torch.randint(4, (ROWS,), generator=generator)
            state, step = env.step(state, action, generator)
            found += [state.position, *step[:4], step.info["hit"]]
        runs.append(found)
    assert all(torch.equal(a[others], b[others]) for a, b in zip(*runs, strict=True))
    assert not all(torch.equal(a[row], b[row]) for a, b in zip(*runs, strict=True))


def test_the_defaults_are_those_of_the_published_task() -> None:
    env = Maze()
    assert (env.size, env.steps, env.max_steps, env.visible) == (8, 100, 100, False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 2}, "size=2: .*whole number >= 3"),
        ({"size": 8.0}, r"size=8\.0: .*whole number >= 3"),
        ({"steps": 0}, "steps=0: .*whole number >= 1"),
        ({"steps": True}, "steps=True: .*whole number >= 1"),
        ({"target": "seen"}, "target='seen' is unknown: choose one of hidden, visible"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, words, unchecked) -> None:
    """Outside the tests nothing else looks at the types."""
    with pytest.raises(ValueError, match=words) as refusal:
        Maze(**options)
    assert "\n" not in str(refusal.value)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"split='valid' is unknown.*train, test"):
        Maze().sample_tasks(3, stream(), "valid")


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (torch.tensor([0, 4, 1]), "action=4 is unknown: choose one of 0 to 3"),
        (torch.tensor([0, 3, -1]), "action=-1 is unknown: choose one of 0 to 3"),
        (torch.zeros(3), r"torch\.float32, whole numbers are wanted"),
        (torch.zeros(2).long(), r"shape \(2,\), \(3,\) is wanted"),
    ],
)
def test_a_bad_action_is_refused_in_one_line(action, words) -> None:
    env = Maze(4)
    state, _ = env.reset(env.sample_tasks(3, stream()), stream())
    with pytest.raises(ValueError, match=words) as refusal:
        env.step(state, action, stream())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_whole_numbers_of_any_kind_are_actions(kind) -> None:
    """Down from the middle, and up again."""
    env = Maze(3)
    state, _ = env.reset(tasks_of("T.. ... ..."), stream())
    state = put(env, state, (1, 1))
    for action, cell in ((DOWN, (2, 1)), (UP, (1, 1)), (LEFT, (1, 0)), (RIGHT, (1, 1))):
        state, _ = env.step(state, torch.tensor([action], dtype=kind), stream())
        assert state.position.tolist() == [number(env, cell)]
