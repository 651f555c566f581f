"""`sgd` against finite differences, `backpropagation` against `sgd`."""

import pytest
import torch

from metarl_lib.rules import backpropagation, sgd

WIDTHS = [(3, 2), (3, 5, 2), (2, 4, 3, 2)]
LOSSES = ["half_mse", "labels", "soft"]


def assert_equal(found, expected, tolerance=1e-12) -> None:
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("output", [None, "relu", "tanh"])
@pytest.mark.parametrize("activation", ["relu", "tanh", None])
@pytest.mark.parametrize("widths", WIDTHS)
def test_backpropagation_is_autograd(problem, widths, activation, output, loss, bias) -> None:
    p = problem(widths, activation, output, bias=bias, loss=loss)
    gradient = sgd(*p)
    assert [g.shape for g in gradient] == [w.shape for w in p.params]
    assert any(g.abs().max() > 1e-3 for g in gradient)
    assert_equal(backpropagation(*p), gradient)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("widths", WIDTHS)
def test_sgd_is_the_finite_difference(problem, widths, loss, bias) -> None:
    p = problem(widths, bias=bias, loss=loss)
    step = 1e-5
    for index, gradient in enumerate(sgd(*p)):
        for place in range(gradient.numel()):
            errors = []
            for sign in (1, -1):
                moved = [w.clone() for w in p.params]
                moved[index].view(-1)[place] += sign * step
                errors.append(p.loss(p.network(moved, p.x), p.y).mean())
            slope = (errors[0] - errors[1]) / (2 * step)
            assert gradient.view(-1)[place].item() == pytest.approx(
                slope.item(), rel=1e-6, abs=1e-9
            )


@pytest.mark.parametrize("rule", [sgd, backpropagation])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", [False, True])
def test_leading_dimensions_are_separate_networks(problem, rule, loss, bias) -> None:
    p = problem(bias=bias, loss=loss, batch=(3,))
    together = rule(*p)
    for index in range(3):
        alone = p._replace(params=[w[index] for w in p.params])
        assert_equal([g[index] for g in together], sgd(*alone))


@pytest.mark.parametrize("rule", [sgd, backpropagation])
def test_every_network_may_have_its_own_data(problem, rule) -> None:
    several = [problem(seed=seed) for seed in range(3)]
    stacked = [torch.stack(w) for w in zip(*(p.params for p in several), strict=True)]
    x, y = torch.stack([p.x for p in several]), torch.stack([p.y for p in several])
    together = rule(several[0].network, stacked, x, y, several[0].loss)
    for index, p in enumerate(several):
        assert_equal([g[index] for g in together], sgd(*p))


@pytest.mark.parametrize("rule", [sgd, backpropagation])
def test_the_arguments_stay_as_they_were(problem, rule) -> None:
    p = problem(bias=True)
    before = [w.clone() for w in p.params]
    rule(*p)
    assert_equal(p.params, before, 0)
    assert not any(w.requires_grad or w.grad is not None for w in p.params)


def test_backpropagation_refuses_a_loss_without_a_derivative(problem) -> None:
    p = problem()
    with pytest.raises(ValueError, match="half_mse, cross_entropy, mse, or sgd") as refusal:
        backpropagation(*p._replace(loss=lambda outputs, targets: outputs.sum(-1)))
    assert "\n" not in str(refusal.value)
