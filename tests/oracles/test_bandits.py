"""Hand-made bandit agents against plain Python, and against what others have measured."""

import math

import plain_bandits as plain
import pytest
import torch
from scipy import stats

from metarl_lib import oracles

RUNS = 20_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def totals(policy, arms, pulls, runs=RUNS, seed=0, dtype=torch.float32):
    """Total rewards on bandits with p ~ U(0, 1); `policy` may be a function of p."""
    generator = seeded(seed)
    p = torch.rand(runs, arms, generator=generator, dtype=dtype)
    policy = oracles.best_arm(p) if policy is oracles.best_arm else policy
    return oracles.simulate(policy, p, pulls, generator).sum(0)


def mean_and_error(values):
    values = values.double()
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


POLICIES = {
    "random": (oracles.random_policy, plain.random_policy),
    "greedy": (oracles.greedy, plain.greedy),
    "epsilon-greedy": (oracles.epsilon_greedy(0.3), plain.epsilon_greedy(0.3)),
    "ucb": (oracles.ucb(0.2), plain.ucb(0.2)),
    "ucb1": (oracles.ucb(1.0), plain.ucb(1.0)),
    "thompson": (oracles.thompson, plain.thompson),
    "optimistic": (oracles.optimistic_thompson, plain.optimistic_thompson),
    "ucb, narrow": (oracles.ucb(0.0), plain.ucb(0.0)),
    "ucb, wide": (oracles.ucb(2.2), plain.ucb(2.2)),
}
# Counts of two arms; the time is the number of pulls.
COUNTS = [
    ((0, 0), (0, 0)),
    ((3, 1), (0, 0)),
    ((1, 0), (0, 1)),
    ((2, 2), (0, 0)),
    ((2, 2), (1, 1)),
    ((4, 1), (1, 0)),
    ((1, 3), (2, 5)),
    ((9, 3), (2, 0)),
    ((20, 20), (1, 1)),
    ((13, 7), (3, 1)),
    ((14, 6), (3, 2)),
    ((2, 0), (0, 1)),
]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arms_are_chosen_with_the_right_probability(name, dtype):
    policy, reference = POLICIES[name]
    generator = seeded()
    for counts in COUNTS:
        table = torch.tensor([counts] * RUNS, dtype=dtype)
        time = int(table[0].sum())
        arm = policy(table[..., 0], table[..., 1], time, 100, generator)
        assert arm.shape == (RUNS,)
        chance = float(reference(counts, time)[1])
        error = math.sqrt(chance * (1 - chance) / RUNS)
        assert float(arm.double().mean()) == pytest.approx(chance, abs=4 * error + 1e-9), counts


@pytest.mark.parametrize("name", ["random", "greedy", "epsilon-greedy", "ucb"])
def test_simulated_totals_are_those_of_the_whole_tree(name):
    policy, reference = POLICIES[name]
    exact = plain.expected_total(reference, 3, 5)
    mean, error = mean_and_error(totals(policy, 3, 5, runs=200_000))
    assert mean == pytest.approx(exact, abs=4 * error)


def test_simulated_totals_of_thompson_are_those_of_the_whole_tree():
    exact = plain.expected_total(plain.thompson, 2, 4)
    mean, error = mean_and_error(totals(oracles.thompson, 2, 4, runs=200_000, dtype=torch.float64))
    assert mean == pytest.approx(exact, abs=4 * error)


# Measured elsewhere by 20,000 runs; so the difference has √2 times the standard error of ours.
KNOWN = [
    ("greedy", 5, 10, 6.61),
    ("greedy", 10, 10, 6.70),
    ("greedy", 50, 10, 6.70),
    ("greedy", 5, 100, 75.7),
    ("greedy", 10, 100, 79.4),
    ("thompson", 5, 10, 5.85),
    ("thompson", 10, 10, 5.58),
    ("thompson", 50, 10, 5.14),
    ("thompson", 5, 100, 75.0),
    ("thompson", 10, 100, 77.1),
    ("ucb", 5, 100, 77.4),
    ("ucb", 10, 100, 81.0),
]


