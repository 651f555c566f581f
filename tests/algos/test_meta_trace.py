"""The trace: exact derivatives through many updates, and the two ways of cutting it short."""

import pytest
import torch

from metarl_lib.algos.lambda_returns import lambda_returns
from metarl_lib.algos.meta_trace import ReturnParameters, advance, through_trace, zero_trace

STATES, STEPS = 4, 7


@pytest.fixture
def problem():
    """A small MDP: four states, two actions, softmax policy and values, three fixed segments."""
    g = torch.Generator().manual_seed(1)
    chance = torch.rand(STATES, 2, STATES, generator=g, dtype=torch.float64)
    pay = torch.randn(STATES, 2, generator=g, dtype=torch.float64)
    segments, state = [], 0
    for _ in range(3):
        rows = []
        for _ in range(STEPS):
            action = int(torch.randint(2, (), generator=g))
            after = int(torch.multinomial(chance[state, action], 1, generator=g))
            rows.append((state, action, float(pay[state, action]), after))
            state = after
        states, actions, rewards, following = zip(*rows, strict=True)
        segments.append(
            (torch.tensor(states), torch.tensor(actions), torch.tensor(rewards).double(),
             torch.tensor(following))
        )  # fmt: skip
    theta = {
        "policy": 0.3 * torch.randn(STATES, 2, generator=g, dtype=torch.float64),
        "values": torch.randn(STATES, generator=g, dtype=torch.float64),
    }
    return theta, segments


def updater(parameters, segment, rate=0.3):
    """θ + f(τ, θ, η) of an actor-critic, with the gradients of softmax written out by hand."""
    states, actions, rewards, following = segment

    def update(theta, eta):
        seen = torch.eye(STATES, dtype=torch.float64)[following]
        gamma, lambda_ = parameters.at(eta, seen)
        values = theta["values"]
        ends = torch.zeros(STEPS, dtype=torch.bool)
        target = lambda_returns(rewards, values[following], ends, gamma, lambda_)
        error = target - values[states]
        probs = theta["policy"].softmax(-1)[states]
        push = error[:, None] * (torch.eye(2, dtype=torch.float64)[actions] - probs)
        who = torch.eye(STATES, dtype=torch.float64)[states]
        return {
            "policy": theta["policy"] + rate * who.mT @ push,
            "values": values + rate * who.mT @ error,
        }

    return update


def outer(theta, segment):
    """Any smooth function of θ."""
    states, actions, rewards, _ = segment
    log_probs = theta["policy"].log_softmax(-1)[states, actions]
    return -(log_probs * rewards).mean() + (rewards - theta["values"][states]).square().mean()


def learned(theta, segments, parameters, eta):
    """θ after all segments but the last, with the same η all along."""
    for segment in segments[:-1]:
        theta = updater(parameters, segment)(theta, eta)
    return theta


@pytest.mark.parametrize("inputs", [None, STATES])
@pytest.mark.parametrize("names", [("discount",), ("lambda",), ("discount", "lambda")])
def test_the_exact_trace_gives_the_slope_of_the_whole_past(problem, names, inputs) -> None:
    """Against central differences in float64 of everything that depends on η."""
    theta, segments = problem
    parameters = ReturnParameters(names, 0.9, 0.8, inputs)
    eta = parameters.initial().double()
    trace, now = zero_trace(theta, eta), theta
    for segment in segments[:-1]:
        now, trace = advance(updater(parameters, segment), now, eta, trace, None)
    leaves = {n: t.requires_grad_() for n, t in now.items()}
    slope = torch.autograd.grad(outer(leaves, segments[-1]), list(leaves.values()))
    found = through_trace(dict(zip(leaves, slope, strict=True)), trace, eta)
    step = 1e-5
    for i in range(parameters.size):
        shift = step * torch.eye(parameters.size, dtype=torch.float64)[i]
        high, low = (
            outer(learned(theta, segments, parameters, eta + s), segments[-1])
            for s in (shift, -shift)
        )
        assert float(found[i]) == pytest.approx(float(high - low) / (2 * step), abs=1e-8)
    assert float(found.abs().max()) > 1e-3


