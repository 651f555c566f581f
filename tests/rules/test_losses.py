"""The losses against numbers worked out by hand, their derivatives against autograd."""

import math

import pytest
import torch

from metarl_lib.rules import cross_entropy, half_mse, mse
from metarl_lib.rules.losses import LOSS_CURVATURES, LOSS_GRADIENTS


def test_half_mse_by_hand() -> None:
    outputs = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    targets = torch.tensor([[0.0, 4.0], [0.0, 1.0]])
    # (1 + 4) / 4 and (0 + 4) / 4
    torch.testing.assert_close(half_mse(outputs, targets), torch.tensor([1.25, 1.0]))
    torch.testing.assert_close(mse(outputs, targets), torch.tensor([2.5, 2.0]))


def test_cross_entropy_by_hand() -> None:
    outputs = torch.tensor([[0.0, math.log(3.0)], [5.0, 5.0]])
    expected = torch.tensor([math.log(4.0), math.log(2.0)])  # p = (1/4, 3/4) and (1/2, 1/2)
    torch.testing.assert_close(cross_entropy(outputs, torch.tensor([0, 1])), expected)
    one_hot = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(cross_entropy(outputs, one_hot), expected)
    soft = torch.tensor([[0.5, 0.5], [0.2, 0.8]])
    mixed = torch.tensor([0.5 * math.log(4) + 0.5 * math.log(4 / 3), math.log(2)])
    torch.testing.assert_close(cross_entropy(outputs, soft), mixed)


def test_cross_entropy_survives_large_logits() -> None:
    outputs = torch.tensor([[1e4, 0.0]])
    assert cross_entropy(outputs, torch.tensor([1])).item() == pytest.approx(1e4)
    assert cross_entropy(outputs, torch.tensor([0])).item() == 0.0


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("kind", ["real", "real, mse", "labels", "soft", "unnormalised"])
def test_the_written_derivatives_are_autograds(kind, batch, stream) -> None:
    outputs = torch.randn(*batch, 6, 4, generator=stream, dtype=torch.float64)
    outputs.requires_grad_()
    targets = {
        "real": torch.randn(6, 4, generator=stream, dtype=torch.float64),
        "real, mse": torch.randn(6, 4, generator=stream, dtype=torch.float64),
        "labels": torch.randint(4, (6,), generator=stream),
        "soft": torch.rand(6, 4, generator=stream, dtype=torch.float64).softmax(-1),
        "unnormalised": torch.rand(6, 4, generator=stream, dtype=torch.float64),
    }[kind]
    loss = {"real": half_mse, "real, mse": mse}.get(kind, cross_entropy)
    (expected,) = torch.autograd.grad(loss(outputs, targets).sum(), outputs, create_graph=True)
    found = LOSS_GRADIENTS[loss](outputs.detach(), targets)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
    direction = torch.randn(outputs.shape, generator=stream, dtype=torch.float64)
    (expected,) = torch.autograd.grad((expected * direction).sum(), outputs)
    found = LOSS_CURVATURES[loss](outputs.detach(), targets, direction)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_losses_keep_leading_dimensions(stream) -> None:
    outputs = torch.randn(2, 3, 5, 4, generator=stream)
    real, labels = torch.randn(5, 4, generator=stream), torch.arange(5) % 4
    for loss, targets in ((half_mse, real), (cross_entropy, labels)):
        values = loss(outputs, targets)
        assert values.shape == (2, 3, 5)
        torch.testing.assert_close(values[1, 2], loss(outputs[1, 2], targets))
