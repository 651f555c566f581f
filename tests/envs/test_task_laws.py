"""What holds for every environment with tasks, alone and inside a trial."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from gymnasium import spaces
from streams import stream
from torch import Tensor

from metarl_lib.envs.bandit import Bandit
from metarl_lib.envs.base import (
    BoundedEnv,
    check_action,
    check_discrete,
    map_tree,
    one_hot,
    where_rows,
)
from metarl_lib.envs.grid_games import Catch
from metarl_lib.envs.harlow import Harlow
from metarl_lib.envs.laps import Laps
from metarl_lib.envs.locomotion import AntDir, CheetahVel
from metarl_lib.envs.maze import Maze
from metarl_lib.envs.pendulum import Pendulum
from metarl_lib.envs.point_robot import PointRobot
from metarl_lib.envs.trial import Trial
from metarl_lib.envs.two_step import TwoStep

ROWS = 5
ENVS = {
    "bandit": lambda: Bandit(4, 9, show_time=True),
    "gaussian bandit": lambda: Bandit(3, 6, "gaussian"),
    "dependent bandit": lambda: Bandit(2, 5, "dependent-hard"),
    "two-step": lambda: TwoStep(4, switch=0.3),
    "harlow": lambda: Harlow(2, 40),
    "maze": lambda: Maze(5, 7),
    "point robot": lambda: PointRobot(steps=7),
    "laps": lambda: Laps(3, 2, 2),
    "catch": lambda: Catch(4, 3, 8),
    "sparse point robot": lambda: PointRobot(True, 7, goals="square"),
    "pendulum": lambda: Pendulum(0.5, 7),
}
# MuJoCo steps them: in float64 whatever the tasks are, and on the CPU only.
ROBOTS = {"ant": lambda: AntDir(steps=4), "cheetah": lambda: CheetahVel(steps=4)}


def in_trials(envs):
    """Each alone, and in a trial."""
    return envs | {f"trial of {n}": (lambda make=m: Trial(make(), 3)) for n, m in envs.items()}


def each(makers):
    """A parameter for each; robots are left out without MuJoCo."""
    needs = pytest.mark.skipif(
        find_spec("mujoco") is None,
        reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'",
    )
    return [
        pytest.param(make, id=name, marks=[needs] if name in BODIES else [])
        for name, make in makers.items()
    ]


TENSORS, BODIES = in_trials(ENVS), in_trials(ROBOTS)
FIXED = {name: make for name, make in (TENSORS | BODIES).items() if "harlow" not in name}
EVERY = pytest.mark.parametrize("make", each(TENSORS | BODIES))


def some_action(env, generator, rows=ROWS) -> Tensor:
    if isinstance(env.action_space, spaces.Discrete):
        return torch.randint(int(env.action_space.n), (rows,), generator=generator)
    return torch.rand(rows, *env.action_space.shape, generator=generator) * 2 - 1


def leaves(nested) -> list[Tensor]:
    if isinstance(nested, Tensor):
        return [nested]
    if isinstance(nested, dict):
        nested = nested.values()
    return [leaf for part in nested for leaf in leaves(part)]


def run(env, seed, steps=12, disturb=None) -> list[Tensor]:
    """All tensors of a run; `disturb` changes the actions of one row, but no draws."""
    generator = stream(seed)
    tasks = env.sample_tasks(ROWS, generator)
    state, observation = env.reset(tasks, generator)
    found = [*leaves(tasks), observation]
    for _ in range(min(steps, env.max_steps)):
        action = some_action(env, generator)
        if disturb is not None:
            own = action[disturb]
            choice = isinstance(env.action_space, spaces.Discrete)
            action[disturb] = (own + 1) % env.action_space.n if choice else -own
        state, step = env.step(state, action, generator)
        found += [*leaves(state), *leaves(step)]
    return found


@EVERY
def test_it_is_a_bounded_environment(make) -> None:
    assert isinstance(make(), BoundedEnv)


@EVERY
def test_equal_generators_give_equal_runs(make) -> None:
    first, again, other = run(make(), 1), run(make(), 1), run(make(), 2)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def first_ends(env) -> list[int]:
    """The step that ends the first episode of each row."""
    generator = stream()
    state, _ = env.reset(env.sample_tasks(ROWS, generator), generator)
    ends = torch.zeros(ROWS, dtype=torch.long)
    for t in range(1, env.max_steps + 1):
        state, step = env.step(state, some_action(env, generator), generator)
        assert not bool((step.terminated & step.truncated).any())
        ends[(step.terminated | step.truncated) & (ends == 0)] = t
    return ends.tolist()


@EVERY
def test_no_episode_is_longer_than_it_may_be(make) -> None:
    env = make()
    ends = first_ends(env)
    fixed = make in FIXED.values()
    assert all(end == env.max_steps if fixed else 0 < end <= env.max_steps for end in ends)


@EVERY
def test_what_it_says_has_the_kinds_shapes_and_bounds_that_are_named(make) -> None:
    env, generator = make(), stream()
    state, observation = env.reset(env.sample_tasks(ROWS, generator), generator)
    for _ in range(min(15, env.max_steps)):
        assert observation.dtype == torch.float32
        assert all(env.observation_space.contains(row.numpy()) for row in observation)
        action = some_action(env, generator)
        assert all(np.asarray(a) in env.action_space for a in action.numpy())
        state, step = env.step(state, action, generator)
        observation = step.observation
        assert (step.reward.dtype, step.reward.shape) == (torch.float32, (ROWS,))
        for flag in (step.terminated, step.truncated):
            assert (flag.dtype, flag.shape) == (torch.bool, (ROWS,))
        assert all(len(values) == ROWS for values in step.info.values())
        assert all(values.shape == (ROWS,) for values in step.info.values())


@pytest.mark.parametrize("make", each(FIXED))
@pytest.mark.parametrize("row", [0, 3])
def test_rows_do_not_touch_each_other(make, row) -> None:
    """Where all rows end together, so that the draws stay the same."""
    _check_rows(make(), row, 12)


@pytest.mark.parametrize("make", [Harlow, lambda: Trial(Harlow(), 2)])
def test_rows_of_harlows_task_do_not_touch_each_other(make) -> None:
    """Before any episode ends, which takes 34 steps; then a reset changes the draws for all."""
    _check_rows(make(), 2, 33)


def _check_rows(env, row, steps) -> None:
    others = [b for b in range(ROWS) if b != row]
    first, disturbed = run(env, 4, steps), run(env, 4, steps, disturb=row)
    changed = 0
    for a, b in zip(first, disturbed, strict=True):
        assert torch.equal(a[others], b[others])
        changed += not torch.equal(a[row], b[row])
    assert changed > 0


@EVERY
def test_a_step_leaves_the_given_state_and_action_alone(make) -> None:
    env, generator = make(), stream()
    tasks = env.sample_tasks(ROWS, generator)
    kept_tasks = map_tree(Tensor.clone, tasks)
    state, _ = env.reset(tasks, generator)
    for _ in range(min(12, env.max_steps)):
        action = some_action(env, generator)
        kept, given = map_tree(Tensor.clone, state), action.clone()
        after, step = env.step(state, action, generator)
        for values in (step.observation, step.reward, *step.info.values()):  # what is said
            kept_after = map_tree(Tensor.clone, after)
            values.fill_(1)
            assert all(map(torch.equal, leaves(after), leaves(kept_after)))
        assert all(map(torch.equal, leaves(state), leaves(kept)))
        assert torch.equal(action, given)
        state = after
    assert all(map(torch.equal, leaves(tasks), leaves(kept_tasks)))


# Whose tasks are real numbers.
WHOLE = ("two-step", "maze", "laps", "catch")
REAL = [n for n in TENSORS if not any(word in n for word in WHOLE)]


@pytest.mark.parametrize("name", REAL)
def test_tasks_in_double_precision_stay_so(name) -> None:
    env, generator = TENSORS[name](), stream()
    tasks = map_tree(Tensor.double, env.sample_tasks(ROWS, generator))
    state, observation = env.reset(tasks, generator)
    for _ in range(4):
        assert observation.dtype == torch.float64
        state, step = env.step(state, some_action(env, generator), generator)
        observation = step.observation
        assert step.reward.dtype == torch.float64


@pytest.mark.parametrize("make", each(TENSORS))
def test_a_step_off_the_cpu_never_waits_for_a_number(make) -> None:
    """Tensors without numbers stand for those of a device: whoever looks at one is refused."""
    env, generator = make(), stream()
    tasks = map_tree(lambda t: t.to("meta"), env.sample_tasks(ROWS, generator))
    state, observation = env.reset(tasks, generator)
    for _ in range(5):
        action = some_action(env, generator).to("meta")
        state, step = env.step(state, action, generator)
        assert {leaf.device.type for leaf in leaves((state, step))} == {"meta"}
        assert step.observation.shape == observation.shape
    with pytest.raises(Exception, match="meta"):
        bool(state[-1].any())


def test_rows_are_chosen_from_two_states() -> None:
    new = (torch.ones(3), [torch.ones(3, 2), (torch.ones(3, 2, 2, dtype=torch.long),)])
    old = map_tree(torch.zeros_like, new)
    merged = where_rows(torch.tensor([True, False, True]), new, old)
    assert merged[0].tolist() == [1, 0, 1]
    assert merged[1][0].tolist() == [[1, 1], [0, 0], [1, 1]]
    assert merged[1][1][0].tolist() == [[[1, 1]] * 2, [[0, 0]] * 2, [[1, 1]] * 2]
    assert [leaf.dtype for leaf in leaves(merged)] == [torch.float32, torch.float32, torch.int64]
    assert type(merged[1][1]) is tuple


DISCRETE = spaces.Discrete(3)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (torch.zeros(3).long(), r"shape \(3,\), \(4,\) is wanted"),
        (torch.zeros(4, 1).long(), r"shape \(4, 1\), \(4,\) is wanted"),
        (torch.tensor(0), r"shape \(\), \(4,\) is wanted"),
        (torch.zeros(4), r"torch\.float32, whole numbers are wanted: give action\.long"),
        (torch.zeros(4, dtype=torch.bool), r"torch\.bool, whole numbers"),
        (torch.tensor([0, 1, 3, 2]), "action=3 is unknown: choose one of 0 to 2"),
        (torch.tensor([0, -1, 0, 2]), "action=-1 is unknown: choose one of 0 to 2"),
    ],
)
def test_a_bad_choice_is_refused_in_one_line(action, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        check_discrete(action, 4, DISCRETE)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
def test_whole_numbers_of_any_kind_are_choices(kind) -> None:
    check_discrete(torch.tensor([0, 1, 2, 1], dtype=kind), 4, DISCRETE)


def test_off_the_cpu_no_number_is_looked_at() -> None:
    """A tensor without numbers stands for one on another device."""
    check_discrete(torch.zeros(4, dtype=torch.long, device="meta"), 4, DISCRETE)
    box = spaces.Box(-1.0, 1.0, (2,), np.float32)
    check_action(torch.zeros(4, 2, device="meta"), 4, box)
    with pytest.raises(ValueError, match=r"shape \(4, 3\)"):
        check_action(torch.zeros(4, 3, device="meta"), 4, box)


@pytest.mark.parametrize("name", ["bandit", "two-step", "harlow", "maze"])
def test_every_environment_with_choices_checks_them(name) -> None:
    for env in (TENSORS[name](), TENSORS[f"trial of {name}"]()):
        state, _ = env.reset(env.sample_tasks(2, stream()), stream())
        with pytest.raises(ValueError, match=r"action=\d is unknown"):
            env.step(state, torch.full((2,), int(env.action_space.n)), stream())
        with pytest.raises(ValueError, match=r"shape \(3,\)"):
            env.step(state, torch.zeros(3).long(), stream())


def test_one_hot_is_one_in_the_chosen_column() -> None:
    assert one_hot(torch.tensor([2, 0], dtype=torch.uint8), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
