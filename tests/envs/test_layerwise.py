"""One agent per layer, against `WeightSpace` stepped by hand."""

import gymnasium
import numpy as np
import pytest
import torch
from pettingzoo.test import parallel_api_test, parallel_seed_test
from torch import Tensor

from metarl_lib.envs.adapters import draw_seed
from metarl_lib.envs.layerwise import AGENT_MODES, Layerwise, parallel_env
from metarl_lib.envs.weight_space import WeightSpace
from metarl_lib.envs.weight_state import SIGNALS

WIDTHS = (10, 7, 5, 10)
SIZES = {False: [70, 35, 50], True: [77, 40, 60]}
SEEN = {"global": 5 + 5 + 3 + 5, "local": 5 + 5 + 3}
SEED = 3


def stream(seed: int = SEED) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def started(env, batch: int = 2, seed: int = SEED):
    generator = stream(seed)
    state, observation = env.reset(env.sample_tasks(batch, generator), generator)
    return state, observation, generator


def tensors(nested) -> list[Tensor]:
    if isinstance(nested, Tensor):
        return [nested]
    return [tensor for part in nested for tensor in tensors(part)]


def expected_view(inner: WeightSpace, state, view: str = "global") -> list:
    """What each agent should see, `[B, L, size]`, as nested lists."""
    statistics, shared = inner.statistics(state).tolist(), inner.globals(state).tolist()
    rows = []
    for layers, common in zip(statistics, shared, strict=True):
        last = len(layers) - 1
        row = []
        for layer, own in enumerate(layers):
            before = layers[layer - 1] if layer > 0 else [0.0] * 5
            place = [np.float32(layer / max(last, 1)).item(), layer == 0, layer == last]
            row.append([*own, *before, *place, *(common if view == "global" else [])])
        rows.append(row)
    return rows


@pytest.mark.parametrize("view", ["global", "local"])
@pytest.mark.parametrize("widths", [WIDTHS, (10, 7, 10), (10, 10)])
def test_an_agent_sees_its_layer_the_one_before_its_place_and_what_all_share(widths, view) -> None:
    env = Layerwise(view=view, widths=widths, steps=5)
    assert env.observation_space.shape == (len(widths) - 1, SEEN[view])
    state, observation, generator = started(env)
    for _ in range(3):
        assert observation.tolist() == expected_view(env.inner, state, view)
        assert observation[0].numpy() in env.observation_space
        action = torch.rand(2, len(widths) - 1, 4, generator=generator) * 2 - 1
        state, step = env.step(state, action, generator)
        observation = step.observation
    assert len({tuple(row) for row in observation.flatten(0, 1).tolist()}) == 2 * len(widths) - 2


@pytest.mark.parametrize("signals", [SIGNALS, ("drive", "decay"), ("hebb",)])
@pytest.mark.parametrize("bias", [False, True])
def test_the_joint_action_does_what_it_does_to_the_network_as_a_whole(bias, signals) -> None:
    options = {"widths": WIDTHS, "steps": 4, "bias": bias, "signals": signals}
    layers, whole = Layerwise(**options), WeightSpace(**options, action_mode="rule")
    assert layers.action_space.shape == (3, len(signals))
    assert parallel_env(**options).action_space("layer_1").shape == (len(signals),)
    state, _, generator = started(layers)
    twin, _, other = started(whole)
    for time in range(1, 5):
        action = torch.rand(2, 3, len(signals), generator=stream(time)) * 2 - 1
        state, step = layers.step(state, action, generator)
        twin, reference = whole.step(twin, action.reshape(2, -1), other)
        assert all(map(torch.equal, tensors(state), tensors(twin)))
        assert torch.equal(step.reward, reference.reward)
        assert step.terminated.tolist() == reference.terminated.tolist() == [time == 4] * 2
        assert all(torch.equal(step.info[name], reference.info[name]) for name in reference.info)


def test_an_agent_changes_its_own_layer_and_no_other() -> None:
    env = Layerwise(widths=WIDTHS, bias=True)
    state, _, generator = started(env)
    for layer in range(3):
        action = torch.zeros(2, 3, 4)
        action[:, layer, 0] = 1.0
        after, _ = env.step(state, action, generator)
        moved = [not torch.equal(p, q) for p, q in zip(state.params, after.params, strict=True)]
        assert moved == [own == layer for own in (0, 0, 1, 1, 2, 2)]


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 12), (3, 4), (3, 3, 4)])
def test_a_joint_action_of_the_wrong_shape_is_refused_in_one_line(shape) -> None:
    env = Layerwise(widths=WIDTHS)
    state, _, generator = started(env)
    with pytest.raises(ValueError, match=r"action has shape .*is wanted") as refusal:
        env.step(state, torch.zeros(shape), generator)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("make", [Layerwise, parallel_env])
def test_an_unknown_view_is_refused_in_one_line(make) -> None:
    with pytest.raises(ValueError, match=r"view='total' is unknown: .* global, local") as refusal:
        make(view="total")
    assert "\n" not in str(refusal.value)


