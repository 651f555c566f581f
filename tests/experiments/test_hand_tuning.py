"""The search for the one number of a hand-made rule: coarse, then finer on more tasks."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from plain_lives import CEILING, small_space
from plain_training import plain_training

from metarl_lib.experiments import hand_made
from metarl_lib.experiments.hand_made import tune
from metarl_lib.runs import DivergenceError, generator

MULTIPLES = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0)


def areas(env, name, rates, count, index):
    """Of each rate: the mean log loss after an update, over steps and tasks."""
    tasks = env.sample_tasks(count, generator(3, "tuning", index))
    found = []
    for rate in rates:
        logs, *_ = plain_training(env, name, rate, tasks, generator(3, "tuning", index + 1))
        found.append(float(logs[1:].mean()))
    assert np.diff(sorted(found))[0] > 1e-3  # no tie that rounding could decide
    return found


@pytest.mark.parametrize("name", ["sgd", "adam", "np"])
def test_tuning_refines_the_best_coarse_rate_on_four_times_as_many_tasks(name) -> None:
    """The smallest area wins each time, and a rate that diverges is lived with."""
    env, rates = small_space(), (1e-3, 1e-2, 0.1, 1e5)
    coarse = areas(env, name, rates, 3, 20)
    assert coarse[-1] > 10
    best = rates[int(np.argmin(coarse))]
    finer = [best * m for m in MULTIPLES]
    expected = finer[int(np.argmin(areas(env, name, finer, 12, 22)))]
    assert tune(env, name, rates, 3, 3, 20) == pytest.approx(expected, rel=1e-12)
    assert tune(env, name, rates[::-1], 3, 3, 20) == pytest.approx(expected, rel=1e-12)


class Told(NamedTuple):
    """Of a life, what the search looks at."""

    log_losses: torch.Tensor
    diverged: torch.Tensor


def told(monkeypatch, answer) -> list:
    """Let `answer(rate, count)` give log loss and divergence; the calls that are made."""
    calls: list = []

    def pretend(env, name, rate, tasks, stream):
        calls.append((rate, tasks, torch.randn(3, generator=stream).tolist()))
        loss, dead = answer(rate, len(tasks.x))
        logs = torch.tensor(loss).expand(env.steps + 1, len(tasks.x)).clone()
        logs[0] = -1e3 * rate  # before any update, which is not to be counted
        return Told(logs, torch.as_tensor(dead).expand(len(tasks.x)))

    monkeypatch.setattr(hand_made, "train_by_hand", pretend)
    return calls


def test_all_rates_of_a_search_meet_the_same_tasks_and_the_second_search_others(
    monkeypatch,
) -> None:
    calls = told(monkeypatch, lambda rate, count: (abs(math.log(rate / 0.14)), False))
    assert tune(small_space(), "sgd", (0.01, 0.1, 1.0), 2, 5, 30) == pytest.approx(0.14)
    rates = [rate for rate, _, _ in calls]
    assert rates == pytest.approx([0.01, 0.1, 1.0, *(0.1 * m for m in MULTIPLES)])
    assert [len(tasks.x) for _, tasks, _ in calls] == [2] * 3 + [8] * 6
    for place, (_, tasks, draws) in enumerate(calls):
        index = 30 if place < 3 else 32
        count = 2 if place < 3 else 8
        expected = small_space().sample_tasks(count, generator(5, "tuning", index))
        assert all(torch.equal(a, b) for a, b in zip(tasks, expected, strict=True))
        assert draws == torch.randn(3, generator=generator(5, "tuning", index + 1)).tolist()
    first, second = calls[0][1].x, calls[3][1].x
    assert len(torch.cat([first, second]).flatten(1).unique(dim=0)) == 10


def test_a_rate_that_diverges_on_more_tasks_gives_way_to_a_smaller_one(monkeypatch) -> None:
    def answer(rate, count):
        return (CEILING, False) if count > 2 and rate > 0.08 else (-rate, False)

    told(monkeypatch, answer)
    assert tune(small_space(), "np", (0.01, 0.1), 2, 0, 0) == pytest.approx(0.07)


@pytest.mark.parametrize("name", ["sgd", "np-adam"])
def test_tuning_refuses_when_every_rate_diverges(name) -> None:
    words = rf"rates=\(100000000.0, 1000000000.0\): {name} diverged with every one"
    with pytest.raises(DivergenceError, match=words) as refusal:
        tune(small_space(), name, (1e8, 1e9), 4, 0, 0)
    assert "\n" not in str(refusal.value)


def test_tuning_refuses_when_every_rate_of_the_second_search_diverges(monkeypatch) -> None:
    told(monkeypatch, lambda rate, count: (CEILING, count == 8))
    with pytest.raises(DivergenceError, match=r"rates=\(0.1, 0.2\): wp diverged with every one"):
        tune(small_space(), "wp", (0.1, 0.2), 2, 0, 0)


def test_one_network_that_lives_at_one_rate_is_enough(monkeypatch) -> None:
    def answer(rate, count):
        dead = torch.ones(count, dtype=torch.bool)
        dead[-1] = rate > 0.15
        return CEILING + rate, dead

    told(monkeypatch, answer)
    assert tune(small_space(), "wp", (0.1, 0.2), 2, 0, 0) == pytest.approx(0.05)
