"""What can be earned in a maze against plain recursions, exhaustion and walks in `Maze` itself."""

import math
from collections import deque
from functools import cache

import pytest
import torch
from streams import stream
from torch.overrides import TorchFunctionMode

from metarl_lib.envs.maze import Maze, MazeTasks
from metarl_lib.oracles.maze import (
    FAR,
    distances,
    least_search,
    random_walk,
    search,
    shortest_path,
)

SIDES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, to the left, to the right
Cell = tuple[int, int]


def tasks_of(text: str, count: int = 1) -> MazeTasks:
    """A drawing: # is closed, T the target."""
    free = [[mark != "#" for mark in line] for line in text.split()]
    target = "".join(text.split()).index("T")
    return MazeTasks(torch.tensor([free] * count), torch.tensor([target] * count))


def within(values: torch.Tensor, expected: float = 0.0) -> None:
    """The mean is the expected one up to 4 standard errors."""
    values = values.double()
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - expected) < 4 * error, (values.mean(), expected, error)


def more(one: torch.Tensor, other: torch.Tensor) -> None:
    """One is larger on average, by more than 4 standard errors of the difference."""
    gain = (one - other).double()
    assert float(gain.mean()) > 4 * float(gain.std()) / math.sqrt(len(gain)) > 0


def cells_of(flags: list[list[bool]]) -> set[Cell]:
    return {(r, c) for r, line in enumerate(flags) for c, flag in enumerate(line) if flag}


def plain_distances(passable: set[Cell], goals: set[Cell]) -> dict[Cell, int]:
    found, queue = dict.fromkeys(goals, 0), deque(goals)
    while queue:
        row, column = queue.popleft()
        for down, right in SIDES:
            near = row + down, column + right
            if near in passable and near not in found:
                found[near] = found[row, column] + 1
                queue.append(near)
    return found


@pytest.mark.parametrize("size", [1, 2, 5, 9])
@pytest.mark.parametrize("many", [0.03, 0.3])
def test_distances_are_those_of_a_search_in_breadth(size, many) -> None:
    """Of any maps: goals may be closed cells, lie in parts of their own, or be nowhere."""
    generator = stream()
    passable = torch.rand(60, size, size, generator=generator) < 0.65
    goals = torch.rand(60, size, size, generator=generator) < many
    found = distances(passable, goals)
    for known, ends, far in zip(passable.tolist(), goals.tolist(), found.tolist(), strict=True):
        expected = plain_distances(cells_of(known), cells_of(ends))
        assert far == [[expected.get((r, c), FAR) for c in range(size)] for r in range(size)]
    if size > 2:
        assert bool((goals & ~passable).any())
        assert bool(((found == FAR) & passable).any())


def test_a_way_ends_at_a_goal_that_is_closed_and_no_way_leads_through_a_wall() -> None:
    """The second goal is walled off; so is the cell below it."""
    passable = torch.tensor([[[1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]]]).bool()
    goals = torch.zeros(1, 4, 4).bool()
    goals[0, 0, 1] = True
    assert distances(passable, goals).tolist() == [
        [[1, 0, FAR, FAR], [2, 1, FAR, FAR], [FAR, 2, 3, FAR], [FAR, FAR, 4, FAR]]
    ]
    longest = torch.tensor([[[1, 1, 1], [0, 0, 1], [1, 1, 1]]]).bool()
    goals = torch.tensor([[[1, 0, 0], [0, 0, 0], [0, 0, 0]]]).bool()
    kept = longest.clone(), goals.clone()
    assert distances(longest, goals).tolist() == [[[0, 1, 2], [FAR, FAR, 3], [6, 5, 4]]]
    assert torch.equal(longest, kept[0])
    assert torch.equal(goals, kept[1])


class PlainMap:
    """What follows from a maze, in plain Python: neighbours, and where a jump may lead."""

    def __init__(self, free: list[list[bool]], target: int) -> None:
        self.open, self.target = cells_of(free), divmod(target, len(free))
        self.others = sorted(self.open - {self.target})

    def after(self, cell: Cell, action: int) -> Cell:
        ahead = cell[0] + SIDES[action][0], cell[1] + SIDES[action][1]
        return ahead if ahead in self.open else cell


