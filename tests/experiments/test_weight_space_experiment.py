"""Weights as an environment, as the seed has it: its losses, its references, its readings."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from plain_lives import errors, rows_of, seeded, setter, split, square_error, tensors_of
from stable_baselines3 import PPO

from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.experiments.learners import policy_tensors
from metarl_lib.experiments.weight_readings import (
    OneDataSet,
    digits_losses,
    environment,
    gaps,
    life_losses,
    measure,
    references,
    scaled_cross_entropy,
    seed_task,
    summed_square_error,
)
from metarl_lib.experiments.weight_space import (
    Config,
    evaluate,
    marks_of,
    snapshots,
    total_steps,
    train_as_coded,
    train_long,
)
from metarl_lib.experiments.weight_space import run as run_experiment
from metarl_lib.runs import Run, generator

SEED = 2
SMALL = Config(
    hidden=4, teacher_hidden=5, samples=12, steps=6, seed_steps=64, long_steps=32, shorter=2,
    rows=2, rollout=8, more=2, test_tasks=3, reference_steps=5,
)  # fmt: skip
KINDS = ("as-coded", "one-task", "more-trajectories", "distribution", "digits-as-coded")


def policy_for(variant, seed=0):
    return setter(SMALL, variant, SEED, seed)


def test_as_coded_a_network_without_biases_lives_for_201_steps() -> None:
    env = environment(Config(), "as-coded", 0)
    assert env.network.widths == (10, 10, 10)
    assert (env.network.bias, env.network.activation, env.network.output_activation) == (
        False, "relu", None
    )  # fmt: skip
    assert (env.steps, env.action_mode, env.reward, env.fixed_task) == (201, "set", "loss", True)
    assert env.init_std == pytest.approx(1 / math.sqrt(30))
    assert env.action_space.shape == env.observation_space.shape == (200,)
    assert set(env.action_space.high.tolist()) == {1e6}
    teachers = env.family
    assert (tuple(teachers.hidden), tuple(teachers.noise), teachers.bias) == ((100,), (0.0,), True)
    assert (teachers.num_train, teachers.num_held_out) == (512, 512)
    digits = environment(SMALL, "digits-as-coded", 0)
    assert digits.network.widths == (10, 10)
    assert (digits.network.bias, digits.steps) == (False, 6)


def test_the_seeds_losses_are_sums_without_the_half_and_means_over_64() -> None:
    out, y = torch.randn(2, 5, 3, generator=seeded()), torch.randn(2, 5, 3, generator=seeded(1))
    expected = [[sum((a - b) ** 2 for a, b in zip(*p, strict=True)) for p in zip(*net, strict=True)]
                for net in zip(out.tolist(), y.tolist(), strict=True)]  # fmt: skip
    torch.testing.assert_close(summed_square_error(out, y), torch.tensor(expected))
    labels = torch.tensor([[0, 2, 1, 1, 0], [2, 2, 0, 1, 2]])
    p = np.exp(out.double().numpy())
    p = p / p.sum(-1, keepdims=True)
    expected = [[-math.log(p[b, i, labels[b, i]]) / 64 for i in range(5)] for b in range(2)]
    found = scaled_cross_entropy(out, labels)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("variant", ["as-coded", "digits-as-coded"])
def test_the_next_state_is_the_action_whatever_the_state_and_the_reward_minus_the_loss(
    variant,
) -> None:
    env = environment(SMALL, variant, SEED)
    tasks = env.sample_tasks(2, seeded())
    state, seen = env.reset(tasks, seeded(1))
    assert not torch.equal(seen[0], seen[1])
    action = 0.3 * torch.randn(env.action_space.shape, generator=seeded(2)).expand(2, -1)
    for _ in range(2):
        state, step = env.step(state, action, seeded())
        assert torch.equal(step.observation, action)
        assert step.reward[0] == step.reward[1]
        if variant == "as-coded":
            loss = square_error(split(action[0]), tasks.x[0], tasks.y[0])
        else:
            weights = action[0].reshape(10, 10)
            loss = errors(env.network, [weights], tasks.x[0], tasks.y[0]).mean() / 64
        assert float(step.reward[0]) == pytest.approx(-float(loss), rel=1e-5)


@pytest.mark.parametrize("variant", KINDS)
def test_only_the_distribution_has_more_than_one_teacher(variant) -> None:
    env, fresh = environment(SMALL, variant, SEED), seeded(4)
    drawn = [env.sample_tasks(2, fresh), env.sample_tasks(2, fresh)]
    same = [torch.equal(drawn[0].y[0], other) for other in (drawn[0].y[1], *drawn[1].y)]
    assert same == [variant != "distribution"] * 3
    other = environment(SMALL, variant, SEED + 1).sample_tasks(2, seeded(4))
    assert torch.equal(drawn[0].y, other.y) == (variant == "distribution")


def test_the_teacher_has_biases_and_no_noise() -> None:
    """It is drawn again from the seed; the targets are its outputs to the last few bits."""
    task = seed_task(environment(SMALL, "as-coded", SEED), "train")
    stream = generator(SEED, "tasks")
    first, second = (torch.randn(1, *shape, generator=stream) for shape in ((5, 10), (10, 5)))
    first[0, 0, 0] = first[0, 0, 0].abs()
    b0, b1 = (torch.randn(1, 1, width, generator=stream) for width in (5, 10))
    targets = torch.relu(torch.relu(task.x @ first[0].T + b0[0]) @ second[0].T + b1[0])
    torch.testing.assert_close(targets, task.y)


def test_one_data_set_is_every_task_of_its_split() -> None:
    env = environment(SMALL, "digits-as-coded", SEED)
    family: OneDataSet = env.family
    for name, own in (("train", family.train), ("test", family.test)):
        tasks = family.sample(2, seeded(), name)
        for x, y in zip((*tasks.x, *tasks.held_out_x), (*tasks.y, *tasks.held_out_y), strict=True):
            assert torch.equal(x, own.x)
            assert torch.equal(y, own.y)
    assert (family.inputs, family.outputs) == (10, 10)
    with pytest.raises(ValueError, match="split='dev'"):
        family.sample(2, seeded(), "dev")


def test_long_trainings_are_measured_whenever_their_steps_have_grown_fourfold() -> None:
    marks = [2048, 8192, 32768, 131072, 524288, 2097152]
    assert snapshots(2_097_152, 2048) == marks
    assert snapshots(2_097_152, 2048 * 16) == marks[2:]
    assert snapshots(3 * 2048, 2048) == [3 * 2048]
    assert snapshots(12 * 2048, 2048) == [3 * 2048, 12 * 2048]
    assert snapshots(1, 1) == [1]
    full = EXPERIMENTS["weight_space"].config("full")
    assert snapshots(full.long_steps, full.rollout) == marks


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"rollout": 63}, "rollout=63, more=4: each rollout must be a multiple of rows=4"),
        ({"long_steps": 1025}, "divide long_steps=1025 over shorter=4"),
        ({"more": 3}, "rollout=64, more=3: each rollout .* divide long_steps=1024"),
        ({"rows": 5}, "a multiple of rows=5"),
        ({"shorter": 0}, "shorter=0: must be greater than 0"),
        ({"shorter": -4}, "shorter=-4: must be greater than 0"),
        ({"more": 0}, "more=0: must be greater than 0"),
        ({"discount": 1.2}, "discount=1.2: must lie between 0 and 1"),
        ({"bound": -1.0}, "bound=-1.0: must be greater than 0"),
        ({"reference_steps": 0}, "reference_steps=0: must be greater than 0"),
        ({"steps": 0}, "steps=0: must be greater than 0"),
        ({"seed_steps": 1}, "seed_steps=1: a minibatch of PPO must have at least 2 steps"),
        ({"rollout": 4, "rows": 4}, "rollout=4: a minibatch of PPO must have at least 2 steps"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(overrides, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        EXPERIMENTS["weight_space"].config("smoke", overrides)
    assert "\n" not in str(refusal.value)


def test_evaluating_reads_each_policy_where_it_belongs() -> None:
    policies = {name: policy_for(name.replace("_", "-"), seed) for seed, name in enumerate(
        ("as_coded", "digits_as_coded", "distribution"))}  # fmt: skip
    tensors, config = tensors_of(**policies), dataclasses.replace(SMALL, shorter=1)
    rows = evaluate(config, SEED, tensors)
    found, budgets = rows_of(rows), {(r["variant"], r["metric"]): r["budget"] for r in rows}
    expected = {("as-coded", k): v for k, v in life_losses(config, SEED, tensors)[-1].items()}
    best = references(config, SEED)
    expected |= {(name, k): v for name, own in best.items() for k, v in own.items()}
    expected |= {("as-coded", k): v for k, v in gaps(config, SEED, tensors, best).items()}
    for name, key in (("as-coded", "as_coded"), ("distribution", "distribution")):
        numbers = measure(environment(config, name, SEED), policies[key], 3, SEED)
        expected |= {
            (name, k if key == "as_coded" else f"{k}@32"): v
            for k, v in numbers.items()
            if key == "distribution" or k.startswith("action")
        }
    digits = digits_losses(config, SEED, tensors)
    expected |= {("digits-as-coded", k): v for k, v in digits.items()}
    assert found == pytest.approx(expected, rel=1e-5)
    assert budgets["as-coded", "log_train_loss"] == 100
    assert budgets["as-coded", "action_size"] == budgets["digits-as-coded", "test_accuracy"] == 64
    assert budgets["distribution", "action_size@32"] == 32
    assert (budgets["trained", "log_test_loss"], budgets["zero", "log_test_loss"]) == (5, 1)


def test_runs_of_later_seeds_have_no_long_trainings() -> None:
    names = ("as_coded", "digits_as_coded", "distribution")
    tensors = tensors_of(**{name: policy_for(name.replace("_", "-")) for name in names})
    later = {row["variant"] for row in evaluate(SMALL, 3, tensors)}
    assert SMALL.long_seeds == 3
    assert later == {"as-coded", "digits-as-coded", "zero", "constant", "linear", "trained"}


def test_the_training_as_coded_is_one_rollout_of_default_ppo(run) -> None:
    """The same by Stable-Baselines3 alone: one row, its defaults, the seed's discount."""
    train_as_coded(run.stage("as-coded"), SMALL, SEED, 5)
    env = environment(SMALL, "as-coded", SEED)
    model = PPO("MlpPolicy", SB3VecEnv(env, 1, seed=5), gamma=0.7, seed=5, n_steps=64)
    untrained = policy_tensors(model.policy)
    model.learn(64)
    assert (model.num_timesteps, model.batch_size, model.n_epochs) == (64, 64, 10)
    stage = run.stage("as-coded")
    assert (stage.finished, stage.step) == (True, 64)
    assert stage.tensors.keys() == untrained.keys()
    for name, tensor in policy_tensors(model.policy).items():
        assert torch.equal(stage.tensors[name], tensor)
    assert not torch.equal(stage.tensors["action_net.weight"], untrained["action_net.weight"])


