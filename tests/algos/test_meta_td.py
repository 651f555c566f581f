"""Learned returns on a chain: the meta-gradient against the oracle's, and where it leads."""

import pytest
import torch

from metarl_lib.algos.meta_td import MetaTD
from metarl_lib.algos.meta_trace import ReturnParameters
from metarl_lib.envs.chain import Chain
from metarl_lib.oracles.chains import ChainProblem, resting_point

pytestmark = pytest.mark.usefixtures("unchecked")


def problem_of(env: Chain, rate: float) -> ChainProblem:
    means, noise = (part.double() for part in env.rewards())
    return ChainProblem(env.features().double(), means, noise, rate)


def episodes(env, learners, count, stream):
    """Features, next features, rewards, ends and next states of whole episodes."""
    n = env.states
    look = torch.cat([env.features(), torch.zeros(1, env.features().shape[1])])
    places = torch.eye(n + 1)[1:, :n]
    ended = torch.zeros(n, learners, dtype=torch.bool)
    ended[-1] = True
    means, noise = env.rewards()
    for _ in range(count):
        chance = torch.randn(n, learners, generator=stream)
        rewards = means[:, None] + noise[:, None] * chance
        wide = (x[:, None].expand(n, learners, -1) for x in (look[:n], look[1:], places))
        seen, after, place = wide
        yield seen, after, rewards, ended, place


@pytest.mark.parametrize("outer", ["full", "inner"])
@pytest.mark.parametrize("decay", [0.0, 0.6, None])
@pytest.mark.parametrize(("kind", "learned"), [("noise", "discount"), ("alias", "lambda")])
def test_the_mean_meta_gradient_is_that_of_the_oracle(kind, learned, decay, outer) -> None:
    """4,000 learners with η held fixed: within five standard errors, number by number."""
    env, rate, start = Chain(kind, 4, 0.5, 0.5), 0.3, 0.6
    fixed = {"discount": 1.0, "lambda_": 1.0} | {
        "discount" if learned == "discount" else "lambda_": start
    }
    q = ReturnParameters((learned,), inputs=4, **fixed)
    size = env.features().shape[1]
    learner = MetaTD(q, size, 4000, learning_rate=rate, meta_rate=0.0, decay=decay, outer=outer)
    found = []
    for k, parts in enumerate(episodes(env, 4000, 50, torch.Generator().manual_seed(5))):
        gradient = learner.learn(*parts)
        if k >= 35:
            found.append(gradient[:, 1:] / (start * (1 - start)))
    numbers = torch.stack(found).double().mean(0)
    assert torch.equal(learner.eta, q.initial()), "a rate of 0 holds η fixed"
    full = torch.ones(3, dtype=torch.float64)
    pair = (start * full, full) if learned == "discount" else (full, start * full)
    expected = problem_of(env, rate).field(*pair, decay, outer)[learned == "lambda"]
    error = numbers.std(0) / 4000**0.5
    assert bool(((numbers.mean(0) - expected).abs() < 5 * error + 1e-6).all())
    assert bool((expected.abs() > 10 * error).any()), "the test would see a wrong sign"


def test_learning_comes_to_rest_where_the_oracle_says() -> None:
    env, rate = Chain("noise", 4, 0.5, 0.5), 0.3
    q = ReturnParameters(("discount",), 0.5, 1.0, inputs=4)
    learner = MetaTD(q, 4, 400, learning_rate=rate, meta_rate=0.1)
    stream = torch.Generator().manual_seed(6)
    for k, parts in enumerate(episodes(env, 400, 300, stream)):
        learner.optimiser.param_groups[0]["lr"] = 0.1 * (1 - k / 300)
        learner.learn(*parts)
    rest = resting_point(problem_of(env, rate), "discount", 0.0, steps=150)
    torch.testing.assert_close(torch.sigmoid(learner.eta)[1:].double(), rest, rtol=0, atol=0.06)


def test_learning_resumed_is_learning_that_never_stopped() -> None:
    env, q = Chain("noise", 4), ReturnParameters(("discount",), 0.5, 1.0, inputs=4)

    def after(learner, parts):
        for part in parts:
            learner.learn(*part)
        return learner.checkpoint()

    parts = list(episodes(env, 3, 6, torch.Generator().manual_seed(1)))
    straight = after(MetaTD(q, 4, 3), parts)
    half = after(MetaTD(q, 4, 3), parts[:3])
    resumed = MetaTD(q, 4, 3)
    resumed.restore(half)
    again = after(resumed, parts[3:])
    assert straight.keys() == again.keys() > {"eta", "theta", "trace"}
    assert all(torch.equal(straight[n], again[n]) for n in straight)
    assert not torch.equal(straight["eta"], half["eta"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"outer": "own"}, "outer='own' is unknown: choose one of full, inner"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0: must be 0 or more"),
        ({"decay": 1.5}, "decay=1.5: must lie between 0 and 1"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        MetaTD(ReturnParameters(), 3, 2, **options)
    assert "\n" not in str(refusal.value)
