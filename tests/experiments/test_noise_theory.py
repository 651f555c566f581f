"""The formulas of noise and stability against Jacobians, exact recursions and simulations."""

import numpy as np
import pytest
import torch

from metarl_lib.experiments.noise_theory import (
    curvature_trace,
    linear_stable_rates,
    wp_cosines,
)
from metarl_lib.experiments.perturbation_noise import white_inputs
from metarl_lib.rules import (
    Network,
    cross_entropy,
    half_mse,
    node_perturbation,
    sgd,
    weight_perturbation,
)
from metarl_lib.rules.gradient import sample_derivatives


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


NETWORKS = [
    Network((3, 2)),
    Network((3, 5, 2)),
    Network((2, 4, 3, 2), "tanh"),
    Network((3, 4, 2), "tanh", "tanh"),
    Network((3, 4, 2), "relu", "relu"),
]


def random_data(network, samples=6):
    stream = seeded(3)
    params = network.init(stream, std=1.0, dtype=torch.float64)
    x = torch.randn(samples, network.widths[0], generator=stream, dtype=torch.float64)
    return params, x


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_curvature_trace_is_the_size_of_the_jacobian(network) -> None:
    params, x = random_data(network)
    jacobians = torch.func.jacrev(lambda p: network(p, x))(params)  # [N, R_L, *shape] each
    size = sum(float(j.square().sum()) for j in jacobians)
    expected = size / (len(x) * network.widths[-1])
    assert curvature_trace(network, params, x) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("activation", ["relu", None])
def test_curvature_trace_is_the_trace_of_the_hessian(activation) -> None:
    """Of a piecewise linear network's loss; the part left out has no diagonal there."""
    network = Network((3, 4, 2), activation)
    params, x = random_data(network)
    y = torch.randn(6, 2, generator=seeded(4), dtype=torch.float64)
    sizes = [p.numel() for p in params]

    def mean_loss(flat):
        parts = [f.reshape(p.shape) for f, p in zip(flat.split(sizes), params, strict=True)]
        return half_mse(network(parts, x), y).mean()

    hessian = torch.func.hessian(mean_loss)(torch.cat([p.flatten() for p in params]))
    assert curvature_trace(network, params, x) == pytest.approx(float(hessian.trace()), rel=1e-10)


@pytest.mark.parametrize("network", NETWORKS, ids=str)
@pytest.mark.parametrize("loss", [half_mse, cross_entropy], ids=["half_mse", "cross_entropy"])
def test_sample_derivatives_are_autograds(network, loss) -> None:
    params, x = random_data(network)
    y = torch.rand(6, 2, generator=seeded(4), dtype=torch.float64)
    probes = [torch.zeros(6, r, dtype=x.dtype, requires_grad=True) for r in network.widths[1:]]
    trace = network.trace(params, x, probes)
    expected = torch.autograd.grad(loss(trace.output, y).sum(), probes)
    deltas, activations = sample_derivatives(network, params, x, y, loss)
    for found, delta in zip(deltas, expected, strict=True):
        torch.testing.assert_close(found, delta, rtol=1e-12, atol=1e-12)
    for found, a in zip(activations, trace.activations, strict=False):
        torch.testing.assert_close(found, a.detach())
    assert len(activations) == network.num_layers


def second_moment_step(rule, x, width, rate):
    """The exact matrix that takes E[DᵀD], flat, one step on; D is the distance to the solution.

    One linear layer, loss ½‖Dx_i‖²/R. SGD multiplies D by 1 − ηh. Perturbation adds noise ν to the
    gradient, with E[νᵀν] from Isserlis' theorem: for WP h² (R ‖D‖² I + DᵀD), for NP
    h² (R + 1) (1/N²) Σ_i x_i x_iᵀ ‖D x_i‖².
    """
    count, fan_in = x.shape
    h = 1 / width
    columns = []
    for k in range(fan_in**2):
        c = np.zeros(fan_in**2)
        c[k] = 1
        c = c.reshape(fan_in, fan_in)
        new = (1 - rate * h) ** 2 * c
        if rule == "wp":
            new = new + rate**2 * h**2 * (np.trace(c) * width * np.eye(fan_in) + c)
        if rule == "np":
            sizes = np.einsum("ni,ij,nj->n", x, c, x)
            noise = (width + 1) * np.einsum("n,ni,nj->ij", sizes, x, x) / count**2
            new = new + rate**2 * h**2 * noise
        columns.append(new.flatten())
    return np.stack(columns, 1)


