"""What comes back to a pool: against autograd through a loop, by hand, and finite differences."""

import pytest
import torch
from streams import stream

from metarl_lib.algos.maml_by_hand import meta_gradient_by_hand
from metarl_lib.algos.write_back import WAYS, route, write_back
from metarl_lib.datasets import Tasks
from metarl_lib.rules import Network, cross_entropy, mse
from metarl_lib.rules.pool import Plan, Pool, assemble, make_pool

LAYERS = torch.tensor([[0, 2, 0, 1], [1, -1, -1, 1], [0, 3, -1, 1], [0, 1, 3, 0], [0, 2, 0, 1]])
STEPS = torch.tensor([3, 1, 1, 2, 3])
RATES = torch.tensor([0.1, 0.2, 0.05, 0.01, 0.3], dtype=torch.float64)
TANH = torch.tensor([False, True, True, False, True])
PLAN = Plan(LAYERS, RATES, STEPS, TANH)
ROWS = len(LAYERS)
LOSSES = {"mse": mse, "cross_entropy": cross_entropy}


def pool_of() -> Pool:
    pool = make_pool((2, 5, 2), (3, 4, 2), stream())
    biased = (p if p.ndim > 2 else torch.randn(p.shape, generator=stream(1)) for p in pool)
    return Pool(*(p.double() for p in biased))


def tasks_of(loss: str) -> Tasks:
    generator, parts = stream(2), []
    for count in (6, 4):
        parts.append(torch.randn(ROWS, count, 2, generator=generator).double())
        if loss == "mse":
            parts.append(torch.randn(ROWS, count, 2, generator=generator).double())
        else:
            parts.append(torch.randint(2, (ROWS, count), generator=generator))
    return Tasks(*parts)


def plain(pool: Pool, tasks: Tasks, loss, way: str) -> tuple[list[float], list[torch.Tensor]]:
    """Row by row: networks of layers that are picked out of the pool itself."""
    leaves = [p.clone().requires_grad_() for p in pool]
    total, found, moved = 0.0, [], [torch.zeros_like(p) for p in pool]
    for row, (x, y, query_x, query_y) in enumerate(zip(*tasks, strict=True)):
        if way == "reptile":
            x, y = torch.cat([x, query_x]), torch.cat([y, query_y])
        first, *hidden, last = LAYERS[row].tolist()
        kinds = [(0, first), *[(1, k) for k in hidden if k >= 0], (2, last)]
        places = [(2 * kind + part, k) for kind, k in kinds for part in (0, 1)]
        start = [leaves[part][k] for part, k in places]
        activation = "tanh" if TANH[row] else "relu"
        network = Network((2, *[5] * (len(kinds) - 1), 2), activation, bias=True)
        theta = start
        for _ in range(int(STEPS[row])):
            error = loss(network(theta, x), y).mean()
            slopes = torch.autograd.grad(error, theta, create_graph=way == "maml")
            theta = [p - RATES[row] * g for p, g in zip(theta, slopes, strict=True)]
        last_error = loss(network(theta, query_x), query_y).mean()
        found.append(last_error.item())
        total = total + last_error / ROWS
        for (part, k), p, q in zip(places, start, theta, strict=True):
            moved[part][k] += ((p - q) / RATES[row] / ROWS).detach()
    if way == "reptile":
        return found, moved
    slopes = torch.autograd.grad(total, leaves, allow_unused=True)
    return found, list(slopes)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("way", WAYS)
def test_the_pool_learns_what_a_loop_over_rows_says(way, loss) -> None:
    pool, tasks = pool_of(), tasks_of(loss)
    found, slopes = write_back(pool, PLAN, tasks, LOSSES[loss], 3, way)
    expected, wanted = plain(pool, tasks, LOSSES[loss], way)
    assert found.tolist() == pytest.approx(expected, rel=1e-10)
    for f, e in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-9, atol=1e-12)


def test_second_derivatives_count() -> None:
    pool, tasks = pool_of(), tasks_of("mse")
    exact, short = (write_back(pool, PLAN, tasks, mse, 3, way)[1] for way in WAYS[:2])
    assert not any(torch.allclose(a, b, rtol=1e-3) for a, b in zip(exact, short, strict=True))


