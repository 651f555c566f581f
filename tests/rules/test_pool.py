"""Networks out of a pool against networks that stand alone, row by row in float64."""

import pytest
import torch
from streams import stream

from metarl_lib.rules import Network, cross_entropy, mse
from metarl_lib.rules.pool import (
    Plan,
    adapt,
    assemble,
    check_pool,
    losses,
    make_pool,
    outputs,
)

LAYERS = torch.tensor([[0, 2, 0, 1], [1, -1, -1, 0], [2, 3, -1, 1], [0, 1, 3, 0], [0, 2, 0, 1]])
TANH = torch.tensor([False, True, True, False, True])
STEPS = torch.tensor([3, 0, 1, 2, 3])
RATES = torch.tensor([0.1, 0.2, 0.05, 0.01, 0.3], dtype=torch.float64)
ROWS, SAMPLES = len(LAYERS), 6


def pool_of(classes: int = 2):
    pool = make_pool((2, 5, classes), (3, 4, 2), stream())
    biased = (p if p.ndim > 2 else torch.randn(p.shape, generator=stream(1)) for p in pool)
    return type(pool)(*(p.double() for p in biased))


def problem(classification: bool):
    generator = stream(2)
    x = torch.randn(ROWS, SAMPLES, 2, generator=generator).double()
    if classification:
        return x, torch.randint(2, (ROWS, SAMPLES), generator=generator), cross_entropy
    return x, torch.randn(ROWS, SAMPLES, 2, generator=generator).double(), mse


def alone(pool, row: int) -> tuple[Network, list[torch.Tensor]]:
    """The network of a row, by itself, without the places that are empty."""
    first, *hidden, last = LAYERS[row].tolist()
    hidden = [k for k in hidden if k >= 0]
    params = [pool.input_weight[first], pool.input_bias[first]]
    for k in hidden:
        params += [pool.hidden_weight[k], pool.hidden_bias[k]]
    params += [pool.output_weight[last], pool.output_bias[last]]
    widths = (2, *[5] * (len(hidden) + 1), 2)
    return Network(widths, "tanh" if TANH[row] else "relu", bias=True), params


def plan_of(tanh=TANH) -> Plan:
    return Plan(LAYERS, RATES, STEPS, tanh)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("classification", [False, True])
def test_each_row_learns_like_a_network_alone(classification, graph) -> None:
    pool, (x, y, loss) = pool_of(), problem(classification)
    params = [p.requires_grad_(graph) for p in assemble(pool, LAYERS)]
    after = adapt(params, plan_of(), x, y, loss, 3, graph=graph)
    found, errors = outputs(after, plan_of(), x), losses(after, plan_of(), x, y, loss)
    assert found.requires_grad == graph
    for row in range(ROWS):
        network, theta = alone(pool, row)
        for _ in range(int(STEPS[row])):
            leaves = [p.detach().requires_grad_() for p in theta]
            error = loss(network(leaves, x[row]), y[row]).mean()
            slopes = torch.autograd.grad(error, leaves)
            theta = [p - RATES[row] * g for p, g in zip(theta, slopes, strict=True)]
        expected = network(theta, x[row])
        torch.testing.assert_close(found[row].detach(), expected.detach())
        torch.testing.assert_close(errors[row], loss(expected, y[row]).mean(), check_dtype=True)


def test_without_a_choice_of_activation_units_are_relus() -> None:
    pool, (x, _, _) = pool_of(), problem(False)
    params = assemble(pool, LAYERS)
    relu = outputs(params, plan_of(torch.zeros(ROWS, dtype=torch.bool)), x)
    assert torch.equal(outputs(params, plan_of(None), x), relu)
    assert not torch.equal(outputs(params, plan_of(), x), relu)


def test_layers_are_copies() -> None:
    pool = pool_of()
    params = assemble(pool, LAYERS)
    kept = [p.clone() for p in pool]
    for p in params:
        p.zero_()
    assert all(map(torch.equal, pool, kept))


def test_a_fresh_pool_has_hes_variance_and_no_biases() -> None:
    pool = make_pool((50, 100, 20), (30, 9, 40), stream(3))
    assert pool.counts == (30, 9, 40)
    assert pool.num_weights == 30 * 5100 + 9 * 10_100 + 40 * 2020
    for weight, bias, fan_in in zip(pool[::2], pool[1::2], (50, 100, 100), strict=True):
        assert weight.shape[-1] == fan_in
        assert weight.var().item() == pytest.approx(2 / fan_in, rel=0.03)
        assert abs(weight.mean().item()) < 0.005
        assert bool((bias == 0).all())
    assert not torch.equal(pool.hidden_weight[0], pool.hidden_weight[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_weight": torch.zeros(4, 5, 6)}, r"hidden_weight of the pool .*\(4, 5, 6\)"),
        ({"hidden_bias": torch.zeros(4, 4)}, r"hidden_weight of the pool has shape \(4, 5, 5\)"),
        ({"output_weight": torch.zeros(2, 2, 4)}, r"output_weight of the pool .* 5 units"),
        ({"input_bias": torch.zeros(3, 6)}, r"input_weight of the pool .* 6 units"),
        ({"output_weight": torch.zeros(0, 2, 5), "output_bias": torch.zeros(0, 2)},
         "3 input and 0 output layers: a network needs one of each"),
    ],
)  # fmt: skip
def test_layers_that_do_not_fit_are_refused_in_one_line(change, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        check_pool(pool_of()._replace(**change))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([[3, 0, 0, 0]], "3 at place 0: the input layers of the pool are 0 to 2"),
        ([[-1, 0, 0, 0]], "-1 at place 0: the input layers"),
        ([[0, 0, 4, 0]], "4 at place 2: the hidden layers of the pool are 0 to 3, or −1 for none"),
        ([[0, -2, 0, 0]], "-2 at place 1: the hidden"),
        ([[0, 0, 0, 2], [0, 0, 0, 0]], "2 at place 3: the output layers of the pool are 0 to 1"),
    ],
)
def test_layers_that_are_not_there_are_refused_in_one_line(layers, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        assemble(pool_of(), torch.tensor(layers))
    assert "\n" not in str(refusal.value)
