"""The outer loop: Adam as torch has it, tasks and their order, resuming, and what is learned."""

from typing import ClassVar

import pytest
import torch
from plain_maml import stream

from metarl_lib.algos import MAML, JointTraining, OuterLoop, Reptile
from metarl_lib.datasets import NWayFamily, SinusoidFamily, Tasks
from metarl_lib.rules import Network, cross_entropy, mse

SMALL = Network((1, 5, 1), bias=True)
FAMILY = SinusoidFamily(4, 3)


def loop(learner=None, family=FAMILY, **options) -> OuterLoop:
    learner = learner or MAML(SMALL, rates="learned")
    options = {"iterations": 100, "batch": 3} | options
    return OuterLoop(learner, family, learner.init(stream(1)), stream(2), **options)


@pytest.mark.parametrize("learner", [MAML(SMALL, rates="learned"), Reptile(SMALL, inner_steps=2)])
def test_the_steps_are_those_of_torchs_adam_with_a_falling_rate(learner) -> None:
    training = loop(learner, iterations=10, learning_rate=0.01, learning_rate_end=0.002)
    training.advance(12)
    params = [p.requires_grad_() for p in learner.init(stream(1))]
    adam, tasks = torch.optim.Adam(params), FAMILY.sample(36, stream(2))
    for k in range(12):
        adam.param_groups[0]["lr"] = 0.01 - 0.0008 * min(k, 10)
        own = [p.detach() for p in params]
        batch = Tasks(*(part[3 * k : 3 * k + 3] for part in tasks))
        for p, g in zip(params, learner.meta_gradient(own, batch)[1], strict=True):
            p.grad = g
        adam.step()
    for found, expected in zip(training.meta, params, strict=True):
        torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)
    assert training.done == 12


def test_the_loss_is_the_mean_over_all_meta_iterations() -> None:
    training = loop(learning_rate=0.0, learning_rate_end=0.0)
    tasks = FAMILY.sample(150, stream(2)), None
    blocks = [tasks[0]]
    state = torch.Generator()
    state.set_state(stream(2).get_state())
    FAMILY.sample(150, state)
    blocks.append(FAMILY.sample(60, state))
    learner = training.learner
    whole = Tasks(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))
    expected = learner.meta_gradient(learner.init(stream(1)), whole)[0]
    assert training.advance(70) == pytest.approx(float(expected), rel=1e-5)


def test_initial_meta_parameters_stay_as_they_were() -> None:
    learner = MAML(SMALL)
    meta = learner.init(stream(1))
    before = [p.clone() for p in meta]
    training = OuterLoop(learner, FAMILY, meta, stream(), iterations=5)
    training.advance(2)
    for p, b, now in zip(meta, before, training.meta, strict=True):
        assert torch.equal(p, b)
        assert not torch.equal(p, now)


def test_the_seed_decides() -> None:
    one, same = loop(), loop()
    assert one.advance(60) == same.advance(60)
    assert all(torch.equal(*pair) for pair in zip(one.meta, same.meta, strict=True))
    other = OuterLoop(one.learner, FAMILY, one.learner.init(stream(1)), stream(3), iterations=100)
    other.advance(60)
    assert not torch.equal(other.meta[0], one.meta[0])


def test_training_goes_on_from_a_checkpoint_bit_for_bit() -> None:
    whole = loop(learning_rate_end=0.0)
    whole.advance(55)
    kept = whole.checkpoint()
    frozen = {name: tensor.clone() for name, tensor in kept.items()}
    expected = whole.advance(55)
    assert all(torch.equal(kept[name], frozen[name]) for name in kept)
    again = loop(learning_rate_end=0.0)
    again.restore(kept)
    assert again.done == 55
    assert again.advance(55) == expected
    assert all(torch.equal(*pair) for pair in zip(whole.meta, again.meta, strict=True))
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.checkpoint().values(), again.checkpoint().values(), strict=True)
    )


class Wide(SinusoidFamily):
    """A family of two inputs."""

    inputs: ClassVar[int] = 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"iterations": 0}, "iterations=0: must be a whole number >= 1"),
        ({"batch": 2.5}, "batch=2.5: must be a whole number >= 1"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0: must be 0 or more, and finite"),
        ({"learning_rate_end": float("nan")}, "learning_rate_end=nan: must be 0 or more,"),
        ({"family": Wide()}, "widths=(1, 5, 1): the tasks have 2 inputs and 1 outputs"),
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line(options, says, unchecked) -> None:
    with pytest.raises(ValueError) as refusal:
        loop(**options)
    assert str(refusal.value).startswith(says)
    assert "\n" not in str(refusal.value)


def error_after(learner, meta, steps: int) -> float:
    """The mean squared error on unseen sinusoids after some steps on ten samples of each."""
    tasks = SinusoidFamily(10, 50).sample(300, stream(9), "test")
    theta = learner.adapt(meta, tasks.x, tasks.y, steps)
    return float(mse(learner.network(theta, tasks.held_out_x), tasks.held_out_y).mean())


def test_maml_learns_weights_from_which_one_step_goes_far(unchecked) -> None:
    """Joint training finds the mean of all sinusoids, from which a step leads nowhere far."""
    network = Network((1, 40, 40, 1), bias=True)
    found = {}
    for learner in (MAML(network, rate=0.003), JointTraining(network, rate=0.003)):
        meta = learner.init(stream(0))
        training = OuterLoop(
            learner, SinusoidFamily(10, 10), meta, stream(1),
            iterations=2500, learning_rate=3e-3,
        )  # fmt: skip
        training.advance(2500)
        found[type(learner)] = [error_after(learner, training.meta, k) for k in (0, 1, 5)]
    maml, joint = found[MAML], found[JointTraining]
    assert maml[1] < 0.5 * maml[0]
    assert maml[1] < 0.5 * joint[1]
    assert maml[2] < maml[1]


def test_maml_learns_to_tell_digits_apart_that_it_has_never_seen(unchecked) -> None:
    family, network = NWayFamily(3, 1, 5), Network((30, 64, 3), bias=True)
    tasks = family.sample(500, stream(9), "test")
    found = {}
    for learner in (
        MAML(network, cross_entropy, rate=0.5), JointTraining(network, cross_entropy, rate=0.5)
    ):  # fmt: skip
        training = OuterLoop(learner, family, learner.init(stream(0)), stream(1), iterations=300)
        training.advance(300)
        theta = learner.adapt(training.meta, tasks.x, tasks.y)
        right = network(theta, tasks.held_out_x).argmax(-1) == tasks.held_out_y
        found[type(learner)] = float(right.float().mean())
    assert found[MAML] > found[JointTraining] + 0.02 > 0.5
