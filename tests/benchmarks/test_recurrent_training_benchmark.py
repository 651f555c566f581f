"""The benchmark of recurrent training: all learn one task, and the table says what was found."""

import numpy as np
import pytest
import torch

from metarl_lib.envs.bandit import Bandit, BanditTasks
from metarl_lib.envs.trial import Trial


def test_the_plain_bandit_is_that_of_the_trial(script) -> None:
    """Arms that pay for sure, so that both show the same; then how often the others pay."""
    plain, trial = script.PlainBandit(4), Trial(Bandit(5, 4))
    stream = torch.Generator().manual_seed(0)
    means = [0.0, 1.0, 0.0, 1.0, 1.0]
    first, _ = plain.reset(seed=0)
    assert first.shape == trial.observation_space.shape
    state, seen = trial.reset(BanditTasks(torch.tensor([means])), stream)
    plain.means = np.array(means)
    np.testing.assert_array_equal(first, seen[0])
    for arm in (1, 0, 4, 2):
        shown, reward, ended, cut_off, _ = plain.step(arm)
        state, step = trial.step(state, torch.tensor([arm]), stream)
        np.testing.assert_array_equal(shown, step.observation[0])
        assert (reward, ended, cut_off) == (step.reward[0], step.terminated[0], step.truncated[0])
    paid = []
    for _ in range(4000):
        plain.reset()
        paid.append([plain.means.max(), plain.step(2)[1]])
    best, pays = np.mean(paid, 0)
    assert best == pytest.approx(5 / 6, abs=0.01)
    assert pays == pytest.approx(0.5, abs=0.03)


def test_segments_have_equally_many_pulls_where_the_goal_counts(script) -> None:
    for pulls in (10, 100):
        chosen = script.settings(pulls, script.MORE)
        assert chosen.rows * chosen.segment == script.ROWS * 100
        assert script.settings(pulls, 1).rows == script.ROWS
    assert script.peer(10, script.MORE, own_env=True).n_envs == 10 * script.ROWS


def test_learners_go_on_from_the_stage_before(script) -> None:
    short = script.ours(3, 1)
    later = script.ours(4, 1, short, unit=10.0)
    assert later.model is not short.model
    for p, q in zip(later.model.parameters(), short.model.parameters(), strict=True):
        assert torch.equal(p, q)
    first = script.peer(3, 1, own_env=True)
    with torch.no_grad():
        next(first.policy.parameters()).add_(1)
    second = script.peer(4, 1, first)
    for p, q in zip(second.policy.parameters(), first.policy.parameters(), strict=True):
        assert torch.equal(p, q)


def test_quick_prints_a_table_and_one_line_of_json(quick) -> None:
    lines, result = quick("recurrent_training")
    ratios, table = result["ratios"], [line for line in lines if line and line[-1].endswith("x")]
    rates = [float(line[-2]) for line in table]
    keys = ["recurrent", "on_our_environment", "one_lstm"]
    assert len(table) == 4
    for key, rate, line in zip(keys, rates[1:], table[1:], strict=True):
        assert ratios[f"throughput_vs_sb3_{key}"] == pytest.approx(rates[0] / rate, rel=0.02)
        assert float(line[-1][:-1]) == pytest.approx(rates[0] / rate, abs=0.06)
    last = " ".join(lines[-1])
    assert last.startswith("ours ")
    assert ratios["time_to_95_is_lower_bound"] == ("more than" in last)
    ours, theirs = (float(word[:-1]) for word in lines[-1] if word.endswith(","))
    assert ratios["time_to_95_vs_sb3_recurrent"] == pytest.approx(theirs / ours, rel=0.02)
