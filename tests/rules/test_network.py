"""The forward pass against plain loops; shapes, counts and initial weights."""

import math
from collections.abc import Callable

import pytest
import torch

from metarl_lib.rules import Network

PHI: dict[str | None, Callable[[float], float]] = {
    "relu": lambda z: max(z, 0.0),
    "tanh": math.tanh,
    None: lambda z: z,
}


def forward_by_loops(network, params, x):
    """X_L for one network, with nothing but Python numbers."""
    step = 2 if network.bias else 1
    rows = []
    for sample in x.tolist():
        activations = sample
        for layer in range(network.num_layers):
            weight = params[step * layer].tolist()
            bias = params[step * layer + 1].tolist() if network.bias else [0.0] * len(weight)
            last = layer == network.num_layers - 1
            phi = PHI[network.output_activation if last else network.activation]
            following = []
            for row, b in zip(weight, bias, strict=True):
                z = b
                for w, a in zip(row, activations, strict=True):
                    z += w * a
                following.append(phi(z))
            activations = following
        rows.append(activations)
    return torch.tensor(rows, dtype=x.dtype)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", [(3, 2), (3, 5, 2), (2, 4, 3, 1)])
@pytest.mark.parametrize("output", [None, "relu", "tanh"])
@pytest.mark.parametrize("activation", ["relu", "tanh", None])
def test_forward_pass_is_the_plain_loop(problem, activation, output, widths, bias) -> None:
    p = problem(widths, activation, output, bias=bias)
    expected = forward_by_loops(p.network, p.params, p.x)
    torch.testing.assert_close(p.network(p.params, p.x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch", [(3,), (2, 3)])
def test_leading_dimensions_are_separate_networks(problem, batch, bias) -> None:
    p = problem(bias=bias, batch=batch)
    outputs = p.network(p.params, p.x)
    assert outputs.shape == (*batch, len(p.x), 2)
    for index in torch.cartesian_prod(*[torch.arange(b) for b in batch]).reshape(-1, len(batch)):
        at = tuple(index.tolist())
        expected = forward_by_loops(p.network, [w[at] for w in p.params], p.x)
        torch.testing.assert_close(outputs[at], expected, rtol=1e-12, atol=1e-12)


def test_trace_keeps_every_layer_and_adds_noise_before_the_activation(problem) -> None:
    p = problem((3, 4, 2), "relu", "tanh")
    noise = [torch.full((4,), 0.3, dtype=torch.float64), torch.tensor([0.1, -0.2]).double()]
    trace = p.network.trace(p.params, p.x, noise)
    z1 = torch.einsum("ni,oi->no", p.x, p.params[0]) + noise[0]
    z2 = torch.einsum("ni,oi->no", z1.clamp(min=0), p.params[1]) + noise[1]
    torch.testing.assert_close(trace.pre_activations, [z1, z2])
    torch.testing.assert_close(trace.activations, [p.x, z1.clamp(min=0), z2.tanh()])
    assert trace.output is trace.activations[-1]


@pytest.mark.parametrize(
    ("bias", "shapes", "weights"),
    [(False, [(100, 10), (10, 100)], 2000), (True, [(100, 10), (100,), (10, 100), (10,)], 2110)],
)
def test_the_counts_of_the_seeds_network(bias, shapes, weights) -> None:
    network = Network([10, 100, 10], bias=bias)
    assert network.widths == (10, 100, 10)
    assert network.shapes == shapes
    assert network.num_weights == weights
    assert network.num_units == 110
    assert network.num_layers == 2


def test_initial_weights_have_their_standard_deviation(stream) -> None:
    network = Network((200, 300, 50), bias=True)
    he = network.init(stream)
    fixed = network.init(stream, std=2.0, dtype=torch.float64)
    for params, stds in ((he, (0.1, math.sqrt(2 / 300))), (fixed, (2.0, 2.0))):
        for weight, bias, std in zip(params[::2], params[1::2], stds, strict=True):
            error = std / math.sqrt(2 * weight.numel())
            assert abs(float(weight.std()) - std) < 4 * error
            assert abs(float(weight.mean())) < 4 * std / math.sqrt(weight.numel())
            assert not bias.any()
    assert {p.dtype for p in he} == {torch.float32}
    assert {p.dtype for p in fixed} == {torch.float64}


def test_initial_weights_follow_their_generator() -> None:
    network = Network((3, 4, 2))
    draw = [network.init(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(draw[0], draw[1], strict=True))
    assert not torch.equal(draw[0][0], draw[2][0])
