"""Many robots at once against one robot at a time, stepped by MuJoCo's own `mj_step`."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from metarl_lib.envs.physics import ASSETS, Physics

mujoco = pytest.importorskip(
    "mujoco", reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'"
)

ROWS, FRAME = 7, 5
ROBOTS = pytest.mark.parametrize("robot", ["ant", "half_cheetah"])


@pytest.fixture
def threads():
    """`threads(n)` lets objects that are used for the first time have n of them."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def some(physics: Physics, rows: int = ROWS, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """States that differ in everything but the time, and torques."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> torch.Tensor:
        return torch.rand(rows, count, generator=generator, dtype=torch.float64) * 2 - 1

    positions = physics.rest + 0.1 * draw(physics.num_positions)
    states = physics.start(positions, draw(physics.num_velocities))
    return states, draw(physics.num_actuators)


def walk(physics: Physics, states: torch.Tensor, torques: torch.Tensor, steps: int = 30):
    """The states after some steps under the same torques, long enough to touch the ground."""
    for _ in range(steps):
        states, diverged = physics.advance(states, torques)
        assert not diverged.any()
    return states


def absurd(physics: Physics, row: int, value: float = 1e12) -> tuple[torch.Tensor, torch.Tensor]:
    """States of which one cannot be stepped."""
    states, torques = some(physics)
    physics.velocities(states)[row] = value
    return states, torques


@ROBOTS
@pytest.mark.parametrize("frame_skip", [1, 4])
def test_rows_move_as_one_robot_does_under_mj_step(robot, frame_skip) -> None:
    """The model is read from its file once more; its data live on from step to step."""
    physics = Physics(robot, frame_skip)
    states, torques = some(physics)
    model = mujoco.MjModel.from_xml_path(str(ASSETS / f"{robot}.xml"))
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART.value
    alone = [mujoco.MjData(model) for _ in range(ROWS)]
    for row, data in enumerate(alone):
        data.qpos[:] = physics.positions(states)[row]
        data.qvel[:] = physics.velocities(states)[row]
        data.ctrl[:] = torques[row]
    touched = 0
    for _ in range(60):
        states, diverged = physics.advance(states, torques)
        assert not diverged.any()
        for row, data in enumerate(alone):
            for _ in range(frame_skip):
                mujoco.mj_step(model, data)
            touched += data.ncon
            np.testing.assert_array_equal(physics.positions(states)[row], data.qpos)
            np.testing.assert_array_equal(physics.velocities(states)[row], data.qvel)
    assert touched > 100, "they never touched the ground"


@ROBOTS
def test_it_says_the_sizes_and_the_pose_of_its_model(robot) -> None:
    physics = Physics(robot)
    model = mujoco.MjModel.from_xml_path(str(ASSETS / f"{robot}.xml"))
    assert (physics.num_positions, physics.num_velocities) == (model.nq, model.nv)
    assert physics.num_actuators == model.nu
    assert physics.seconds == pytest.approx(0.05)
    assert Physics(robot, 2).seconds == pytest.approx(0.02)
    assert physics.rest.tolist() == model.qpos0.tolist()


def test_a_start_holds_the_positions_and_the_velocities() -> None:
    physics = Physics("ant")
    q = torch.arange(30, dtype=torch.float64).reshape(2, 15)
    v = -torch.arange(28, dtype=torch.float64).reshape(2, 14)
    states = physics.start(q, v)
    assert torch.equal(physics.positions(states), q)
    assert torch.equal(physics.velocities(states), v)
    assert states.shape == (2, 1 + 15 + 14)


@ROBOTS
@pytest.mark.parametrize("count", [2, 3, 16])
def test_the_number_of_threads_changes_nothing(robot, count, threads) -> None:
    threads(1)
    physics = Physics(robot)
    states, torques = some(physics, 50)
    one = walk(physics, states, torques)
    threads(count)
    assert torch.equal(walk(physics, states, torques), one), "this one has its threads already"
    assert torch.equal(walk(Physics(robot), states, torques), one)


