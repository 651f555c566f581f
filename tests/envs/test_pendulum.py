"""The pendulum against Gymnasium's, a plain row with other physics, and its conserved energy."""

import math

import gymnasium
import pytest
import torch
from streams import stream

from metarl_lib.envs.pendulum import Pendulum, PendulumState, PendulumTasks


def test_the_default_is_gymnasiums_pendulum_step_by_step() -> None:
    """Four rows of a whole episode, with torques beyond the bounds, against four of theirs."""
    env, generator, rows = Pendulum(), stream(), 4
    tasks = env.sample_tasks(rows, generator, "test")
    state, _ = env.reset(tasks, generator)
    theirs = [gymnasium.make("Pendulum-v1") for _ in range(rows)]
    for row, other in enumerate(theirs):
        other.reset(seed=0)
        other.unwrapped.state = state.angle[row].item(), state.velocity[row].item()
    assert env.action_space == theirs[0].action_space
    assert env.observation_space == theirs[0].observation_space
    beyond = 0
    for t in range(200):
        action = 3 * torch.randn(rows, 1, generator=generator)
        beyond += int((action.abs() > 2).sum())
        state, step = env.step(state, action, generator)
        for row, other in enumerate(theirs):
            torque = action[row].double().numpy()
            seen, reward, terminated, truncated, _ = other.step(torque)
            assert step.observation[row].tolist() == pytest.approx(seen.tolist(), abs=1e-5)
            assert float(step.reward[row]) == pytest.approx(float(reward), abs=1e-5)
            assert (bool(step.terminated[row]), bool(step.truncated[row])) == (
                terminated, truncated,
            )  # fmt: skip
            assert truncated == (t == 199)
    assert beyond > 100
    assert state.angle.abs().max() > math.pi


def test_other_physics_are_those_of_a_plain_row() -> None:
    env, generator = Pendulum(spread=0.5, steps=50), stream(1)
    tasks = env.sample_tasks(6, generator)
    state, _ = env.reset(tasks, generator)
    angle, velocity = state.angle.tolist(), state.velocity.tolist()
    for _ in range(50):
        action = 2 * torch.randn(6, 1, generator=generator)
        state, step = env.step(state, action, generator)
        for row, (g, m, rod) in enumerate(zip(*(part.tolist() for part in tasks), strict=True)):
            u = max(-2.0, min(2.0, action[row].item()))
            turned = math.atan2(math.sin(angle[row]), math.cos(angle[row]))
            cost = turned**2 + 0.1 * velocity[row] ** 2 + 0.001 * u**2
            inertia = m * rod * rod / 3
            moment = m * g * (rod / 2) * math.sin(angle[row]) + u
            faster = velocity[row] + moment / inertia * 0.05
            velocity[row] = max(-8.0, min(8.0, faster))
            angle[row] += velocity[row] * 0.05
            assert float(step.reward[row]) == pytest.approx(-cost, abs=1e-5)
        assert state.angle.tolist() == pytest.approx(angle, abs=1e-9)
        assert state.velocity.tolist() == pytest.approx(velocity, abs=1e-9)
    assert step.truncated.all()


def test_energy_is_nearly_kept_without_a_torque() -> None:
    """A small swing about the rest, by an integrator of first order that keeps a near energy."""
    env = Pendulum(spread=0.3)
    tasks = env.sample_tasks(8, stream(2))
    start = torch.full((8,), math.pi - 0.2, dtype=torch.float64)
    state = PendulumState(tasks, start, torch.zeros_like(start), torch.zeros(8, dtype=torch.long))

    def energy(state: PendulumState) -> torch.Tensor:
        g, m, rod = tasks
        return m * rod**2 / 6 * state.velocity**2 + m * g * rod / 2 * state.angle.cos()

    depth = energy(state) + tasks.mass * tasks.gravity * tasks.length / 2
    first = energy(state)
    for _ in range(200):
        state, _ = env.step(state, torch.zeros(8, 1), stream())
        assert bool(((energy(state) - first).abs() < 0.3 * depth).all())
    assert float((state.angle - start).abs().max()) > 0.1


def test_tasks_lie_within_the_spread_and_their_cubes_tell_the_split() -> None:
    env, found = Pendulum(spread=0.4), []
    for parity, split in enumerate(("train", "test")):
        tasks = env.sample_tasks(4000, stream(3), split)
        share = torch.stack(
            [part / standard - 1 for part, standard in zip(tasks, (10, 1, 1), strict=True)], 1
        )
        assert -0.4001 < float(share.min()) < -0.39
        assert 0.39 < float(share.max()) < 0.4001
        cubes = ((share / 0.4 + 1) * 2 + 1e-6).floor().long()
        assert set((cubes.sum(1) % 2).tolist()) == {parity}
        assert len(set(map(tuple, cubes.tolist()))) == 32
        found.append(share.mean(0))
    assert torch.stack(found).abs().max() < 0.03


def test_starts_are_uniform() -> None:
    env = Pendulum()
    state, observation = env.reset(env.sample_tasks(20_000, stream(4)), stream(5))
    assert float(state.angle.abs().max()) == pytest.approx(math.pi, abs=0.01)
    assert float(state.angle.std()) == pytest.approx(math.pi / 3**0.5, rel=0.02)
    assert float(state.velocity.abs().max()) == pytest.approx(1.0, abs=0.01)
    assert float(state.velocity.std()) == pytest.approx(1 / 3**0.5, rel=0.02)
    assert torch.allclose(observation[:, 1], state.angle.sin().float())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spread": 1.0}, r"spread=1\.0: must be a share from 0 to below 1"),
        ({"spread": -0.1}, r"spread=-0\.1: must be a share"),
        ({"steps": 0}, "steps=0.*whole number >= 1"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        Pendulum(**options)
    assert "\n" not in str(refusal.value)


def test_a_bad_action_is_refused() -> None:
    env = Pendulum()
    ones = torch.ones(3)
    state, _ = env.reset(PendulumTasks(ones, ones, ones), stream())
    with pytest.raises(ValueError, match=r"\(3,\), \(3, 1\) is wanted"):
        env.step(state, torch.zeros(3), stream())