def maps_of(tasks: MazeTasks) -> list[PlainMap]:
    return [*map(PlainMap, tasks.open.tolist(), tasks.target.tolist())]


def plain_walk(plain: PlainMap, steps: int) -> tuple[float, float, float]:
    """From the joint law of the place and the time of the first reward, if there was one."""
    even = 1 / len(plain.others)
    law: dict[tuple[Cell, int | None], float] = {(cell, None): even for cell in plain.others}
    reward = 0.0
    for time in range(1, steps + 1):
        later: dict[tuple[Cell, int | None], float] = {}
        for (cell, first), chance in law.items():
            for action in range(4):
                there = plain.after(cell, action)
                arrivals = {there: 0.25 * chance}
                met = first
                if there == plain.target:
                    reward += 10 * 0.25 * chance
                    met = time if first is None else first
                    arrivals = dict.fromkeys(plain.others, 0.25 * chance * even)
                for place, share in arrivals.items():
                    later[place, met] = later.get((place, met), 0.0) + share
        law = later
    success = sum(chance for (_, first), chance in law.items() if first is not None)
    mean = sum(chance * (steps if first is None else first) for (_, first), chance in law.items())
    return reward, success, mean


TINY = [".#. ... T#.", "T.. ... ...", "### #.T ###", "...# ##.# .... .#T."]


@pytest.mark.parametrize("text", TINY)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_a_random_walk_earns_what_the_law_of_its_places_says(text, steps) -> None:
    tasks = tasks_of(text)
    found = random_walk(*tasks, steps)
    expected = plain_walk(maps_of(tasks)[0], steps)
    assert [float(value) for value in found] == pytest.approx(expected, abs=1e-12)
    assert {value.dtype for value in found} == {torch.float64}


def test_random_walks_in_many_mazes_at_once_are_those_in_each() -> None:
    tasks = Maze(4).sample_tasks(5, stream())
    found = torch.stack(random_walk(*tasks, 8), -1).tolist()
    assert found == [pytest.approx(plain_walk(plain, 8), abs=1e-12) for plain in maps_of(tasks)]


def played(tasks: MazeTasks, choose, steps: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Rewards, success and the time of the first reward of walks in `Maze` itself, `[B]` each."""
    env, generator = Maze(tasks.open.shape[1], steps), stream(seed)
    state, _ = env.reset(tasks, generator)
    rewards = []
    for _ in range(steps):
        state, step = env.step(state, choose(env, state, generator), generator)
        rewards.append(step.reward)
    return totals(torch.stack(rewards))


def totals(rewards: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Sums, whether there was any, and when the first was; `[T, B]` to three times `[B]`."""
    paid, steps = rewards > 0, len(rewards)
    first = torch.where(paid.any(0), paid.int().argmax(0) + 1, steps)
    return rewards.double().sum(0), paid.any(0).double(), first.double()


def at_random(env, state, generator) -> torch.Tensor:
    return torch.randint(4, state.time.shape, generator=generator)


def straight(env, state, generator) -> torch.Tensor:
    """The neighbour that is nearest to the target; the map is read off the state."""
    shape = len(state.time), env.width, env.width
    goal = torch.zeros(shape).flatten(1).scatter(1, state.target[:, None], 1.0).view(shape) > 0
    away = distances(state.walls.view(shape) == 0, goal).flatten(1)
    ahead = state.position[:, None] + torch.tensor([-env.width, env.width, -1, 1])
    return away.gather(1, ahead).argmin(1)


@pytest.mark.parametrize(
    ("outlook", "choose", "steps", "repeats"),
    [(random_walk, at_random, 100, 50), (random_walk, at_random, 7, 50),
     (shortest_path, straight, 100, 4), (shortest_path, straight, 4, 20)],
)  # fmt: skip
def test_walks_in_the_maze_itself_earn_what_is_foretold(outlook, choose, steps, repeats) -> None:
    """In 60 mazes; the differences from what is foretold for each are 0 on average."""
    tasks = Maze().sample_tasks(60, torch.Generator().manual_seed(1), "test")
    expected = outlook(*tasks, steps)
    rows = MazeTasks(tasks.open.repeat(repeats, 1, 1), tasks.target.repeat(repeats))
    for found, mean in zip(played(rows, choose, steps, 3), expected, strict=True):
        if (found == 1).all():  # success, whenever there is time enough
            assert bool((mean > 1 - 1e-12).all())
        else:
            within(found - mean.repeat(repeats))


def best_of_all(plain: PlainMap, steps: int) -> float:
    """The most that can be expected, over all that one may do, by dynamic programming."""
    worth = dict.fromkeys(plain.others, 0.0)
    for _ in range(steps):
        jump = 10 + sum(worth.values()) / len(plain.others)
        worth = {
            cell: max(
                jump if there == plain.target else worth[there]
                for there in (plain.after(cell, action) for action in range(4))
            )
            for cell in plain.others
        }
    return sum(worth.values()) / len(plain.others)


CORRIDOR = "..... ####. ..... .#### ....T"


def small_mazes() -> list[MazeTasks]:
    return [
        *map(tasks_of, [*TINY, CORRIDOR]),
        *(Maze(n).sample_tasks(8, stream(n)) for n in (4, 6)),
    ]


@pytest.mark.parametrize("steps", [1, 3, 14, 60])
def test_nobody_earns_more_than_who_knows_the_shortest_way(steps) -> None:
    for tasks in small_mazes():
        found = shortest_path(*tasks, steps)
        exact = [best_of_all(plain, steps) for plain in maps_of(tasks)]
        assert found.reward.tolist() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 14, 60])
