"""The agent: heads against closed forms, memory against a loop, and `predict` under SB3."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from stable_baselines3.common.evaluation import evaluate_policy
from torch import nn
from toy_envs import Recall

from metarl_lib.algos import ActorCritic
from metarl_lib.algos.actor_critic import draw
from metarl_lib.cores import GRU, LSTM, MetODS
from metarl_lib.envs.adapters import SB3VecEnv

CORES = {
    "gru": lambda size: GRU(size, 6),
    "lstm": lambda size: LSTM(size, 6),
    "metods": lambda size: MetODS(size, 6, depth=2),
}
DISCRETE = spaces.Discrete(4)
BOX = spaces.Box(np.array([-1.0, -0.2], np.float32), np.array([0.5, 3.0], np.float32))


def seen(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


def agent(core: str = "gru", actions: spaces.Space = DISCRETE, seed: int = 0) -> ActorCritic:
    """An agent of three inputs whose policy is far from uniform and whose biases count."""
    torch.manual_seed(seed)
    model = ActorCritic(CORES[core](3), seen(3), actions, log_std=-0.4)
    with torch.no_grad():
        model.policy_head.weight.mul_(600)
        model.policy_head.bias.normal_()
        model.value_head.bias.normal_()
        if actions is BOX:
            model.log_std.copy_(torch.tensor([-0.4, 0.7]))
    return model


def some(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("core", CORES)
def test_a_pass_through_time_is_a_loop_of_steps_row_by_row(core) -> None:
    """Each row alone, its memory the initial one at a reset, and otherwise carried on."""
    model, xs = agent(core), some(7, 3, 3)
    state = model(some(2, 3, 3, seed=2), model.initial_state(3)).state
    resets = torch.zeros(7, 3, dtype=torch.bool)
    resets[[0, 3, 5, 6], [1, 0, 0, 2]] = True
    out = model(xs, state, resets)
    for row in range(3):
        memory = tuple(s[row : row + 1] for s in state)
        for t in range(7):
            memory = model.initial_state(1) if resets[t, row] else memory
            one = model.step(xs[t, row : row + 1], memory)
            memory = one.state
            torch.testing.assert_close(out.values[t, row], one.values[0])
            torch.testing.assert_close(out.policy.logits[t, row], one.policy.logits[0])
        for whole, part in zip(out.state, memory, strict=True):
            torch.testing.assert_close(whole[row], part[0])


def by_hand(model: ActorCritic, x: torch.Tensor) -> tuple[list[list[float]], list[float]]:
    """What both heads say of each row, in Python numbers."""
    y = model.core.step(x, model.initial_state(len(x)))[0].tolist()

    def read(head: nn.Linear, row: list[float]) -> list[float]:
        rows = zip(head.weight.tolist(), head.bias.tolist(), strict=True)
        return [b + sum(w * v for w, v in zip(ws, row, strict=True)) for ws, b in rows]

    return [read(model.policy_head, row) for row in y], [
        read(model.value_head, row)[0] for row in y
    ]


def test_a_discrete_policy_is_a_softmax() -> None:
    model, x = agent(), some(5, 3)
    out = model.step(x, model.initial_state(5))
    logits, values = by_hand(model, x)
    actions = torch.tensor([0, 1, 2, 3, 1])
    log_probs, entropies = out.policy.log_prob(actions).tolist(), out.policy.entropy().tolist()
    for row, action in enumerate(actions.tolist()):
        total = sum(math.exp(v) for v in logits[row])
        chances = [math.exp(v) / total for v in logits[row]]
        assert log_probs[row] == pytest.approx(math.log(chances[action]), abs=1e-5)
        entropy = -sum(p * math.log(p) for p in chances)
        assert entropies[row] == pytest.approx(entropy, abs=1e-5)
        assert out.values[row].item() == pytest.approx(values[row], abs=1e-5)
    assert min(entropies) < 0.9 * math.log(4)


def test_a_policy_over_vectors_is_normal_with_one_deviation_for_each_dimension() -> None:
    model, x = agent(actions=BOX), some(5, 3)
    out = model.step(x, model.initial_state(5))
    means, values = by_hand(model, x)
    actions = some(5, 2, seed=3)
    log_probs, deviations = out.policy.log_prob(actions).tolist(), (math.exp(-0.4), math.exp(0.7))
    for row in range(5):
        wanted = sum(
            stats.norm(mean, deviation).logpdf(action)
            for mean, deviation, action in zip(
                means[row], deviations, actions[row].tolist(), strict=True
            )
        )
        assert log_probs[row] == pytest.approx(wanted, abs=1e-4)
        assert out.values[row].item() == pytest.approx(values[row], abs=1e-5)
    entropy = 2 * 0.5 * math.log(2 * math.pi * math.e) - 0.4 + 0.7
    assert out.policy.entropy().tolist() == pytest.approx([entropy] * 5, abs=1e-5)


@pytest.mark.parametrize("actions", [DISCRETE, BOX], ids=["discrete", "vectors"])
def test_at_the_start_the_policy_says_next_to_nothing(actions) -> None:
    """The chances are nearly equal, or the means nearly 0 with the deviation that was asked for."""
    torch.manual_seed(0)
    model = ActorCritic(GRU(3, 50), seen(3), actions, log_std=-1.5)
    policy = model.step(10 * some(20, 3), model.initial_state(20)).policy
    if actions is DISCRETE:
        assert (policy.probs - 0.25).abs().max() < 0.01
        assert policy.probs.std(0).max() > 0
    else:
        assert policy.mean.abs().max() < 0.03
        assert torch.equal(policy.stddev, torch.full((20, 2), -1.5).exp())


def test_values_count_in_their_unit() -> None:
    models = []
    for unit in (1.0, 250.0):
        torch.manual_seed(0)
        models.append(ActorCritic(GRU(3, 6), seen(3), DISCRETE, value_unit=unit))
    xs = some(4, 2, 3)
    single, many = (model(xs, model.initial_state(2)) for model in models)
    torch.testing.assert_close(many.values, 250 * single.values)
    assert torch.equal(many.policy.logits, single.policy.logits)
    for unit in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match=f"value_unit={unit}: must be greater than 0"):
            ActorCritic(GRU(3, 6), seen(3), DISCRETE, value_unit=unit)


def test_an_encoder_stands_before_the_core() -> None:
    """Seven numbers go through it into a core of three."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(7, 3), nn.Tanh())
    with_it = ActorCritic(GRU(3, 6), seen(7), DISCRETE, encoder=encoder)
    without = ActorCritic(with_it.core, seen(3), DISCRETE)
    without.value_head.load_state_dict(with_it.value_head.state_dict())
    xs, state = some(4, 2, 7), with_it.initial_state(2)
    inside = encoder(xs)
    assert torch.equal(with_it(xs, state).values, without(inside, state).values)
    assert torch.equal(with_it.step(xs[0], state).values, without.step(inside[0], state).values)
    assert {id(p) for p in encoder.parameters()} <= {id(p) for p in with_it.parameters()}


