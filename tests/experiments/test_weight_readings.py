"""Readings of policies that set weights, in NumPy; references; a second teacher; digits."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from plain_lives import outputs, perceptron, seeded, setter, split, square_error, tensors_of

from metarl_lib.experiments.learners import policy_tensors
from metarl_lib.experiments.weight_readings import (
    LIFE,
    digits_losses,
    environment,
    gaps,
    life_losses,
    measure,
    policy_of,
    references,
    seed_task,
)
from metarl_lib.experiments.weight_space import Config
from metarl_lib.runs import generator

SEED = 2
SMALL = Config(
    hidden=4, teacher_hidden=5, samples=12, steps=6, seed_steps=8, long_steps=64, shorter=2,
    rows=2, rollout=8, more=2, test_tasks=3, reference_steps=5,
)  # fmt: skip


def policy_for(variant, seed=0):
    return setter(SMALL, variant, SEED, seed)


def constant(policy, weights=None):
    """The same policy, which sets the given weights whatever it sees; zero by default."""
    with torch.no_grad():
        policy.action_net.weight.zero_()
        policy.action_net.bias.copy_(
            torch.zeros(len(policy.action_net.bias)) if weights is None else weights
        )
    return policy


def test_the_second_teacher_has_inputs_and_weights_of_its_own() -> None:
    env = environment(Config(), "as-coded", SEED)
    train, test = (seed_task(env, split) for split in ("train", "test"))
    assert not torch.equal(train.x, test.x)
    centred = [(task.y - task.y.mean(0)).flatten() for task in (train, test)]
    correlation = float(torch.corrcoef(torch.stack(centred))[0, 1])
    assert abs(correlation) < 0.2


def test_the_two_digit_splits_are_other_images_prepared_as_in_the_seed() -> None:
    """As coded the features are not scaled: their second moments fall from large to small."""
    env = environment(SMALL, "digits-as-coded", SEED)
    train, test = (seed_task(env, split) for split in ("train", "test"))
    assert len(train) == len(test) == 12
    pairs = torch.cdist(torch.cat([train.x, test.x]), torch.cat([train.x, test.x]))
    assert (pairs + 100 * torch.eye(24)).min() > 0.1
    moments = train.x.double().T @ train.x.double() / 12
    off = moments - moments.diag().diag()
    assert off.abs().max() < 1e-3 * moments.diag().max()
    assert moments.diag().max() > 10


def trained_by_hand(env, steps):
    """Adam at 1e-2 with its moments written out, from weights that are drawn again."""
    stream = generator(SEED, "init", 9)
    params = [torch.randn(s, generator=stream) / math.sqrt(30) for s in env.network.shapes]
    task = seed_task(env, "train")
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in params]
    for step in range(1, steps + 1):
        leaves = [p.requires_grad_() for p in params]
        loss = (outputs(env.network, leaves, task.x) - task.y).square().sum(-1).mean()
        gradient = torch.autograd.grad(loss, leaves)
        params = []
        for k, (p, g) in enumerate(zip(leaves, gradient, strict=True)):
            m, v = (0.9 * moments[k][0] + 0.1 * g, 0.999 * moments[k][1] + 0.001 * g * g)
            moments[k] = m, v
            size = (v / (1 - 0.999**step)).sqrt() + 1e-8
            params.append(p.detach() - 0.01 * m / (1 - 0.9**step) / size)
    return params


def test_the_references_are_zero_a_constant_an_affine_map_and_a_trained_student() -> None:
    config = dataclasses.replace(SMALL, reference_steps=50)
    env = environment(config, "as-coded", SEED)
    tasks = [seed_task(env, name) for name in ("train", "test")]
    (x, y), (x2, y2) = [(t.x.double().numpy(), t.y.double().numpy()) for t in tasks]
    affine = np.linalg.lstsq(np.c_[x, np.ones(12)], y, rcond=None)[0]
    trained = trained_by_hand(env, config.reference_steps)
    expected = {
        "zero": [np.mean((t**2).sum(1)) for t in (y, y2)],
        "constant": [np.mean(((t - y.mean(0)) ** 2).sum(1)) for t in (y, y2)],
        "linear": [
            np.mean(((np.c_[a, np.ones(12)] @ affine - t) ** 2).sum(1))
            for a, t in ((x, y), (x2, y2))
        ],
        "trained": [square_error(trained, task.x, task.y) for task in tasks],
    }
    found = references(config, SEED)
    assert set(found) == set(expected)
    for name, losses in expected.items():
        values = [found[name][f"log_{split}_loss"] for split in ("train", "test")]
        assert values == pytest.approx(np.log(losses).tolist(), abs=1e-4)
    ordered = [found[name]["log_train_loss"] for name in ("linear", "constant", "zero")]
    assert ordered == sorted(ordered)
    assert found["trained"]["log_train_loss"] < found["zero"]["log_train_loss"] - 0.1


def test_the_published_life_is_a_hundred_steps_of_the_policy_as_coded() -> None:
    policy = policy_for("as-coded")
    with torch.no_grad():  # weights that set the next weights: small enough not to be chaos
        policy.action_net.weight.mul_(0.2)
    found = life_losses(SMALL, SEED, tensors_of(as_coded=policy))
    assert len(found) == LIFE == 100
    env = environment(SMALL, "as-coded", SEED)
    stream = generator(SEED, "evaluation", 1)
    weights = [torch.randn(1, *shape, generator=stream) for shape in ((4, 10), (10, 4))]
    seen = torch.cat([w.flatten() for w in weights]) / math.sqrt(30)
    own = policy_tensors(policy)
    for values in found:
        seen = perceptron(own, seen, 1e6)
        for name in ("train", "test"):
            task = seed_task(env, name)
            loss = square_error(split(seen), task.x, task.y)
            assert values[f"log_{name}_loss"] == pytest.approx(math.log(loss), rel=1e-4)
    assert len({round(v["log_train_loss"], 3) for v in found}) > 3


@pytest.mark.parametrize("variant", ["as-coded", "distribution"])
def test_a_policy_is_measured_on_training_tasks_and_on_unseen_teachers(variant) -> None:
    env, policy = environment(SMALL, variant, SEED), policy_for(variant)
    stream = generator(5, "evaluation")
    expected = {}
    for name in ("train", "test"):
        draw = env.sample_tasks if name == "train" else env.family.sample
        tasks = draw(3, stream, name)
        weights = [torch.randn(3, 4, 10, generator=stream), torch.randn(3, 10, 4, generator=stream)]
        seen = torch.cat([w.flatten(1) / math.sqrt(30) for w in weights], -1)
        actions = perceptron(policy_tensors(policy), seen, 1e6)
        rows = zip(actions, tasks.x, tasks.y, strict=True)
        losses = [square_error(split(action), x, y) for action, x, y in rows]
        expected[f"log_{name}_loss"] = np.mean(np.log(losses))
        zeros = [np.mean([(target**2).sum() for target in y.numpy()]) for y in tasks.y]
        expected[f"{name}_minus_zero"] = np.mean(np.log(losses) - np.log(zeros))
    a = actions.double().numpy()
    expected["action_size"] = np.sqrt(np.mean(a**2))
    expected["action_spread"] = np.sqrt(np.mean((a - a.mean(0)) ** 2)) / np.sqrt(np.mean(a**2))
    found = measure(env, policy, 3, 5)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found["action_spread"] > 0.1


def test_a_policy_that_always_does_the_same_has_no_spread() -> None:
    env = environment(SMALL, "as-coded", SEED)
    weights = torch.randn(80, generator=seeded())
    found = measure(env, constant(policy_for("as-coded"), weights), 3, SEED)
    assert found["action_spread"] < 1e-6
    assert found["action_size"] == pytest.approx(float(weights.square().mean().sqrt()), rel=1e-5)
    task = seed_task(env, "train")
    expected = math.log(square_error(split(weights), task.x, task.y))
    assert found["log_train_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_policy_of_zero_weights_is_the_zero_predictor_exactly() -> None:
    tensors = tensors_of(as_coded=constant(policy_for("as-coded")))
    best = references(SMALL, SEED)
    found = gaps(SMALL, SEED, tensors, best)
    assert found["train_minus_zero"] == found["test_minus_zero"] == found["excess_gap"] == 0.0
    assert found["range_in_life"] == 0.0
    difference = best["zero"]["log_train_loss"] - best["trained"]["log_train_loss"]
    assert found["train_minus_trained"] == difference != 0
    env = environment(SMALL, "as-coded", SEED)
    measured = measure(env, policy_of(env, tensors, "as-coded"), 3, SEED)
    zero = ("action_size", "action_spread", "train_minus_zero", "test_minus_zero")
    assert [measured[name] for name in zero] == [0.0] * 4


def test_gaps_compare_the_last_step_with_the_references() -> None:
    tensors = tensors_of(as_coded=policy_for("as-coded"))
    last = life_losses(SMALL, SEED, tensors)[-1]
    best = {
        "zero": {"log_train_loss": 1.0, "log_test_loss": 2.5},
        "trained": {"log_train_loss": -3.0, "log_test_loss": 0.0},
    }
    train, test = last["log_train_loss"], last["log_test_loss"]
    curve = sorted(values["log_train_loss"] for values in life_losses(SMALL, SEED, tensors))
    assert curve[-1] > curve[0]
    assert gaps(SMALL, SEED, tensors, best) == pytest.approx(
        {
            "train_minus_zero": train - 1.0,
            "test_minus_zero": test - 2.5,
            "train_minus_trained": train + 3.0,
            "range_in_life": curve[-1] - curve[0],
            "excess_gap": test - train - 1.5,
        }
    )


def test_digits_are_read_with_their_whole_cross_entropy_and_their_accuracy() -> None:
    policy = policy_for("digits-as-coded")
    weights = 0.1 * torch.randn(100, generator=seeded(8))
    for given in (None, weights):
        tensors = tensors_of(digits_as_coded=constant(policy, given))
        found = digits_losses(SMALL, SEED, tensors)
        env = environment(SMALL, "digits-as-coded", SEED)
        for name in ("train", "test"):
            task = seed_task(env, name)
            matrix = np.zeros((10, 10)) if given is None else given.reshape(10, 10).numpy()
            logits = task.x.double().numpy() @ matrix.T
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            loss = np.mean([-math.log(p[i, label]) for i, label in enumerate(task.y.tolist())])
            right = np.mean(
                [logits[i].argmax() == label for i, label in enumerate(task.y.tolist())]
            )
            assert found[f"log_{name}_loss"] == pytest.approx(math.log(loss), rel=1e-4)
            assert found[f"{name}_accuracy"] == pytest.approx(right)
            if given is None:
                assert found[f"log_{name}_loss"] == pytest.approx(math.log(math.log(10)))