def test_the_first_reward_comes_after_the_shortest_way(steps) -> None:
    late = 0
    for tasks in small_mazes():
        found = shortest_path(*tasks, steps)
        for plain, success, first in zip(
            maps_of(tasks), found.success.tolist(), found.first.tolist(), strict=True
        ):
            away = plain_distances(plain.open, {plain.target})
            ways = [away[cell] for cell in plain.others]
            assert success == pytest.approx(sum(way <= steps for way in ways) / len(ways))
            assert first == pytest.approx(sum(min(way, steps) for way in ways) / len(ways))
            late += success < 1 - 1e-9
    assert (late > 0) == (steps < 60), "the corridor is 16 steps long"


def test_what_no_way_leads_to_is_not_reached_in_any_number_of_steps() -> None:
    """One cell of three is walled off; there is time for more steps than `FAR`."""
    found = shortest_path(*tasks_of(".#T ##. ##."), FAR + 1)
    assert float(found.success) == pytest.approx(2 / 3)
    assert float(found.first) == pytest.approx((1 + 2 + FAR + 1) / 3)


def best_searches(plain: PlainMap, steps: int) -> dict[Cell, float]:
    """For each first cell, the least average time at which a walk meets the others."""

    @cache
    def late(here: Cell, missing: frozenset[Cell], left: int) -> int:
        """How many steps, summed over the cells that are missing, pass until they are met."""
        if not missing or left == 0:
            return 0
        ways = {plain.after(here, action) for action in range(4)}
        return len(missing) + min(late(there, missing - {there}, left - 1) for there in ways)

    others = len(plain.open) - 1
    return {cell: late(cell, frozenset(plain.open - {cell}), steps) / others for cell in plain.open}


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 12])
def test_no_walk_meets_an_unknown_target_sooner(steps) -> None:
    """Of all walks from all cells in tiny mazes, for a target that may be any other cell."""
    for text in (*TINY, "#.# ..T #.#", ".T# .#. ..."):
        tasks = tasks_of(text)
        best = best_searches(maps_of(tasks)[0], steps)
        assert float(least_search(tasks.open, steps)) <= min(best.values()) + 1e-12