def growth(rule, x, width, rate):
    return np.abs(np.linalg.eigvals(second_moment_step(rule, x, width, rate))).max()


def balanced_inputs(width, copies):
    """±√R_0 times the unit vectors: white, and all of one norm."""
    return np.concatenate([np.eye(width), -np.eye(width)] * copies) * width**0.5


@pytest.mark.parametrize("rule", ["sgd", "wp", "np"])
@pytest.mark.parametrize(("fan_in", "width"), [(4, 4), (3, 6), (6, 2)])
def test_linear_stable_rates_are_where_the_second_moment_stops_shrinking(
    rule, fan_in, width
) -> None:
    x = balanced_inputs(fan_in, 2)
    limit = linear_stable_rates(torch.from_numpy(x), width)[rule]
    assert growth(rule, x, width, 0.999 * limit) < 1 < growth(rule, x, width, 1.001 * limit)


@pytest.mark.parametrize("width", [4, 16])
def test_linear_stable_rates_hold_nearly_for_gaussian_white_inputs(width) -> None:
    """Norms then differ between samples: the formula averages over directions, to a few %."""
    x = white_inputs(64, width, seeded())
    np.testing.assert_allclose(x.T @ x, 64 * torch.eye(width), atol=1e-10)
    limit = linear_stable_rates(x, width)["np"]
    assert growth("np", x.numpy(), width, 0.9 * limit) < 1
    assert growth("np", x.numpy(), width, 1.1 * limit) > 1


@pytest.mark.parametrize("rule", ["wp", "np"])
def test_the_second_moment_of_simulated_steps(rule) -> None:
    """50,000 networks take one step of the library's own rule, from one distance."""
    fan_in, width, rate, count = 3, 2, 0.8, 50_000
    x = white_inputs(5, fan_in, seeded())
    distance = torch.randn(width, fan_in, generator=seeded(1), dtype=torch.float64)
    network = Network((fan_in, width))
    copies = [distance.expand(count, width, fan_in)]
    y = torch.zeros(5, width, dtype=torch.float64)
    perturb = {"wp": weight_perturbation, "np": node_perturbation}[rule]
    (estimate,) = perturb(
        network, copies, x, y, half_mse, generator=seeded(2), antithetic=True, sigma=1e-2
    )
    after = copies[0] - rate * estimate
    products = torch.einsum("kri,krj->kij", after, after)
    mean, error = products.mean(0), products.std(0) / count**0.5
    before = (distance.T @ distance).numpy().flatten()
    expected = (second_moment_step(rule, x.numpy(), width, rate) @ before).reshape(fan_in, fan_in)
    assert ((mean - torch.from_numpy(expected)).abs() / error).max() < 4
    plain = (distance - rate * sgd(network, [distance], x, y, half_mse)[0]).square().sum()
    assert float(mean.trace()) > 1.2 * float(plain)


def test_cosines_of_averaged_weight_perturbation_by_layer() -> None:
    """Against the cosines of simulated means: ĝ = (g·n) n, split into two layers."""
    stream = torch.Generator().manual_seed(0)
    gradient = [torch.randn(20, 30, generator=stream).double() * 0.1, torch.ones(40).double()]
    flat = torch.cat([g.flatten() for g in gradient])
    draws = 300
    found = []
    for _ in range(40):
        noise = torch.randn(draws, len(flat), generator=stream, dtype=torch.float64)
        mean = ((noise @ flat).unsqueeze(1) * noise).mean(0)
        parts = mean[:600], mean[600:]
        found.append(
            [
                float(torch.cosine_similarity(part, g.flatten(), dim=0))
                for part, g in zip(parts, gradient, strict=True)
            ]
        )
    expected = [float(c) for c in wp_cosines(gradient, torch.tensor(float(draws)))]
    assert torch.tensor(found).mean(0).tolist() == pytest.approx(expected, abs=0.02)
    assert abs(expected[0] - expected[1]) > 0.1
