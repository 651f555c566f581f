"""The trainer: its step against PyTorch's own, its meta-gradient against differences, resuming."""

import pytest
import torch
from gymnasium import spaces
from toy_envs import Counting

from metarl_lib.algos import MetaGradient, Streams
from metarl_lib.algos.feed_forward import FeedForward
from metarl_lib.algos.meta_settings import MetaSettings

SMALL = {"rows": 3, "segment": 5, "updates": 4}
CHOICES, VECTOR = spaces.Discrete(3), spaces.Box(-1, 1, (2,))


pytestmark = pytest.mark.usefixtures("unchecked")


def streams(seed=0):
    return Streams(*(torch.Generator().manual_seed(seed + 10 * i) for i in range(4)))


def training(seed=0, context=0, double=False, actions=CHOICES, **options) -> MetaGradient:
    env = Counting(actions)
    torch.manual_seed(seed)
    model = FeedForward(
        env.observation_space, env.action_space, hidden=(6,), context=context, embedding=3,
        value_unit=2.0,
    )  # fmt: skip
    made = MetaGradient(env, model, MetaSettings(**(SMALL | options)), streams(seed))
    if double:
        made.model.double()
        made.critic.double()
        made.eta = made.eta.double()
        made.theta = {n: t.double() for n, t in made.theta.items()}
        made.trace = {n: t.double() for n, t in made.trace.items()}
    return made


def segments(made, count, double=False):
    """Segments that an agent has made; of float64 training, those of its twin in float32."""
    if not double:
        return [made.collect()[0] for _ in range(count)]
    found = segments(training(actions=made.env.action_space), count)
    floats = [
        {n: t.double() for n, t in e._asdict().items() if t.is_floating_point()} for e in found
    ]
    return [e._replace(**f) for e, f in zip(found, floats, strict=True)]


def plain_targets(rewards, following, ended, gamma, lambda_):
    found = torch.zeros_like(rewards)
    for b in range(rewards.shape[1]):
        for t in reversed(range(len(rewards))):
            last = t == len(rewards) - 1 or ended[t, b]
            ahead = following[t, b]
            if not last:
                ahead = (1 - lambda_) * ahead + lambda_ * found[t + 1, b]
            found[t, b] = rewards[t, b] + gamma * ahead
    return found


@pytest.mark.parametrize("actions", [CHOICES, VECTOR])
@pytest.mark.parametrize("optimiser", ["sgd", "rmsprop"])
@pytest.mark.parametrize("norm", [1e-3, 100.0])
def test_a_step_is_that_of_pytorchs_optimiser(optimiser, norm, actions) -> None:
    """Two steps; the loss written out, targets by a plain loop, PyTorch's own RMSProp and SGD."""
    made = training(learned="discount", discount=0.8, gae_lambda=0.6, optimiser=optimiser,
                    max_grad_norm=norm, entropy=0.3, value_weight=0.7, actions=actions)  # fmt: skip
    twin = training(actions=actions).model
    twin.load_state_dict(made.model.state_dict())
    if optimiser == "sgd":
        theirs = torch.optim.SGD(twin.parameters(), lr=2e-3)
    else:
        theirs = torch.optim.RMSprop(twin.parameters(), lr=2e-3, alpha=0.99, eps=1e-5)
    for e in segments(made, 2):
        made.learn(e)
        with torch.no_grad():
            following = twin(e.next_observations, ()).values * ~e.terminated
        targets = plain_targets(e.rewards, following, e.ended, 0.8, 0.6)
        out = twin(e.observations, ())
        error = targets - out.values
        gain = out.policy.log_prob(e.actions) * error.detach() / 2
        loss = 0.7 * (error / 2).square().mean() / 2 - gain.mean()
        loss = loss - 0.3 * out.policy.entropy().mean()
        theirs.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), norm)
        theirs.step()
        for name, p in twin.named_parameters():
            torch.testing.assert_close(made.theta[name], p.detach(), rtol=1e-4, atol=1e-6)
            assert torch.equal(made.model.state_dict()[name], made.theta[name])


