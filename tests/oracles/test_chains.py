"""The chains' oracle against plain simulation, and against what can be worked out by hand."""

import pytest
import torch

from metarl_lib.oracles.chains import ChainProblem, best, resting_point


def noisy(n=6, rate=0.3, signal=0.1, noise=0.5):
    odd = torch.arange(n) % 2 == 1
    zero = torch.zeros(n, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    return ChainProblem(eye, zero + signal * ~odd, zero + noise * odd, rate)


def aliased(rate=0.1):
    """s_2 and s_4 look alike."""
    features = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    means = torch.tensor([2, -2, -2, 2], dtype=torch.float64)
    return ChainProblem(features, means, torch.full((4,), 0.7, dtype=torch.float64), rate)


def some(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, generator=g, dtype=torch.float64)


def test_returns_are_those_of_the_definition() -> None:
    problem = noisy()
    gamma, lambda_ = some(5), some(5, 1)
    rewards, values = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator())
    p, q = problem.returns(gamma, lambda_)
    behind = rewards[5]
    found = [behind]
    for i in reversed(range(5)):
        ahead = (1 - lambda_[i]) * values[i + 1] + lambda_[i] * behind
        behind = rewards[i] + gamma[i] * ahead
        found.append(behind)
    torch.testing.assert_close(p @ rewards + q @ values, torch.stack(found[::-1]))


@pytest.mark.parametrize("make", [noisy, aliased])
def test_what_learners_settle_to(make) -> None:
    """20,000 learners, stepped one episode after the other."""
    problem = make()
    n, g = len(problem.means), torch.Generator().manual_seed(2)
    gamma, lambda_ = some(n - 1, 3), some(n - 1, 4)
    p, q = problem.returns(gamma, lambda_)
    theta = torch.zeros(20_000, problem.features.shape[1], dtype=torch.float64)
    for _ in range(150):
        noise = torch.randn(20_000, n, generator=g, dtype=torch.float64)
        rewards = problem.means + problem.noise * noise
        values = theta @ problem.features.mT
        error = rewards @ p.mT + values @ q.mT - values
        theta = theta + problem.learning_rate * error @ problem.features
    mean, covariance = problem.settled(gamma, lambda_)
    margin = 5 * covariance.diagonal().clamp_min(1e-12).sqrt() / 20_000**0.5
    assert bool(((theta.mean(0) - mean).abs() < margin + 1e-4).all())
    torch.testing.assert_close(theta.mT.cov(), covariance, rtol=0.05, atol=5e-4)
    wrong = 0.5 * (problem.values - theta @ problem.features.mT).square().sum(-1).mean()
    assert float(problem.error(gamma, lambda_)) == pytest.approx(float(wrong), rel=0.05)


@pytest.mark.parametrize("learned", [0, 1])
@pytest.mark.parametrize("make", [noisy, aliased])
def test_the_exact_field_is_the_slope_of_the_error(make, learned) -> None:
    problem = make()
    n = len(problem.means) - 1
    numbers = [some(n, 5).requires_grad_(), some(n, 6).requires_grad_()]
    slope = torch.autograd.grad(problem.error(*numbers), numbers)[learned]
    found = problem.field(*numbers, None)[learned]
    torch.testing.assert_close(found, slope, rtol=1e-9, atol=1e-12)
    assert float(slope.abs().max()) > 1e-3


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.7])
def test_on_a_table_of_values_the_field_has_a_closed_form(decay) -> None:
    """With whole returns it is the slope of ½ (bias² + α(1 − μ)/(1 − μ(1 − α)) Var g) / (1 − μ).

    μ = 1 − α makes the cut trace exact.
    """
    problem, alpha = noisy(), 0.3
    gamma, one = some(5, 7).requires_grad_(), torch.ones(5, dtype=torch.float64)
    p, _ = problem.returns(gamma, one)
    bias = problem.values - p @ problem.means
    variance = (p.square() * problem.noise.square()).sum(-1)
    weight = alpha * (1 - decay) / (1 - decay * (1 - alpha))
    loss = 0.5 * (bias.square() + weight * variance).sum()
    (slope,) = torch.autograd.grad(alpha * loss / (1 - decay), gamma)
    found = problem.field(gamma, one, decay)[0]
    torch.testing.assert_close(found, slope, rtol=1e-9, atol=1e-12)
    if decay == 0.7:
        torch.testing.assert_close(found, problem.field(gamma, one, None)[0])


def test_the_best_is_a_minimum_and_slow_exact_learning_rests_there() -> None:
    problem = noisy(noise=0.3)
    found, error = best(problem, "discount")
    one = torch.ones_like(found)
    assert float(problem.error(found, one)) == pytest.approx(error)
    for shift in (-0.02, 0.02):
        for i in range(5):
            other = found.clone()
            other[i] = (other[i] + shift).clamp(0, 1)
            assert float(problem.error(other, one)) >= error - 1e-12
    rest = resting_point(problem, "discount", None, steps=150)
    torch.testing.assert_close(rest, found, rtol=0, atol=5e-3)
    signals = found[1::2]
    assert bool((signals == 1).all()), "no reason to discount before a certain reward"
    assert 0.05 < float(found[0]) < 0.95


def test_nobody_bootstraps_from_states_that_look_alike() -> None:
    problem = aliased(0.05)
    found, _ = best(problem, "lambda")
    assert bool((found[[0, 2]] > 0.9).all())
    assert float(found[1]) < 0.1
    flawed = resting_point(problem, "lambda", 0.0, "inner", steps=150)
    assert float(flawed[0]) < 0.2, "the flawed outer loss sees nothing wrong with them"


def test_an_unknown_kind_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="learned='eta' is unknown: choose one of discount"):
        best(noisy(), "eta")
    with pytest.raises(ValueError, match="outer='own' is unknown: choose one of full, inner"):
        resting_point(noisy(), outer="own")