@pytest.mark.parametrize("steps", [1, 3, 15, 16, 17, 24])
def test_a_walk_along_a_corridor_is_as_good_as_the_bound(steps) -> None:
    """Seventeen cells: from its end on, each is entered once."""
    tasks = tasks_of(CORRIDOR)
    found, best = least_search(tasks.open, steps), best_searches(maps_of(tasks)[0], steps)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(sum(min(t, steps) for t in range(1, 17)) / 16)
    assert best[0, 0] == best[4, 4] == pytest.approx(float(found))
    if steps == 24:
        assert float(found) == pytest.approx(17 / 2)
        assert best[2, 2] == (sum(range(1, 9)) + sum(range(17, 25))) / 16, "there and back again"


def test_a_room_is_searched_without_a_detour_and_a_star_is_not() -> None:
    room, star = tasks_of("T.. ... ..."), tasks_of("#.# ..T #.#")
    assert best_searches(maps_of(room)[0], 9)[0, 0] == least_search(room.open, 9).item() == 9 / 2
    assert best_searches(maps_of(star)[0], 9)[1, 1] == (1 + 3 + 5 + 7) / 4
    assert least_search(star.open, 9).item() == 5 / 2


def test_bounds_of_many_mazes_at_once_are_those_of_each() -> None:
    tasks = Maze(6).sample_tasks(30, stream(2))
    assert len(tasks.open.sum((1, 2)).unique()) > 3
    for steps in (7, 20, 100):
        expected = []
        for plain in maps_of(tasks):
            times = [min(t, steps) for t in range(1, len(plain.open))]
            expected.append(sum(times) / len(times))
        assert least_search(tasks.open, steps).tolist() == pytest.approx(expected)


class PlainSearcher:
    """One searcher, with a dictionary of what it has seen of the maze and the wall around."""

    def __init__(self, plain: PlainMap, size: int, remembers: bool, visible: bool) -> None:
        self.plain, self.remembers, self.visible = plain, remembers, visible
        self.every = {(r, c) for r in range(-1, size + 1) for c in range(-1, size + 1)}
        self.known_closed, self.been, self.target = set(), set(), None

    def jump(self, u: list[list[float]]) -> None:
        """To the cell with the largest number; those of the wall around are not used."""
        self.here = max(self.plain.others, key=lambda cell: u[cell[0] + 1][cell[1] + 1])

    def step(self, taste: list[float]) -> bool:
        """Whether it steps on the target; among equally good steps it takes that of least taste."""
        row, column = self.here
        self.been.add(self.here)
        near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
        self.known_closed |= near - self.plain.open
        if self.visible:
            self.been |= near
            self.target = self.plain.target if self.plain.target in near else self.target
        maybe = self.every - self.known_closed
        goals = {self.target} if self.target else maybe - self.been
        far = plain_distances(maybe, goals)
        ahead = [(row + down, column + right) for down, right in SIDES]
        least = min(far.get(cell, FAR) for cell in ahead)
        choices = [a for a in range(4) if far.get(ahead[a], FAR) == least]
        there = ahead[min(choices, key=lambda a: taste[a])]
        assert there in self.plain.open, "it walks into a wall, which it must have seen"
        self.here = there
        if there != self.plain.target:
            return False
        if self.remembers:
            self.target = there
        else:
            self.known_closed, self.been, self.target = set(), set(), None
        return True


@pytest.mark.parametrize("visible", [True, False])
@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize(("size", "steps"), [(3, 30), (6, 60), (8, 60)])
def test_the_searcher_is_the_plain_one(size, steps, remembers, visible) -> None:
    """Step by step, from the same draws; the plain one never walks into a wall."""
    count, width, generator = 12, size + 2, stream(size)
    tasks, other = Maze(size).sample_tasks(count, stream(9)), stream(size)
    found = search(*tasks, steps, generator, remembers=remembers, visible=visible)
    plain = [PlainSearcher(one, size, remembers, visible) for one in maps_of(tasks)]
    for row, u in zip(
        plain, torch.rand(count, width, width, generator=other).tolist(), strict=True
    ):
        row.jump(u)
    for t in range(steps):
        tastes = torch.rand(count, 4, generator=other).tolist()
        jumps = torch.rand(count, width, width, generator=other).tolist()
        hits = [*map(PlainSearcher.step, plain, tastes)]
        assert (found[t] > 0).tolist() == hits
        for row, hit, u in zip(plain, hits, jumps, strict=True):
            if hit:
                row.jump(u)
    assert torch.equal(generator.get_state(), other.get_state()), "nothing else is drawn"
    assert found.unique().tolist() == [0, 10]
    assert int((found > 0).sum()) > count, "some found it again"


