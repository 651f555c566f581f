"""Agents made by hand for the Bernoulli bandit, p_i ~ U(0, 1), and the game that they play.

Every agent is a policy: what B independent bandits have shown so far, `successes` and `failures`
`[B, k]`, goes in, and an arm for each comes out. Where several arms are equally good in the eyes
of a policy, it draws one of them.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metarl_lib.oracles.checks import check_count, check_range

Counts = Float[Tensor, "B k"]
Arms = Int[Tensor, " B"]


@runtime_checkable
class Policy(Protocol):
    """What chooses an arm in each of B bandits."""

    def __call__(
        self,
        successes: Counts,
        failures: Counts,
        time: int,
        pulls: int,
        generator: torch.Generator,
    ) -> Arms:
        """The arms to pull next.

        Args:
            successes, failures: how often each arm has paid, and has not.
            time: t, pulls made so far, 0 at the first choice.
            pulls: n, pulls in all.
            generator: the stream of whatever is drawn.
        """


@runtime_checkable
class Index(Protocol):
    """What an arm is worth, by its own counts and the pulls left; see `gittins_index.py`."""

    def __call__(self, successes: Counts, failures: Counts, left: int) -> Counts:
        """The index of each arm, with `left` pulls to come."""


@torch.no_grad()
def simulate(
    policy: Policy, p: Counts, pulls: int, generator: torch.Generator
) -> Float[Tensor, "pulls B"]:
    """Rewards, 0 or 1, of a policy on B bandits with the probabilities p.

    Args:
        policy: see `Policy`.
        p: how often each arm pays.
        pulls: n.
        generator: the stream of the policy's draws and of the rewards.

    Raises:
        ValueError: for p outside [0, 1] or pulls < 1.
    """
    check_count("pulls", pulls)
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError("p holds numbers outside [0, 1] or NaN: give the probabilities of arms")
    successes, failures = torch.zeros_like(p), torch.zeros_like(p)
    rewards = p.new_zeros(pulls, len(p))
    for time in range(pulls):
        arm = policy(successes, failures, time, pulls, generator).unsqueeze(1)
        draw = _uniform(arm, p, generator)
        reward = (draw < p.gather(1, arm)).to(p.dtype)
        successes.scatter_add_(1, arm, reward)
        failures.scatter_add_(1, arm, 1 - reward)
        rewards[time] = reward.squeeze(1)
    return rewards


def random_total(pulls: int) -> float:
    """n / 2, the expected total reward of pulling arms at random."""
    return pulls / 2


def best_arm_total(arms: int, pulls: int) -> float:
    """n k / (k + 1), the expected total reward of who knows p: n times the mean of the largest.

    Less the total of an agent it is the agent's expected (Bayes) regret.
    """
    return pulls * arms / (arms + 1)


def posterior(successes: Tensor, failures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of Beta(s + 1, f + 1), what is known of each p: `[B, k]` each."""
    count = successes + failures + 2
    mean = (successes + 1) / count
    return mean, (mean * (1 - mean) / (count + 1)).sqrt()


def random_policy(
    successes: Counts, failures: Counts, time: int, pulls: int, generator: torch.Generator
) -> Arms:
    """Any arm, whatever was shown."""
    return _random_arm(successes, generator)


def greedy(
    successes: Counts, failures: Counts, time: int, pulls: int, generator: torch.Generator
) -> Arms:
    """The arm of the largest posterior mean."""
    mean, _ = posterior(successes, failures)
    return _argmax(mean, generator)


def thompson(
    successes: Counts, failures: Counts, time: int, pulls: int, generator: torch.Generator
) -> Arms:
    """Thompson sampling: the best arm if p were a draw from its posterior (Thompson, 1933)."""
    return _sample_posterior(successes, failures, generator).argmax(1)


def optimistic_thompson(
    successes: Counts, failures: Counts, time: int, pulls: int, generator: torch.Generator
) -> Arms:
    """Thompson sampling with draws that are never below the posterior mean (May et al., 2012)."""
    mean, _ = posterior(successes, failures)
    return _argmax(_sample_posterior(successes, failures, generator).maximum(mean), generator)


def epsilon_greedy(epsilon: float) -> Policy:
    """`greedy`, but with probability ε any arm."""
    check_range("epsilon", epsilon, 0.0, 1.0)

    def choose(
        successes: Counts, failures: Counts, time: int, pulls: int, generator: torch.Generator
    ) -> Arms:
        best = greedy(successes, failures, time, pulls, generator)
        explore = torch.rand(len(best), generator=generator, device=best.device) < epsilon
        return torch.where(explore, _random_arm(successes, generator), best)

    return choose


def ucb(c: float) -> Policy:
    """Upper confidence bounds: each arm once, then the largest s_i / n_i + c √(2 log t / n_i).

    n_i = s_i + f_i, and t is the number of pulls so far. UCB1 (Auer et al., 2002) has c = 1.
    """
    check_range("c", c, 0.0, math.inf)

    def choose(
        successes: Counts, failures: Counts, time: int, pulls: int, generator: torch.Generator
    ) -> Arms:
        n = successes + failures
        bound = successes / n + c * (2 * math.log(max(time, 1)) / n).sqrt()
        return _argmax(bound.where(n > 0, math.inf), generator)

    return choose


def gittins(index: Index) -> Policy:
    """The arm of the largest index, such as that of `FiniteHorizonGittins(pulls)`."""

    def choose(
        successes: Counts, failures: Counts, time: int, pulls: int, generator: torch.Generator
    ) -> Arms:
        return _argmax(index(successes, failures, pulls - time), generator)

    return choose


def best_arm(p: Counts) -> Policy:
    """The oracle: it knows p and always pulls the best arm."""
    best = p.argmax(1)

    def choose(
        successes: Counts, failures: Counts, time: int, pulls: int, generator: torch.Generator
    ) -> Arms:
        return best

    return choose


def _random_arm(counts: Tensor, generator: torch.Generator) -> Tensor:
    batch, arms = counts.shape
    return torch.randint(arms, (batch,), generator=generator, device=counts.device)


def _argmax(value: Tensor, generator: torch.Generator) -> Tensor:
    """The largest of each row, one of them at random where several are equal."""
    largest = value == value.max(1, keepdim=True).values
    return (largest * (1 + _uniform(value, value, generator))).argmax(1)


def _sample_posterior(successes: Tensor, failures: Tensor, generator: torch.Generator) -> Tensor:
    """A draw from each Beta(s + 1, f + 1), as X / (X + Y) with two gamma variables.

    `torch.distributions` draws from the global stream only, so its own sampler is called here.
    """
    x = torch._standard_gamma(successes + 1, generator=generator)
    y = torch._standard_gamma(failures + 1, generator=generator)
    return x / (x + y)


def _uniform(shape: Tensor, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(shape.shape, generator=generator, dtype=like.dtype, device=like.device)
