"""The thesis's environment against a plain row of shared layers, its 44 numbers and its reward."""

import math

import pytest
import torch
from plain_pool import PlainThesis
from streams import stream
from torch import Tensor

from metarl_lib.envs.adapters import SingleEnv
from metarl_lib.envs.base import map_tree
from metarl_lib.envs.layer_pool_thesis import CarriedRows, ThesisLayerPool
from metarl_lib.rules import Network
from metarl_lib.rules.adam import adam

BOUNDS = [[0.01 * (k + 1), 1.0 + k] for k in range(7)]


def plain_of(env: ThesisLayerPool, state, row: int, bounds, scaling: str) -> PlainThesis:
    pool = [part[row].clone() for part in state.tasks.pool]
    layers = list(zip(pool[2], pool[3], strict=True))
    for k in range(env.count):
        layers += [(pool[0][k], pool[1][k]), (pool[4][k], pool[5][k])]
    layers = [tuple(part.clone() for part in layer) for layer in layers]
    number = int(state.tasks.number[row])
    return PlainThesis(
        layers, env.plain_copies, float(env.amplitude[number]), float(env.phase[number]),
        bounds and bounds[number], scaling, env.inner_steps, env.rate,
    )  # fmt: skip


def made(monkeypatch, **options) -> ThesisLayerPool:
    """An environment that keeps the untrained copies, for the plain row."""
    import metarl_lib.envs.layer_pool_thesis as module

    original, kept = module._pool, []

    def watched(*args):
        pool, copied = original(*args)
        kept.append([tuple(copied[:2]), tuple(copied[2:])])
        return pool, copied

    monkeypatch.setattr(module, "_pool", watched)
    env = ThesisLayerPool(**({"inner_steps": 4} | options))
    env.plain_copies = kept[0]
    return env


def scripts(env, rows: int, generator) -> list[list[int]]:
    """Actions of each row: right ones, mistakes of all kinds, and random ones."""
    hidden, first, last = list(range(21)), list(range(21, 35, 2)), list(range(22, 35, 2))
    fixed = [
        [first[2], last[3], hidden[0], hidden[20], hidden[4]],
        [hidden[1], hidden[1], hidden[1], first[0], hidden[1], last[1], hidden[2], hidden[3]],
        [last[0], first[0], hidden[5], last[0], hidden[6], hidden[6], hidden[7]],
    ]
    drawn = torch.randint(35, (rows, 40), generator=generator).tolist()
    return fixed + drawn[len(fixed) :]


@pytest.mark.parametrize("scaling", ["as_coded", "turned", "none", "calibrating"])
def test_every_transition_is_that_of_the_plain_row(scaling, monkeypatch) -> None:
    bounds = None if scaling == "calibrating" else BOUNDS
    own = "as_coded" if bounds is None else scaling
    env, rows, generator = made(monkeypatch, bounds=bounds, scaling=own), 6, stream(1)
    tasks = env.sample_tasks(rows, generator)
    state, observation = env.reset(tasks, generator)
    plain = [plain_of(env, state, row, bounds, own) for row in range(rows)]
    expected = [row.reset() for row in plain]
    actions = scripts(env, rows, generator)
    alive, errors, kinds = [True] * rows, 0, set()
    for t in range(40):
        for b in range(rows):
            if alive[b]:
                found = observation[b].tolist()
                assert found == pytest.approx(expected[b], abs=2e-3, rel=2e-3), (t, b)
        action = [row[t] if t < len(row) else 0 for row in actions]
        state, step = env.step(state, torch.tensor(action), generator)
        observation = step.observation
        for b, row in enumerate(plain):
            if not alive[b]:
                continue
            reward, ended, error = row.step(action[b])
            expected[b] = row.observation()
            assert bool(step.info["error"][b]) == error
            assert bool(step.terminated[b]) == ended
            assert float(step.reward[b]) == pytest.approx(reward, abs=5e-3, rel=5e-3)
            assert float(step.info["loss"][b]) == pytest.approx(row.loss, rel=5e-3)
            errors += error
            if ended:
                alive[b] = False
                kinds.add((bool(state.layers[b, 0] < 0), bool(state.layers[b, -1] < 0)))
                assert observation[b].tolist() == pytest.approx(expected[b], abs=2e-3, rel=2e-3)
                for k in range(21):
                    weight = state.tasks.pool.hidden_weight[b, k]
                    torch.testing.assert_close(weight, row.pool[k][0], rtol=1e-2, atol=1e-3)
        if not any(alive):
            break
    assert not any(alive)
    assert errors > 5
    assert len(kinds) > 1, "networks with and without the initial copies are needed"


def test_there_are_44_numbers_and_35_layers() -> None:
    env = ThesisLayerPool()
    assert env.observation_space.shape == (44,)
    assert int(env.action_space.n) == 35
    _, observation = env.reset(env.sample_tasks(3, stream()), stream())
    assert observation.shape == (3, 44)
    assert [len(part) for part in env.pool] == [7, 7, 21, 21, 7, 7]
    assert env.pool.hidden_weight.shape[1:] == (40, 40)
    assert env.pool.hidden_weight.abs().max() <= math.sqrt(6 / 80)
    assert env.pool.hidden_weight.std() == pytest.approx(math.sqrt(2 / 80), rel=0.02)


