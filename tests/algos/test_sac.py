"""Soft actor-critic against numbers worked out by hand, and a change of variables on a grid."""

import math

import pytest
import torch
from streams import stream
from torch import nn
from torch.distributions import Normal

from metarl_lib.algos.sac import (
    LOG_STD,
    TanhGaussian,
    TwinQ,
    bellman_loss,
    log_density,
    policy_loss,
    polyak,
    soft_target,
)


def double(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.8, -1.0), (-1.5, 0.5)])
def test_the_density_is_that_of_a_change_of_variables(mean, log_std) -> None:
    """π(a) = dF/da by finite differences of F(a) = P(tanh u < a), and it integrates to 1."""
    a = torch.linspace(-0.999, 0.999, 41, dtype=torch.float64)
    cdf = Normal(double(mean), double(log_std).exp()).cdf
    h = 1e-6
    numerical = (cdf(torch.atanh(a + h)) - cdf(torch.atanh(a - h))) / (2 * h)
    ours = log_density(torch.atanh(a)[:, None], double(mean), double(log_std)).exp()
    torch.testing.assert_close(ours, numerical, rtol=1e-4, atol=1e-7)
    fine = torch.linspace(-1, 1, 2_000_001, dtype=torch.float64)[1:-1]
    density = log_density(torch.atanh(fine)[:, None], double(mean), double(log_std)).exp()
    assert float(density.sum() * 1e-6) == pytest.approx(1, abs=1e-3)


def test_the_density_of_several_actions_is_a_product() -> None:
    u, mean, log_std = double(0.3, -2.0), double(0.1, -1.0), double(-0.5, 0.2)
    parts = [
        float(Normal(m, s.exp()).log_prob(x) - torch.log(1 - torch.tanh(x) ** 2))
        for x, m, s in zip(u, mean, log_std, strict=True)
    ]
    assert float(log_density(u, mean, log_std)) == pytest.approx(sum(parts), rel=1e-12)


@pytest.mark.parametrize("u", [-40.0, 40.0])
def test_the_density_is_finite_where_the_tanh_is_flat(u) -> None:
    """There log(1 − tanh² u) is 2 log 2 − 2|u|, where a computer sees 1 − 1."""
    found = float(log_density(torch.tensor([u]), torch.tensor([u]), torch.tensor([0.0])))
    expected = -0.5 * math.log(2 * math.pi) - (2 * math.log(2) - 2 * abs(u))
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_policy_draws_what_it_says_it_draws() -> None:
    torch.manual_seed(0)
    policy = TanhGaussian(3, 2, (8,)).double()
    x = torch.randn(3, dtype=torch.float64).expand(100_000, -1)
    action, log_prob = policy.sample(x, stream())
    mean, log_std = policy(x[0])
    u = torch.atanh(action)
    assert (u.mean(0) - mean).abs().max() < 0.02
    assert (u.std(0) / log_std.exp() - 1).abs().max() < 0.02
    again = log_density(u[:9], mean, log_std)
    torch.testing.assert_close(log_prob[:9], again, rtol=1e-6, atol=1e-6)
    assert action.abs().max() < 1


def test_deviations_stay_between_their_bounds() -> None:
    policy = TanhGaussian(1, 1, ())
    with torch.no_grad():
        policy.network[0].weight.copy_(torch.tensor([[0.0], [1.0]]))
        policy.network[0].bias.zero_()
    _, log_std = policy(torch.tensor([[-99.0], [0.5], [99.0]]))
    assert log_std.flatten().tolist() == [LOG_STD[0], 0.5, LOG_STD[1]]


def test_two_critics_at_once_are_two_networks() -> None:
    torch.manual_seed(0)
    twin = TwinQ(4, (6, 5)).double()
    x = torch.randn(3, 7, 4, dtype=torch.float64)
    found = twin(x)
    for j in range(2):
        layers: list[nn.Module] = []
        for weight, bias in zip(twin.weights, twin.biases, strict=True):
            layer = nn.Linear(weight.shape[1], weight.shape[2]).double()
            layer.weight.data, layer.bias.data = weight[j].detach().T, bias[j, 0].detach()
            layers += [layer, nn.ReLU()]
        plain = nn.Sequential(*layers[:-1])
        torch.testing.assert_close(found[j], plain(x).squeeze(-1))
    assert (found[0] - found[1]).abs().min() > 1e-4


def test_targets_worked_out_by_hand() -> None:
    """γ = 0.5, α = 0.1: 1 + 0.5 (min(4, 6) + 0.1 · 2) = 3.1; the end of all is the reward."""
    target = soft_target(
        double(1, 1, -2), torch.tensor([False, True, False]),
        torch.stack([double(4, 4, 3), double(6, 6, -1)]), double(-2, -2, 5), 0.5, 0.1,
    )  # fmt: skip
    torch.testing.assert_close(target, double(3.1, 1.0, -2 + 0.5 * (-1 - 0.5)))


def test_losses_worked_out_by_hand() -> None:
    values = torch.stack([double(1, 2), double(3, 0)])
    assert float(bellman_loss(values, double(2, 2))) == pytest.approx(
        0.5 * ((1 + 0) / 2 + (1 + 4) / 2)
    )
    assert float(policy_loss(values, double(-1, 4), 0.5)) == pytest.approx(
        ((-0.5 - 1) + (2 - 0)) / 2
    )


def test_the_slow_copy_moves_a_share_of_the_way() -> None:
    slow, fast = [double(0, 4), double(1)], [double(10, 4), double(-1)]
    polyak(slow, fast, 0.1)
    torch.testing.assert_close(slow, [double(1, 4), double(0.8)])
    torch.testing.assert_close(fast, [double(10, 4), double(-1)])
    for _ in range(200):
        polyak(slow, fast, 0.1)
    torch.testing.assert_close(slow, fast, rtol=1e-6, atol=1e-6)
