"""Policies kept as tensors and followed; what a life says."""

import numpy as np
import pytest
import torch
from plain_lives import (
    CEILING,
    SMALL,
    Labels,
    double,
    errors,
    log_losses,
    networks,
    opinionated,
    outputs,
    perceptron,
    seeded,
    small_options,
    small_space,
)

from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.envs.agents import SharedAgents, Synapses, one_agent
from metarl_lib.envs.layerwise import Layerwise
from metarl_lib.envs.weight_space import WeightSpace
from metarl_lib.envs.weight_state import State
from metarl_lib.experiments.learners import (
    Follow,
    copy_env,
    drive_rates,
    finish,
    follow,
    make_ppo,
    policy_tensors,
    rebuild,
)


def fresh_policy(env, *, recurrent=False, seed=5):
    venv = SB3VecEnv(env, 2, seed=1)
    if len(env.observation_space.shape) == 2:
        venv = SharedAgents(venv)
    return opinionated(make_ppo(venv, SMALL, seed, recurrent=recurrent).policy)


def kept(policy, prefix="a") -> dict:
    """Tensors as a run holds them, beside those of another policy with a longer name."""
    own = {f"{prefix}.{name}": t for name, t in policy_tensors(policy).items()}
    return own | {f"{prefix}-more.{name}": t + 1 for name, t in policy_tensors(policy).items()}


def sights(env, count, rows=3, seed=2):
    """Observations that no life has to have seen."""
    return list(torch.randn(count, rows, *env.observation_space.shape, generator=seeded(seed)))


def at(time, rows=3):
    """All that a policy is told of a state."""
    return State(*[None] * 6, time=torch.full((rows,), time))


def test_a_policy_rebuilt_from_its_tensors_does_the_same() -> None:
    env = small_space()
    original = fresh_policy(env)
    spaces = env.observation_space, env.action_space
    actor = Follow(rebuild(kept(original), "a", *spaces, SMALL.units))
    for seen in sights(env, 4):
        done = actor(seen, at(0))
        expected, _ = original.predict(seen.numpy(), deterministic=True)
        assert np.array_equal(done.numpy(), expected)
        torch.testing.assert_close(done, perceptron(policy_tensors(original), seen))
        assert done.std(0).min() > 0.01


def cell(tensors, x, hidden, memory):
    """One step of an LSTM, its gates in PyTorch's order."""
    t = {name: tensors[f"lstm_actor.{name}_l0"] for name in ("weight_ih", "weight_hh")}
    bias = tensors["lstm_actor.bias_ih_l0"] + tensors["lstm_actor.bias_hh_l0"]
    z = x @ t["weight_ih"].T + hidden @ t["weight_hh"].T + bias
    take, keep, new, show = z.chunk(4, -1)
    memory = keep.sigmoid() * memory + take.sigmoid() * new.tanh()
    return show.sigmoid() * memory.tanh(), memory