def test_the_scaling_pays_for_a_bad_start() -> None:
    """The worse the first layers, the smaller the penalty; worse than ever earns money."""
    earned = {}
    for scaling in ("as_coded", "turned"):
        env = ThesisLayerPool(bounds=[[0.0, 10.0]] * 7, scaling=scaling, inner_steps=1)
        state, _ = env.reset(env.sample_tasks(1, stream()), stream())
        for worst in (1.0, 9.0, 20.0):
            given = state._replace(loss=torch.tensor([5.0]), worst=torch.tensor([worst]))
            earned[scaling, worst] = float(env._reward(given))
    assert [earned["as_coded", w] for w in (1.0, 9.0, 20.0)] == pytest.approx([-0.45, -0.05, 0.5])
    assert [earned["turned", w] for w in (1.0, 9.0, 20.0)] == pytest.approx([-0.05, -0.45, -1.0])


def test_training_and_test_tasks_differ_and_one_can_be_asked_for() -> None:
    env = ThesisLayerPool()
    drawn = env.sample_tasks(200, stream()).number
    assert set(drawn.tolist()) == set(range(6))
    assert set(env.sample_tasks(9, stream(), "test").number.tolist()) == {6}
    assert set(ThesisLayerPool(task=4).sample_tasks(9, stream()).number.tolist()) == {4}
    assert bool((env.amplitude >= 0.1).all() and (env.amplitude <= 5).all())
    assert bool((env.phase >= 0).all() and (env.phase <= math.pi).all())


def test_layers_stay_trained_for_the_next_episode_where_rows_carry_them() -> None:
    env = ThesisLayerPool(inner_steps=2, bounds=BOUNDS, task=1)
    carried, fresh = SingleEnv(env), SingleEnv(env)
    carried.rows = CarriedRows(env)
    actions = [21, 22, 3, 4, 5]
    kept = {}
    for name, single in (("carried", carried), ("fresh", fresh)):
        losses = []
        single.reset(seed=0)
        for _ in range(6):
            for action in actions:
                _, _, ended, _, info = single.step(action)
            assert ended
            losses.append(info["loss"])
            pool = map_tree(Tensor.clone, single.rows.state.tasks.pool)
            single.reset()
            kept[name] = (pool, single.rows.state.tasks.pool)
        if name == "carried":
            assert losses[-1] < 0.9 * losses[0]
        else:
            assert len(set(losses)) == 1
    assert all(map(torch.equal, *kept["carried"]))
    assert not torch.equal(kept["fresh"][0].hidden_weight, kept["fresh"][1].hidden_weight)


@pytest.mark.parametrize("outputs", [1, 2])
def test_adam_is_that_of_torch_on_every_row(outputs) -> None:
    network = Network((1, 6, 6, outputs), bias=True)
    generator = stream(2)
    params = [torch.randn(3, *shape, generator=generator) for shape in network.shapes]
    x, y = torch.randn(9, 1, generator=generator), torch.randn(3, 9, outputs, generator=generator)
    found, passed = adam(network, params, x, y, 0.01, 5)
    for row in range(3):
        leaves = [p[row].clone().requires_grad_() for p in params]
        optimiser = torch.optim.Adam(leaves, lr=0.01)
        for step in range(5):
            out = network(leaves, x)
            loss = (out - y[row]).square().mean()
            assert float(passed[step, 0, row]) == pytest.approx(loss.item(), rel=1e-5)
            assert float(passed[step, 1, row]) == pytest.approx(out.abs().max().item(), rel=1e-5)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        for p, leaf in zip(found, leaves, strict=True):
            torch.testing.assert_close(p[row], leaf.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bias": False}, "bias=False, output_activation=None: adam is written for bias=True"),
        ({"bias": True, "output_activation": "relu"}, "bias=True, output_activation='relu': adam"),
    ],
)
def test_adam_refuses_other_networks_in_one_line(options, words) -> None:
    network = Network((1, 6, 1), **options)
    params = [torch.zeros(3, *shape) for shape in network.shapes]
    with pytest.raises(ValueError, match=words) as refusal:
        adam(network, params, torch.zeros(9, 1), torch.zeros(3, 9, 1), 0.01, 5)
    assert "\n" not in str(refusal.value)


def test_random_actions_make_as_many_errors_as_counting_says() -> None:
    """28/35 twice, and 35 / (22 − j) tries for each hidden layer."""
    tries = [35 / (22 - j) for j in (1, 2, 3)]
    env, rows, generator = ThesisLayerPool(inner_steps=0), 300, stream(3)
    state, _ = env.reset(env.sample_tasks(rows, generator), generator)
    errors, steps = torch.zeros(rows), torch.zeros(rows)
    alive = torch.ones(rows, dtype=torch.bool)
    for _ in range(25):
        action = torch.randint(35, (rows,), generator=generator)
        state, step = env.step(state, action, generator)
        errors += step.info["error"] * alive
        steps += alive
        alive &= ~step.terminated
    wanted = 2 * 28 / 35 + sum(t - 1 for t in tries)
    for found, mean in ((errors, wanted), (steps, 2 + sum(tries))):
        assert float(found.mean()) == pytest.approx(mean, abs=4 * float(found.std()) / rows**0.5)
