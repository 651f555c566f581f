"""What ants and cheetahs are paid for, when they end, and their tasks."""

import itertools
import math

import pytest
import torch
from scipy import stats
from streams import stream

from metarl_lib.envs.locomotion import AntDir, CheetahDir, CheetahVel, Robot, RobotTasks

pytest.importorskip(
    "mujoco", reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'"
)

ROWS, SECONDS = 6, 0.05
EVERY = pytest.mark.parametrize("kind", [AntDir, CheetahDir, CheetahVel])


def plain_reward(env: Robot, goal: list[float], before, after, action: list[float]) -> tuple:
    """Velocity and reward in plain numbers, from positions before and after a step."""
    torques = [min(max(a, -1.0), 1.0) for a in action]
    if env.impaired is not None:
        torques[env.impaired] = 0.0
    squares = sum(torque**2 for torque in torques)
    vx, vy = ((b - a) / SECONDS for a, b in zip(before[:2], after[:2], strict=True))
    if isinstance(env, AntDir):
        along = vx * goal[0] + vy * goal[1]
        return along, along + (1.0 if 0.2 <= after[2] <= 1.0 else 0.0) - 0.5 * squares
    if isinstance(env, CheetahDir):
        return vx * goal[0], vx * goal[0] - 0.1 * squares
    return vx, -abs(vx - goal[0]) - 0.1 * squares


@pytest.mark.parametrize(
    "make",
    [AntDir, lambda: AntDir("forward-backward"), lambda: AntDir(impaired=3),
     CheetahDir, CheetahVel, lambda: CheetahVel(fastest=7.0, impaired=5)],
    ids=["circle", "forward-backward", "impaired ant", "dir", "vel", "impaired vel"],
)  # fmt: skip
def test_each_task_is_paid_what_it_says(make, double) -> None:
    """Ants start at all heights, and deep in the ground; actions go beyond the bounds."""
    env, generator = make(), stream()
    tasks = env.sample_tasks(40, generator)
    state, _ = env.reset(tasks, generator)
    if isinstance(env, AntDir):
        env.physics.positions(state.physics)[:, 2] = torch.linspace(-3, 1.5, 40)
    heights = []
    for _ in range(4):
        action = 1.5 * torch.randn(40, *env.action_space.shape, generator=generator)
        before = env.physics.positions(state.physics).tolist()
        drawn = generator.get_state()
        state, step = env.step(state, action, generator)
        assert torch.equal(drawn, generator.get_state()), "nothing is drawn"
        after = env.physics.positions(state.physics).tolist()
        plain = [
            plain_reward(env, *row)
            for row in zip(tasks.goal.tolist(), before, after, action.tolist(), strict=True)
        ]
        assert step.info["velocity"].tolist() == pytest.approx([v for v, _ in plain], abs=1e-9)
        assert step.reward.tolist() == pytest.approx([r for _, r in plain], abs=1e-9)
        assert not step.info["diverged"].any()
        heights += [row[2] for row in after]
    if isinstance(env, AntDir):
        assert min(heights) < 0.15
        assert max(heights) > 1.1


@EVERY
def test_an_action_beyond_the_bounds_is_the_bound(kind) -> None:
    env = kind()
    state, _ = env.reset(env.sample_tasks(ROWS, stream()), stream())
    action = 3 * torch.randn(ROWS, *env.action_space.shape, generator=stream(1))
    assert bool((action > 1).any() & (action < -1).any())
    given = action.clone()
    far, step = env.step(state, action, stream())
    near, clipped = env.step(state, action.clamp(-1, 1), stream())
    assert torch.equal(action, given)
    assert torch.equal(far.physics, near.physics)
    assert torch.equal(step.reward, clipped.reward)


@EVERY
def test_an_impaired_actuator_is_one_whose_torque_is_zero(kind) -> None:
    """In what moves and in what it costs; actions of the others count as ever."""
    whole = kind()
    state, _ = whole.reset(whole.sample_tasks(ROWS, stream()), stream())
    action = torch.rand(ROWS, *whole.action_space.shape, generator=stream(1)) * 2 - 1
    sound, _ = whole.step(state, action, stream())
    for number in range(action.shape[1]):
        zeroed = action.clone()
        zeroed[:, number] = 0
        expected, said = whole.step(state, zeroed, stream())
        given = action.clone()
        after, step = kind(impaired=number).step(state, action, stream())
        assert torch.equal(action, given)
        assert torch.equal(after.physics, expected.physics)
        assert torch.equal(step.reward, said.reward)
        assert not torch.equal(after.physics, sound.physics)


@EVERY
def test_a_row_that_diverges_stays_is_paid_nothing_and_ends(
    kind, tmp_path, monkeypatch, double
) -> None:
    monkeypatch.chdir(tmp_path)
    env = kind(steps=9)
    tasks = env.sample_tasks(ROWS, stream())
    state, _ = env.reset(tasks, stream())
    env.physics.velocities(state.physics)[4] = 1e12
    action = torch.rand(ROWS, *env.action_space.shape, generator=stream(1)) * 2 - 1
    kept = state.physics.clone()
    after, step = env.step(state, action, stream())
    assert step.info["diverged"].tolist() == [row == 4 for row in range(ROWS)]
    assert step.terminated.tolist() == [row == 4 for row in range(ROWS)]
    assert not step.truncated.any()
    assert (step.reward[4], step.info["velocity"][4]) == (0, 0)
    assert torch.equal(state.physics, kept)
    assert torch.equal(after.physics[4], kept[4])
    assert torch.equal(step.observation[4], env.observe(state._replace(physics=kept))[4])
    others = torch.tensor([0, 1, 2, 3, 5])
    company = state._replace(
        tasks=RobotTasks(tasks.goal[others]), physics=kept[others], time=state.time[others]
    )
    alone, said = env.step(company, action[others], stream())
    assert torch.equal(after.physics[others], alone.physics)
    assert torch.equal(step.reward[others], said.reward)
    assert torch.equal(step.observation[others], said.observation)
    assert list(tmp_path.iterdir()) == []


