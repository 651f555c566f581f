"""The point robot against a plain row, its goals, and the walk straight to the goal."""

import math

import pytest
import torch
from plain_tasks import PlainPoint, close, same
from scipy import stats
from streams import stream

from metarl_lib.envs.point_robot import PointRobot

ROWS = 9


@pytest.mark.parametrize("goals", ["circle", "square"])
@pytest.mark.parametrize("sparse", [False, True])
def test_every_step_is_that_of_the_plain_row(sparse, goals) -> None:
    """Actions point towards the goal more or less, some of them beyond the bounds."""
    env, generator = PointRobot(sparse, 15, 0.7, 0.3, goals), stream()
    tasks = env.sample_tasks(ROWS, generator)
    plain = [PlainPoint(goal, 15, 0.3 if sparse else None) for goal in tasks.goal.tolist()]
    state, observation = env.reset(tasks, generator)
    assert observation.tolist() == [[0.0, 0.0]] * ROWS
    paid = 0
    for _ in range(15):
        noise = torch.randn(ROWS, 2, generator=generator)
        action = 8 * (tasks.goal - state.position) + noise
        before = generator.get_state()
        state, step = env.step(state, action, generator)
        assert torch.equal(before, generator.get_state()), "nothing is drawn"
        same(step, [*map(PlainPoint.step, plain, action.tolist())], 1e-5)
        close(state.position, [row.observation() for row in plain], 1e-5)
        paid += int((step.reward > 0).sum())
    assert step.truncated.all()
    assert (paid > 20) == sparse


@pytest.mark.parametrize("radius", [1.0, 2.5])
def test_goals_on_the_half_circle_are_uniform_and_their_arcs_tell_the_split(radius) -> None:
    for parity, split in enumerate(("train", "test")):
        goal = PointRobot(radius=radius).sample_tasks(8000, stream(), split).goal.double()
        assert torch.allclose(goal.norm(dim=-1), torch.tensor(radius).double(), atol=1e-5)
        assert bool((goal[:, 1] > -1e-6 * radius).all())
        u = torch.atan2(goal[:, 1], goal[:, 0]) / math.pi
        assert set((u * 16).floor().remainder(2).tolist()) == {float(parity)}
        chi_square = torch.bincount((u * 16).long(), minlength=16)[parity::2].double()
        assert stats.chisquare(chi_square).pvalue > 1e-3
        assert stats.kstest((u * 16).frac(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("radius", [1.0, 0.3])
def test_goals_in_the_square_are_uniform_and_their_fields_tell_the_split(radius) -> None:
    env = PointRobot(radius=radius, goals="square")
    for parity, split in enumerate(("train", "test")):
        goal = env.sample_tasks(20_000, stream(), split).goal.double()
        fields = ((goal / radius + 1) * 8 + 1e-7).floor().long()
        assert (int(fields.min()), int(fields.max())) == (0, 15)
        assert set((fields.sum(-1) % 2).tolist()) == {parity}
        counts = torch.bincount(16 * fields[:, 0] + fields[:, 1], minlength=256)
        assert stats.chisquare(counts[counts > 0].double()).pvalue > 1e-3
        assert int((counts > 0).sum()) == 128
        for axis in (0, 1):
            assert stats.kstest((goal[:, axis] / radius + 1) / 2, "uniform").pvalue > 1e-3


def straight(env: PointRobot) -> torch.Tensor:
    """Returns of walking to a goal one stride away at a time, and of staying there."""
    generator = stream(2)
    tasks = env.sample_tasks(200, generator)
    state, _ = env.reset(tasks, generator)
    total = torch.zeros(200)
    for _ in range(env.max_steps):
        way = tasks.goal - state.position
        length = way.norm(dim=-1, keepdim=True)
        action = way / length.clamp_min(0.1)  # the last stride is no longer than the way
        state, step = env.step(state, action, generator)
        total += step.reward
    return total


def test_walking_straight_to_the_goal_earns_its_exact_sum() -> None:
    """From a distance of 1 with strides of 0.1: d = 0.9, 0.8, …, 0.1, then 0.

    Within 0.25 of the goal are the steps 8, 9, 10, … 20.
    """
    dense = straight(PointRobot())
    assert dense.tolist() == pytest.approx([-4.5] * 200, abs=1e-4)
    sparse = straight(PointRobot(sparse=True, goal_radius=0.25))
    assert sparse.tolist() == pytest.approx([0.8 + 0.9 + 11] * 200, abs=1e-4)


def test_the_defaults_are_those_of_the_published_task() -> None:
    env = PointRobot()
    assert (env.steps, env.max_steps, env.radius, env.goal_radius) == (20, 20, 1.0, 0.2)
    assert (env.sparse, env.goals) == (False, "circle")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps=0.*whole number >= 1"),
        ({"radius": 0.0}, r"radius=0\.0.*positive"),
        ({"goal_radius": math.inf}, "goal_radius=inf.*positive"),
        ({"goals": "line"}, "goals='line' is unknown: choose one of circle, square"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        PointRobot(**options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("goals", ["circle", "square"])
def test_an_unknown_split_is_refused(goals) -> None:
    with pytest.raises(ValueError, match=r"split='valid' is unknown.*train, test"):
        PointRobot(goals=goals).sample_tasks(3, stream(), "valid")


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (torch.zeros(2, 2), r"\(2, 2\), \(3, 2\) is wanted"),
        (torch.zeros(3), r"\(3,\), \(3, 2\) is wanted"),
        (torch.full((3, 2), math.nan), "6 NaN or infinite"),
    ],
)
def test_a_bad_action_is_refused_in_one_line(action, words) -> None:
    env = PointRobot()
    state, _ = env.reset(env.sample_tasks(3, stream()), stream())
    with pytest.raises(ValueError, match=words) as refusal:
        env.step(state, action, stream())
    assert "\n" not in str(refusal.value)
