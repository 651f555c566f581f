"""The published rules do exactly what the source's equations and code say, faults included."""

import pytest
import torch

from metarl_lib.datasets import teacher_student
from metarl_lib.rules import (
    Network,
    as_published,
    cross_entropy,
    half_mse,
    node_perturbation,
    perturbation,
    sgd,
    weight_perturbation,
)
from metarl_lib.rules.as_published import (
    cross_entropy_as_coded,
    node_perturbation_as_coded,
    node_perturbation_as_published,
    sgd_as_published,
    standardise_weights,
    weight_perturbation_as_published,
)


def output_derivatives(p):
    """δ_j: the derivative of each sample's loss by every layer's *output*, by autograd."""
    probes = [torch.zeros(len(p.x), r, dtype=p.x.dtype) for r in p.network.widths[1:]]
    for probe in probes:
        probe.requires_grad_()
    activation, inputs = p.x, []
    for layer, probe in enumerate(probes):
        inputs.append(activation)
        phi = p.network.layer_activation(layer).value
        activation = phi(activation @ p.params[layer].mT) + probe
    total = p.loss(activation, p.y).sum()
    return torch.autograd.grad(total, probes), [a.detach() for a in inputs]


def product_of_sums(p):
    """(1/N) (Σ_j δ_j)(Σ_j x_j)ᵀ for every layer."""
    deltas, inputs = output_derivatives(p)
    pairs = zip(deltas, inputs, strict=True)
    return [torch.outer(d.sum(0), x.sum(0)) / len(p.x) for d, x in pairs]


def cosine(a, b):
    return float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def test_sgd_as_published_climbs(problem) -> None:
    p = problem(bias=True)
    step = [w - 0.01 * g for w, g in zip(p.params, sgd_as_published(*p), strict=True)]
    assert p.loss(p.network(step, p.x), p.y).mean() > p.loss(p.network(p.params, p.x), p.y).mean()
    for published, g in zip(sgd_as_published(*p), sgd(*p), strict=True):
        torch.testing.assert_close(published, -g)


@pytest.mark.parametrize("sigma", [1e-3, 0.1])
def test_weight_perturbation_as_published_is_sigma_times_the_estimate(problem, sigma) -> None:
    p = problem()
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    published = weight_perturbation_as_published(*p, generator=generators[0], sigma=sigma)
    correct = weight_perturbation(*p, generator=generators[1], sigma=sigma)
    for found, estimate in zip(published, correct, strict=True):
        torch.testing.assert_close(found, sigma * estimate)


@pytest.mark.parametrize("loss", ["half_mse", "labels"])
@pytest.mark.parametrize("network", [((3, 4, 2), "tanh", None), ((2, 4, 3, 2), "relu", "tanh")])
def test_the_coded_node_perturbation_expects_a_product_of_sums(
    problem, monkeypatch, network, loss
) -> None:
    """Noise ±√M e_k, every k: it has mean 0 and covariance I, so its mean is the expectation."""
    p = problem(*network, loss=loss)
    sigma, units = 1e-4, p.network.num_units
    total = [torch.zeros_like(w) for w in p.params]
    for direction in torch.cat([torch.eye(units), -torch.eye(units)]).double() * units**0.5:
        noise = iter(direction.split(list(p.network.widths[1:])))
        monkeypatch.setattr(as_published, "standard_normal", lambda *_, noise=noise: next(noise))
        found = node_perturbation_as_coded(*p, generator=torch.Generator(), sigma=sigma)
        total = [t + f / (2 * units) for t, f in zip(total, found, strict=True)]
    for mean, expected in zip(total, product_of_sums(p), strict=True):
        assert expected.abs().max() > 1e-2
        torch.testing.assert_close(mean, sigma * expected, rtol=1e-5, atol=sigma * 1e-6)


