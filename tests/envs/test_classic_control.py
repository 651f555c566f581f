"""CartPole and Acrobot against Gymnasium's own, step by step from the same places."""

import gymnasium
import numpy as np
import pytest
import torch
from streams import stream

from metarl_lib.envs.classic_control import Acrobot, CartPole

PAIRS = [(CartPole, "CartPole-v1"), (Acrobot, "Acrobot-v1")]


@pytest.mark.parametrize(("make", "name"), PAIRS)
def test_every_step_is_gymnasiums(make, name) -> None:
    """To the last bit of what is seen, until every row has ended, then no more."""
    env, g = make(), stream()
    state, _ = env.reset(env.sample_tasks(6, g), g)
    theirs = [gymnasium.make(name).unwrapped for _ in range(6)]
    for b, their in enumerate(theirs):
        their.reset(seed=0)
        their.state = state.body[b].numpy().copy()
    alive, ends = [True] * 6, 0
    for t in range(300):
        push = torch.randint(int(env.action_space.n), (6,), generator=g)
        if make is Acrobot:  # swing it up: push the way the second link turns
            push = (state.body[:, 3] > 0).long() * 2
        state, step = env.step(state, push, g)
        for b, their in enumerate(theirs):
            if not alive[b]:
                continue
            seen, reward, terminated, _, _ = their.step(int(push[b]))
            assert seen.dtype == np.float32
            np.testing.assert_allclose(step.observation[b].numpy(), seen, rtol=0, atol=2e-6)
            assert (float(step.reward[b]), bool(step.terminated[b])) == (reward, terminated), t
            alive[b] = not terminated
            ends += terminated
    assert ends >= 5, "episodes end on their own"


@pytest.mark.parametrize(("make", "name"), PAIRS)
def test_spaces_and_limits_are_gymnasiums(make, name) -> None:
    env, their = make(), gymnasium.make(name)
    assert env.action_space == their.action_space
    np.testing.assert_array_equal(env.observation_space.high, their.observation_space.high)
    np.testing.assert_array_equal(env.observation_space.low, their.observation_space.low)
    assert env.max_steps == their.spec.max_episode_steps


@pytest.mark.parametrize("make", [CartPole, Acrobot])
def test_starts_are_even_within_their_bounds_and_time_runs_out(make) -> None:
    env, g = make(steps=3), stream(1)
    state, _ = env.reset(env.sample_tasks(4000, g), g)
    assert float(state.body.abs().max()) <= env.spread
    assert float(state.body.mean()) == pytest.approx(0, abs=5 * env.spread / 16_000**0.5)
    assert float(state.body.std()) == pytest.approx(env.spread / 3**0.5, rel=0.03)
    for t in range(3):
        state, step = env.step(state, torch.ones(4000, dtype=torch.long), g)
        assert bool(step.truncated.all()) == (t == 2)
        assert not bool(step.terminated.any())


def test_bad_options_and_actions_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="steps=0: must be a whole number >= 1"):
        CartPole(steps=0)
    env, g = CartPole(), stream()
    state, _ = env.reset(env.sample_tasks(2, g), g)
    with pytest.raises(ValueError, match="action=2 is unknown: choose one of 0 to 1"):
        env.step(state, torch.tensor([0, 2]), g)
