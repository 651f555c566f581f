"""The two-step task and its agents against plain Python and against all that can happen."""

import math
from itertools import product

import pytest
import torch

from metarl_lib.oracles import BayesFilter, ModelBased, ModelFree, TwoStepTask

TASK = TwoStepTask()
OTHER = TwoStepTask(common=0.7, reward=0.8, switch=0.2)
AGENTS = {
    "model-free": ModelFree(rate=0.4, slope=3.0, trace=0.6),
    "model-free, reward alone": ModelFree(),
    "model-based": ModelBased(common=0.7, rate=0.4, slope=3.0),
    "bayes": BayesFilter(OTHER),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def is_near(values, expected):
    """Whether the mean of independent values is within four standard errors of what is expected."""
    values = values.double()
    return float(values.mean()) == pytest.approx(
        expected, abs=4 * float(values.std()) / math.sqrt(values.numel())
    )


class Told:
    """Acts on the good place, which it was told; its memory is the number of the round."""

    def __init__(self, good):
        self.good = good

    def begin(self, batch):
        return torch.zeros(batch, 1)

    def probability(self, memory):
        return self.good[int(memory[0])].to(memory.dtype)

    def learn(self, memory, action, place, reward):
        return memory + 1


def test_the_good_place_is_a_chain_that_starts_anywhere():
    good = OTHER.draw_good(50, 20_000, seeded())
    assert good.shape == (50, 20_000)
    assert sorted(good.unique().tolist()) == [0, 1]
    assert is_near(good[0], 0.5)
    switched = good[1:] != good[:-1]
    assert is_near(switched, 0.2)
    assert is_near(switched[1:] & switched[:-1], 0.04)
    same = good[0] == 1  # a switch is as likely from either place
    assert is_near(switched[0][same], 0.2)


def test_nothing_switches_when_it_cannot_and_all_when_it_must():
    assert TwoStepTask(switch=0.0).draw_good(9, 50, seeded()).unique(dim=0).shape[0] == 1
    good = TwoStepTask(switch=1.0).draw_good(9, 50, seeded())
    assert bool((good[1:] != good[:-1]).all())


def test_transitions_and_rewards_follow_the_probabilities():
    record = OTHER.simulate(ModelFree(), 40, 4_000, seeded())
    assert all(field.shape == (40, 4_000) for field in record)
    assert torch.equal(record.common, record.place == record.action)
    for action in (0, 1):
        assert is_near(record.common[record.action == action], 0.7)
    for place, good in product((0, 1), repeat=2):
        here = (record.place == place) & (record.good == good)
        assert is_near(record.reward[here], 0.8 if place == good else 0.2)
    again = record.reward[:, :2000][
        record.common[:, :2000] & (record.place == record.good)[:, :2000]
    ]
    assert is_near(again, 0.8)  # chance of transition and reward are drawn apart


def test_the_random_and_the_informed_agent_earn_their_closed_forms():
    record = TASK.simulate(ModelFree(slope=0.0), 50, 4_000, seeded())
    assert is_near(record.reward, 0.5)
    assert is_near(record.action, 0.5)
    good = TASK.draw_good(50, 4_000, seeded())
    record = TASK.play(Told(good), good, seeded(1))
    assert torch.equal(record.action, good)
    assert torch.equal(record.good, good)
    assert TASK.informed_reward() == pytest.approx(0.74)
    assert OTHER.informed_reward() == pytest.approx(0.7 * 0.8 + 0.3 * 0.2)
    assert is_near(record.reward, 0.74)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def plain_model_free(rounds, rate, slope, trace):
    q, v, chances = [0.5, 0.5], [0.5, 0.5], []
    for action, place, reward in rounds:
        chances.append(sigmoid(slope * (q[1] - q[0])))
        first, second = v[place] - q[action], reward - v[place]
        q[action] += rate * first + rate * trace * second
        v[place] += rate * second
    return chances


def plain_model_based(rounds, common, rate, slope):
    v, chances = [0.5, 0.5], []
    for _, place, reward in rounds:
        plan = [common * v[a] + (1 - common) * v[1 - a] for a in (0, 1)]
        chances.append(sigmoid(slope * (plan[1] - plan[0])))
        v[place] += rate * (reward - v[place])
    return chances


def path_weights(rounds, task, length):
    """The joint probability of each path of the good place and of the rewards so far."""
    weights = {}
    for path in product((0, 1), repeat=length):
        weight = 0.5
        for one, two in zip(path[:-1], path[1:], strict=True):
            weight *= task.switch if one != two else 1 - task.switch
        for good, (_, place, reward) in zip(path, rounds, strict=False):
            weight *= task.reward if (place == good) == (reward == 1) else 1 - task.reward
        weights[path] = weight
    return weights


def plain_bayes(rounds, task):
    """By enumeration of all paths that the good place can have taken."""
    chances = []
    for t in range(len(rounds)):
        weights = path_weights(rounds[:t], task, t + 1)
        one, zero = (sum(w for p, w in weights.items() if p[-1] == place) for place in (1, 0))
        chances.append(0.5 if abs(one - zero) < 1e-12 else float(one > zero))
    return chances


PLAIN = {
    "model-free": lambda rounds: plain_model_free(rounds, 0.4, 3.0, 0.6),
    "model-free, reward alone": lambda rounds: plain_model_free(rounds, 0.3, 5.0, 1.0),
    "model-based": lambda rounds: plain_model_based(rounds, 0.7, 0.4, 3.0),
    "bayes": lambda rounds: plain_bayes(rounds, OTHER),
}


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agents_act_as_one_by_one_in_plain_python(name, dtype):
    agent = AGENTS[name]
    record = OTHER.simulate(agent, 8, 40, seeded(), dtype)
    assert record.reward.dtype == dtype
    memory = agent.begin(40).to(dtype)
    found = []
    for action, place, reward in zip(record.action, record.place, record.reward, strict=True):
        found.append(agent.probability(memory))
        memory = agent.learn(memory, action, place, reward)
    assert memory.dtype == dtype
    columns = torch.stack([record.action, record.place, record.reward.long()], -1)
    expected = [PLAIN[name](columns[:, b].tolist()) for b in range(40)]
    torch.testing.assert_close(
        torch.stack(found, 1), torch.tensor(expected, dtype=dtype), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["model-free", "model-based"])
def test_actions_are_drawn_with_the_probability_of_the_agent(name):
    agent = AGENTS[name]
    record = OTHER.simulate(agent, 3, 100_000, seeded())
    memory = agent.begin(100_000)
    for t in range(3):
        chance = agent.probability(memory)
        excess = record.action[t] - chance
        assert is_near(excess, 0.0)
        assert is_near(excess[chance > 0.5] if t else excess, 0.0)
        memory = agent.learn(memory, record.action[t], record.place[t], record.reward[t])


def test_the_belief_is_the_posterior():
    agent = BayesFilter(OTHER)
    record = OTHER.simulate(agent, 7, 20, seeded(), torch.float64)
    memory = agent.begin(20).double()
    for t in range(7):
        memory = agent.learn(memory, record.action[t], record.place[t], record.reward[t])
    for b in range(20):
        rounds = torch.stack([record.action, record.place, record.reward.long()], -1)[:, b].tolist()
        weights = path_weights(rounds, OTHER, 8)
        posterior = sum(w for p, w in weights.items() if p[-1] == 1) / sum(weights.values())
        assert float(memory[b, 0]) == pytest.approx(posterior, abs=1e-12)


def best_of_all_policies(task, rounds):
    """The largest expected total reward, over all functions of what was seen, by expectimax."""

    def value(weights, left):
        # `weights`: the joint probabilities of the good place of this round and of all seen.
        if not left:
            return 0.0
        best = -1.0
        for action in (0, 1):
            total = 0.0
            for place, reward in product((0, 1), repeat=2):
                reach = task.common if place == action else 1 - task.common
                seen = [
                    weights[good]
                    * reach
                    * (task.reward if (place == good) == (reward == 1) else 1 - task.reward)
                    for good in (0, 1)
                ]
                h = task.switch
                after = [seen[g] * (1 - h) + seen[1 - g] * h for g in (0, 1)]
                total += reward * sum(seen) + value(after, left - 1)
            best = max(best, total)
        return best

    return value([0.5, 0.5], rounds)


@pytest.mark.parametrize(
    "task", [TASK, OTHER, TwoStepTask(0.9, 1.0, 0.1), TwoStepTask(0.6, 0.7, 0.9)]
)
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_the_optimum_is_the_best_of_all_policies(task, rounds):
    exact = best_of_all_policies(task, rounds) / rounds
    assert task.optimal_reward(rounds) == pytest.approx(exact, abs=1e-12)


def test_the_optimum_is_the_mean_over_all_evidence():
    beliefs, total = [(0.5, 1.0)], 0.0  # and how likely they are
    for _ in range(12):
        for belief, chance in beliefs:
            total += chance * (0.26 + 0.48 * max(belief, 1 - belief))
        after = []
        for belief, chance in beliefs:
            for fits in (0.9, 0.1):
                seen = fits * belief + (1 - fits) * (1 - belief)
                one = fits * belief / seen
                after.append((0.975 * one + 0.025 * (1 - one), chance * seen))
        beliefs = after
    assert TASK.optimal_reward(12) == pytest.approx(total / 12, abs=1e-9)


@pytest.mark.parametrize("task", [TASK, OTHER])
def test_the_bayes_filter_earns_the_optimum_and_nobody_more(task):
    best = task.optimal_reward(100)
    assert 0.5 < best < task.informed_reward()
    for agent in (BayesFilter(task), ModelFree(), ModelBased(task.common, 0.5, 10.0)):
        # Rows are independent, rounds of a row are not.
        reward = task.simulate(agent, 100, 20_000, seeded()).reward.mean(0).double()
        error = float(reward.std()) / math.sqrt(20_000)
        assert float(reward.mean()) < best + 4 * error
        if isinstance(agent, BayesFilter):
            assert float(reward.mean()) == pytest.approx(best, abs=4 * error)


def test_equal_generators_give_equal_runs():
    one, two, other = (TASK.simulate(ModelBased(), 9, 5, seeded(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.reward, other.reward)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TwoStepTask(common=0.4), "common=0.4: .* 0.5 to 1"),
        (lambda: TwoStepTask(reward=1.1), "reward=1.1: .* 0.5 to 1"),
        (lambda: TwoStepTask(switch=-0.1), "switch=-0.1: .* 0 to 1"),
        (lambda: TASK.simulate(ModelFree(), 0, 3, seeded()), "rounds=0: "),
        (lambda: TASK.simulate(ModelFree(), 3, 0, seeded()), "batch=0: "),
        (lambda: TASK.optimal_reward(0), "rounds=0: "),
        (lambda: ModelFree(rate=1.5), "rate=1.5: "),
        (lambda: ModelFree(slope=-1.0), "slope=-1.0: "),
        (lambda: ModelFree(trace=2.0), "trace=2.0: "),
        (lambda: ModelBased(rate=-0.5), "rate=-0.5: "),
        (lambda: ModelBased(common=0.2), "common=0.2: "),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
