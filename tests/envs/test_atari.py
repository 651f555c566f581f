"""Atari behind the protocol, where the emulator is installed, and the refusal where it is not."""

import sys
from importlib.util import find_spec

import pytest
import torch
from streams import stream

from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.envs.atari import Atari

needs_ale = pytest.mark.skipif(
    find_spec("ale_py") is None,
    reason="the extra atari is missing: pip install 'metarl_lib[atari]'",
)


@needs_ale
def test_frames_rewards_and_fresh_rows_are_as_they_say() -> None:
    env, g = Atari("pong", pixels=12), stream()
    state, seen = env.reset(env.sample_tasks(3, g), g)
    assert seen.shape == (3, 4 * 144)
    assert 0 <= float(seen.min()) < float(seen.max()) <= 1
    scores, ended = torch.zeros(3), 0
    for _ in range(1300):  # who stands still has lost 0:21 by then
        state, step = env.step(state, torch.zeros(3, dtype=torch.long), g)
        assert torch.equal(step.reward, step.info["score"].sign())
        scores += step.info["score"]
        over = step.terminated | step.truncated
        ended += int(over.sum())
        assert torch.equal(env.reset(env.sample_tasks(3, g), g)[1], step.observation)
        if ended == 3:
            break
    assert ended == 3
    assert bool((scores <= -21).all())
    env.close()


@needs_ale
def test_equal_seeds_give_equal_games() -> None:
    def play(seed):
        env, g = Atari("breakout", pixels=8), stream(seed)
        state, seen = env.reset(env.sample_tasks(2, g), g)
        found = [seen]
        for _ in range(30):
            action = torch.randint(int(env.action_space.n), (2,), generator=g)
            state, step = env.step(state, action, g)
            found.append(step.observation)
        env.close()
        return torch.stack(found)

    assert torch.equal(play(0), play(0))
    assert not torch.equal(play(0), play(1))


@needs_ale
def test_a_reset_of_some_rows_is_refused_in_one_line() -> None:
    env, g = Atari("breakout", pixels=8), stream()
    rows = SB3VecEnv(env, 2)
    rows.reset()
    words = "reset of 1 rows, and 2 are running: reset all and use where_rows, run one row"
    with pytest.raises(ValueError, match=words) as refusal:
        env.reset(env.sample_tasks(1, g), g)
    assert "\n" not in str(refusal.value)
    rows.close()
    assert env.reset(env.sample_tasks(1, g), g)[1].shape == (1, 256)
    env.close()


@needs_ale
def test_an_unknown_game_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="game='chess' is unknown to the emulator") as refusal:
        Atari("chess")
    assert "\n" not in str(refusal.value)


def test_without_the_emulator_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ImportError, match=r"pip install 'metarl_lib\[atari\]'"):
        Atari("pong")