def test_a_rebuilt_recurrent_policy_remembers_within_a_life_and_forgets_at_its_start() -> None:
    env = small_space()
    original = fresh_policy(env, recurrent=True)
    tensors, seen = policy_tensors(original), sights(env, 5)
    spaces = env.observation_space, env.action_space
    actor = Follow(rebuild(kept(original), "a", *spaces, SMALL.units))
    expected, hidden, memory, state = [], None, None, None
    for time in (0, 1, 2):
        if time == 0:
            hidden = memory = torch.zeros(3, SMALL.units // 2)
        hidden, memory = cell(tensors, seen[time], hidden, memory)
        net = "mlp_extractor.policy_net.0"
        x = torch.tanh(hidden @ tensors[f"{net}.weight"].T + tensors[f"{net}.bias"])
        x = x @ tensors["action_net.weight"].T + tensors["action_net.bias"]
        expected.append(x.clamp(-1, 1))
        start = np.full(3, time == 0)
        first, state = original.predict(seen[time].numpy(), state, start, deterministic=True)
        np.testing.assert_allclose(first, expected[-1], rtol=1e-4, atol=1e-5)
    for _ in range(2):  # two lives, the second of which must not know of the first
        for time in (0, 1, 2):
            done = actor(seen[time], at(time))
            torch.testing.assert_close(done, expected[time], rtol=1e-4, atol=1e-5)
    alone = actor(seen[2], at(0))
    assert (alone - expected[2]).abs().max() > 0.01


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_shared_policy_acts_for_each_agent_as_if_it_were_alone(recurrent) -> None:
    env = Layerwise(**small_options())
    policy = fresh_policy(env, recurrent=recurrent)
    together = Follow(policy, agents=True)
    alone = [Follow(policy) for _ in range(env.num_agents)]
    for time, seen in enumerate(sights(env, 4)):
        parts = [actor(seen[:, i], at(time)) for i, actor in enumerate(alone)]
        done = together(seen, at(time))
        assert done.shape == (3, 2, 4)
        torch.testing.assert_close(done, torch.stack(parts, 1))
        assert (done[:, 0] - done[:, 1]).abs().max() > 0.01


def test_what_an_actor_does_can_be_changed() -> None:
    env = small_space()
    policy = fresh_policy(env)
    (seen,) = sights(env, 1)
    changed = Follow(policy, change=lambda a: 2 * a + 1)(seen, at(0))
    torch.testing.assert_close(changed, 2 * Follow(policy)(seen, at(0)) + 1)


def given_actions(env, rows, seed=7):
    shape = (env.steps, rows, *env.action_space.shape)
    return torch.rand(shape, generator=seeded(seed)) * 1.6 - 0.8


def test_a_life_is_the_environment_stepped_by_hand() -> None:
    env = small_space()
    tasks, plan = double(env.sample_tasks(3, seeded())), given_actions(env, 3)
    seen = []

    def actor(observation, state):
        seen.append(observation)
        return plan[len(seen) - 1]

    life = follow(env, actor, tasks, seeded(1))
    stream = seeded(1)
    state, observation = env.reset(tasks, stream)
    expected = [log_losses(env.network, state.params, tasks)]
    for time in range(env.steps):
        assert torch.equal(seen[time], observation)
        state, step = env.step(state, plan[time], stream)
        observation = step.observation
        expected.append(log_losses(env.network, state.params, tasks))
    torch.testing.assert_close(life.log_losses, torch.stack(expected))
    assert torch.equal(life.actions, plan)
    held_out = [
        float(errors(env.network, own, x, y).mean().log())
        for own, x, y in zip(
            networks(state.params), tasks.held_out_x, tasks.held_out_y, strict=True
        )
    ]
    assert life.held_out.tolist() == pytest.approx(held_out)
    assert life.accuracy.shape == (3,)
    assert life.accuracy.isnan().all()
    assert not life.diverged.any()
    assert (life.held_out - life.log_losses[-1]).abs().min() > 1e-3


def test_a_life_ends_with_the_share_of_held_out_samples_that_is_classified_correctly() -> None:
    """Row 1 is said to have diverged: its held-out loss is the largest there is, its share 0."""
    env = small_space(family=Labels(), init_std=2.0)
    tasks = double(env.sample_tasks(4, seeded(3)))
    state, _ = env.reset(tasks, seeded(1))
    logs = list(torch.randn(7, 4, generator=seeded(2)))
    diverged = torch.tensor([False, True, False, False])
    life = finish(env, state, logs, diverged)
    shares, losses = [], []
    for own, x, y in zip(networks(state.params), tasks.held_out_x, tasks.held_out_y, strict=True):
        guesses = [row.index(max(row)) for row in outputs(env.network, own, x).tolist()]
        shares.append(sum(g == label for g, label in zip(guesses, y.tolist(), strict=True)) / 6)
        losses.append(float(errors(env.network, own, x, y).mean().log()))
    assert len(set(shares)) > 1
    assert shares[1] > 0
    losses[1], shares[1] = CEILING, 0.0
    assert life.accuracy.tolist() == pytest.approx(shares)
    assert life.held_out.tolist() == pytest.approx(losses)
    assert torch.equal(life.log_losses, torch.stack(logs))
    assert torch.equal(life.diverged, diverged)
    assert life.actions.numel() == life.rates.numel() == 0


def test_in_regression_no_sample_is_classified_and_no_loss_is_infinite() -> None:
    """Row 0 fits its held-out samples perfectly, row 1 not at all."""
    env = small_space()
    tasks = env.sample_tasks(2, seeded())
    state, _ = env.reset(tasks, seeded(1))
    exact = env.network(state.params, tasks.held_out_x)
    targets = torch.stack([exact[0], exact[1] + 1e6])
    state = state._replace(tasks=tasks._replace(held_out_y=targets))
    actions, rates = list(torch.rand(5, 2, 8)), list(torch.rand(5, 2, 2))
    life = finish(env, state, [torch.zeros(2)], torch.zeros(2, dtype=torch.bool), actions, rates)
    assert life.accuracy.isnan().all()
    assert life.held_out.tolist() == pytest.approx([np.log(1e-12), CEILING])
    assert torch.equal(life.actions, torch.stack(actions))
    assert torch.equal(life.rates, torch.stack(rates))


def test_a_row_that_diverges_counts_at_the_limit_from_then_on() -> None:
    """Row 1 sets weights of a million in its third step, and sensible ones ever after."""
    env = small_space(action_mode="set", step_size=1e6)
    tasks = double(env.sample_tasks(3, seeded()))
    plan = given_actions(env, 3)
    tame = follow(env, lambda _, state: plan[int(state.time[0])], tasks, seeded(1))
    wild = plan.clone()
    wild[2, 1] = 1e6
    life = follow(env, lambda _, state: wild[int(state.time[0])], tasks, seeded(1))
    assert life.log_losses[3:, 1].tolist() == [CEILING] * 4
    assert life.held_out[1] == CEILING
    assert (life.diverged.tolist(), tame.diverged.any()) == ([False, True, False], False)
    assert torch.equal(life.log_losses[:3], tame.log_losses[:3])
    assert torch.equal(life.log_losses[:, ::2], tame.log_losses[:, ::2])
    assert torch.equal(life.held_out[::2], tame.held_out[::2])
    assert tame.log_losses.max() < CEILING


@pytest.mark.parametrize("drive", ["gradient", "perturbation"])
@pytest.mark.parametrize("agents", [False, True])
def test_the_rate_is_the_factor_of_the_drive_in_every_layer(drive, agents) -> None:
    """With no other coefficient, W ← W − η · drive; at the first step and at later ones."""
    options = small_options(drive=drive, widths=(3, 5, 4, 2))
    env = Layerwise(**options) if agents else WeightSpace(**options)
    inner, stream = getattr(env, "inner", env), seeded(1)
    state, _ = env.reset(double(inner.sample_tasks(3, seeded())), stream)
    for action in given_actions(inner, 3).double()[:3]:
        action = action.unflatten(-1, (3, 4))
        action[..., 1:] = 0
        action = action if agents else action.flatten(1)
        rates = drive_rates(inner, state, action)
        assert rates.shape == (3, 3)
        after, _ = env.step(state, action, stream)
        for layer in range(3):
            gradient = state.signals.drive[layer]
            expected = state.params[layer] - rates[:, layer, None, None] * gradient
            torch.testing.assert_close(after.params[layer], expected)
            assert (after.params[layer] - state.params[layer]).abs().max() > 1e-4
        state = after


def test_only_the_mode_rule_has_rates() -> None:
    env = Synapses(small_space(action_mode="synapse"))
    state, _ = env.reset(env.sample_tasks(2, seeded()), seeded())
    action = torch.ones(2, *env.action_space.shape)
    assert torch.equal(drive_rates(env.inner, state, action), torch.zeros(2, 2))


def test_a_copy_has_what_is_changed_and_leaves_the_original() -> None:
    env = small_space()
    changed = copy_env(env, drive="gradient", steps=3)
    assert (changed.drive, changed.steps, changed.network) == ("gradient", 3, env.network)
    assert (env.drive, env.steps) == ("perturbation", 6)
    with pytest.raises(ValueError, match="'depth' is no attribute"):
        copy_env(env, depth=3)


def test_one_agents_space_fits_a_policy_that_all_share() -> None:
    env = Layerwise(**small_options())
    policy = fresh_policy(env)
    spaces = one_agent(env.observation_space), one_agent(env.action_space)
    (seen,) = sights(env, 1)
    actor = Follow(rebuild(kept(policy), "a", *spaces, SMALL.units), agents=True)
    expected = perceptron(policy_tensors(policy), seen.flatten(0, 1)).unflatten(0, (3, 2))
    torch.testing.assert_close(actor(seen, at(0)), expected)
