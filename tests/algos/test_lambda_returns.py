"""λ-returns against a plain loop over rows and steps, and their slopes against differences."""

import pytest
import torch

from metarl_lib.algos.lambda_returns import lambda_returns


def drawn(steps=9, rows=4, seed=0):
    g = torch.Generator().manual_seed(seed)

    def uniform():
        return torch.rand(steps, rows, generator=g, dtype=torch.float64)

    ended = uniform() < 0.3
    terminated = ended & (uniform() < 0.5)
    values = (uniform() - 0.5).masked_fill(terminated, 0.0)
    return uniform() - 0.5, values, ended, uniform(), uniform()


def plain(rewards, values, ended, gammas, lambdas):
    """Written from the definition: a sum over the steps at which one may stop and trust V."""
    steps, rows = rewards.shape
    found = torch.zeros(steps, rows, dtype=torch.float64)
    for b in range(rows):
        for t in range(steps):
            reach, total, k = 1.0, 0.0, t
            while True:
                total += reach * float(rewards[k, b])
                if ended[k, b] or k == steps - 1:
                    total += reach * float(gammas[k, b]) * float(values[k, b])
                    break
                stop = 1 - float(lambdas[k, b])
                total += reach * float(gammas[k, b]) * stop * float(values[k, b])
                reach *= float(gammas[k, b]) * float(lambdas[k, b])
                k += 1
            found[t, b] = total
    return found


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 13])
def test_it_is_the_plain_sum(steps) -> None:
    parts = drawn(steps, seed=steps)
    torch.testing.assert_close(lambda_returns(*parts), plain(*parts), rtol=0, atol=1e-12)


def test_one_gamma_and_lambda_serve_all_steps() -> None:
    rewards, values, ended, _, _ = drawn()
    gamma, lambda_ = torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    full = torch.full_like(rewards, 1.0)
    one = lambda_returns(rewards, values, ended, gamma, lambda_)
    torch.testing.assert_close(one, plain(rewards, values, ended, 0.9 * full, 0.7 * full))


def test_its_slopes_are_those_of_differences() -> None:
    """Central differences in float64, of every γ and λ, and of the rewards and values."""
    rewards, values, ended, gammas, lambdas = drawn(6, 2)
    parts = [p.requires_grad_() for p in (rewards, values, gammas, lambdas)]

    def function(r, v, g, m):
        return lambda_returns(r, v, ended, g, m)

    assert torch.autograd.gradcheck(function, parts, eps=1e-6, atol=1e-9)
    assert torch.autograd.gradgradcheck(function, parts, eps=1e-6, atol=1e-9)


def test_the_slope_in_gamma_obeys_its_recursion() -> None:
    """∂g_t/∂γ = (1 − λ) V + λ g_{t+1} + γ λ ∂g_{t+1}/∂γ without ends of episodes."""
    rewards, values, ended, _, _ = drawn(7, 3)
    ended = torch.zeros_like(ended)
    gamma, lambda_ = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)

    def returns(g):
        return lambda_returns(rewards, values, ended, g, lambda_)

    slope = torch.autograd.functional.jacobian(returns, gamma)
    g, behind = returns(gamma), torch.zeros(3, dtype=torch.float64)
    for t in reversed(range(7)):
        ahead = values[t] if t == 6 else 0.4 * values[t] + 0.6 * g[t + 1]
        behind = ahead + (0.0 if t == 6 else 0.8 * 0.6 * behind)
        torch.testing.assert_close(slope[t], behind, rtol=0, atol=1e-12)