@pytest.mark.parametrize("actions", [CHOICES, VECTOR])
@pytest.mark.parametrize("optimiser", ["sgd", "rmsprop"])
def test_the_exact_meta_gradient_is_the_slope_by_differences(optimiser, actions) -> None:
    """Through two updates of the agent, in float64, to 1e-6 and better."""
    made = training(double=True, learned="both", trace="exact", optimiser=optimiser,
                    learning_rate=0.05, discount=0.9, actions=actions)  # fmt: skip
    first, second, third = segments(made, 3, double=True)
    start, eta = dict(made.theta), made.eta.clone()
    for e in (first, second):
        made.learn(e)
    found = made.meta_gradient(third)

    def loss(eta):
        theta = start
        for e in (first, second):
            theta = made.step(theta, eta, e)
        return float(made.outer_loss(made.weights(theta), third))

    for i in range(2):
        shift = 1e-4 * torch.eye(2, dtype=torch.float64)[i]
        slope = (loss(eta + shift) - loss(eta - shift)) / 2e-4
        assert float(found[i]) == pytest.approx(slope, abs=1e-6, rel=1e-4)
    assert float(found.abs().min()) > 5e-5


def test_the_truncated_meta_gradient_sees_the_last_update_alone() -> None:
    made = training(double=True, learned="both", optimiser="sgd", learning_rate=0.05)
    first, second, third = segments(made, 3, double=True)
    made.learn(first)
    middle, eta = dict(made.theta), made.eta.clone()
    made.learn(second)
    found = made.meta_gradient(third)
    for i in range(2):
        shift = 1e-4 * torch.eye(2, dtype=torch.float64)[i]
        high, low = (
            float(made.outer_loss(made.weights(made.step(middle, eta + s, second)), third))
            for s in (shift, -shift)
        )
        assert float(found[i]) == pytest.approx((high - low) / 2e-4, abs=1e-6, rel=1e-4)


@pytest.mark.parametrize("critic", ["own", "inner"])
def test_the_outer_loss_uses_the_critic_that_is_named(critic) -> None:
    made = training(learned="discount", outer_critic=critic, outer_discount=0.7, outer_lambda=0.4)
    made.update()
    (e,) = segments(made, 1)
    net = made.critic if critic == "own" else made.model.value_net
    with torch.no_grad():
        values = 2.0 * net(e.observations)[..., 0]
        following = 2.0 * net(e.next_observations)[..., 0] * ~e.terminated
    targets = plain_targets(e.rewards, following, e.ended, 0.7, 0.4)
    found, baseline = made.outer_targets(e)
    torch.testing.assert_close(found, targets)
    torch.testing.assert_close(baseline, values)
    log_probs = made.model(e.observations, ()).policy.log_prob(e.actions)
    expected = -(log_probs * (targets - values) / 2).mean()
    torch.testing.assert_close(made.outer_loss(made.weights(made.theta), e), expected)


def test_the_critic_of_its_own_learns_its_targets() -> None:
    made = training(learned="discount", outer_discount=0.5, learning_rate=0.02, rows=16)
    (e,) = segments(made, 1)

    def error():
        targets, values = made.outer_targets(e)
        return float((targets - values).square().mean())

    before = error()
    for _ in range(200):
        made.teach_critic(e)
    assert error() < 0.3 * before


def test_a_segment_holds_what_came_before_each_reset() -> None:
    made = training(rows=8, segment=12)
    e, finished = made.collect()
    on = ~e.ended[:-1]
    assert torch.equal(e.next_observations[:-1][on], e.observations[1:][on])
    assert not bool(e.observations[1:][~on][:, 1:].any()), "a new episode starts from zero"
    assert float(finished[1]) == int(e.ended.sum()) > 5
    assert bool((e.terminated & ~e.ended).sum() == 0)
    returns, total = torch.zeros(8), 0.0
    for reward, ended in zip(e.rewards, e.ended, strict=True):
        returns += reward
        total += float((returns * ended).sum())
        returns = returns.masked_fill(ended, 0.0)
    assert float(finished[0]) == pytest.approx(total, rel=1e-5)


