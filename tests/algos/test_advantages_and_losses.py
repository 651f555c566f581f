"""Advantages and losses against sums written out, numbers by hand, and Stable-Baselines3."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from metarl_lib.algos.losses import gae, policy_gradient_loss, ppo_loss, standardise, value_loss


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def random_case(steps: int = 9, rows: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Rows with ends of both kinds; next values are 0 where an episode terminated."""
    stream = torch.Generator().manual_seed(seed)

    def draw() -> torch.Tensor:
        return torch.randn(steps, rows, generator=stream, dtype=torch.float64)

    rewards, values, last = draw(), draw(), draw()
    terminated, truncated = draw() > 1.0, draw() > 1.0
    ended = terminated | truncated
    following = torch.cat([values[1:], draw()[:1]])
    next_values = torch.where(ended, torch.where(terminated, 0.0, last), following)
    assert (terminated & ~truncated).any()
    assert (truncated & ~terminated).any()
    return {"rewards": rewards, "values": values, "next_values": next_values, "ended": ended}


def every_k(case: dict[str, torch.Tensor], discount: float, decay: float) -> list[list[float]]:
    """Σ_k (γλ)^k δ_{t+k}, up to the end of the episode or of the segment, for each t and row."""
    numbers = {name: tensor.tolist() for name, tensor in case.items()}
    steps, rows = case["rewards"].shape
    found = [[0.0] * rows for _ in range(steps)]
    for b in range(rows):
        for t in range(steps):
            for k in range(steps - t):
                delta = (
                    numbers["rewards"][t + k][b]
                    + discount * numbers["next_values"][t + k][b]
                    - numbers["values"][t + k][b]
                )
                found[t][b] += (discount * decay) ** k * delta
                if numbers["ended"][t + k][b]:
                    break
    return found


def test_gae_by_hand() -> None:
    """γ = λ = 1/2, so that a step further back counts a quarter; δ = (1, 0, 4) without an end."""
    advantages = gae(
        rewards=column(1, 2, 3),
        values=column(2, 4, 1),
        next_values=column(4, 4, 4),
        ended=torch.zeros(3, 1, dtype=torch.bool),
        discount=0.5,
        gae_lambda=0.5,
    )
    assert advantages[:, 0].tolist() == [1 + 0.25 * 1, 0 + 0.25 * 4, 4]


@pytest.mark.parametrize(
    ("kind", "bootstrapped", "wanted"),
    [
        ("running", 4.0, [1.25, 1.0, 4.0]),
        ("terminated", 0.0, [1 + 0.25 * -2, -2.0, 4.0]),
        ("cut off", 6.0, [1 + 0.25 * 1, 1.0, 4.0]),
    ],
)
def test_an_end_stops_the_sum_and_says_what_follows(kind, bootstrapped, wanted) -> None:
    """The second of three steps ends; nothing of the third reaches those before."""
    advantages = gae(
        rewards=column(1, 2, 3),
        values=column(2, 4, 1),
        next_values=column(4, bootstrapped, 4),
        ended=torch.tensor([[False], [kind != "running"], [False]]),
        discount=0.5,
        gae_lambda=0.5,
    )
    assert advantages[:, 0].tolist() == wanted


@pytest.mark.parametrize(("discount", "decay"), [(0.9, 0.8), (1.0, 0.3), (0.5, 1.0), (0.0, 0.7)])
def test_gae_is_the_exponentially_weighted_sum(discount, decay) -> None:
    case = random_case()
    wanted = torch.tensor(every_k(case, discount, decay), dtype=torch.float64)
    torch.testing.assert_close(gae(**case, discount=discount, gae_lambda=decay), wanted)


def test_with_lambda_0_it_is_the_error_of_one_step() -> None:
    case = random_case()
    delta = case["rewards"] + 0.9 * case["next_values"] - case["values"]
    assert torch.equal(gae(**case, discount=0.9, gae_lambda=0.0), delta)


def test_with_lambda_1_it_is_the_discounted_return_less_the_value() -> None:
    """Rewards to the end of the episode, or to that of the segment and the value that follows."""
    case = random_case()
    steps, rows = case["rewards"].shape
    returns = torch.empty(steps, rows, dtype=torch.float64)
    for b in range(rows):
        for t in range(steps):
            total, k = 0.0, t
            while True:
                total += 0.9 ** (k - t) * float(case["rewards"][k, b])
                if case["ended"][k, b] or k == steps - 1:
                    break
                k += 1
            returns[t, b] = total + 0.9 ** (k - t + 1) * float(case["next_values"][k, b])
    found = gae(**case, discount=0.9, gae_lambda=1.0)
    torch.testing.assert_close(found, returns - case["values"])


