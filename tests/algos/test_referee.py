"""Our PPO against Stable-Baselines3's, as recorded by `benchmarks/referee.py` and lived here."""

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from toy_envs import CartPole, PoleState

HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parents[1] / "benchmarks" / "referee.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark_of_referee", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def record():
    """The table of the recorded run, by task and learner, and all that was written with it."""
    written = json.loads((HERE / "referee.json").read_text())
    return {(row["task"], row["learner"]): row for row in written["table"]}, written


def chosen(observation: np.ndarray, row: int, step: int) -> int:
    """Odd rows balance the pole, even ones act by a pattern that soon lets it fall."""
    x, speed, angle, turn = observation
    if row % 2:
        return int(angle + 0.3 * turn + 0.02 * x + 0.05 * speed > 0)
    return (step * (row + 1) // 3) % 2


def test_the_pole_moves_as_that_of_gymnasium() -> None:
    """Each row beside a `CartPole-v1` of its own, up to its fall or to 500 steps."""
    rows, env = 6, CartPole()
    peers = [gymnasium.make("CartPole-v1") for _ in range(rows)]
    seen = [peer.reset(seed=row)[0] for row, peer in enumerate(peers)]
    numbers = torch.tensor(np.stack([peer.unwrapped.state for peer in peers]))
    state = PoleState(numbers, torch.zeros(rows, dtype=torch.long))
    running, fell, cut_off = set(range(rows)), 0, 0
    for step in range(500):
        actions = [chosen(seen[row], row, step) for row in range(rows)]
        state, ours = env.step(state, torch.tensor(actions), torch.Generator())
        for row in sorted(running):
            seen[row], reward, terminated, truncated, _ = peers[row].step(actions[row])
            np.testing.assert_allclose(ours.observation[row], seen[row], rtol=1e-6, atol=1e-6)
            assert ours.reward[row] == reward
            assert ours.terminated[row] == terminated
            assert ours.truncated[row] == truncated
            fell, cut_off = fell + terminated, cut_off + truncated
            if terminated or truncated:
                running.remove(row)
    assert not running
    assert (fell, cut_off) == (3, 3)


def test_poles_start_as_those_of_gymnasium() -> None:
    """Uniform within 0.05, all four numbers; hidden velocities leave the positions."""
    env, generator = CartPole(), torch.Generator().manual_seed(0)
    state, seen = env.reset(env.sample_tasks(4000, generator), generator)
    assert seen.shape == (4000, 4)
    assert seen.abs().max() <= 0.05
    assert (seen.std(0) - 0.1 / 12**0.5).abs().max() < 1e-3
    assert torch.equal(CartPole(positions_only=True).observe(state), seen[:, [0, 2]])
    assert CartPole(reward=0.25).step(state, state.time, generator)[1].reward[0] == 0.25


def test_the_record_is_of_the_script_as_it_stands(script, record) -> None:
    assert record[1]["budget"] == asdict(script.Budget())
    assert {row["seeds"] for row in record[0].values()} == {5}
    assert record[1]["provenance"]["versions"]["stable-baselines3"]


@pytest.mark.parametrize("number", ["final", "curve"])
@pytest.mark.parametrize(
    ("task", "peer"),
    [("cartpole", "sb3"), ("cartpole", "sb3_recurrent"), ("positions", "sb3_recurrent")],
)
def test_ours_is_at_least_within_the_peers_interval(record, task, peer, number) -> None:
    """Of the recorded run: our mean is not below what the peer's seeds allow."""
    assert record[0][task, "ours"][number]["mean"] >= record[0][task, peer][number]["low"]


def test_positions_alone_take_a_memory(record) -> None:
    """The peer without one stays far below both with one."""
    without = record[0]["positions", "sb3"]["final"]["high"]
    for learner in ("ours", "sb3_recurrent"):
        assert record[0]["positions", learner]["final"]["low"] > 1.5 * without


def test_ours_learns_to_balance_as_recorded(script, record) -> None:
    """A seed that is not in the record, with the whole budget."""
    found = script.measure("ours", "cartpole", 5, script.Budget())
    assert found["final"] > 150
    for number in ("final", "curve"):
        assert found[number] >= record[0]["cartpole", "sb3"][number]["low"]