def test_an_action_beyond_its_bounds_is_judged_as_it_was_drawn() -> None:
    """The environment is given the action within its bounds."""
    made = training(actions=VECTOR, rows=8)
    given, step = [], made.env.step
    made.env.step = lambda state, action, stream: (
        given.append(action) or step(state, action, stream)
    )
    e, _ = made.collect()
    assert float(e.actions.abs().max()) > 1.5
    assert torch.equal(torch.stack(given), e.actions.clamp(-1, 1))


def test_the_agent_is_told_what_its_return_is() -> None:
    made = training(context=1, learned="discount", meta_rate=0.5)
    seen = torch.ones(1, 3, 3)
    for _ in range(3):
        made.update()
        assert torch.equal(made.model.eta, made.eta)
    before = made.model(seen, ()).values.detach()
    made.model.eta += 1.0
    assert float((made.model(seen, ()).values.detach() - before).abs().max()) > 1e-3
    assert float(made.theta["embedding.weight"].abs().max()) > 0
    with pytest.raises(ValueError, match="told 1 numbers and learned='both' are 2"):
        training(context=1, learned="both")


@pytest.mark.parametrize("learned", ["none", "discount", "lambda", "both"])
def test_only_what_is_learned_moves(learned) -> None:
    made = training(learned=learned, discount=0.9, gae_lambda=0.6, meta_rate=0.1)
    for _ in range(3):
        numbers = made.update()
    moved = {n for n, v in (("discount", 0.9), ("lambda", 0.6)) if abs(numbers[n] - v) > 1e-5}
    assert moved == {"none": set(), "both": {"discount", "lambda"}}.get(learned, {learned})


@pytest.mark.parametrize(
    "options",
    [
        {"learned": "none"},
        {"learned": "both", "trace_decay": 0.5},
        {"learned": "both", "trace": "exact", "context": 2},
        {"learned": "both", "context": 2, "actions": VECTOR},
    ],
)
def test_a_training_resumed_is_one_that_never_stopped(options) -> None:
    def after(made, updates):
        for _ in range(updates):
            made.update()
        return made.checkpoint()

    straight = after(training(**options), 5)
    half = after(training(**options), 3)
    resumed = training(7, **options)
    resumed.restore(half)
    again = after(resumed, 2)
    assert straight.keys() == again.keys()
    assert [n for n in straight if not torch.equal(straight[n], again[n])] == []
    assert any(not torch.equal(straight[n], half[n]) for n in straight)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learned": "gamma"}, "learned='gamma' is unknown: choose one of none, discount"),
        ({"outer_critic": "other"}, "outer_critic='other' is unknown: choose one of own, inner"),
        ({"trace_decay": 2.0}, "trace_decay=2.0: must lie between 0 and 1"),
        ({"meta_rate": -1.0}, "meta_rate=-1.0: must be 0 or more"),
        ({"rows": 0}, "rows=0: must be a whole number >= 1"),
        ({"segment": 2.5}, "segment=2.5: must be a whole number >= 1"),
        ({"max_grad_norm": 0.0}, "max_grad_norm=0.0: must be greater than 0"),
        ({"discount": 1.0}, "discount=1.0: must lie strictly between 0 and 1 with learned='disc"),
        ({"discount": 0.0}, "discount=0.0: must lie strictly between 0 and 1"),
        ({"learned": "lambda", "gae_lambda": 1.0}, "gae_lambda=1.0: must lie strictly"),
    ],
)
def test_bad_settings_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        MetaSettings(**options)
    assert "\n" not in str(refusal.value)


def test_what_is_not_learned_may_be_0_or_1() -> None:
    assert MetaSettings(learned="none", discount=1.0, gae_lambda=0.0).discount == 1
    assert MetaSettings(gae_lambda=1.0).gae_lambda == 1
    assert MetaSettings(learned="lambda", discount=1.0).discount == 1


def test_bad_agents_are_refused_in_one_line() -> None:
    box = spaces.Box(-1, 1, (2,))
    with pytest.raises(ValueError, match="must be Discrete or a flat Box"):
        FeedForward(box, spaces.MultiBinary(2))
    with pytest.raises(ValueError, match=r"hidden=\(\): must be one or more"):
        FeedForward(box, spaces.Discrete(2), hidden=())
