"""Weight space at its edges: tasks, first weights, spaces, divergence, and refusals."""

import math

import numpy as np
import pytest
import torch
from plain_networks import rms

from metarl_lib.datasets import DigitsFamily, SinusoidFamily, Tasks, TeacherFamily
from metarl_lib.envs.weight_space import MODES, WeightSpace
from metarl_lib.envs.weight_state import CLIP
from metarl_lib.rules import half_mse

SMALL = TeacherFamily(4, 3, (6,), num_train=9, num_held_out=5)


def make(widths=(4, 6, 3), family=SMALL, **options):
    return WeightSpace(widths, family, **{"steps": 5} | options)


def begin(env, rows=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return *env.reset(env.sample_tasks(rows, generator), generator), generator


def random_action(env, rows, generator):
    draw = 2 * torch.rand(rows, *env.action_space.shape, generator=generator) - 1
    return draw * float(env.action_space.high.flat[0])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_fixed_task_is_the_same_for_all_rows_and_episodes(split) -> None:
    env = make(fixed_task=True, task_seed=4)
    one, two = (env.sample_tasks(3, torch.Generator().manual_seed(s), split) for s in (0, 1))
    for first, second in zip(one, two, strict=True):
        assert first.shape[0] == 3
        assert torch.equal(first, second)
        assert torch.equal(first, first[:1].expand_as(first))
    other = make(fixed_task=True, task_seed=5).sample_tasks(3, torch.Generator(), split)
    assert not torch.equal(one.x, other.x)
    assert not torch.equal(one.y, other.y)


def test_a_fixed_task_of_each_split_is_a_task_of_its_family_drawn_with_its_own_seed() -> None:
    """The test split is drawn with the next seed, so that it shares neither inputs nor noise."""
    env = make(fixed_task=True, task_seed=4)
    for seed, split in ((4, "train"), (5, "test")):
        expected = SMALL.sample(1, torch.Generator().manual_seed(seed), split)
        found = env.sample_tasks(2, torch.Generator(), split)
        assert all(torch.equal(f[:1], e) for f, e in zip(found, expected, strict=True))


def test_without_a_fixed_task_each_row_and_episode_has_its_own() -> None:
    env, generator = make(), torch.Generator().manual_seed(0)
    tasks = [env.sample_tasks(3, generator) for _ in range(2)]
    assert len(torch.cat([t.x for t in tasks]).flatten(1).unique(dim=0)) == 6
    assert len(torch.cat([t.y for t in tasks]).flatten(1).unique(dim=0)) == 6
    for split in ("train", "test"):
        found, expected = (
            source(3, torch.Generator().manual_seed(7), split)
            for source in (env.sample_tasks, SMALL.sample)
        )
        assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("fixed", [False, True])
def test_every_row_and_episode_starts_from_new_weights(fixed) -> None:
    env, generator = make(fixed_task=fixed), torch.Generator().manual_seed(0)
    weights = []
    for _ in range(2):
        state, _ = env.reset(env.sample_tasks(3, generator), generator)
        weights.append(state.params[0].flatten(1))
    assert len(torch.cat(weights).unique(dim=0)) == 6


@pytest.mark.parametrize(
    ("init_std", "stds"), [(None, (0.5**0.5, (1 / 3) ** 0.5)), (0.2, (0.2,) * 2)]
)
def test_first_weights_have_the_standard_deviation_asked_for(init_std, stds) -> None:
    """By default that of He et al. (2015), sqrt(2 / R_l); biases start at 0."""
    env = make(init_std=init_std, bias=True)
    state, *_ = begin(env, rows=500)
    for weight, bias, std in zip(state.params[::2], state.params[1::2], stds, strict=True):
        count = weight.numel()
        assert abs(float(weight.mean())) < 4 * std / count**0.5
        assert abs(float(weight.std()) / std - 1) < 4 / (2 * count) ** 0.5
        assert not bias.any()
    for b in range(3):
        expected = [rms(w[b].double().numpy()) for w in state.params[::2]]
        np.testing.assert_allclose(state.scale[b], expected, rtol=1e-5)


SEEN = [(mode, seen) for mode in MODES for seen in ("weights", "statistics")]
SEEN.remove(("synapse", "weights"))  # a synapse sees its own signals


@pytest.mark.parametrize(("mode", "observation"), SEEN)
def test_random_actions_stay_within_the_spaces(mode, observation) -> None:
    env = make(action_mode=mode, observation=observation, bias=True)
    state, seen, generator = begin(env, rows=4)
    for _ in range(5):
        action = random_action(env, 4, generator)
        assert all(env.action_space.contains(row.numpy()) for row in action)
        state, step = env.step(state, action, generator)
        for found in (seen, step.observation):
            assert found.dtype == torch.float32
            assert all(env.observation_space.contains(row.numpy()) for row in found)
            assert bool(torch.isfinite(found).all())
        seen = step.observation
    assert env.observation_space.high.flat[0] == (math.inf if observation == "weights" else CLIP)


@pytest.mark.parametrize(
    ("mode", "size", "reach"), [("set", 3, 3), ("delta", 0.1, 1), ("rule", 0.3, 1),
                                ("synapse", 0.3, 1)]
)  # fmt: skip
def test_the_largest_action_does_what_the_mode_says(mode, size, reach) -> None:
    env = make(action_mode=mode)
    assert env.step_size == size
    assert env.action_space.high.flat[0] == reach == -env.action_space.low.flat[0]
    assert make(action_mode=mode, step_size=0.7).step_size == 0.7


def test_the_named_families_have_their_default_sizes() -> None:
    named = {
        "teacher_student": ((10, 4, 10), TeacherFamily),
        "digits": ((10, 4, 10), DigitsFamily),
        "sinusoids": ((1, 4, 1), SinusoidFamily),
    }
    for name, (widths, kind) in named.items():
        assert WeightSpace(widths, name).family == kind()
    assert WeightSpace().network.widths == (10, 100, 10)


@pytest.mark.parametrize("reward", ["improvement", "loss"])
@pytest.mark.parametrize("mode", MODES)
def test_divergence_ends_the_episode_of_its_row_alone(mode, reward) -> None:
    env = make(action_mode=mode, reward=reward, step_size=1e30, bias=mode == "rule")
    state, before, generator = begin(env)
    if mode == "set":
        action = torch.cat([p.flatten(1) for p in state.params], -1)
    else:
        action = torch.zeros(3, *env.action_space.shape)
    action[1] = float(env.action_space.high.flat[0])
    after, step = env.step(state, action, generator)
    assert step.info["diverged"].tolist() == [False, True, False]
    assert step.terminated.tolist() == [False, True, False]
    assert not step.truncated.any()
    assert float(step.reward[1]) == {"improvement": -10, "loss": -1e6}[reward]
    assert bool(torch.isfinite(step.observation).all())
    assert all(env.observation_space.contains(row.numpy()) for row in step.observation)
    for now, old in zip(after.params, state.params, strict=True):
        assert torch.equal(now[1], old[1])
    assert torch.equal(after.signals.error[1], state.signals.error[1])
    for row in (0, 2):  # these did not move
        expected = 0 if reward == "improvement" else -float(state.signals.error[row])
        assert float(step.reward[row]) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    if env.observation == "weights" and mode != "synapse":
        assert torch.equal(step.observation[1], before[1])


def nan_beyond_a_thousand(outputs, targets):
    far = outputs.abs().amax(-1) > 1000
    return torch.where(far, torch.nan, half_mse(outputs, targets))


@pytest.mark.parametrize("mode", ["delta", "rule"])
def test_a_loss_that_is_not_a_number_is_divergence(mode) -> None:
    env = make(action_mode=mode, step_size=1e3, loss=nan_beyond_a_thousand)
    state, _, generator = begin(env)
    action = torch.zeros(3, *env.action_space.shape)
    action[2] = 1
    after, step = env.step(state, action, generator)
    assert step.info["diverged"].tolist() == step.terminated.tolist() == [False, False, True]
    assert step.reward.tolist() == [pytest.approx(0, abs=1e-5)] * 2 + [-10]
    assert bool(torch.isfinite(step.observation).all())
    assert bool(torch.isfinite(step.info["loss"]).all())
    assert all(torch.equal(a, b) for a, b in zip(after.params, state.params, strict=True))


class One:
    """One sample, x = 1 and y = 0, so that a 1-1 network has the loss w² / 2."""

    inputs, outputs, kind = 1, 1, "regression"

    def sample(self, batch, generator, split="train"):
        x, y = torch.ones(batch, 1, 1), torch.zeros(batch, 1, 1)
        return Tasks(x, y, x, y)


def test_the_limit_of_the_loss_is_a_million() -> None:
    env = make((1, 1), One(), action_mode="set", step_size=2000.0, reward="loss")
    state, _, generator = begin(env)
    _, step = env.step(state, torch.tensor([[1414.0], [1415.0], [-1415.0]]), generator)
    assert step.info["diverged"].tolist() == [False, True, True]
    assert step.reward.tolist() == [-(1414.0**2) / 2, -1e6, -1e6]


def test_one_step_earns_at_most_ten_either_way_and_a_loss_of_zero_is_no_infinity() -> None:
    env = make((1, 1), One(), action_mode="set", step_size=2000.0)
    state, *_ = begin(env)
    state, _ = env.start(
        state.tasks, [torch.tensor([[[1.0]], [[1.0]], [[1e-3]]])], torch.Generator()
    )
    _, step = env.step(state, torch.tensor([[0.0], [math.exp(-2)], [1e3]]), torch.Generator())
    assert step.reward.tolist() == pytest.approx([10, 4, -10], rel=1e-5)


def test_what_is_seen_is_clipped_at_ten() -> None:
    """From w = 1 to w = e⁻⁶ the log of w² / 2 falls by 12, and the log of the weight by 6."""
    env = make((1, 1), One(), action_mode="set", observation="statistics", activation=None)
    state, *_ = begin(env)
    state, _ = env.start(state.tasks, [torch.ones(3, 1, 1)], torch.Generator())
    action = torch.tensor([[math.exp(-6)], [math.exp(-4)], [math.exp(6)]])
    _, step = env.step(state, action, torch.Generator())
    assert step.observation[:, 0].tolist() == pytest.approx([10, 8, -10], rel=1e-5)
    assert step.observation[:, 1].tolist() == pytest.approx([10, 8, -10], rel=1e-5)
    assert step.observation[:, 4].tolist() == pytest.approx([0.8] * 3, rel=1e-5)
    assert step.observation[:, 7].tolist() == pytest.approx([-6, -4, 6], rel=1e-5)


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("mode", ["delta", "rule", "synapse"])
def test_weights_that_are_no_numbers_are_divergence_of_their_row_alone(mode, value) -> None:
    env = make(action_mode=mode)
    state, *_ = begin(env)
    params = [p.clone() for p in state.params]
    params[0][1] = value
    action = 0.1 * torch.ones(3, *env.action_space.shape)
    _, clean = env.step(state, action, torch.Generator().manual_seed(3))
    _, step = env.step(state._replace(params=params), action, torch.Generator().manual_seed(3))
    assert step.info["diverged"].tolist() == step.terminated.tolist() == [False, True, False]
    assert float(step.reward[1]) == -10
    for row in (0, 2):
        torch.testing.assert_close(step.observation[row], clean.observation[row])
        torch.testing.assert_close(step.reward[row], clean.reward[row])


REFUSED = {
    "action_mode": ({"action_mode": "jump"}, "action_mode='jump'.*set, delta, rule, synapse"),
    "observation": ({"observation": "all"}, "observation='all'.*weights, statistics"),
    "reward": ({"reward": "time"}, "reward='time'.*loss, improvement"),
    "drive": ({"drive": "hebb"}, "drive='hebb'.*perturbation, gradient"),
    "family": ({"family": "moons"}, "family='moons'.*teacher_student, digits, sinusoids"),
    "signals": ({"signals": ("drive", "error")}, r"signals=\('drive', 'error'\).*drive, momentum"),
    "no signals": ({"signals": ()}, r"signals=\(\)"),
    "inputs": ({"widths": (5, 6, 3)}, r"widths=\(5, 6, 3\).*TeacherFamily.*4 inputs and 3 outputs"),
    "outputs": ({"widths": (4, 6, 2)}, r"widths=\(4, 6, 2\).*TeacherFamily.*4 inputs and 3 outp"),
    "widths": ({"widths": (4,)}, r"widths=\(4,\)"),
    "activation": ({"activation": "sine"}, "activation='sine'"),
    "no steps": ({"steps": 0}, "steps=0"),
    "negative steps": ({"steps": -2}, "steps=-2"),
    "no sigma": ({"sigma": 0.0}, "sigma=0.0"),
    "sigma nan": ({"sigma": math.nan}, "sigma=nan"),
    "no step_size": ({"step_size": 0.0}, "step_size=0.0"),
    "infinite step_size": ({"step_size": math.inf}, "step_size=inf"),
    "no init_std": ({"init_std": -1.0}, "init_std=-1.0"),
    "init_std nan": ({"init_std": math.nan}, "init_std=nan"),
    "synapse sees weights": (
        {"action_mode": "synapse", "observation": "weights"}, "observation='weights'.*synapse"
    ),
}  # fmt: skip


CASES = [pytest.param(*REFUSED[k], id=k) for k in REFUSED]


@pytest.mark.parametrize(("options", "message"), CASES)
def test_bad_settings_are_one_line(options, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:2], r"\(2, 8\), \(3, 8\) is wanted"),
        (lambda a: a[:, :7], r"\(3, 7\), \(3, 8\) is wanted"),
        (lambda a: a.unsqueeze(-1), r"\(3, 8, 1\), \(3, 8\) is wanted"),
        (lambda a: a * math.nan, "24 NaN or infinite"),
        (lambda a: a.index_fill(0, torch.tensor(1), math.inf), "8 NaN or infinite"),
    ],
)
def test_a_bad_action_is_one_line(change, message) -> None:
    env = make()
    state, _, generator = begin(env)
    with pytest.raises(ValueError, match=message) as caught:
        env.step(state, change(torch.zeros(3, 8)), generator)
    assert "\n" not in str(caught.value)
