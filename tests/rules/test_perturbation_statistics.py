"""Mean, bias and variance of the perturbation rules, against autograd and theory.

K networks with the same weights and one draw each give K independent estimates in one call.
"""

import numpy as np
import pytest
import torch

from metarl_lib.experiments.noise_theory import np_relative_variance, wp_relative_variance
from metarl_lib.rules import node_perturbation, perturbation, sgd, weight_perturbation

RULES = {"wp": weight_perturbation, "np": node_perturbation}


def single_draws(rule, p, count, *, sigma=1e-4, antithetic=False, seed=3):
    """`[count, numbers]`: independent estimates, flat, and the gradient beside them."""
    copies = p._replace(params=[w.expand(count, *w.shape) for w in p.params])
    generator = torch.Generator().manual_seed(seed)
    estimates = RULES[rule](*copies, generator=generator, sigma=sigma, antithetic=antithetic)
    flat = torch.cat([e.flatten(1) for e in estimates], 1)
    return flat, torch.cat([g.flatten() for g in sgd(*p)])


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("loss", ["half_mse", "labels"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("widths", [(3, 2), (3, 4, 2), (2, 4, 3, 2)])
@pytest.mark.parametrize("rule", RULES)
def test_the_mean_is_the_gradient(problem, rule, widths, activation, loss, antithetic) -> None:
    p = problem(widths, activation, loss=loss, bias=True)
    draws = 20_000
    estimates, gradient = single_draws(rule, p, draws, antithetic=antithetic)
    alive = gradient != 0  # weights behind a unit that is off for all samples
    spread = estimates.std(0)
    studentised = (estimates.mean(0) - gradient)[alive] / (spread[alive] / draws**0.5)
    assert alive.sum() >= 6
    assert studentised.abs().max() < 4
    assert abs(studentised.mean()) * alive.sum() ** 0.5 < 4
    # A gradient of 0 or of double the size must not pass.
    assert (gradient[alive] / (spread[alive] / draws**0.5)).abs().max() > 8


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_draws_in_blocks_keep_mean_and_shrink_variance(problem, monkeypatch, rule, antithetic):
    """Means of K draws, cut into blocks, have 1/K of the variance of single draws."""
    p, draws, repeats = problem(), 16, 2000
    copies = p._replace(params=[w.expand(repeats, *w.shape) for w in p.params])
    largest = repeats * 5 * 4
    monkeypatch.setattr(perturbation, "MAX_ELEMENTS", 5 * largest)
    generator = torch.Generator().manual_seed(3)
    several = RULES[rule](*copies, generator=generator, draws=draws, antithetic=antithetic)
    several = torch.cat([e.flatten(1) for e in several], 1)
    single, gradient = single_draws(rule, p, 20_000, antithetic=antithetic)
    ratio = (single - gradient).square().sum(1).mean() / (several - gradient).square().sum(1).mean()
    assert float(ratio) == pytest.approx(draws, rel=0.1)
    studentised = (several.mean(0) - gradient) / (several.std(0) / repeats**0.5)
    assert studentised.abs().max() < 4


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_the_bias_grows_as_sigma_squared(problem, monkeypatch, rule, antithetic) -> None:
    """The expectation over two Gaussian numbers, exactly, by Gauss-Hermite quadrature.

    A 1-1-1 tanh network has two weights, and two units for its one sample.
    """
    p = problem((1, 1, 1), "tanh", "tanh", samples=1, seed=4)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = torch.from_numpy(weights / weights.sum())
    first, second = torch.meshgrid(*[torch.from_numpy(nodes)] * 2, indexing="ij")
    count = first.numel()
    weight = torch.outer(weights, weights).flatten()
    copies = p._replace(params=[w.expand(count, *w.shape) for w in p.params])
    gradient = torch.cat([g.flatten() for g in sgd(*p)])

    def bias(sigma):
        noise = iter([first, second])
        monkeypatch.setattr(
            perturbation, "standard_normal", lambda shape, like, g: next(noise).reshape(shape)
        )
        generator = torch.Generator()
        found = RULES[rule](*copies, generator=generator, sigma=sigma, antithetic=antithetic)
        flat = torch.cat([f.flatten(1) for f in found], 1)
        return float((weight @ flat - gradient).norm())

    sigmas = [0.02, 0.04, 0.08, 0.16]
    biases = [bias(sigma) for sigma in sigmas]
    assert biases[0] > 1e-6 * float(gradient.norm())
    slope = np.polyfit(np.log(sigmas), np.log(biases), 1)[0]
    assert slope == pytest.approx(2, abs=0.3)


def relative_variance(rule, p, draws=4000):
    """Measured E‖ĝ − G‖² / ‖G‖² and its standard error."""
    estimates, gradient = single_draws(rule, p, draws)
    squared = (estimates - gradient).square().sum(1) / gradient.square().sum()
    return float(squared.mean()), float(squared.std() / draws**0.5)


@pytest.mark.parametrize("loss", ["half_mse", "labels"])
@pytest.mark.parametrize("widths", [(3, 2), (3, 6, 2), (3, 5, 4, 2)])
@pytest.mark.parametrize("rule", RULES)
def test_variance_is_what_theory_says(problem, rule, widths, loss) -> None:
    p = problem(widths, "tanh", loss=loss)
    theory = {
        "wp": wp_relative_variance(p.network),
        "np": np_relative_variance(*p),
    }[rule]
    measured, error = relative_variance(rule, p, 20_000)
    assert error < 0.03 * theory
    assert abs(measured - theory) < 4 * error


def equal_norms(p):
    """Weights rescaled so that the one sample's activations have the norm of x at every layer."""
    params, size = [], p.x.norm()
    for weight in p.params:
        activation = p.network.trace([*params, *p.params[len(params) :]], p.x).activations[
            len(params) + 1
        ]
        params.append(weight * size / activation.norm())
    return p._replace(params=params)


def test_one_sample_with_equal_norms_costs_its_units_plus_one(problem) -> None:
    p = equal_norms(problem((4, 7, 5, 3), "relu", samples=1))
    assert np_relative_variance(*p) == pytest.approx(p.network.num_units + 1, rel=1e-12)
    measured, error = relative_variance("np", p, 20_000)
    assert abs(measured - 16) < 4 * error


def test_variance_grows_with_weights_and_with_units(problem) -> None:
    """Slopes on doubly logarithmic axes: 1 against P for WP, 1 against M for NP."""
    weights, units, measured = [], [], {"wp": [], "np": []}
    for hidden in (4, 16, 64):
        p = equal_norms(problem((10, hidden, 10), "relu", samples=1, seed=2))
        weights.append(p.network.num_weights)
        units.append(p.network.num_units)
        for rule, values in measured.items():
            values.append(relative_variance(rule, p)[0])
    for rule, sizes in (("wp", weights), ("np", units)):
        slope = np.polyfit(np.log(sizes), np.log(measured[rule]), 1)[0]
        assert slope == pytest.approx(1, abs=0.1)
    # Against the weights instead of the units, node perturbation grows more slowly.
    assert np.polyfit(np.log(weights), np.log(measured["np"]), 1)[0] < 0.8