@pytest.mark.parametrize(("name", "arms", "pulls", "known"), KNOWN)
def test_totals_are_those_that_others_measured(name, arms, pulls, known):
    mean, error = mean_and_error(totals(POLICIES[name][0], arms, pulls))
    assert mean == pytest.approx(known, abs=4 * math.sqrt(2) * error)


@pytest.mark.parametrize(("arms", "pulls"), [(1, 7), (5, 10), (10, 40)])
def test_closed_forms_of_the_random_and_the_informed_agent(arms, pulls):
    mean, error = mean_and_error(totals(oracles.random_policy, arms, pulls))
    assert mean == pytest.approx(oracles.random_total(pulls), abs=4 * error)
    assert oracles.random_total(pulls) == pulls / 2
    mean, error = mean_and_error(totals(oracles.best_arm, arms, pulls))
    assert mean == pytest.approx(oracles.best_arm_total(arms, pulls), abs=4 * error)
    assert oracles.best_arm_total(4, 100) == 80


def test_no_agent_beats_the_optimum():
    best = oracles.bayes_optimal(5, 10)
    index = oracles.gittins(oracles.FiniteHorizonGittins(10))
    for policy in [index, *(policy for policy, _ in POLICIES.values())]:
        mean, error = mean_and_error(totals(policy, 5, 10))
        assert mean < best + 4 * error
    mean, error = mean_and_error(totals(index, 5, 10))
    assert mean > best - 0.05


def test_rewards_are_time_major_and_follow_p():
    p = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]).repeat(100, 1)
    rewards = oracles.simulate(oracles.ucb(0.0), p, 7, seeded())
    assert rewards.shape == (7, 300)
    assert rewards.sum(0).view(100, 3).unique(dim=0).tolist() == [[5, 0, 7]]
    assert rewards[3:, 0::3].min() == 1  # after each arm was tried, the best one only
    assert rewards[0, 0::3].mean() == pytest.approx(1 / 3, abs=0.2)  # which comes first is chance


def test_the_policy_is_told_time_and_pulls_and_counts():
    seen = []

    def policy(successes, failures, time, pulls, generator):
        seen.append((time, pulls))
        assert torch.equal((successes + failures).sum(1), torch.full((4,), float(time)))
        assert torch.equal(successes[:, 1] + failures[:, 1], torch.full((4,), float(time)))
        assert torch.equal(successes[:, 1], torch.tensor([0.0, 0.0, time, time]))
        return torch.ones(4, dtype=torch.long)

    p = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.5, 1.0]])
    oracles.simulate(policy, p, 3, seeded())
    assert seen == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_generators_give_equal_runs(dtype):
    one, two, other = (
        totals(oracles.optimistic_thompson, 3, 20, runs=50, seed=seed, dtype=dtype)
        for seed in (1, 1, 2)
    )
    assert one.dtype == dtype
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_the_posterior_is_a_beta_distribution():
    s, f = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    mean, deviation = oracles.posterior(s.double(), f.double())
    exact = stats.beta(s.numpy() + 1, f.numpy() + 1)
    torch.testing.assert_close(mean, torch.from_numpy(exact.mean()))
    torch.testing.assert_close(deviation, torch.from_numpy(exact.std()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: oracles.simulate(oracles.greedy, torch.rand(2, 3), 0, seeded()), "pulls=0: .*1"),
        (lambda: oracles.simulate(oracles.greedy, torch.full((2, 3), 1.5), 3, seeded()), "p holds"),
        (
            lambda: oracles.simulate(oracles.greedy, torch.full((2, 3), -0.1), 3, seeded()),
            "p holds",
        ),
        (
            lambda: oracles.simulate(oracles.greedy, torch.full((2, 3), math.nan), 3, seeded()),
            "p ho",
        ),
        (lambda: oracles.epsilon_greedy(1.5), "epsilon=1.5: .* 0 to 1"),
        (lambda: oracles.ucb(-1.0), "c=-1.0: "),
        (lambda: oracles.ucb(math.nan), "c=nan: "),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
