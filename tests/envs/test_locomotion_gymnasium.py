"""Ants and cheetahs against Gymnasium's own: steps, first poses, and the health of ants."""

import math
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from scipy import stats
from streams import stream

from metarl_lib.envs.locomotion import AntDir, CheetahDir, Robot, RobotTasks

mujoco = pytest.importorskip(
    "mujoco", reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'"
)

ROWS, SECONDS = 6, 0.05
PEERS = {
    AntDir: ("Ant-v5", {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0,
                        "terminate_when_unhealthy": False}),
    CheetahDir: ("HalfCheetah-v5", {}),
}  # fmt: skip
BOTH = pytest.mark.parametrize("kind", PEERS)


def peer(kind: type[Robot], warm_start: bool = False):
    """Gymnasium's robot, its solver's warm start switched off as in ours, or not."""
    name, options = PEERS[kind]
    env = gymnasium.make(name, **options).unwrapped
    if not warm_start:
        env.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART.value
    return env


def as_they_are(env: Robot, tasks: RobotTasks, peers: list):
    """Our state with the positions and velocities of Gymnasium's robots."""
    state, _ = env.reset(tasks, stream())
    q = torch.stack([torch.tensor(peer.data.qpos) for peer in peers])
    v = torch.stack([torch.tensor(peer.data.qvel) for peer in peers])
    return state._replace(physics=env.physics.start(q, v))


class Walk(NamedTuple):
    """What ours and Gymnasium's say under equal actions, `[T, B, …]`, and its places `[T+1, …]`."""

    tasks: RobotTasks
    actions: np.ndarray
    observations: np.ndarray
    rewards: np.ndarray
    their_observations: np.ndarray
    positions: np.ndarray
    infos: list[list[dict]]


def walk(kind: type[Robot], seed: int, steps: int, warm_start: bool = False) -> Walk:
    """All rows of a batch beside as many of Gymnasium's robots."""
    env, generator = kind(steps=steps), stream(seed)
    tasks = env.sample_tasks(ROWS, generator)
    peers = [peer(kind, warm_start) for _ in range(ROWS)]
    first = np.stack([p.reset(seed=100 * seed + row)[0] for row, p in enumerate(peers)])
    state = as_they_are(env, tasks, peers)
    np.testing.assert_array_equal(env.observe(state), first)
    found: list[list] = [[], [], [], [], [[p.data.qpos.copy() for p in peers]], []]
    for t in range(steps):
        action = torch.rand(ROWS, *env.action_space.shape, generator=generator) * 2 - 1
        state, step = env.step(state, action, generator)
        theirs = [p.step(a) for p, a in zip(peers, action.numpy(), strict=True)]
        assert not step.info["diverged"].any()
        assert not step.truncated.any()
        assert step.terminated.tolist() == [t == steps - 1] * ROWS
        for column, values in zip(found, (
            action, step.observation, step.reward, [said[0] for said in theirs],
            [p.data.qpos.copy() for p in peers], [said[-1] for said in theirs],
        ), strict=True):  # fmt: skip
            column.append(values)
    return Walk(tasks, *map(np.array, found[:5]), found[5])


@BOTH
@pytest.mark.parametrize("seed", [0, 1])
def test_a_whole_episode_is_that_of_gymnasium(kind, seed, double) -> None:
    """Observations and, from Gymnasium's own parts or places, rewards."""
    seen = walk(kind, seed, 200)
    np.testing.assert_allclose(seen.observations, seen.their_observations, rtol=0, atol=1e-9)
    assert np.abs(np.diff(seen.positions[:, :, 0], axis=0)).max() > 0.01, "it never moved"
    goal = seen.tasks.goal.numpy()
    cost = np.array([[info["reward_ctrl"] for info in row] for row in seen.infos])
    if kind is CheetahDir:
        forward = np.array([[info["reward_forward"] for info in row] for row in seen.infos])
        expected = forward * goal[:, 0] + cost
        np.testing.assert_allclose(seen.rewards, expected, rtol=0, atol=1e-12)
        return
    health = np.array([[info["reward_survive"] for info in row] for row in seen.infos])
    assert 0.01 < health.mean() < 0.999, "they never fell, or never stood"
    velocity = np.diff(seen.positions[:, :, :2], axis=0) / SECONDS
    expected = (velocity * goal).sum(-1) + health + cost
    np.testing.assert_allclose(seen.rewards, expected, rtol=0, atol=1e-9)
    # Gymnasium looks where the ant is within the last of the five steps of physics.
    theirs = np.array([[i["x_velocity"], i["y_velocity"]] for row in seen.infos for i in row])
    theirs = theirs.reshape(velocity.shape).sum(0) * SECONDS
    fastest = np.abs(velocity).max()
    np.testing.assert_allclose(theirs, velocity.sum(0) * SECONDS, rtol=0, atol=0.01 * fastest)


@BOTH
def test_with_its_warm_start_gymnasium_goes_the_same_way_for_a_while(kind, double) -> None:
    """Only the rounding differs, until chaos makes more of it."""
    seen = walk(kind, 2, 60, warm_start=True)
    error = np.abs(seen.observations - seen.their_observations).max((1, 2))
    assert error[:20].max() < 1e-9
    assert error[-1] > 0, "its warm start is off"


@BOTH
def test_episodes_start_as_gymnasiums_do(kind, double) -> None:
    """Positions uniform and velocities normal, each by itself, and as Gymnasium's."""
    env, gym = kind(), peer(kind)
    tasks = env.sample_tasks(4000, stream())
    state, observation = env.reset(tasks, stream(1))
    assert torch.equal(observation, env.observe(state))
    q = ((env.physics.positions(state.physics) - torch.tensor(gym.init_qpos)) / 0.1).numpy()
    v = env.physics.velocities(state.physics).numpy() / 0.1
    assert min(stats.kstest(column, stats.uniform(-1, 2).cdf).pvalue for column in q.T) > 1e-3
    assert min(stats.kstest(column, "norm").pvalue for column in v.T) > 1e-3
    between = np.corrcoef(np.concatenate([q, v], 1).T)
    assert np.abs(between - np.eye(len(between))).max() < 5 / math.sqrt(len(q))
    theirs = np.stack([gym.reset(seed=k)[0] for k in range(400)])
    for own, their in zip(observation.numpy().T, theirs.T, strict=True):
        assert stats.ks_2samp(own, their).pvalue > 1e-4
    assert not state.time.any()


def test_the_bounds_of_health_belong_to_it_as_in_gymnasium(double) -> None:
    env, gym = AntDir(), peer(AntDir)
    heights = [0.1, math.nextafter(0.2, 0), 0.2, 0.6, 1.0, math.nextafter(1.0, 2), 3.0]
    q = env.physics.rest.repeat(len(heights), 1)
    q[:, 2] = torch.tensor(heights)
    physics = env.physics.start(q, torch.zeros(len(q), 14))
    along, paid = env.paid(torch.ones(len(q), 2), torch.zeros(len(q), 15), physics)
    healthy = []
    for row in q.numpy():
        gym.set_state(row, np.zeros(14))
        healthy.append(float(gym.is_healthy))
    assert paid.tolist() == healthy == [0, 0, 1, 1, 1, 0, 0]
    assert along.tolist() == [0] * len(q)
