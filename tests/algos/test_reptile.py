"""Reptile and joint training against loops over tasks."""

import plain_maml as plain
import pytest
import torch
from plain_maml import LOSSES, problem

from metarl_lib.algos import JointTraining, Reptile
from metarl_lib.rules import Network

RATE = 0.05
NETWORK = Network((2, 3, 2), "tanh", bias=True)


def assert_equal(found, expected, tolerance=1e-12) -> None:
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=tolerance, atol=tolerance)


def everything(tasks):
    """The samples of each task, those held out included."""
    for x, y, held_out_x, held_out_y in zip(*tasks, strict=True):
        yield torch.cat([x, held_out_x]), torch.cat([y, held_out_y])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("steps", [1, 4])
def test_reptile_is_the_mean_way_back_from_where_the_tasks_lead(loss, steps) -> None:
    params, tasks = problem(NETWORK, loss)
    found, slopes = Reptile(NETWORK, LOSSES[loss], steps, RATE).meta_gradient(params, tasks)
    ends, losses = [], []
    for x, y in everything(tasks):
        ends.append(plain.adapted(NETWORK, loss, params, [RATE] * 4, x, y, steps))
        losses.append(plain.task_loss(NETWORK, loss, params, x, y))
    expected = []
    for k, p in enumerate(params):
        expected.append(sum((p - end[k].detach()) / RATE for end in ends) / len(ends))
    assert_equal(slopes, expected)
    torch.testing.assert_close(found, (sum(losses) / len(losses)).detach())


@pytest.mark.parametrize("loss", LOSSES)
def test_joint_training_is_the_gradient_of_all_samples(loss) -> None:
    params, tasks = problem(NETWORK, loss)
    found, slopes = JointTraining(NETWORK, LOSSES[loss]).meta_gradient(params, tasks)
    leaves = [p.clone().requires_grad_() for p in params]
    losses = [plain.task_loss(NETWORK, loss, leaves, x, y) for x, y in everything(tasks)]
    mean = sum(losses) / len(losses)
    torch.testing.assert_close(found, mean.detach())
    assert_equal(slopes, torch.autograd.grad(mean, leaves))


def test_reptile_with_one_step_is_joint_training() -> None:
    params, tasks = problem(NETWORK, "mse")
    reptile, joint = (
        kind(NETWORK, inner_steps=1, rate=RATE).meta_gradient(params, tasks)
        for kind in (Reptile, JointTraining)
    )
    torch.testing.assert_close(reptile[0], joint[0])
    assert_equal(reptile[1], joint[1])


@pytest.mark.parametrize("kind", [Reptile, JointTraining])
def test_they_adapt_as_maml_does_and_have_only_weights(kind) -> None:
    params, tasks = problem(NETWORK, "mse")
    learner = kind(NETWORK, inner_steps=2, rate=RATE)
    theta = learner.adapt(params, tasks.x, tasks.y)
    for i, (x, y) in enumerate(zip(tasks.x, tasks.y, strict=True)):
        expected = plain.adapted(NETWORK, "mse", params, [RATE] * 4, x, y, 2)
        assert_equal([p[i] for p in theta], [p.detach() for p in expected])
    stream = torch.Generator().manual_seed(1)
    assert_equal(learner.init(stream), NETWORK.init(torch.Generator().manual_seed(1)), 0)
    assert learner.split(params) == (params, RATE)


@pytest.mark.parametrize("kind", [Reptile, JointTraining])
def test_a_number_out_of_range_is_refused_in_one_line(kind) -> None:
    for options, says in (
        ({"inner_steps": 0}, "inner_steps=0: must be a whole number >= 1"),
        ({"rate": -1.0}, "rate=-1.0: must be greater than 0 and finite"),
    ):
        with pytest.raises(ValueError) as refusal:
            kind(NETWORK, **options)
        assert str(refusal.value) == says