def test_gae_is_that_of_stable_baselines3() -> None:
    """Without truncation, which its buffer does not know, and with episodes that go on."""
    steps, rows, rng = 12, 5, np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, steps, rows)).astype(np.float32)
    ended = rng.random((steps, rows)) < 0.25
    after = rng.normal(size=rows).astype(np.float32)
    flat = spaces.Box(-1.0, 1.0, (1,), np.float32)
    buffer = RolloutBuffer(steps, flat, flat, "cpu", gae_lambda=0.8, gamma=0.9, n_envs=rows)
    buffer.rewards[:], buffer.values[:] = rewards, values
    buffer.episode_starts[1:] = ended[:-1]
    buffer.compute_returns_and_advantage(torch.from_numpy(after), ended[-1])
    following = torch.from_numpy(np.concatenate([values[1:], after[None]]))
    stop = torch.from_numpy(ended)
    found = gae(
        torch.from_numpy(rewards),
        torch.from_numpy(values),
        torch.where(stop, 0.0, following),
        stop,
        0.9,
        0.8,
    )
    assert 0 < ended.sum() < ended.size
    assert ended[-1].any()
    torch.testing.assert_close(found, torch.from_numpy(buffer.advantages), rtol=1e-5, atol=1e-6)


# The ratio, the advantage, the term of the loss, its derivative by the log-probability. Clipped
# at 0.8 and 1.2: a good action counts at most 1.2, a bad one at least 0.8.
CASES = {
    "good and too likely": (1.5, 2.0, -1.2 * 2.0, 0.0),
    "good and less likely": (0.5, 2.0, -0.5 * 2.0, -0.5 * 2.0),
    "bad and more likely": (1.5, -2.0, 1.5 * 2.0, 1.5 * 2.0),
    "bad and too unlikely": (0.5, -2.0, 0.8 * 2.0, 0.0),
    "good and in between": (1.1, 3.0, -3.3, -3.3),
    "bad and in between": (0.9, -3.0, 2.7, 2.7),
}


@pytest.mark.parametrize("case", CASES)
def test_the_clipped_loss_by_hand(case) -> None:
    ratio, advantage, loss, slope = CASES[case]
    old = column(-0.7)
    new = (old + math.log(ratio)).requires_grad_()
    found = ppo_loss(new, old, column(advantage), 0.2)
    found.backward()
    assert found.item() == pytest.approx(loss)
    assert new.grad.item() == pytest.approx(slope)


def test_the_clipped_loss_is_a_mean() -> None:
    ratios, advantages, losses, _ = (
        column(*numbers) for numbers in zip(*CASES.values(), strict=True)
    )
    old = torch.randn(
        len(CASES), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    found = ppo_loss(old + ratios.log(), old, advantages, 0.2)
    torch.testing.assert_close(found, losses.mean())


def test_where_the_policy_has_not_moved_its_gradient_is_the_policy_gradient() -> None:
    stream = torch.Generator().manual_seed(1)
    old = torch.randn(7, 3, generator=stream, dtype=torch.float64)
    advantages = torch.randn(7, 3, generator=stream, dtype=torch.float64)
    first, second = old.clone().requires_grad_(), old.clone().requires_grad_()
    ppo_loss(first, old, advantages, 0.2).backward()
    policy_gradient_loss(second, advantages).backward()
    torch.testing.assert_close(first.grad, second.grad)
    torch.testing.assert_close(first.grad, -advantages / 21)


def test_the_policy_gradient_loss_by_hand() -> None:
    found = policy_gradient_loss(column(-1, -2, -3), column(4, -5, 6))
    assert found.item() == pytest.approx(-(-4 + 10 - 18) / 3)


def test_the_value_loss_is_half_the_mean_square() -> None:
    values = column(1, 2, 4).requires_grad_()
    found = value_loss(values, column(3, 2, 1))
    found.backward()
    assert found.item() == pytest.approx((4 + 0 + 9) / 6)
    torch.testing.assert_close(values.grad, column(-2, 0, 3) / 3)


def test_standardised_advantages_keep_their_order_and_lose_their_scale() -> None:
    """Numbers 1, 2, 3, 6 have mean 3 and variance (4 + 1 + 0 + 9) / 3."""
    found = standardise(torch.tensor([[1.0, 2.0], [3.0, 6.0]], dtype=torch.float64))
    wanted = torch.tensor([[-2.0, -1.0], [0.0, 3.0]], dtype=torch.float64) / math.sqrt(14 / 3)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=0)


def test_equal_advantages_are_standardised_to_zero() -> None:
    assert torch.equal(standardise(torch.full((3, 2), 0.5)), torch.zeros(3, 2))
