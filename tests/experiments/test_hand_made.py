"""Hand-made rules against one network at a time, with SGD and Adam written out."""

import math

import numpy as np
import pytest
import torch
from plain_lives import (
    CEILING,
    Labels,
    double,
    log_losses,
    seeded,
    small_space,
)
from plain_training import plain_training

from metarl_lib.datasets import TeacherFamily
from metarl_lib.experiments.hand_made import (
    DRIVES,
    HAND_MADE,
    OPTIMISERS,
    references,
    train_by_hand,
)

ROWS = 3
SPACES = {
    "teachers": {},
    "labels, tanh": {"family": Labels(), "activation": "tanh"},
    "three layers": {"widths": (3, 5, 4, 2), "output_activation": "tanh"},
}


def close(found, expected) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-6, atol=1e-6)


def agree(life, expected, kind="regression") -> None:
    """A life and what `plain_training` gives."""
    logs, held_out, right, dead = expected
    close(life.log_losses, logs)
    close(life.held_out, held_out)
    assert life.diverged.tolist() == dead.bool().tolist()
    if kind == "regression":
        assert life.accuracy.isnan().all()
    else:
        close(life.accuracy, right)
    assert life.accuracy.shape == life.diverged.shape == (ROWS,)


@pytest.mark.parametrize("options", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_batch_is_trained_as_each_network_by_itself(name, options) -> None:
    env = small_space(**options)
    tasks = double(env.sample_tasks(ROWS, seeded()))
    found = train_by_hand(env, name, 0.03, tasks, seeded(1))
    assert found.log_losses.shape == (env.steps + 1, ROWS)
    assert found.actions.numel() == found.rates.numel() == 0
    expected = plain_training(env, name, 0.03, tasks, seeded(1))
    assert (expected[0][-1] - expected[0][0]).abs().min() > 1e-3
    agree(found, expected, env.family.kind)


@pytest.mark.parametrize("name", HAND_MADE)
def test_every_rule_starts_from_the_weights_that_the_environment_draws(name) -> None:
    env = small_space()
    tasks, stream = double(env.sample_tasks(ROWS, seeded())), seeded(1)
    draws = [
        0.7 * torch.randn(ROWS, *shape, generator=stream, dtype=torch.float64)
        for shape in ((5, 3), (2, 5))
    ]
    found = train_by_hand(env, name, 0.03, tasks, seeded(1))
    torch.testing.assert_close(found.log_losses[0], log_losses(env.network, draws, tasks))


def action_of(c):
    """a with 0.3 sinh(5a) / sinh 5 = c."""
    return math.asinh(c / 0.3 * math.sinh(5)) / 5


def stepped_by_hand(env, drive, choose, tasks):
    """Log losses `[T + 1, B]`, and on held-out samples, when `choose(time)` acts on all rows."""
    stepped, stream = (
        small_space(drive=drive, widths=env.network.widths, steps=env.steps),
        seeded(1),
    )
    state, _ = stepped.reset(tasks, stream)
    logs = [log_losses(env.network, state.params, tasks)]
    for time in range(env.steps):
        state, _ = stepped.step(state, torch.tensor([choose(time)]).repeat(ROWS, 1), stream)
        logs.append(log_losses(env.network, state.params, tasks))
    held_out = tasks._replace(x=tasks.held_out_x, y=tasks.held_out_y)
    return torch.stack(logs), log_losses(env.network, state.params, held_out)


@pytest.mark.parametrize("name", ["sgd-normalised", "np-normalised"])
def test_a_constant_coefficient_is_the_environment_stepped_with_one_action(name) -> None:
    """c(a) = 0.05 for the drive of each layer, and no other signal."""
    env = small_space()
    tasks = double(env.sample_tasks(ROWS, seeded()))
    found = train_by_hand(env, name, 0.05, tasks, seeded(1))
    action = [action_of(0.05), 0.0, 0.0, 0.0] * 2
    logs, held_out = stepped_by_hand(env, DRIVES[name], lambda time: action, tasks)
    close(found.log_losses, logs)
    close(found.held_out, held_out)
    assert found.actions.shape == (env.steps, ROWS, 8)
    assert env.drive == "perturbation"  # the environment that was given is as it was


def recipe(time, steps, layers, c):
    """Of each layer: half c for drive and momentum, nothing for hebb, a tenth of decay at first."""
    share = c / 2 * 0.125 ** (time / steps)
    numbers = []
    for layer in range(layers):
        own = share / 3 if layer == layers - 1 else share
        numbers.append([own, own, 0.0, 0.1 if time < steps / 20 else 0.0])
    return numbers


@pytest.mark.parametrize("widths", [(3, 5, 2), (3, 5, 4, 2)])
@pytest.mark.parametrize("name", ["sgd-recipe", "np-recipe"])
def test_a_recipe_follows_its_plan_of_coefficients(name, widths) -> None:
    """In a life of 40 steps the weights decay in the first two of them."""
    env = small_space(widths=widths, steps=40)
    tasks = double(env.sample_tasks(ROWS, seeded()))
    found = train_by_hand(env, name, 0.2, tasks, seeded(1))

    def plan(time):
        return [c for layer in recipe(time, 40, len(widths) - 1, 0.2) for c in layer]

    expected = torch.tensor([plan(time) for time in range(40)])
    coefficients = 0.3 * torch.sinh(5 * found.actions) / math.sinh(5)
    torch.testing.assert_close(coefficients, expected[:, None].expand_as(coefficients))
    assert (expected[:, 3] > 0).sum() == 2
    drive = "gradient" if name == "sgd-recipe" else "perturbation"
    choose = lambda time: [action_of(c) for c in plan(time)]  # noqa: E731
    logs, held_out = stepped_by_hand(env, drive, choose, tasks)
    torch.testing.assert_close(found.log_losses, logs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.held_out, held_out, rtol=1e-4, atol=1e-4)
    assert not found.diverged.any()


@pytest.mark.parametrize(
    ("name", "rate", "scale"),
    [
        ("sgd", 0.03, 10.0),
        ("adam", 5.0, 40.0),
        ("wp", 0.03, 10.0),
        ("np", 0.03, 10.0),
        ("np-adam", 5.0, 20.0),
    ],
)
def test_a_network_that_diverges_counts_at_the_limit_and_touches_no_other(
    name, rate, scale
) -> None:
    """Row 1 has inputs too large for the rate; the loss of what is left of it would be small."""
    env = small_space(steps=8)
    tasks = double(env.sample_tasks(ROWS, seeded()))
    tasks.x[1] *= scale
    found = train_by_hand(env, name, rate, tasks, seeded(1))
    expected = plain_training(env, name, rate, tasks, seeded(1))
    dead = expected[0] == CEILING
    assert dead[-1].tolist() == [False, True, False], expected[0]
    assert not dead[0].any()
    assert found.log_losses[dead].tolist() == [CEILING] * int(dead.sum())
    agree(found, expected)


@pytest.mark.parametrize("name", DRIVES)
def test_divergence_under_a_constant_coefficient_counts_at_the_limit_too(name) -> None:
    env = small_space()
    tasks = double(env.sample_tasks(ROWS, seeded()))
    tame = train_by_hand(env, name, 0.05, tasks, seeded(1))
    tasks.y[1] *= 1e5
    found = train_by_hand(env, name, 0.05, tasks, seeded(1))
    assert found.log_losses[1:, 1].tolist() == [CEILING] * env.steps
    assert found.held_out[1] == CEILING
    assert (tame.diverged.any(), found.diverged.tolist()) == (False, [False, True, False])
    torch.testing.assert_close(
        found.log_losses[:, ::2], tame.log_losses[:, ::2], rtol=1e-12, atol=0
    )


def test_the_references_are_the_zero_and_the_mean_target() -> None:
    """Mean over tasks of log (1/N) Σ_i ‖y_i − c‖² / (2 R)."""
    env = small_space(family=TeacherFamily(3, 2, (4,), num_train=9, num_held_out=5))
    tasks = env.sample_tasks(4, seeded())
    y = tasks.y.double().numpy()
    zero = [np.log(np.mean(own**2) / 2) for own in y]
    constant = [np.log(np.mean((own - own.mean(0)) ** 2) / 2) for own in y]
    found = references(env, tasks)
    assert set(found) == {"zero", "constant"}
    assert found["zero"] == pytest.approx(np.mean(zero), rel=1e-5)
    assert found["constant"] == pytest.approx(np.mean(constant), rel=1e-5)


def test_the_best_constant_logits_are_the_log_frequencies_of_the_classes() -> None:
    """Their cross-entropy is the entropy of the labels; that of zeros is log 4."""
    env = small_space(family=Labels())
    tasks = env.sample_tasks(4, seeded())
    tasks.y[0] = torch.tensor([0, 0, 0, 0, 1, 1, 3, 3])  # class 2 never occurs
    entropies = []
    for labels in tasks.y.tolist():
        shares = [labels.count(label) / len(labels) for label in set(labels)]
        entropies.append(-sum(p * math.log(p) for p in shares))
    assert entropies[0] == pytest.approx(1.5 * math.log(2))
    found = references(env, tasks)
    assert found["constant"] == pytest.approx(np.mean(np.log(entropies)), rel=1e-4)
    assert found["zero"] == pytest.approx(math.log(math.log(4)))