def test_there_are_as_many_threads_as_torch_had_at_first_use(threads) -> None:
    physics = Physics("half_cheetah")
    threads(3)
    states, torques = some(physics)
    physics.advance(states, torques)
    threads(2)
    physics.advance(states, torques)
    pool, rooms = physics._pool
    assert (pool.nthread, len(rooms)) == (3, 3)


@ROBOTS
def test_the_order_and_the_company_of_rows_change_nothing(robot, threads) -> None:
    threads(2)
    physics = Physics(robot)
    states, torques = some(physics)
    together = walk(physics, states, torques)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    assert torch.equal(walk(physics, states[order], torques[order]), together[order])
    for row in range(ROWS):
        own = slice(row, row + 1)
        assert torch.equal(walk(physics, states[own], torques[own]), together[own])
    twice = walk(physics, states.repeat(2, 1), torques.repeat(2, 1))
    assert torch.equal(twice, together.repeat(2, 1))


@ROBOTS
def test_equal_states_step_equally_whatever_was_stepped_before(robot) -> None:
    """Also a state amid a walk: nothing is remembered beside it, such as a warm start."""
    physics, fresh = Physics(robot), Physics(robot)
    states, torques = some(physics)
    amid = walk(physics, states, torques)
    kept, given = amid.clone(), torques.clone()
    first, _ = physics.advance(amid, torques)
    walk(physics, *some(physics, seed=1))
    again, _ = physics.advance(amid, torques)
    elsewhere, _ = fresh.advance(amid, torques)
    assert torch.equal(first, again)
    assert torch.equal(first, elsewhere)
    assert not torch.equal(first, amid)
    assert torch.equal(amid, kept)
    assert torch.equal(torques, given)


@pytest.mark.parametrize("value", [1e12, math.inf, math.nan])
@pytest.mark.parametrize("frame_skip", [1, FRAME])
@ROBOTS
def test_a_row_that_diverges_stays_and_says_so(
    robot, frame_skip, value, threads, tmp_path, monkeypatch, capfd
) -> None:
    """In its first step or later; the others do not notice, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    threads(2)
    physics = Physics(robot, frame_skip)
    states, torques = absurd(physics, 2, value)
    for _ in range(3):
        after, diverged = physics.advance(states, torques)
        assert diverged.tolist() == [row == 2 for row in range(ROWS)]
        torch.testing.assert_close(after[2], states[2], rtol=0, atol=0, equal_nan=True)
        others = [0, 1, 3, 4, 5, 6]
        alone, fine = physics.advance(states[others], torques[others])
        assert torch.equal(after[others], alone)
        assert not fine.any()
        states = after.clone()
        states[2, 0] += 0.3  # amid an episode
    assert list(Path.cwd().iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("step", range(FRAME))
def test_it_is_seen_in_whichever_step_of_a_frame_it_happens(step, tmp_path, monkeypatch) -> None:
    """A cheetah flies so fast that it is too far away after 1 to 5 steps of the physics."""
    monkeypatch.chdir(tmp_path)  # here the plain one writes its warning
    physics = Physics("half_cheetah")
    states, torques = some(physics, 1)
    physics.velocities(states)[:, 0] = 0.999e10
    physics.positions(states)[:, 0] = 1e10 - (step + 0.5) * 0.999e8
    data, done = mujoco.MjData(physics.model), 0
    data.qpos[:], data.qvel[:] = physics.positions(states)[0], physics.velocities(states)[0]
    while data.warning[mujoco.mjtWarning.mjWARN_BADQPOS.value].number == 0:
        mujoco.mj_step(physics.model, data)
        done += 1
    assert done == step + 2, "the step that moves it too far is followed by one that finds it"
    after, diverged = physics.advance(states, torques)
    assert bool(diverged)
    assert torch.equal(after, states)


def test_warnings_of_others_are_still_heard(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    heard: list[str] = []
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(heard.append)
    try:
        physics = Physics("half_cheetah")
        _, diverged = physics.advance(*absurd(physics, 0))
        assert diverged[0]
        assert heard == []
        data = mujoco.MjData(physics.model)
        data.qvel[0] = math.nan
        mujoco.mj_step(physics.model, data)
    finally:
        mujoco.set_mju_user_warning(before)
    assert len(heard) == 1