@EVERY
def test_every_episode_is_as_long_as_it_is_said_to_be(kind) -> None:
    env = kind(steps=3)
    assert (env.max_steps, kind().max_steps) == (3, 200)
    state, _ = env.reset(env.sample_tasks(2, stream()), stream())
    state = state._replace(time=torch.tensor([0, 1]))
    ends = []
    for _ in range(3):
        state, step = env.step(state, torch.zeros(2, *env.action_space.shape), stream())
        assert not step.truncated.any()
        ends.append(step.terminated.tolist())
    assert ends == [[False, False], [False, True], [True, True]]
    assert state.time.tolist() == [3, 4]


def parts(u: torch.Tensor, parity: int) -> None:
    """Numbers are uniform on every other of 16 parts of [0, 1), those of one parity."""
    assert set((u * 16).floor().remainder(2).tolist()) == {float(parity)}
    counts = torch.bincount((u * 16).long(), minlength=16)[parity::2].double()
    assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.kstest((u * 16).frac(), "uniform").pvalue > 1e-3


def test_directions_are_uniform_and_their_arcs_tell_the_split() -> None:
    for parity, split in enumerate(("train", "test")):
        goal = AntDir().sample_tasks(8000, stream(), split).goal.double()
        assert torch.allclose(goal.norm(dim=-1), torch.ones(8000).double(), atol=1e-6)
        turn = torch.atan2(goal[:, 1], goal[:, 0]) / (2 * math.pi)
        parts((turn + 1e-8).remainder(1), parity)


@pytest.mark.parametrize("fastest", [2.0, 0.3, 7.0])
def test_velocities_are_uniform_and_their_stripes_tell_the_split(fastest) -> None:
    for parity, split in enumerate(("train", "test")):
        goal = CheetahVel(fastest=fastest).sample_tasks(8000, stream(), split).goal.double()
        assert goal.shape == (8000, 1)
        parts(goal[:, 0] / fastest + 1e-8, parity)


@pytest.mark.parametrize("split", ["train", "test"])
def test_forward_and_backward_are_drawn_equally_often(split) -> None:
    ants = AntDir("forward-backward").sample_tasks(4000, stream(), split).goal
    cheetahs = CheetahDir().sample_tasks(4000, stream(), split).goal
    assert not ants[:, 1].any()
    assert cheetahs.shape == (4000, 1)
    for sign in (ants[:, 0], cheetahs[:, 0]):
        assert set(sign.tolist()) == {-1, 1}
        assert abs(float(sign.mean())) < 4 / math.sqrt(4000)


def test_the_defaults_are_those_of_the_published_tasks() -> None:
    assert AntDir().directions == "circle"
    assert CheetahVel().fastest == 2.0
    assert [kind().impaired for kind in (AntDir, CheetahDir, CheetahVel)] == [None] * 3
    shapes = [(e.observation_space.shape, e.action_space.shape) for e in (AntDir(), CheetahDir())]
    assert shapes == [((27,), (8,)), ((17,), (6,))]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (AntDir, {"directions": "left"}, "directions='left' is unknown.*circle, forward-backward"),
        (CheetahVel, {"fastest": 0.0}, r"fastest=0\.0.*positive"),
        *((kind, {"steps": steps}, f"steps={steps}: must be a whole number >= 1")
          for kind, steps in itertools.product((AntDir, CheetahDir, CheetahVel), (0, -1))),
        *((AntDir, {"impaired": bad}, f"impaired={bad!r}: .*one of 0 to 7, or None")
          for bad in (-1, 8, True)),
        *((kind, {"impaired": 6}, "impaired=6: .*one of 0 to 5, or None")
          for kind in (CheetahDir, CheetahVel)),
    ],
)  # fmt: skip
def test_bad_options_are_refused_in_one_line(kind, options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        kind(**options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "make", [AntDir, lambda: AntDir("forward-backward"), CheetahDir, CheetahVel]
)
def test_an_unknown_split_is_refused(make) -> None:
    with pytest.raises(ValueError, match=r"split='valid' is unknown.*train, test"):
        make().sample_tasks(3, stream(), "valid")


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (torch.zeros(2, 6), r"\(2, 6\), \(3, 6\) is wanted"),
        (torch.full((3, 6), math.nan), "18 NaN or infinite"),
    ],
)
def test_a_bad_action_is_refused_in_one_line(action, words) -> None:
    env = CheetahDir()
    state, _ = env.reset(env.sample_tasks(3, stream()), stream())
    with pytest.raises(ValueError, match=words) as refusal:
        env.step(state, action, stream())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("make", [AntDir, CheetahDir, CheetahVel])
def test_a_visible_goal_is_what_the_observation_ends_with(make) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, visible = make(steps=3), make(steps=3, goal="visible")
    tasks = visible.sample_tasks(5, generator)
    count = tasks.goal.shape[1]
    state, seen = visible.reset(tasks, torch.Generator().manual_seed(1))
    _, less = hidden.reset(tasks, torch.Generator().manual_seed(1))
    assert seen.shape[1] == visible.observation_space.shape[0] == less.shape[1] + count
    assert torch.equal(seen, torch.cat([less, tasks.goal], 1))
    action = torch.zeros(5, *visible.action_space.shape)
    _, step = visible.step(state, action, generator)
    assert torch.equal(step.observation[:, -count:], tasks.goal)
    with pytest.raises(
        ValueError, match=r"^goal='near' is unknown: choose one of hidden, visible$"
    ):
        make(goal="near")
