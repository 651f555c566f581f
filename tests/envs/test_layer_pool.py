"""A network built layer by layer: every transition against a plain row, masks, and refusals."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as check_gymnasium
from plain_pool import PlainFewShot
from stable_baselines3.common.env_checker import check_env as check_sb3
from streams import stream
from torch import Tensor

from metarl_lib.datasets import NWayFamily, SinusoidFamily, Tasks
from metarl_lib.envs.adapters import SingleEnv, VectorEnv
from metarl_lib.envs.base import BoundedEnv, map_tree
from metarl_lib.envs.layer_pool import FAMILIES, LayerPool, make_layer_pool
from metarl_lib.rules.pool import make_pool

ROWS = 7


class Labels:
    """Three classes, whose samples are drawn around a mean of each."""

    inputs, outputs, kind = 4, 3, "classification"

    def sample(self, batch, generator, split="train"):
        means = torch.randn(batch, 3, 4, generator=generator)
        parts = []
        for count in (6, 5):
            y = torch.randint(3, (batch, count), generator=generator)
            noise = torch.randn(batch, count, 4, generator=generator)
            x = means.gather(1, y.unsqueeze(-1).expand(-1, -1, 4)) + 0.3 * noise
            parts += [x, y]
        return Tasks(*parts)


ALL = {
    "depth": 3, "stop": True, "rates": (0.02, 0.1), "steps": (2, 1, 4),
    "activations": ("tanh", "relu"), "counts": (2, 4, 3),
}  # fmt: skip
CASES = {
    "plain": {},
    "improvement": {"reward": "improvement", "depth": 2},
    "everything": ALL,
    "everything, improvement": ALL | {"reward": "improvement"},
    "labels": {"family": Labels(), "stop": True},
}
SMALL = {"units": 6, "shots": 4, "queries": 5}


def made(name: str) -> LayerPool:
    return LayerPool(**(SMALL | CASES[name]))


def plain_rows(env: LayerPool, tasks, options) -> list[PlainFewShot]:
    common = {"depth": 1, "rates": (0.01,), "steps": (1,), "activations": ("relu",)}
    common |= {"stop": False, "reward": "loss"}
    common = {name: options.get(name, value) for name, value in common.items()}
    return [PlainFewShot(env.pool, row, **common) for row in zip(*tasks, strict=True)]


def in_double(tasks):
    return map_tree(lambda t: t.double() if t.is_floating_point() else t, tasks)


def close(found: Tensor, expected) -> None:
    torch.testing.assert_close(found, torch.tensor(expected).to(found), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_every_transition_is_that_of_the_plain_row(name) -> None:
    env, generator = made(name), stream(3)
    env.pool = map_tree(Tensor.double, env.pool)
    tasks = in_double(env.sample_tasks(ROWS, generator))
    rows = plain_rows(env, tasks, CASES[name])
    state, observation = env.reset(tasks, generator)
    ended, lengths, forbidden = [False] * ROWS, set(), 0
    for t in range(1, env.max_steps + 1):
        close(observation, [row.observation() for row in rows])
        assert env.action_masks(state).tolist() == [row.allowed() for row in rows]
        action = torch.randint(env.num_actions, (ROWS,), generator=generator)
        before = generator.get_state()
        state, step = env.step(state, action, generator)
        assert torch.equal(before, generator.get_state()), "nothing is drawn"
        assert not step.truncated.any()
        observation = step.observation
        for b, row in enumerate(rows):
            if ended[b]:
                row.taken, row.stage = [], 0  # whatever happens after the end is not compared
                state.choices[b], state.stage[b] = -1, 0
                observation = env.observe(state)
                continue
            reward, over, no, loss = row.step(int(action[b]))
            assert float(step.reward[b]) == pytest.approx(reward, abs=1e-9)
            assert float(step.info["loss"][b]) == pytest.approx(loss, rel=1e-9)
            assert (bool(step.terminated[b]), bool(step.info["forbidden"][b])) == (over, no)
            ended[b] = over
            forbidden += no
            lengths |= {t} if over else set()
    assert all(ended)
    assert forbidden > 0
    assert (len(lengths) > 1) == ("everything" in name)


@pytest.mark.parametrize("name", CASES)
def test_who_keeps_to_the_mask_is_never_refused(name) -> None:
    env, generator = made(name), stream(5)
    state, _ = env.reset(env.sample_tasks(ROWS, generator), generator)
    for _ in range(env.max_steps):
        chances = env.action_masks(state).float()
        before = state
        action = torch.multinomial(chances, 1, generator=generator).squeeze(-1)
        state, step = env.step(state, action, generator)
        alive = before.stage < env.max_steps
        assert not step.info["forbidden"].any()
        taken = state.choices.gather(1, before.stage.clamp_max(env.max_steps - 1)[:, None])
        assert torch.equal(taken.squeeze(1)[alive], action[alive])
    hidden = env.plan(state).layers[:, 1:-1].tolist()
    for row in hidden:
        present = [k for k in row if k >= 0]
        assert len(set(present)) == len(present)
        assert row[len(present) :] == [-1] * (len(row) - len(present))


def test_observations_end_with_the_mask_and_begin_with_the_samples() -> None:
    env, generator = made("labels"), stream()
    tasks = env.sample_tasks(ROWS, generator)
    state, observation = env.reset(tasks, generator)
    samples, inputs, outputs = env.shape
    assert (samples, inputs, outputs) == (6, 4, 3)
    assert torch.equal(observation[:, : samples * inputs], tasks.x.flatten(1))
    labels = observation[:, samples * inputs : samples * (inputs + outputs)]
    assert torch.equal(labels.view(ROWS, samples, outputs).argmax(-1), tasks.y)
    assert torch.equal(observation[:, -env.num_actions :] > 0, env.action_masks(state))


def test_held_out_samples_are_not_seen_and_decide_the_reward() -> None:
    env, generator = made("plain"), stream()
    tasks = env.sample_tasks(ROWS, generator)
    others = tasks._replace(held_out_y=tasks.held_out_y + 1)
    found = []
    for given in (tasks, others):
        state, observation = env.reset(given, generator)
        seen = [observation]
        for action in (1, 5, 9):
            state, step = env.step(state, torch.full((ROWS,), action), generator)
            seen.append(step.observation)
        found.append((torch.stack(seen), step.reward))
    assert torch.equal(found[0][0], found[1][0])
    assert not (found[0][1] == found[1][1]).any()


def test_the_pool_stays_as_it_is_and_rows_do_not_touch_each_other() -> None:
    env, generator = made("everything"), stream()
    kept = map_tree(Tensor.clone, env.pool)
    tasks = env.sample_tasks(ROWS, generator)
    actions = torch.randint(env.num_actions, (env.max_steps, ROWS), generator=generator)
    disturbed = actions.clone()
    disturbed[:, 2] = (disturbed[:, 2] + 1) % env.num_actions
    ends = []
    for choice in (actions, disturbed):
        state, _ = env.reset(tasks, generator)
        before = map_tree(Tensor.clone, state)
        steps = []
        for action in choice:
            given = map_tree(Tensor.clone, state)
            after, step = env.step(state, action, generator)
            assert all(map(torch.equal, state[1:], given[1:])), "the state that was given changed"
            state = after
            steps.append(torch.cat([step.observation, step.reward[:, None]], -1))
        assert all(map(torch.equal, before[0], state.tasks))
        ends.append(torch.stack(steps))
    others = [b for b in range(ROWS) if b != 2]
    assert torch.equal(ends[0][:, others], ends[1][:, others])
    assert not torch.equal(ends[0][:, 2], ends[1][:, 2])
    assert all(map(torch.equal, env.pool, kept))


def test_a_loss_that_is_no_number_counts_as_the_worst() -> None:
    env = LayerPool(**SMALL, rates=(1e30,), steps=(3,))
    state, _ = env.reset(env.sample_tasks(ROWS, stream()), stream())
    for action in (0, 4, 8):
        state, step = env.step(state, torch.full((ROWS,), action), stream())
    assert step.reward.tolist() == [-10.0] * ROWS


def test_another_number_of_steps_can_be_judged() -> None:
    env = LayerPool(**SMALL)
    tasks = env.sample_tasks(ROWS, stream())
    state, _ = env.reset(tasks, stream())
    for action in (1, 5, 9):
        state, step = env.step(state, torch.full((ROWS,), action), stream())
    plan = env.plan(state)
    assert torch.equal(env.judge(tasks, plan), step.info["loss"])
    rows = plain_rows(env, tasks, {})
    layers = [[("input", 1), ("hidden", 1), ("output", 1)]] * ROWS
    for steps in (0, 3):
        expected = []
        for row, chosen in zip(rows, layers, strict=True):
            own = [(getattr(env.pool, f"{k}_weight")[i], getattr(env.pool, f"{k}_bias")[i])
                   for k, i in chosen]  # fmt: skip
            expected.append(row.judged(own, False, 0.01, steps))
        close(env.judge(tasks, plan, steps), expected)


def test_it_is_a_bounded_environment_with_disjoint_splits_of_endless_tasks() -> None:
    env = LayerPool(**SMALL)
    assert isinstance(env, BoundedEnv)
    assert (env.max_steps, LayerPool(**SMALL, **ALL).max_steps) == (3, 8)
    train, test = (env.sample_tasks(3000, stream(), split) for split in ("train", "test"))
    assert len(train.y.unique(dim=0)) == 3000
    assert not torch.equal(train.y, test.y)


@pytest.mark.filterwarnings("error", "ignore:.*infinity. This is probably too")
@pytest.mark.parametrize("variant", ["few_shot", "thesis"])
def test_both_libraries_accept_both_variants(variant) -> None:
    env = gymnasium.make("metarl/LayerPool-v0", variant=variant).unwrapped
    assert type(env) is SingleEnv
    check_gymnasium(env)
    check_sb3(gymnasium.make("metarl/LayerPool-v0", variant=variant).unwrapped)


@pytest.mark.parametrize("options", [{}, ALL, {"variant": "thesis"}])
def test_make_vec_gives_rows(options) -> None:
    venv = gymnasium.make_vec("metarl/LayerPool-v0", 5, split="test", **options)
    assert type(venv.unwrapped) is VectorEnv
    first, _ = venv.reset(seed=1)
    venv.action_space.seed(2)
    for _ in range(9):
        observation, reward, *_ = venv.step(venv.action_space.sample())
        assert observation in venv.observation_space
        assert reward.shape == (5,)
    again, _ = venv.reset(seed=1)
    assert np.array_equal(first, again)


def test_another_pool_can_be_given() -> None:
    pool = make_pool((1, 9, 1), (3, 5, 2), stream(7))
    env = LayerPool(pool=pool, depth=5, shots=3)
    assert env.pool is pool
    assert (env.num_actions, env.max_steps) == (10, 7)
    assert LayerPool(SinusoidFamily(3, 2)).shape == (3, 1, 1)
    assert FAMILIES["digits"](4, 2) == NWayFamily(3, 4, 2)
    assert FAMILIES["sinusoids"](4, 2) == SinusoidFamily(4, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "right"}, "variant='right' is unknown: choose one of few_shot, thesis"),
        ({"family": "squares"}, "family='squares' is unknown: choose one of sinusoids, digits"),
        ({"reward": "accuracy"}, "reward='accuracy' is unknown: choose one of loss, improvement"),
        ({"counts": (3, 3)}, r"counts=\(3, 3\): give the input, hidden and output layers"),
        ({"counts": (3, 0, 3)}, "counts=0: must be a whole number >= 1"),
        ({"units": 0}, "units=0: must be a whole number >= 1"),
        ({"depth": 0}, "depth=0: must be a whole number >= 1"),
        ({"depth": 5}, "depth=5: must be at most 4, the hidden layers"),
        ({"rates": ()}, r"rates=\(\): give one or more"),
        ({"rates": (0.1, 0.1)}, r"rates=\(0\.1, 0\.1\): give one or more, each once"),
        ({"rates": (0.1, -1.0)}, r"rates=-1\.0: must be a positive number"),
        ({"steps": (1, 0)}, "steps=0: must be a whole number >= 1"),
        ({"activations": ("relu", "gelu")}, "activations='gelu' is unknown: choose one of relu"),
        ({"activations": "tanh"}, r"activations='tanh': give one or more, each once, such as"),
        (
            {"pool": make_pool((2, 9, 1), (3, 5, 2), stream())},
            "networks have 2 inputs and 1 outputs: the tasks have 1 and 1",
        ),
        (
            {"pool": make_pool((1, 9, 1), (3, 5, 2), stream())._replace(
                hidden_bias=torch.zeros(5, 8))},
            r"hidden_weight of the pool has shape \(5, 9, 9\): \(5, 8, 9\) is wanted",
        ),
        ({"variant": "thesis", "tasks": 1}, "tasks=1: must be a whole number >= 2"),
        ({"variant": "thesis", "task": 6}, "task=6: must be from 0 to 5, a training task, or None"),
        ({"variant": "thesis", "rate": math.nan}, "rate=nan: must be a positive number"),
        ({"variant": "thesis", "scaling": "right"}, "scaling='right' is unknown: choose one of as"),
        ({"variant": "thesis", "bounds": [[0.0, 1.0]]}, r"shape \(1, 2\): \(7, 2\) is wanted"),
    ],
)  # fmt: skip
def test_bad_options_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        make_layer_pool(**options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("variant", ["few_shot", "thesis"])
def test_an_action_out_of_range_is_one_clear_error(variant) -> None:
    env = make_layer_pool(variant)
    state, _ = env.reset(env.sample_tasks(2, stream()), stream())
    count = int(env.action_space.n)
    with pytest.raises(ValueError, match=f"action={count} is unknown: choose one of 0 to"):
        env.step(state, torch.tensor([0, count]), stream())
    with pytest.raises(ValueError, match=r"shape \(3,\), \(2,\) is wanted"):
        env.step(state, torch.zeros(3).long(), stream())
    with pytest.raises(ValueError, match=r"split='valid' is unknown"):
        env.sample_tasks(3, stream(), "valid")


def test_a_step_off_the_cpu_never_waits_for_a_number() -> None:
    env = LayerPool(**SMALL, **ALL)
    env.pool = map_tree(lambda t: t.to("meta"), env.pool)
    tasks = map_tree(lambda t: t.to("meta"), env.sample_tasks(ROWS, stream()))
    state, observation = env.reset(tasks, stream())
    for _ in range(3):
        state, step = env.step(state, torch.zeros(ROWS).long().to("meta"), stream())
        assert step.observation.device.type == "meta"
        assert step.observation.shape == observation.shape
