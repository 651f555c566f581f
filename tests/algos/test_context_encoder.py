"""Beliefs against densities multiplied on a grid, `torch.distributions`, and orders of rows."""

import math

import pytest
import torch
from streams import stream
from torch.distributions import Independent, Normal, kl_divergence

from metarl_lib.algos.context_encoder import (
    Belief,
    ContextEncoder,
    kl_to_prior,
    product_of_gaussians,
)

LATENT, NUMBERS = 3, 4


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


def encoder_of(**options) -> ContextEncoder:
    torch.manual_seed(0)
    return ContextEncoder(NUMBERS, LATENT, (7, 6), **options).double()


def on_a_grid(means: torch.Tensor, precisions: torch.Tensor) -> tuple[float, float]:
    """Mean and variance of the normalised product of densities, prior included."""
    x = torch.linspace(-30, 30, 200_001, dtype=torch.float64)
    density = Normal(0.0, 1.0).log_prob(x)
    for mean, precision in zip(means, precisions, strict=True):
        density = density + Normal(mean, precision.rsqrt()).log_prob(x)
    weight = (density - density.max()).exp()
    weight /= weight.sum()
    mean = (weight * x).sum()
    return float(mean), float((weight * (x - mean).square()).sum())


def test_the_product_is_that_of_the_densities() -> None:
    means, precisions = 2 * normal(2, 5, 3), normal(2, 5, 3, seed=1).exp()
    belief = product_of_gaussians(means, precisions)
    for task in range(2):
        for i in range(3):
            mean, variance = on_a_grid(means[task, :, i], precisions[task, :, i])
            assert float(belief.mean[task, i]) == pytest.approx(mean, abs=1e-9)
            assert float(belief.variance[task, i]) == pytest.approx(variance, rel=1e-9)


def test_factors_that_do_not_count_are_as_if_they_were_not_there() -> None:
    means, precisions = normal(1, 5, 3), normal(1, 5, 3, seed=1).exp()
    among = torch.tensor([[True, False, True, False, True]])
    some = product_of_gaussians(means, precisions, among)
    plain = product_of_gaussians(means[:, ::2], precisions[:, ::2])
    torch.testing.assert_close(tuple(some), tuple(plain))
    none = product_of_gaussians(means, precisions, torch.zeros_like(among))
    assert torch.equal(none.mean, torch.zeros(1, 3, dtype=torch.float64))
    assert torch.equal(none.variance, torch.ones(1, 3, dtype=torch.float64))


def test_divergence_from_the_prior() -> None:
    belief = Belief(2 * normal(4, LATENT), normal(4, LATENT, seed=1).exp())
    ours = Independent(Normal(belief.mean, belief.variance.sqrt()), 1)
    zero = torch.zeros(LATENT, dtype=torch.float64)
    expected = kl_divergence(ours, Independent(Normal(zero, zero + 1), 1))
    torch.testing.assert_close(kl_to_prior(belief), expected)
    assert (expected > 0.1).all()
    assert float(kl_to_prior(Belief(zero, zero + 1))) == 0


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_order_of_a_context_does_not_matter_and_its_rows_do(deterministic) -> None:
    encoder = encoder_of(deterministic=deterministic)
    context, among = normal(2, 6, NUMBERS), torch.rand(2, 6, generator=stream(3)) < 0.7
    order = torch.randperm(6, generator=stream(4))
    belief = encoder(context, among)
    torch.testing.assert_close(tuple(encoder(context[:, order], among[:, order])), tuple(belief))
    other = encoder(context + among[..., None] * torch.tensor([1.0, 0, 0, 0]), among)
    assert (other.mean - belief.mean).abs().min() > 1e-4
    unseen = encoder(context + 9.0 * ~among[..., None], among)
    torch.testing.assert_close(tuple(unseen), tuple(belief))


def test_the_encoder_reads_one_transition_at_a_time() -> None:
    """Against a plain loop over tasks and rows."""
    encoder = encoder_of()
    context = normal(2, 4, NUMBERS)
    belief = encoder(context)
    for task in range(2):
        precision, weighted = torch.ones(LATENT), torch.zeros(LATENT)
        for row in context[task]:
            found = encoder.network(row)
            each = torch.log1p(found[LATENT:].exp())
            precision, weighted = precision + each, weighted + each * found[:LATENT]
        torch.testing.assert_close(belief.variance[task], 1 / precision)
        torch.testing.assert_close(belief.mean[task], weighted / precision)


def test_more_evidence_never_widens_a_belief() -> None:
    encoder, context = encoder_of(), normal(1, 9, NUMBERS)
    widths = [encoder(context[:, :n]).variance for n in range(10)]
    assert all((b < a).all() for a, b in zip(widths[:-1], widths[1:], strict=True))
    assert torch.equal(widths[0], torch.ones(1, LATENT, dtype=torch.float64))


def test_a_point_has_no_variance() -> None:
    context = normal(2, 4, NUMBERS)
    point = encoder_of(deterministic=True)(context)
    assert not point.variance.any()
    torch.testing.assert_close(point.mean, encoder_of()(context).mean)
    assert torch.equal(point.draw(stream()), point.mean)


def test_draws_have_the_moments_of_the_belief() -> None:
    belief = Belief(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.25, 4.0]]))
    many = Belief(*(part.expand(200_000, -1) for part in belief)).draw(stream())
    error = 4 / math.sqrt(200_000)
    assert (many.mean(0) - belief.mean[0]).abs().max() < 2 * error
    assert (many.var(0) / belief.variance[0] - 1).abs().max() < 2 * error
    assert torch.equal(belief.draw(stream(1)), belief.draw(stream(1)))


def test_gradients_pass_through_a_draw() -> None:
    """dz/dμ = 1 and dz/dσ² = ε / 2σ."""
    mean, variance = normal(1, 2).requires_grad_(), normal(1, 2, seed=1).exp().requires_grad_()
    z = Belief(mean, variance).draw(stream(5))
    slopes = torch.autograd.grad(z.sum(), [mean, variance])
    noise = (z - mean) / variance.sqrt()
    torch.testing.assert_close(slopes[0], torch.ones_like(mean))
    torch.testing.assert_close(slopes[1], noise / (2 * variance.sqrt()))


def test_without_numbers_there_is_no_belief() -> None:
    belief = ContextEncoder(NUMBERS, 0, (4,))(torch.zeros(3, 5, NUMBERS))
    assert belief.mean.shape == (3, 0)
    assert torch.equal(kl_to_prior(belief), torch.zeros(3))