def test_what_is_remembered_helps_and_who_knows_the_maze_earns_most() -> None:
    """The means of 400 mazes; differences are beyond 4 standard errors."""
    tasks = Maze(8).sample_tasks(400, stream(4))
    with_memory, _, late = totals(search(*tasks, 100, stream(5)))
    without = totals(search(*tasks, 100, stream(5), remembers=False))[0]
    more(shortest_path(*tasks, 100).reward, with_memory)
    more(with_memory, without)
    more(without, random_walk(*tasks, 100).reward)
    seeing = totals(search(*tasks, 100, stream(5), visible=True))
    more(shortest_path(*tasks, 100).reward, seeing[0])
    more(seeing[0], with_memory)
    more(late, seeing[2])


def test_up_to_its_first_reward_the_searcher_that_remembers_is_the_other_one() -> None:
    tasks = Maze(6).sample_tasks(200, stream(6))
    one, other = (search(*tasks, 80, stream(7), remembers=flag) for flag in (True, False))
    assert not torch.equal(one, other)
    for found, without in zip(totals(one)[1:], totals(other)[1:], strict=True):
        assert torch.equal(found, without)


@pytest.mark.parametrize("remembers", [True, False])
def test_in_time_a_searcher_finds_every_target(remembers) -> None:
    tasks = Maze(6).sample_tasks(400, stream(8))
    rewards = search(*tasks, 100, stream(9), remembers=remembers)
    assert (rewards.shape, rewards.dtype) == ((100, 400), torch.float32)
    assert bool((totals(rewards)[1] == 1).all())


@pytest.mark.parametrize(("text", "farthest"), [("... .T. ...", 2), ("T.. ... ...", 4)])
def test_in_an_open_room_it_finds_the_target_soon_and_then_goes_straight(text, farthest) -> None:
    """Eight cells to look at; then each way is as long as its distance.

    The lengths of the first five ways after the first, within 4 standard errors.
    """
    tasks = tasks_of(text, 500)
    rewards = search(*tasks, 12 + 5 * farthest, stream(1))
    assert int(totals(rewards[:12])[1].sum()) == 500, "all within twelve steps"
    times = [row.nonzero()[:6, 0].tolist() for row in rewards.T]
    gaps = [b - a for row in times for a, b in zip(row[:5], row[1:], strict=True)]
    plain = maps_of(tasks)[0]
    away = plain_distances(plain.open, {plain.target})
    ways = [away[cell] for cell in plain.others]
    assert set(gaps) == set(ways) == set(range(1, farthest + 1))
    for length in set(ways):
        share = ways.count(length) / 8
        error = math.sqrt(share * (1 - share) / 2500)
        assert gaps.count(length) / 2500 == pytest.approx(share, abs=4 * error)


def test_equal_generators_give_equal_searches() -> None:
    tasks = Maze(5).sample_tasks(20, stream())
    first, again, other = (search(*tasks, 40, stream(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class OldIndices(TorchFunctionMode):
    """As before PyTorch 2.8: `gather` and `scatter` take indices of 64 bits only."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name.startswith(("gather", "scatter")):
            assert args[2].dtype == torch.int64, f"{name}(): Expected dtype int64 for index"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("outlook", [random_walk, shortest_path, search])
def test_indices_are_what_the_oldest_pytorch_that_is_supported_wants(outlook) -> None:
    with OldIndices():
        tasks = Maze(3).sample_tasks(4, stream())
        outlook(*tasks, 5, *([stream()] if outlook is search else []))
        played(tasks, straight, 5, 0)
