"""Networks drawn from a pool, what they are worth by a plain loop, and refusals."""

import pytest
import torch
from streams import stream

from metarl_lib.envs.layer_pool_thesis import ThesisLayerPool
from metarl_lib.experiments.thesis_pool import CURVE
from metarl_lib.experiments.thesis_rates import EXPERIMENT, Config, drawn_networks, evaluate
from metarl_lib.experiments.thesis_visits import TASKS, seeds_of
from metarl_lib.runs import generator

pytestmark = pytest.mark.usefixtures("fast")


def index_of(layer: torch.Tensor, stored: torch.Tensor) -> int:
    """Which of the stored layers this one is."""
    (found,) = [i for i, other in enumerate(stored) if torch.equal(layer, other)]
    return found


def test_layers_are_drawn_evenly_and_no_hidden_layer_twice() -> None:
    pool = ThesisLayerPool(inner_steps=0).pool
    params = drawn_networks(pool, 600, stream(1))
    counts = torch.zeros(21)
    for row in range(600):
        hidden = [index_of(params[place][row], pool.hidden_weight) for place in (2, 4, 6)]
        assert len(set(hidden)) == 3
        counts[hidden] += 1
        for place, layer in zip((3, 5, 7), hidden, strict=True):
            assert torch.equal(params[place][row], pool.hidden_bias[layer])
        first, last = (index_of(params[p][row], pool[q]) for p, q in ((0, 0), (8, 4)))
        assert torch.equal(params[1][row], pool.input_bias[first])
        assert torch.equal(params[9][row], pool.output_bias[last])
    expected = 600 * 3 / 21
    assert float(((counts - expected).square() / expected).sum()) < 45.3  # p = 0.001, 20 degrees


def test_the_error_of_a_pool_is_that_of_networks_trained_one_by_one() -> None:
    config, seed = Config(variants=(), networks=2), 4
    found = {r["metric"]: r["value"] for r in evaluate(config, seed, {})}
    env = ThesisLayerPool(inner_steps=0, **seeds_of(seed))
    params = drawn_networks(env.pool, 2 * TASKS, generator(seed, "evaluation"))
    sums = {step: [0.0, 0.0] for step in CURVE}
    for row in range(2 * TASKS):
        task = row // 2
        leaves = [p[row].clone().requires_grad_() for p in params]
        optimiser = torch.optim.Adam(leaves, lr=config.rate)
        for step in range(21):
            error = (env.network(leaves, env.x) - env.y[task]).square().mean()
            if step in CURVE:
                sums[step][task == TASKS - 1] += error.item()
            optimiser.zero_grad()
            error.backward()
            optimiser.step()
    for step in (0, 1, 3, 10, 20):
        train, held_out = sums[step]
        assert found[f"train_mse@{step}"] == pytest.approx(train / 12, rel=0.02)
        assert found[f"eval_mse@{step}"] == pytest.approx(held_out / 2, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": ("thesis-slow",)}, "thesis-slow"),
        ({"epochs": 0}, "epochs=0"),
        ({"rollout": 1}, "rollout=1: a minibatch of PPO must have"),
    ],
)
def test_bad_fields_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        EXPERIMENT.config("smoke", options)