def test_an_unknown_mode_is_refused_in_one_line() -> None:
    words = "action_mode='synapse' is unknown: .* rule, delta, set"
    with pytest.raises(ValueError, match=words) as refusal:
        parallel_env(action_mode="synapse")
    assert "\n" not in str(refusal.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mode", AGENT_MODES)
def test_pettingzoo_accepts_every_mode_without_a_warning(mode, bias) -> None:
    def make():
        return parallel_env(action_mode=mode, widths=WIDTHS, steps=4, bias=bias)

    parallel_api_test(make(), num_cycles=20)
    parallel_seed_test(make, num_cycles=20)


def joint(mode: str, sizes: list[int], time: int) -> dict[str, np.ndarray]:
    """Actions that differ in every entry."""
    shapes = [4] * 3 if mode == "rule" else sizes
    generator = np.random.default_rng(time)
    return {
        f"layer_{layer}": generator.uniform(-1, 1, shape).astype(np.float32)
        for layer, shape in enumerate(shapes)
    }


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mode", AGENT_MODES)
def test_the_agents_together_are_one_network_of_weight_space(mode, bias) -> None:
    """Observations, the shared reward, and the end, for a whole episode and a second one."""
    options = {"widths": WIDTHS, "steps": 3, "bias": bias, "action_mode": mode}
    env, whole = parallel_env(**options), WeightSpace(**options, observation="statistics")
    names = ["layer_0", "layer_1", "layer_2"]
    extra = [0] * 3 if mode == "rule" else SIZES[bias]
    seed = draw_seed(gymnasium.utils.seeding.np_random(SEED)[0])
    state, _, generator = started(whole, 1, seed)

    def check(observations) -> None:
        per_layer = [[p for p, own in zip(state.params, whole.layer_of, strict=True) if own == i]
                     for i in range(3)]  # fmt: skip
        for layer, view in enumerate(expected_view(whole, state)[0]):
            weights = torch.cat([p.flatten() for p in per_layer[layer]]).tolist()
            seen = observations[names[layer]]
            assert seen.tolist() == view + (weights if mode != "rule" else [])
            assert seen in env.observation_space(names[layer])

    observations, infos = env.reset(seed=SEED)
    assert env.possible_agents == names
    assert infos == {name: {} for name in names}
    assert [env.observation_space(n).shape for n in names] == [(18 + e,) for e in extra]
    for episode in range(2):
        assert env.agents == names
        for time in range(1, 4):
            check(observations)
            actions = joint(mode, SIZES[bias], 10 * episode + time)
            assert all(env.action_space(n).contains(a) for n, a in actions.items())
            action = torch.from_numpy(np.concatenate([actions[n] for n in names]))[None]
            state, step = whole.step(state, action, generator)
            observations, rewards, terminated, truncated, infos = env.step(actions)
            assert rewards == dict.fromkeys(names, step.reward.item())
            assert terminated == dict.fromkeys(names, time == 3)
            assert truncated == dict.fromkeys(names, False)
            expected = {name: values.item() for name, values in step.info.items()}
            assert infos == dict.fromkeys(names, expected)
        check(observations)
        assert env.agents == []
        state, _ = whole.reset(whole.sample_tasks(1, generator), generator)
        observations, _ = env.reset()


@pytest.mark.parametrize(("mode", "step_size"), [("set", None), ("delta", 0.25)])
@pytest.mark.parametrize("bias", [False, True])
def test_an_agents_numbers_go_into_its_own_weights(mode, bias, step_size) -> None:
    env = parallel_env(
        action_mode=mode, widths=WIDTHS, bias=bias, step_size=step_size, view="local"
    )
    before, _ = env.reset(seed=SEED)
    actions = joint(mode, SIZES[bias], 1)
    after, *_ = env.step(actions)
    for layer, (name, action) in enumerate(actions.items()):
        assert after[name].shape == (13 + SIZES[bias][layer],)
        old, new = before[name][13:], after[name][13:]
        expected = action if mode == "set" else old + np.float32(0.25) * action
        assert np.array_equal(new, expected)


def test_all_agents_stop_when_the_network_diverges() -> None:
    env = parallel_env(action_mode="set", widths=WIDTHS, step_size=1e6)
    env.reset(seed=SEED)
    actions = {name: env.action_space(name).high for name in env.agents}
    _, rewards, terminated, _, infos = env.step(actions)
    assert set(rewards.values()) == {-10.0}
    assert list(terminated.values()) == [True] * 3
    assert all(info["diverged"] for info in infos.values())
    assert env.agents == []


def test_equal_seeds_give_equal_episodes_and_no_seed_continues_the_stream() -> None:
    def episode(env, seed) -> list:
        seen = [{n: o.tolist() for n, o in env.reset(seed=seed)[0].items()}]
        while env.agents:
            observations, rewards, *_ = env.step(joint("rule", [], len(seen)))
            seen.append(({n: o.tolist() for n, o in observations.items()}, rewards))
        return seen

    env, other = (parallel_env(widths=WIDTHS, steps=4) for _ in range(2))
    first = episode(env, 1)
    after = episode(env, None)
    assert len(first) == 5
    assert (episode(other, 1), episode(other, None)) == (first, after)
    assert after != first
    assert episode(env, 2) != first


def test_environments_that_were_never_seeded_draw_different_networks() -> None:
    firsts = {tuple(parallel_env(widths=(10, 10)).reset()[0]["layer_0"].tolist()) for _ in range(4)}
    assert len(firsts) > 1


@pytest.mark.parametrize("mode", AGENT_MODES)
def test_a_wrong_or_missing_action_is_refused_in_one_line_that_names_the_agent(mode) -> None:
    env = parallel_env(action_mode=mode, widths=WIDTHS)
    env.reset(seed=SEED)
    good = joint(mode, SIZES[False], 1)
    size = len(good["layer_1"])
    missing = {name: action for name, action in good.items() if name != "layer_1"}
    for wrong in (
        missing,
        good | {"layer_1": np.zeros(size + 1, np.float32)},
        good | {"layer_1": np.zeros((1, size), np.float32)},
    ):
        with pytest.raises(ValueError, match=rf"layer_1.*\({size},\) is wanted") as refusal:
            env.step(wrong)
        assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        env.step(good | {"layer_1": np.array([np.nan] + [0.0] * (size - 1), np.float32)})
    assert set(env.step(good)[1]) == set(good)


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(RuntimeError, match="call reset first"):
        parallel_env(widths=WIDTHS).step(joint("rule", [], 1))
