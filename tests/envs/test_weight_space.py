"""Weight space, transition by transition, against one network at a time in NumPy."""

import math

import numpy as np
import pytest
import torch
from plain_networks import PlainWeightSpace, double, mean_error, plain_gradient

from metarl_lib.datasets import TeacherFamily
from metarl_lib.envs.base import map_tree
from metarl_lib.envs.weight_space import WeightSpace
from metarl_lib.envs.weight_state import GLOBALS, LOCALS, SIGNALS, STATISTICS

ROWS, STEPS = 3, 5


class Labels:
    """A family with whole-number labels, without the images of the digits."""

    inputs, outputs, kind = 4, 3, "classification"

    def sample(self, batch, generator, split="train"):
        tasks = TeacherFamily(4, 3, (6,), num_train=9, num_held_out=5).sample(
            batch, generator, split
        )
        return tasks._replace(y=tasks.y.argmax(-1), held_out_y=tasks.held_out_y.argmax(-1))


def make(widths=(4, 6, 3), family=None, **options):
    if family is None:
        family = TeacherFamily(widths[0], widths[-1], (6,), num_train=9, num_held_out=5)
    return WeightSpace(widths, family, steps=STEPS, **options)


def begin(env, rows=ROWS, seed=0):
    """State and observation in double precision, and the generator that goes on."""
    generator = torch.Generator().manual_seed(seed)
    state, _ = env.reset(env.sample_tasks(rows, generator), generator)
    params = [p.double() for p in state.params]
    if env.network.bias:  # biases start at zero, which would hide what becomes of them
        params[1::2] = [p + 0.3 * torch.randn(p.shape, generator=generator) for p in params[1::2]]
    return *env.start(double(state.tasks), params, generator), generator