def test_the_coded_node_perturbation_on_its_own_noise(problem) -> None:
    p = problem((3, 4, 2), "relu")
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    found = node_perturbation_as_coded(*p, generator=generators[0], sigma=0.1)
    hidden, output = (torch.randn(r, generator=generators[1], dtype=torch.float64) for r in (4, 2))
    x1 = torch.relu(p.x @ p.params[0].T)
    clean = p.loss(x1 @ p.params[1].T, p.y).mean()
    noisy = p.loss((x1 + 0.1 * hidden) @ p.params[1].T + 0.1 * output, p.y).mean()
    expected = [
        (noisy - clean) * torch.outer(hidden, p.x.sum(0)),
        (noisy - clean) * torch.outer(output, x1.sum(0)),
    ]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_printed_node_perturbation_stops_at_sample_r(problem) -> None:
    """Σ runs to R_{l+1}, so four samples for the hidden layer and two for the output."""
    p = problem((3, 4, 2), "relu", samples=6)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    found = node_perturbation_as_published(*p, generator=generators[0], sigma=0.1)
    noise = [torch.randn(6, r, generator=generators[1], dtype=torch.float64) for r in (4, 2)]
    x1 = torch.relu(p.x @ p.params[0].T)
    noisy_x1 = torch.relu(p.x @ p.params[0].T + 0.1 * noise[0])
    clean = p.loss(x1 @ p.params[1].T, p.y).mean()
    noisy = p.loss(noisy_x1 @ p.params[1].T + 0.1 * noise[1], p.y).mean()
    for layer, inputs in enumerate((p.x, x1)):
        expected = torch.zeros_like(p.params[layer])
        for i in range(p.network.widths[layer + 1]):
            expected += (noisy - clean) * torch.outer(noise[layer][i], inputs[i])
        torch.testing.assert_close(found[layer], expected, rtol=1e-12, atol=1e-12)


def seeds_problem(problem, seed, dtype=torch.float64):
    """The shapes of the source: 10-100-10, N(0, 1) weights, 512 samples of a teacher."""
    stream = torch.Generator().manual_seed(seed)
    data = teacher_student(generator=stream, dtype=dtype).train
    network = Network((10, 100, 10))
    params = network.init(stream, std=1.0, dtype=dtype)
    return problem()._replace(network=network, params=params, x=data.x, y=data.y, loss=half_mse)


def test_the_coded_hidden_update_is_almost_orthogonal_to_the_gradient(problem) -> None:
    hidden, output = [], []
    for seed in range(8):
        p = seeds_problem(problem, seed)
        gradient, mean = sgd(*p), product_of_sums(p)
        hidden.append(cosine(mean[0], gradient[0]))
        output.append(cosine(mean[1], gradient[1]))
    assert abs(sum(hidden) / 8) < 0.25  # 0.11 on one problem in the source's shapes
    assert sum(output) / 8 > 0.8


def test_the_correct_node_perturbation_finds_the_gradient(problem, monkeypatch) -> None:
    monkeypatch.setattr(perturbation, "MAX_ELEMENTS", 2**20)  # blocks that fit the cache
    p = seeds_problem(problem, 0, torch.float32)
    generator = torch.Generator().manual_seed(3)
    estimate = node_perturbation(*p, generator=generator, draws=4000, sigma=1e-2)
    for found, gradient in zip(estimate, sgd(*p), strict=True):
        assert cosine(found, gradient) > 0.99
        assert float(found.norm() / gradient.norm()) == pytest.approx(1, abs=0.05)


def test_standardised_weights_have_mean_0_and_deviation_1(problem) -> None:
    p = problem(bias=True)
    found = standardise_weights(p.network, p.params)
    for before, after in zip(p.params, found, strict=True):
        if before.ndim == 1:
            assert torch.equal(after, before)
            continue
        numbers = before.flatten().tolist()
        mean = sum(numbers) / len(numbers)
        std = (sum((n - mean) ** 2 for n in numbers) / (len(numbers) - 1)) ** 0.5
        expected = torch.tensor([(n - mean) / std for n in numbers]).double().reshape(before.shape)
        torch.testing.assert_close(after, expected, rtol=1e-6, atol=1e-6)
        assert abs(float(after.mean())) < 1e-12
        assert float(after.std()) == pytest.approx(1, abs=1e-12)


def test_standardised_weights_of_several_networks(problem) -> None:
    p = problem(batch=(3,))
    together = standardise_weights(p.network, p.params)
    for index in range(3):
        alone = standardise_weights(p.network, [w[index] for w in p.params])
        torch.testing.assert_close([w[index] for w in together], alone)


def test_the_coded_cross_entropy(stream) -> None:
    outputs = torch.randn(6, 4, generator=stream, dtype=torch.float64) * 3 + 5
    labels = torch.randint(4, (6,), generator=stream)
    numbers = outputs.flatten().tolist()
    mean = sum(numbers) / 24
    std = (sum((n - mean) ** 2 for n in numbers) / 23) ** 0.5
    expected = 6 * cross_entropy((outputs - mean) / std, labels)
    found = cross_entropy_as_coded(outputs, labels)
    torch.testing.assert_close(found, expected)
    # The mean over samples is the sum that the source computes, and the scale of logits is lost.
    total = torch.nn.functional.cross_entropy((outputs - mean) / std, labels, reduction="sum")
    torch.testing.assert_close(found.mean(), total)
    torch.testing.assert_close(cross_entropy_as_coded(100 * outputs, labels), found)