@pytest.mark.parametrize(
    ("variant", "marks", "rollout"),
    [
        ("one-task", [8, 16, 32], 8),
        ("distribution", [16], 8),
        ("more-trajectories", [16], 16),
    ],
)
def test_a_long_training_is_the_same_as_one_without_stops(run, variant, marks, rollout) -> None:
    """Two rows share a rollout, a quarter of which is a minibatch; measuring changes nothing."""
    train_long(run.stage(variant), SMALL, SEED, 5)
    env = environment(SMALL, variant, SEED)
    options = {"n_steps": rollout // 2, "batch_size": rollout // 4}
    stage, found = run.stage(variant), {}
    for mark in marks:
        model = PPO("MlpPolicy", SB3VecEnv(env, 2, seed=5), gamma=0.7, seed=5, **options)
        model.learn(mark)
        assert model.num_timesteps == mark
        numbers = measure(env, model.policy, SMALL.test_tasks, SEED)
        found |= {f"{name}@{mark}": value for name, value in numbers.items()}
    assert total_steps(SMALL, variant) == marks[-1] == stage.step
    assert stage.finished
    assert stage.values == pytest.approx(found, rel=1e-5)
    for name, tensor in policy_tensors(model.policy).items():
        assert torch.equal(stage.tensors[name], tensor)


@pytest.mark.parametrize("train", [train_as_coded, train_long])
def test_a_finished_training_is_not_repeated(run, train, monkeypatch) -> None:
    name = "as-coded" if train is train_as_coded else "distribution"
    train(run.stage(name), SMALL, SEED, 5)
    before = run.tensors()
    monkeypatch.setattr("metarl_lib.experiments.weight_space.make", None)
    train(run.stage(name), SMALL, SEED, 5)
    assert all(torch.equal(tensor, before[key]) for key, tensor in run.tensors().items())


def test_one_task_is_measured_where_the_shorter_trainings_end() -> None:
    assert marks_of(SMALL, "one-task", SMALL.rollout) == [8, 16, 32]
    assert marks_of(SMALL, "distribution", SMALL.rollout) == [16]


@pytest.mark.parametrize("seed", [SEED, SMALL.long_seeds])
def test_a_run_holds_the_gain_of_more_trajectories_and_logs_its_test_once(tmp_path, seed) -> None:
    """Both have been trained for 16 steps then, where that on one task goes on to 64."""
    config = dataclasses.replace(SMALL, long_steps=64, shorter=4)
    run = Run.create(tmp_path / "r", "weight_space", config, scale="smoke", seed=seed)
    rows = run_experiment(config, run)
    found = rows_of(rows)
    gains = {name: value for name, value in found.items() if name[1] == "test_minus_one_task"}
    if seed < SMALL.long_seeds:
        mark = "test_minus_zero@16"
        gain = found["more-trajectories", mark] - found["one-task", mark]
        assert gains == {("more-trajectories", "test_minus_one_task"): pytest.approx(gain)}
        assert gain != 0.0
        assert [r["budget"] for r in rows if r["metric"] == "test_minus_one_task"] == [16]
    else:
        assert not gains
    logged = run.metrics()
    assert logged["step"].tolist().count(100) == 2
    again = Run.resume(run.folder, "weight_space", config)
    assert run_experiment(config, again) == rows
    assert len(again.metrics()) == len(logged)