def test_vectors_are_clipped_to_their_bounds_and_choices_are_left_alone() -> None:
    vectors = torch.tensor([[-5.0, -5.0], [0.1, 0.1], [5.0, 5.0]])
    wanted = torch.tensor([[-1.0, -0.2], [0.1, 0.1], [0.5, 3.0]])
    assert torch.equal(agent(actions=BOX).clip(vectors), wanted)
    choices = torch.tensor([0, 3, 2])
    assert torch.equal(agent().clip(choices), choices)


def test_clipping_keeps_the_kind_of_numbers() -> None:
    """Also where the space is given in float64, as some environments do."""
    wide = spaces.Box(BOX.low.astype(np.float64), BOX.high.astype(np.float64), dtype=np.float64)
    model = agent(actions=wide)
    assert model.clip(some(5, 2)).dtype == torch.float32
    assert model.double().clip(some(5, 2).double()).dtype == torch.float64


def test_an_agent_of_doubles_predicts() -> None:
    model, x = agent(actions=BOX), some(4, 3)
    action, state = model.predict(x.numpy(), deterministic=True)
    finer, memory = model.double().predict(x.numpy(), deterministic=True)
    assert memory[0].dtype == np.float64
    np.testing.assert_allclose(finer, action, atol=1e-5)
    np.testing.assert_allclose(memory[0], state[0], atol=1e-6)


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (spaces.Box(0.0, 1.0, (2, 3)), DISCRETE, "observation_space=.*must be a flat Box"),
        (spaces.Discrete(3), DISCRETE, r"observation_space=Discrete\(3\).*flat Box"),
        (seen(4), DISCRETE, "takes 3 numbers and an observation has 4"),
        (seen(3), spaces.MultiBinary(3), r"action_space=MultiBinary\(3\).*Discrete or a flat Box"),
        (seen(3), spaces.Box(0.0, 1.0, (2, 2)), "action_space=.*Discrete or a flat Box"),
    ],
)
def test_spaces_that_do_not_fit_are_refused_in_one_line(observations, actions, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ActorCritic(GRU(3, 6), observations, actions)
    assert "\n" not in str(caught.value)


def test_choices_are_drawn_with_their_chances_and_rows_apart() -> None:
    """Chi-square tests of one row, of another, and of both together."""
    chances = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    policy = torch.distributions.Categorical(chances)
    stream = torch.Generator().manual_seed(0)
    count = 4000
    drawn = torch.stack([draw(policy, stream) for _ in range(count)]).numpy()
    for row in range(2):
        found = np.bincount(drawn[:, row], minlength=4)
        assert stats.chisquare(found, count * chances[row].numpy()).pvalue > 0.01
    together = np.bincount(4 * drawn[:, 0] + drawn[:, 1], minlength=16)
    wanted = np.outer(chances[0].numpy(), chances[1].numpy()).flatten()
    assert stats.chisquare(together, count * wanted).pvalue > 0.01


def test_an_impossible_choice_is_never_drawn() -> None:
    policy = torch.distributions.Categorical(torch.tensor([0.0, 1.0, 0.0]).expand(5000, 3))
    assert (draw(policy, torch.Generator().manual_seed(0)) == 1).all()


def test_vectors_are_drawn_with_their_means_and_deviations() -> None:
    """Kolmogorov-Smirnov tests of each dimension; the two are not correlated."""
    model = agent(actions=BOX)
    policy = model.step(some(1, 3).expand(4000, 3), model.initial_state(4000)).policy
    drawn = draw(policy, torch.Generator().manual_seed(0))
    mean, deviation = policy.mean[0].tolist(), policy.stddev[0].tolist()
    for i in range(2):
        assert (
            stats.kstest(drawn[:, i].detach(), stats.norm(mean[i], deviation[i]).cdf).pvalue > 0.01
        )
    assert abs(np.corrcoef(drawn.detach().T)[0, 1]) < 0.05


@pytest.mark.parametrize("actions", [DISCRETE, BOX], ids=["discrete", "vectors"])
def test_a_draw_depends_on_its_stream_alone(actions) -> None:
    model = agent(actions=actions)
    policy = model.step(some(50, 3), model.initial_state(50)).policy

    def once(seed: int, elsewhere: int) -> torch.Tensor:
        torch.manual_seed(elsewhere)
        before = torch.get_rng_state()
        drawn = draw(policy, torch.Generator().manual_seed(seed))
        assert torch.equal(before, torch.get_rng_state())
        return drawn

    assert torch.equal(once(0, 1), once(0, 2))
    assert not torch.equal(once(0, 1), once(3, 1))


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("actions", [DISCRETE, BOX], ids=["discrete", "vectors"])
def test_predict_takes_the_most_likely_action_row_by_row(core, actions) -> None:
    """A batch, its rows one by one, and the agent's own steps say the same, memory carried on."""
    model, xs = agent(core, actions), some(4, 3, 3)
    memory, state, alone = model.initial_state(3), None, [None] * 3
    for x in xs:
        out = model.step(x, memory)
        memory = out.state
        wanted = out.policy.logits.argmax(-1) if actions is DISCRETE else out.policy.mean
        wanted = wanted if actions is DISCRETE else wanted.clamp(model.low, model.high)
        action, state = model.predict(x.numpy(), state, deterministic=True)
        np.testing.assert_allclose(action, wanted.detach(), atol=1e-6)
        for row in range(3):
            one, alone[row] = model.predict(x[row].numpy(), alone[row], deterministic=True)
            np.testing.assert_allclose(one, action[row], atol=1e-6)
            for whole, part in zip(state, alone[row], strict=True):
                assert part.shape == (1, *whole.shape[1:])
                np.testing.assert_allclose(part[0], whole[row], atol=1e-6)


@pytest.mark.parametrize("core", CORES)
def test_memory_starts_anew_in_the_rows_whose_episode_starts(core) -> None:
    model, xs = agent(core), some(2, 3, 3).numpy()
    _, state = model.predict(xs[0])
    _, went_on = model.predict(xs[1], state, np.zeros(3, bool))
    _, fresh = model.predict(xs[1])
    _, mixed = model.predict(xs[1], state, np.array([False, True, False]))
    _, unsaid = model.predict(xs[1], state)
    for some_rows, on, new, silent in zip(mixed, went_on, fresh, unsaid, strict=True):
        np.testing.assert_array_equal(some_rows[[0, 2]], on[[0, 2]])
        np.testing.assert_array_equal(some_rows[1], new[1])
        np.testing.assert_array_equal(silent, on)
        assert np.abs(on[1] - new[1]).max() > 1e-3


@pytest.mark.parametrize("actions", [DISCRETE, BOX], ids=["discrete", "vectors"])
def test_predict_draws_unless_it_is_told_otherwise(actions) -> None:
    """Draws of one row, again and again: their share, or how many stand at the upper bound."""
    model, count = agent(actions=actions), 3000
    x = some(1, 3).expand(count, 3)
    torch.manual_seed(0)
    drawn, _ = model.predict(x.numpy())
    policy = model.step(x[:1], model.initial_state(1)).policy
    if actions is DISCRETE:
        chances = policy.probs[0].detach().double().numpy()
        found = np.bincount(drawn, minlength=4)
        assert stats.chisquare(found, count * chances / chances.sum()).pvalue > 0.01
    else:
        assert (drawn >= BOX.low).all()
        assert (drawn <= BOX.high).all()
        for i in range(2):
            beyond = stats.norm(policy.mean[0, i].item(), policy.stddev[0, i].item()).sf(
                BOX.high[i]
            )
            found = int((drawn[:, i] == BOX.high[i]).sum())
            assert stats.binomtest(found, count, beyond).pvalue > 0.01


def rememberer(chance: float) -> ActorCritic:
    """An agent for `Recall`, its weights by hand, that answers rightly with a given chance.

    One unit for each symbol; the first that is shown to an empty memory goes in, and nothing
    that comes later: h ← (1 − z) n + z h with n = tanh(20 x) and z = σ(20 − 40 Σx + 60 Σh).
    """
    env = Recall(symbols=4, delay=2)
    model = ActorCritic(GRU(5, 4), env.observation_space, env.action_space)
    shown = torch.cat([torch.eye(4), torch.zeros(4, 1)], 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        cell = model.core.cell
        cell.weight_ih_l0[4:8] = -40 * shown.sum(0)  # rows: reset gate, update gate z, new n
        cell.weight_hh_l0[4:8] = 60.0
        cell.bias_ih_l0[4:8] = 20.0
        cell.weight_ih_l0[8:] = 20 * shown
        odds = chance / ((1 - chance) / 3)
        model.policy_head.weight.copy_(math.log(odds) * torch.eye(4))
    return model


@pytest.mark.parametrize(("deterministic", "wanted"), [(True, 1.0), (False, 0.7)])
def test_stable_baselines3_evaluates_the_agent(deterministic, wanted) -> None:
    """With the return that its weights amount to; a memory not reset would answer at random."""
    torch.manual_seed(0)
    venv = SB3VecEnv(Recall(symbols=4, delay=2), 50, seed=1)
    count = 1500
    returns, lengths = evaluate_policy(
        rememberer(0.7),
        venv,
        n_eval_episodes=count,
        deterministic=deterministic,
        return_episode_rewards=True,
        warn=False,
    )
    assert set(lengths) == {3}
    assert set(returns) <= {0.0, 1.0}
    if deterministic:
        assert returns == [1.0] * count
    else:
        assert stats.binomtest(int(sum(returns)), count, wanted).pvalue > 0.01
