"""The analysis of staying: tables counted one by one, exact log odds, and what agents show."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from metarl_lib.oracles import (
    STAY_TERMS,
    BayesFilter,
    ModelBased,
    ModelFree,
    TwoStepTask,
    logistic_regression,
    stay_probabilities,
    stay_regression,
)

INTERCEPT, REWARD, TRANSITION, INTERACTION, CORRECT = range(5)
STEADY = TwoStepTask()
FORGETFUL = TwoStepTask(switch=0.5)
"""Every round draws the good place anew, so that no round says anything about the others."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def shown(agent, task, rounds=100, batch=2_000, seed=0):
    """Actions, transitions and rewards, and whether the actions were correct."""
    record = task.simulate(agent, rounds, batch, seeded(seed))
    return (record.action, record.common, record.reward), record.action == record.good


def effects(agent, task, control=False):
    data, correct = shown(agent, task)
    fit = stay_regression(*data, correct if control else None)
    return fit.coefficient.tolist(), fit.error.tolist()


def test_shares_are_those_counted_one_by_one():
    (action, common, reward), _ = shown(ModelFree(), STEADY, rounds=12, batch=30)
    found = stay_probabilities(action, common, reward)
    for rewarded in (0, 1):
        for usual in (0, 1):
            stays = [
                int(action[t + 1, b] == action[t, b])
                for t in range(11)
                for b in range(30)
                if int(reward[t, b]) == rewarded and int(common[t, b]) == usual
            ]
            assert found.rounds[rewarded, usual] == len(stays)
            assert float(found.probability[rewarded, usual]) == pytest.approx(
                sum(stays) / len(stays)
            )


def test_what_never_happened_has_no_share():
    action = torch.tensor([[0], [0], [1]])
    found = stay_probabilities(action, action > 5, torch.zeros(3, 1))
    assert found.rounds.tolist() == [[2, 0], [0, 0]]
    assert float(found.probability[0, 0]) == 0.5
    assert bool(found.probability.flatten()[1:].isnan().all())


@pytest.mark.parametrize("agent", [ModelFree(), ModelBased()])
def test_coefficients_and_errors_are_the_exact_log_odds(agent):
    data, _ = shown(agent, STEADY, batch=200)
    p, n = stay_probabilities(*data)
    odds = (p / (1 - p)).log()
    exact = [
        odds.sum() / 4,
        (odds[1] - odds[0]).sum() / 4,
        (odds[:, 1] - odds[:, 0]).sum() / 4,
        (odds[1, 1] - odds[1, 0] - odds[0, 1] + odds[0, 0]) / 4,
    ]
    fit = stay_regression(*data)
    assert fit.coefficient.tolist() == pytest.approx([float(x) for x in exact], abs=1e-9)
    error = float((1 / (n * p * (1 - p))).sum().sqrt()) / 4
    assert fit.error.tolist() == pytest.approx([error] * 4)


def test_with_five_predictors_it_agrees_with_scikit_learn():
    (action, common, reward), correct = shown(ModelFree(), STEADY, batch=100)
    fit = stay_regression(action, common, reward, correct)
    r, c, k = 2 * reward[:-1] - 1, 2.0 * common[:-1] - 1, 2.0 * correct[:-1] - 1
    x = torch.stack([r, c, r * c, k], -1).reshape(-1, 4)
    stay = (action[1:] == action[:-1]).flatten()
    peer = LogisticRegression(C=math.inf, solver="newton-cholesky", tol=1e-10)
    peer.fit(x.double().numpy(), stay.numpy())
    expected = [float(peer.intercept_[0]), *peer.coef_[0].tolist()]
    assert fit.coefficient.tolist() == pytest.approx(expected, abs=1e-7)
    assert len(fit.error) == len(STAY_TERMS) == 5


def test_standard_errors_cover_what_repetition_scatters():
    generator = seeded()
    beta = torch.tensor([0.3, -0.8], dtype=torch.float64)
    x = torch.stack([torch.ones(400), torch.randn(400, generator=generator)], 1).double()
    fits = []
    for _ in range(300):
        y = torch.bernoulli(torch.sigmoid(x @ beta), generator=generator)
        fits.append(logistic_regression(x, y))
    scatter = torch.stack([fit.coefficient for fit in fits]).std(0)
    stated = torch.stack([fit.error for fit in fits]).mean(0)
    torch.testing.assert_close(scatter, stated, rtol=0.17, atol=0)  # four standard errors


def test_where_rounds_are_independent_repeating_shows_as_reward_and_planning_as_interaction():
    effect, error = effects(ModelFree(), FORGETFUL)
    assert effect[REWARD] > 0.5
    assert abs(effect[INTERACTION]) < 4 * error[INTERACTION]
    assert abs(effect[TRANSITION]) < 4 * error[TRANSITION]
    effect, error = effects(ModelBased(), FORGETFUL)
    assert effect[INTERACTION] > 0.35
    assert abs(effect[REWARD]) < 4 * error[REWARD]


def test_where_the_good_place_lasts_repeating_passes_for_planning_unless_correctness_is_held():
    effect, _ = effects(ModelFree(), STEADY)
    assert effect[REWARD] > 0.5
    assert effect[INTERACTION] > 0.5
    effect, error = effects(ModelFree(), STEADY, control=True)
    assert effect[REWARD] > 0.5
    assert effect[CORRECT] > 0.5
    assert abs(effect[INTERACTION]) < 0.05
    effect, error = effects(ModelBased(), STEADY, control=True)
    assert effect[INTERACTION] > 0.3
    assert abs(effect[REWARD]) < 4 * error[REWARD]


def test_acting_at_random_shows_nothing():
    effect, error = effects(ModelFree(slope=0.0), STEADY, control=True)
    assert all(abs(b) < 4 * e for b, e in zip(effect, error, strict=True))


def test_rewards_above_zero_count_as_paid():
    (action, common, reward), _ = shown(ModelFree(), STEADY, batch=50)
    half = stay_regression(action, common, 0.5 * reward)
    torch.testing.assert_close(half, stay_regression(action, common, reward))


def test_bad_input_is_refused():
    (action, common, reward), correct = shown(ModelFree(), STEADY, batch=50)
    with pytest.raises(ValueError, match="1 round given"):
        stay_regression(action[:1], common[:1], reward[:1])
    with pytest.raises(ValueError, match="do not vary by themselves"):
        stay_regression(action, torch.ones_like(common), reward)
    with pytest.raises(ValueError, match="do not vary by themselves"):
        stay_regression(action, common, reward, torch.ones_like(correct))
    certain, _ = shown(BayesFilter(STEADY), STEADY, batch=50)
    with pytest.raises(ValueError, match="a coefficient is infinite"):
        stay_regression(*certain)
