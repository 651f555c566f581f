"""Catch and Dodge against plain rows that are told the same draws, and what players earn."""

import pytest
import torch
from plain_tasks import twin
from streams import stream

from metarl_lib.envs.grid_games import Catch, Dodge

ROWS = 5


def test_catch_is_the_plain_game() -> None:
    env, g = Catch(4, 5, 40, 0.5), stream()
    state, _ = env.reset(env.sample_tasks(ROWS, g), g)
    rows = [[int(state.player[b]), int(state.column[b]), 0] for b in range(ROWS)]
    drifted = 0
    for t in range(40):
        action = torch.randint(3, (ROWS,), generator=g)
        draws = twin(g)
        u, fresh = torch.rand(ROWS, generator=draws), torch.randint(4, (ROWS,), generator=draws)
        state, step = env.step(state, action, g)
        for b, row in enumerate(rows):
            row[0] = min(3, max(0, row[0] + int(action[b]) - 1))
            if u[b] < 0.5:
                drifted += 1
                row[1] = min(3, max(0, row[1] + (-1 if u[b] < 0.25 else 1)))
            row[2] += 1
            reward = 0.0
            if row[2] == 4:
                reward = 1.0 if row[0] == row[1] else -1.0
                row[1:] = [int(fresh[b]), 0]
            assert float(step.reward[b]) == reward
            assert bool(step.info["caught"][b]) == (reward == 1)
            board = [0.0] * 24
            board[4 * row[2] + row[1]], board[20 + row[0]] = 1.0, 1.0
            assert step.observation[b].tolist() == board
        assert bool(step.truncated.all()) == (t == 39)
    assert drifted > 60


def test_who_follows_the_fruit_catches_it() -> None:
    env, g = Catch(7, 8, 70, 0.0), stream(1)
    state, _ = env.reset(env.sample_tasks(50, g), g)
    total = torch.zeros(50)
    for _ in range(70):
        state, step = env.step(state, (state.column - state.player).sign() + 1, g)
        total += step.reward
    assert total.tolist() == [10.0] * 50  # a fruit takes seven steps; six columns at most to go


def test_dodge_is_the_plain_game() -> None:
    env, g = Dodge(3, 3, 30, 0.4), stream(2)
    state, _ = env.reset(env.sample_tasks(ROWS, g), g)
    rows = [[int(state.player[b]), [[0] * 3 for _ in range(3)]] for b in range(ROWS)]
    hits = 0
    for t in range(30):
        action = torch.randint(3, (ROWS,), generator=g)
        fresh = torch.rand(ROWS, 1, 3, generator=twin(g)) < 0.4
        state, step = env.step(state, action, g)
        for b, row in enumerate(rows):
            row[0] = min(2, max(0, row[0] + int(action[b]) - 1))
            row[1] = [fresh[b, 0].long().tolist(), *row[1][:-1]]
            hit = row[1][-1][row[0]] == 1
            hits += hit
            assert (float(step.reward[b]), bool(step.terminated[b])) == (float(not hit), hit)
            assert bool(step.truncated[b]) == (t == 29 and not hit)
            there = [float(k == row[0]) for k in range(3)]
            assert (
                step.observation[b].tolist() == [float(x) for line in row[1] for x in line] + there
            )
    assert 0 < hits < 150


def test_standing_still_among_rocks_lives_as_long_as_it_should() -> None:
    """No rock arrives in the first h − 1 steps; then each step is survived with 1 − density."""
    env, g = Dodge(5, 4, 400, 0.2), stream(3)
    state, _ = env.reset(env.sample_tasks(3000, g), g)
    alive, lived = torch.ones(3000, dtype=torch.bool), torch.zeros(3000)
    for _ in range(120):
        state, step = env.step(state, torch.ones(3000, dtype=torch.long), g)
        lived += step.reward * alive
        alive &= ~step.terminated
    assert float(lived.min()) == 3
    assert float(lived.mean()) == pytest.approx(3 + 0.8 / 0.2, abs=0.4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Catch(width=2), "width=2: must be a whole number >= 3"),
        (lambda: Dodge(height=1), "height=1: must be a whole number >= 2"),
        (lambda: Catch(drift=1.5), "drift=1.5: must lie between 0 and 1"),
        (lambda: Dodge(density=-0.1), "density=-0.1: must lie between 0 and 1"),
    ],
)
def test_bad_options_are_refused_in_one_line(make, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        make()
    assert "\n" not in str(refusal.value)
