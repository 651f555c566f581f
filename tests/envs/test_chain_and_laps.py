"""Chains and laps against plain rows."""

import pytest
import torch
from plain_tasks import twin
from streams import stream

from metarl_lib.envs.chain import Chain
from metarl_lib.envs.laps import Laps

ROWS = 3


@pytest.mark.parametrize("kind", ["noise", "alias"])
def test_a_chain_is_the_plain_walk(kind) -> None:
    env, g = Chain(kind, 6, 2.0, 0.5), stream()
    state, observation = env.reset(env.sample_tasks(ROWS, g), g)
    means = [2, 0, 2, 0, 2, 0] if kind == "noise" else [-2, 2, 2, -2, -2, 2]
    noise = [0, 0.5] * 3 if kind == "noise" else [0.5] * 6
    looks = (0, 1, 2, 3, 4, 5) if kind == "noise" else (0, 3, 1, 3, 2, 3)
    for t in range(6):
        expected = [0.0] * (6 if kind == "noise" else 4)
        expected[looks[t]] = 1.0
        assert observation.tolist() == [expected] * ROWS
        chance = torch.randn(ROWS, generator=twin(g))
        state, step = env.step(state, torch.zeros(ROWS, dtype=torch.long), g)
        torch.testing.assert_close(step.reward, means[t] + noise[t] * chance)
        assert bool(step.terminated.all()) == (t == 5)
        assert step.info["place"].tolist() == [t + 1] * ROWS
        observation = step.observation
    assert not bool(observation.any())


def test_states_that_look_alike_are_worth_plus_and_minus_the_signal() -> None:
    means, _ = Chain("alias", 10, 2.0).rewards()
    values = means.flip(0).cumsum(0).flip(0)
    assert values.tolist() == [0, 2, 0, -2, 0, 2, 0, -2, 0, 2]
    seen = Chain("alias").features()
    assert torch.equal(seen[1::2], seen[1].expand(5, -1))
    assert len(set(map(tuple, seen[::2].tolist()))) == 5


def test_laps_are_the_plain_ring() -> None:
    env, g = Laps(3, 2, 4, 0.5, seed=4), stream(1)
    state, observation = env.reset(env.sample_tasks(ROWS, g), g)
    right, paid = [0] * ROWS, 0
    for t in range(24):
        phase, place = t // 6, t % 3
        assert observation.tolist() == [[float(k == place) for k in range(3)]] * ROWS
        action = torch.randint(2, (ROWS,), generator=g)
        chance = torch.randn(ROWS, generator=twin(g))
        state, step = env.step(state, action, g)
        for b in range(ROWS):
            correct = int(action[b]) == int(env.answers[phase, place])
            right[b] += correct
            late = phase % 2 == 1
            pay = (right[b] if place == 2 else 0) if late else int(correct)
            paid += pay
            right[b] = 0 if place == 2 else right[b]
            assert float(step.reward[b]) == pytest.approx(pay + 0.5 * float(chance[b]), abs=1e-6)
            assert (bool(step.info["late"][b]), bool(step.info["correct"][b])) == (late, correct)
        assert bool(step.truncated.all()) == (t == 23)
        observation = step.observation
    assert paid > 20
    assert not torch.equal(Laps(10, seed=1).answers, Laps(10, seed=2).answers)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Chain("loop"), "kind='loop' is unknown: choose one of noise, alias"),
        (lambda: Chain(states=5), "states=5: must be even"),
        (lambda: Chain(noise=-1.0), "noise=-1.0: must be 0 or more"),
        (lambda: Laps(period=0), "period=0: must be a whole number >= 1"),
        (lambda: Laps(noise=float("nan")), "noise=nan: must be 0 or more"),
    ],
)
def test_bad_options_are_refused_in_one_line(make, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        make()
    assert "\n" not in str(refusal.value)