def actions(env, count, rows=ROWS, seed=1):
    """Random actions; those of mode set are as small as sensible weights are."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(count, rows, *env.action_space.shape, generator=generator).double() * 2 - 1
    return 0.5 * draw if env.action_mode == "set" else draw


def parts(env, state, b):
    """Weights, samples and drive of one row, NumPy."""
    params = [p[b].numpy() for p in state.params]
    return params, state.tasks.x[b].numpy(), state.tasks.y[b].numpy()


def drive_of(env, state, b):
    """By autograd when the drive is the gradient; else what the state holds (see signals)."""
    if env.drive == "gradient":
        return plain_gradient(env.network, *parts(env, state, b), env.family.kind)
    return [d[b].numpy() for d in state.signals.drive]


CASES = {
    "set": {"action_mode": "set", "reward": "loss"},
    "set with bias": {"action_mode": "set", "bias": True, "widths": (4, 6, 5, 3)},
    "set seen by statistics": {"action_mode": "set", "observation": "statistics"},
    "delta": {"action_mode": "delta"},
    "delta with bias": {"action_mode": "delta", "bias": True, "reward": "loss", "step_size": 0.3},
    "delta seen by statistics": {"action_mode": "delta", "observation": "statistics"},
    "rule": {"action_mode": "rule"},
    "rule, loss, ragged tanh": {
        "widths": (5, 7, 4, 3), "activation": "tanh", "reward": "loss", "step_size": 0.7
    },
    "rule with bias, tanh output": {"bias": True, "output_activation": "tanh"},
    "rule, perturbation": {"drive": "perturbation", "bias": True},
    "rule, labels": {"family": Labels(), "bias": True},
    "rule, seen by weights": {"observation": "weights"},
    "rule, two signals": {"signals": ("hebb", "drive"), "bias": True},
    "rule, one signal": {"signals": ("decay",)},
    "rule, momentum": {"signals": ("momentum",), "step_size": 0.05},
    "synapse": {"action_mode": "synapse"},
    "synapse with bias": {"action_mode": "synapse", "bias": True, "widths": (4, 5, 6, 3)},
    "synapse, perturbation": {"action_mode": "synapse", "drive": "perturbation", "reward": "loss"},
}  # fmt: skip


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_every_transition_is_that_of_the_plain_reference(options) -> None:
    env = make(**{"action_mode": "rule", "drive": "gradient"} | options)
    state, observation, generator = begin(env)
    plain = [PlainWeightSpace(env, *parts(env, state, b)) for b in range(ROWS)]
    assert env.observation_space.shape == observation.shape[1:]
    for action in [*actions(env, STEPS), None]:
        for b in range(ROWS):
            if env.needs_signals:
                plain[b].look(drive_of(env, state, b))
            expected = plain[b].observation()
            np.testing.assert_allclose(observation[b], expected, rtol=1e-7, atol=1e-9)
            assert plain[b].errors[-1] == pytest.approx(float(state.signals.error[b]), rel=1e-9)
        if action is None:
            return
        old = state
        state, step = env.step(state, action, generator)
        observation = step.observation
        for b in range(ROWS):
            reward = plain[b].step(action[b].numpy())
            assert float(step.reward[b]) == pytest.approx(reward, rel=1e-8, abs=1e-9)
            assert float(step.info["loss"][b]) == pytest.approx(plain[b].errors[-1], rel=1e-9)
            for now, before, param in zip(state.params, old.params, plain[b].params, strict=True):
                np.testing.assert_allclose(now[b], param, rtol=1e-9, atol=1e-11)
                assert not torch.equal(now[b], before[b])


def test_momentum_starts_without_bias_and_remembers_nine_tenths() -> None:
    """m_t = Σ_k 0.9^(t−k) d_k / Σ_k 0.9^(t−k); equal drives are their own mean at once."""
    env = make(drive="gradient")
    state, _, generator = begin(env)
    drives = [state.signals.drive[0]]
    for t, action in enumerate(actions(env, STEPS)):
        weights = torch.tensor([0.9 ** (t - k) for k in range(t + 1)], dtype=torch.float64)
        mean = sum(w * d for w, d in zip(weights, drives, strict=True)) / weights.sum()
        state, _ = env.step(state, action, generator)
        torch.testing.assert_close(state.momentum[0], mean)
        drives.append(state.signals.drive[0])


def test_the_layout_of_the_observations_is_the_one_that_is_named() -> None:
    assert SIGNALS == ("drive", "momentum", "hebb", "decay")
    assert STATISTICS == (
        "active share", "log activity", "log weights", "log momentum", "agreement"
    )  # fmt: skip
    assert (*SIGNALS, *STATISTICS[3:], "progress", "improvement", "time left") == LOCALS
    assert (GLOBALS[0], GLOBALS[1], GLOBALS[4], len(GLOBALS)) == (*LOCALS[6:], 5)
    for bias, weights in ((False, 42), (True, 51)):
        shapes = {
            mode: (e.observation_space.shape, e.action_space.shape)
            for mode in ("set", "delta", "rule", "synapse")
            for e in [make((4, 6, 3), action_mode=mode, bias=bias)]
        }
        assert shapes == {
            "set": ((weights,), (weights,)),
            "delta": ((weights,), (weights,)),
            "rule": ((5 + 2 * 5,), (2 * 4,)),
            "synapse": ((weights, 9), (weights,)),
        }


@pytest.mark.parametrize("step_size", [0.3, 2.0])
def test_an_action_stands_for_an_odd_step_of_two_decades(step_size) -> None:
    env = make(step_size=step_size)
    a = torch.linspace(-1, 1, 41, dtype=torch.float64)
    c = env.coefficients(a)
    assert float(c[-1]) == pytest.approx(step_size, rel=1e-12)
    assert abs(float(c[20])) < 1e-15
    torch.testing.assert_close(c, -c.flip(0), rtol=1e-12, atol=1e-12)
    assert bool((c.diff() > 0).all())
    expected = [step_size * math.sinh(5 * x) / math.sinh(5) for x in a.tolist()]
    np.testing.assert_allclose(c, expected, rtol=1e-9, atol=1e-12)
    for x in (0.5, -0.01, 1):
        found = env.coefficients(torch.tensor([env.action_of(x * step_size)], dtype=c.dtype))
        assert float(found) == pytest.approx(x * step_size, rel=1e-9)
    # A hundredth of the largest step is reached within the range, on both sides of 0.
    assert float(env.coefficients(torch.tensor(0.1).double())) < step_size / 100


@pytest.mark.parametrize("mode", ["set", "delta", "rule", "synapse"])
def test_the_rewards_of_an_episode_add_up_to_what_it_gained(mode) -> None:
    env = make(action_mode=mode)
    state, _, generator = begin(env)
    first, total = state, torch.zeros(ROWS).double()
    for action in actions(env, STEPS):
        state, step = env.step(state, action, generator)
        total += step.reward
    for b in range(ROWS):
        start, end = (
            mean_error(env.network, *parts(env, s, b), env.family.kind) for s in (first, state)
        )
        assert float(total[b]) == pytest.approx(math.log(start / end), rel=1e-8)
        assert abs(float(total[b])) > 1e-3


def test_an_episode_ends_exactly_at_its_last_step() -> None:
    env = make()
    state, _, generator = begin(env)
    ends = []
    for action in actions(env, STEPS):
        state, step = env.step(state, action, generator)
        ends.append(step.terminated.tolist())
        assert not step.truncated.any()
        assert not step.info["diverged"].any()
    assert ends == [[False] * ROWS] * (STEPS - 1) + [[True] * ROWS]
    assert state.time.tolist() == [STEPS] * ROWS


def leaves(tree):
    found = []
    map_tree(lambda t: found.append(t) or t, tree)
    return found


@pytest.mark.parametrize("step_size", [None, 1e30], ids=["as usual", "diverging"])
@pytest.mark.parametrize("mode", ["set", "delta", "rule", "synapse"])
def test_a_state_is_not_changed_and_can_be_stepped_again(mode, step_size) -> None:
    env = make(action_mode=mode, step_size=step_size, bias=True)
    state, _, generator = begin(env)
    first, second = actions(env, 2)
    state, _ = env.step(state, 0 * first if step_size else first, generator)
    kept, kept_action = [t.clone() for t in leaves(state)], second.clone()
    runs = [env.step(state, second, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(second, kept_action)
    for now, before in zip(leaves(state), kept, strict=True):
        assert torch.equal(now, before)
    for one, other in zip(leaves(runs[0][0]), leaves(runs[1][0]), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(runs[0][1].observation, runs[1][1].observation)


def episode(env, seed, rows=ROWS):
    generator = torch.Generator().manual_seed(seed)
    state, observation = env.reset(env.sample_tasks(rows, generator), generator)
    seen = [observation]
    for action in actions(env, STEPS, rows).float():
        state, step = env.step(state, action, generator)
        seen += [step.observation, step.reward]
    return seen


@pytest.mark.parametrize("mode", ["set", "delta", "rule", "synapse"])
def test_equal_generators_give_equal_runs(mode) -> None:
    env = make(action_mode=mode)
    one, same, other = episode(env, 1), episode(make(action_mode=mode), 1), episode(env, 2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one[2::2], other[2::2], strict=True))


@pytest.mark.parametrize("mode", ["set", "delta", "rule", "synapse"])
def test_a_row_goes_its_way_whatever_the_others_do(mode) -> None:
    env = make(action_mode=mode, drive="gradient", bias=True)
    state, observation, generator = begin(env)
    alone, own = env.start(
        map_tree(lambda t: t[1:2], state.tasks), [p[1:2] for p in state.params], generator
    )
    torch.testing.assert_close(own, observation[1:2], rtol=1e-9, atol=1e-10)
    for action in actions(env, STEPS):
        state, step = env.step(state, action, generator)
        alone, single = env.step(alone, action[1:2], generator)
        for one, other in zip(leaves(single[:2]), leaves(step[:2]), strict=True):
            torch.testing.assert_close(one, other[1:2], rtol=1e-8, atol=1e-9)


def test_the_held_out_loss_is_that_of_the_held_out_samples() -> None:
    for family in (None, Labels()):
        env = make(family=family)
        state, _, generator = begin(env)
        state, _ = env.step(state, actions(env, 1)[0], generator)
        found = env.held_out_loss(state)
        for b in range(ROWS):
            params, *_ = parts(env, state, b)
            x, y = (t[b].numpy() for t in state.tasks[2:])
            expected = mean_error(env.network, params, x, y, env.family.kind)
            assert float(found[b]) == pytest.approx(expected, rel=1e-10)