@pytest.mark.parametrize("place", [(0, 0), (2, 2), (3, 3), (4, 1)])
def test_the_gradient_is_a_difference_quotient_of_the_mean_loss(place) -> None:
    """Where tanh and the smooth loss leave no kinks, to seven digits."""
    plan = PLAN._replace(tanh=torch.ones(ROWS, dtype=torch.bool))
    pool, tasks, (part, layer) = pool_of(), tasks_of("mse"), place
    slope = write_back(pool, plan, tasks, mse, 3)[1][part][layer].flatten()[1]
    ends = []
    for sign in (1, -1):
        moved = Pool(*(p.clone() for p in pool))
        moved[part][layer].view(-1)[1] += sign * 1e-5
        ends.append(float(write_back(moved, plan, tasks, mse, 3)[0].mean()))
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-8)


def test_on_one_path_for_all_it_is_maml() -> None:
    pool, tasks = pool_of(), tasks_of("mse")
    path = torch.tensor([1, 3, 0, 1]).expand(ROWS, -1)
    plan = Plan(path, torch.full((ROWS,), 0.07).double(), torch.full((ROWS,), 2))
    found, slopes = write_back(pool, plan, tasks, mse, 2)
    network = Network((2, 5, 5, 5, 2), bias=True)
    params = [p[0] for p in assemble(pool, path)]
    mean, wanted = meta_gradient_by_hand(
        network, mse, params, 0.07, (tasks.x, tasks.y), (tasks.held_out_x, tasks.held_out_y), 2,
        False,
    )  # fmt: skip
    torch.testing.assert_close(found.mean(), mean)
    for k, slope in enumerate(assemble(slopes, path)):
        torch.testing.assert_close(slope[0], wanted[k])


def test_layers_that_nobody_used_learn_nothing_and_the_pool_is_not_changed() -> None:
    pool, tasks = pool_of(), tasks_of("mse")
    kept = [p.clone() for p in pool]
    for way in WAYS:
        _, slopes = write_back(pool, PLAN, tasks, mse, 3, way)
        used = {0: {0, 1}, 1: {0, 1, 2, 3}, 2: {0, 1}}
        for index, part in enumerate(slopes):
            for layer, slope in enumerate(part):
                assert bool((slope != 0).any()) == (layer in used[index // 2])
        assert not any(p.requires_grad for p in slopes)
    assert all(map(torch.equal, pool, kept))


def test_a_layer_used_twice_in_a_row_gets_the_sum() -> None:
    pool = pool_of()
    plan = Plan(torch.tensor([[0, 1, 1, 0], [0, -1, 1, 0]]), RATES[:2], STEPS[:2])
    slopes = [torch.randn(2, *p.shape[1:], generator=stream(3)).double()
              for p in assemble(pool, plan.layers)]  # fmt: skip
    found = route(pool, plan, slopes)
    expected = (slopes[2][0] + slopes[4][0] + slopes[4][1]) / 2
    torch.testing.assert_close(found.hidden_weight[1], expected)
    torch.testing.assert_close(found.input_bias[0], slopes[1].mean(0))
    assert bool((found.hidden_weight[0] == 0).all()), "an empty place is no layer"


@pytest.mark.parametrize("way", WAYS)
def test_a_network_that_diverged_teaches_nothing(way) -> None:
    pool, tasks = pool_of(), tasks_of("mse")
    rates = RATES.clone()
    rates[0] = 1e200
    found, slopes = write_back(pool, PLAN._replace(rate=rates), tasks, mse, 3, way)
    assert found.isfinite().tolist() == [False, True, True, True, True]
    rest = Plan(LAYERS[1:], RATES[1:], STEPS[1:], TANH[1:])
    _, wanted = write_back(pool, rest, Tasks(*(part[1:] for part in tasks)), mse, 3, way)
    for slope, own in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, own * (ROWS - 1) / ROWS)


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ValueError, match="way='adam' is unknown: choose one of maml, first-order"):
        write_back(pool_of(), PLAN, tasks_of("mse"), mse, 3, "adam")