def column(theta, segment, parameters, eta):
    """∂f/∂η of one update, by central differences, `[k, …]`."""
    step, found = 1e-5, {n: [] for n in theta}
    for row in torch.eye(parameters.size, dtype=torch.float64):
        update = updater(parameters, segment)
        high, low = update(theta, eta + step * row), update(theta, eta - step * row)
        for name in theta:
            found[name].append((high[name] - low[name]) / (2 * step))
    return {name: torch.stack(parts) for name, parts in found.items()}


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_a_cut_trace_is_the_decayed_sum_of_single_slopes(problem, decay) -> None:
    theta, segments = problem
    parameters = ReturnParameters(("discount", "lambda"), 0.9, 0.8)
    eta = parameters.initial().double()
    first = column(theta, segments[0], parameters, eta)
    trace, now = zero_trace(theta, eta), theta
    for segment in segments[:2]:
        now, trace = advance(updater(parameters, segment), now, eta, trace, decay)
    middle = updater(parameters, segments[0])(theta, eta)
    second = column(middle, segments[1], parameters, eta)
    for name in theta:
        torch.testing.assert_close(
            trace[name], decay * first[name] + second[name], rtol=0, atol=1e-8
        )
        torch.testing.assert_close(now[name], learned(theta, segments, parameters, eta)[name])


def test_learners_side_by_side_are_learners_alone(problem) -> None:
    """A leading dimension of learners changes nothing, in values or traces."""
    g = torch.Generator().manual_seed(3)
    weights = torch.randn(3, STATES, generator=g, dtype=torch.float64)
    eta = torch.randn(3, 2, generator=g, dtype=torch.float64)

    def update(theta, eta):
        return {"w": theta["w"] + eta[..., :1] * theta["w"].sin() + eta[..., 1:].square()}

    together = advance(update, {"w": weights}, eta, zero_trace({"w": weights}, eta), None)
    for row in range(3):
        alone = {"w": weights[row]}
        new, z = advance(update, alone, eta[row], zero_trace(alone, eta[row]), None)
        torch.testing.assert_close(together[0]["w"][row], new["w"])
        torch.testing.assert_close(together[1]["w"][:, row], z["w"])
        ones = torch.ones_like(alone["w"])
        expected = torch.stack([alone["w"].sin(), 2 * eta[row, 1] * ones])
        torch.testing.assert_close(z["w"], expected)
        found = through_trace({"w": ones}, z, eta[row])
        torch.testing.assert_close(found, expected.sum(-1))
    grads = {"w": torch.ones_like(weights)}
    assert through_trace(grads, together[1], eta).shape == (3, 2)


def test_return_parameters_squash_and_spread() -> None:
    both = ReturnParameters(("discount", "lambda"), 0.9, 0.3)
    assert (both.size, [round(float(x), 6) for x in both.at(both.initial())]) == (2, [0.9, 0.3])
    only = ReturnParameters(("lambda",), 1.0, 0.3, inputs=3)
    seen = torch.eye(3)[[2, 0]]
    gamma, lambda_ = only.at(torch.tensor([0.0, 1.0, 2.0]), seen)
    assert float(gamma) == 1.0
    torch.testing.assert_close(lambda_, torch.sigmoid(torch.tensor([2.0, 0.0])))
    assert ReturnParameters(()).initial().shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"learned": ("gamma",)}, "learned='gamma' is unknown: choose from discount, lambda"),
        ({"learned": ("lambda", "lambda")}, "name each once"),
        ({"discount": 1.0}, "discount=1.0: must lie strictly between 0 and 1"),
        ({"lambda_": 1.1}, "lambda=1.1: must lie between 0 and 1"),
    ],
)
def test_bad_return_parameters_are_refused_in_one_line(arguments, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        ReturnParameters(**arguments)
    assert "\n" not in str(refusal.value)
