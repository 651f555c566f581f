"""A line through a task's own returns, against least squares by NumPy, row by row."""

import numpy as np
import pytest
import torch
from streams import stream

from metarl_lib.algos.linear_baseline import RIDGE, fit

T, B, NUMBERS = 30, 3, 2
GAMMA = 0.9


def lived() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Observations, rewards and ends, which are others in each row; the last episode goes on."""
    seen = torch.randn(T, B, NUMBERS, generator=stream(1))
    paid = torch.randn(T, B, generator=stream(2))
    ended = torch.zeros(T, B, dtype=torch.bool)
    for b, ends in enumerate(((9, 19, 29), (4, 14, 20), (24,))):
        ended[list(ends), b] = True
    return seen, paid, ended


def plain(seen: np.ndarray, paid: np.ndarray, ended: np.ndarray) -> tuple[list, list]:
    """Values and next values of one row; the ridge is rows of further data that are all 0."""
    returns, clock, ahead, time = [0.0] * T, [], 0.0, 0
    for t in reversed(range(T)):
        ahead = paid[t] + GAMMA * (0.0 if ended[t] else ahead)
        returns[t] = ahead
    for t in range(T):
        clock.append(time)
        time = 0 if ended[t] else time + 1
    tau = np.array(clock) / (max(clock) + 1)
    f = np.stack([tau**k for k in range(4)] + list(seen.T) + list(seen.T**2), 1)
    more = RIDGE**0.5 * np.eye(f.shape[1])
    w, *_ = np.linalg.lstsq(
        np.vstack([f, more]), np.append(returns, np.zeros(len(more))), rcond=None
    )
    values = (f @ w).tolist()
    after = [0.0 if ended[t] or t == T - 1 else values[t + 1] for t in range(T)]
    return values, after


def test_every_row_is_fitted_by_itself() -> None:
    seen, paid, ended = lived()
    found = fit(seen, paid, ended, GAMMA)
    for b in range(B):
        row = (x[:, b].double().numpy() for x in (seen, paid, ended))
        values, after = plain(*row)
        assert found.values[:, b].tolist() == pytest.approx(values, abs=1e-5)
        assert found.next_values[:, b].tolist() == pytest.approx(after, abs=1e-5)
    changed = paid.clone()
    changed[:, 1] += 3.0
    again = fit(seen, changed, ended, GAMMA)
    others = [0, 2]
    assert torch.equal(again.values[:, others], found.values[:, others])
    assert (again.values[:, 1] - found.values[:, 1]).abs().min() > 1


def test_what_is_linear_in_state_and_time_leaves_nothing() -> None:
    """Rewards that only say how far the clock is: the baseline knows all returns beforehand."""
    seen, _, ended = lived()
    ended[:] = (torch.arange(T) % 10 == 9)[:, None]
    left = 9.0 - torch.arange(T) % 10  # steps to the end of the episode
    paid = torch.ones(T, B)
    found = fit(seen, paid, ended, 1.0)
    error = (found.values - (left + 1)[:, None]).square().mean(0)
    assert (error < 1e-3 * left.var()).all()


def test_precision_is_that_of_the_rewards() -> None:
    seen, paid, ended = lived()
    assert fit(seen, paid, ended, GAMMA).values.dtype == torch.float32
    doubled = fit(seen.double(), paid.double(), ended, GAMMA)
    assert doubled.values.dtype == torch.float64
    torch.testing.assert_close(doubled.values.float(), fit(seen, paid, ended, GAMMA).values)
