"""The benchmark of the ants runs, all step the same ant, and what is missing is said to be."""

import os
import subprocess
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
MUJOCO = pytest.mark.skipif(
    find_spec("mujoco") is None,
    reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'",
)


@pytest.fixture
def clock(script, monkeypatch):
    """A clock that goes on when it is told to."""
    times = [0.0]
    monkeypatch.setattr(script.time, "perf_counter", lambda: times[0])
    return times


@pytest.mark.parametrize("ants", [64, 32])
def test_a_rate_counts_the_steps_of_all_ants_after_the_first_ones(script, clock, ants) -> None:
    """Four steps of half a second each are the first to fill 1.8 s."""
    given = []

    def step(action: np.ndarray) -> None:
        given.append(action)
        clock[0] += 0.5 if len(given) > script.WARM_UP else 100.0

    rate = script.rate_of(step, ants)
    assert len(given) == script.WARM_UP
    assert rate(1.8) == ants * 4 / 2.0
    assert len(given) == script.WARM_UP + 4
    assert {action.shape for action in given} == {(64, 8)}
    for one, other in zip(given, script.actions(), strict=False):
        assert np.array_equal(one, other), "everybody is given the same"


def test_rounds_are_in_turn_and_medians_count(script) -> None:
    said, order = {"a": [3.0, 1.0, 9.0], "b": [5.0, 6.0, 4.0]}, []

    def contestant(name: str):
        def rate(seconds: float) -> float:
            order.append((name, seconds))
            return said[name].pop(0)

        return rate

    rates = {"a": contestant("a"), "missing": None, "b": contestant("b")}
    found = script.take_turns(rates, 3, 0.25)
    assert found == {"a": 3.0, "missing": None, "b": 5.0}
    assert order == [("a", 0.25), ("b", 0.25)] * 3


@MUJOCO
def test_all_read_gymnasiums_ant_without_its_warm_start(script, tmp_path, monkeypatch) -> None:
    import mujoco

    from metarl_lib.envs.physics import Physics

    own, off = Physics("ant").model, mujoco.mjtDisableBit.mjDSBL_WARMSTART.value
    cold = mujoco.MjModel.from_xml_path(str(script.model_file(tmp_path)))
    warm = mujoco.MjModel.from_xml_path(str(script.model_file(tmp_path, warm_start=True)))
    assert own.opt.disableflags == cold.opt.disableflags == off
    assert warm.opt.disableflags == 0
    for model in (cold, warm):
        assert (model.opt.integrator, model.opt.timestep) == (
            own.opt.integrator, own.opt.timestep,
        )  # fmt: skip
        np.testing.assert_array_equal(model.body_mass, own.body_mass)
        np.testing.assert_array_equal(model.actuator_gear, own.actuator_gear)
    made = []
    monkeypatch.setattr(script, "rate_of", lambda step, ants=64: made.append(step.__self__))
    with ExitStack() as stack:
        monkeypatch.setattr(script, "ANTS", 2)
        script.vector("sync", script.model_file(tmp_path), stack)
        ants = [env.unwrapped for env in made[0].envs]
        assert len(ants) == 2
        assert {ant.model.opt.disableflags for ant in ants} == {off}
        assert {ant.frame_skip for ant in ants} == {script.FRAME}
        assert made[0].single_observation_space.shape == (27,)
        assert {ant._terminate_when_unhealthy for ant in ants} == {False}
        assert isinstance(made[0], gymnasium.vector.SyncVectorEnv)


@MUJOCO
def test_the_processes_of_bare_mujoco_share_the_ants_and_end(script, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(script, "ANTS", 5)
    monkeypatch.setattr(script, "rate_of", lambda step, ants: lambda seconds: 10 * ants + seconds)
    with ExitStack() as stack:
        rate = script.bare(script.model_file(tmp_path), stack)
        assert rate(0.5) == (30 + 0.5) + (20 + 0.5)
        assert rate(0.25) == 50.5


def test_a_missing_peer_is_none(script, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with ExitStack() as stack:
        assert script.envpool(tmp_path / "a" / "b" / "ant.xml", stack) is None


def test_without_mujoco_it_says_so_in_one_line(tmp_path) -> None:
    (tmp_path / "mujoco.py").write_text("raise ImportError")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "locomotion.py"), "--quick"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.rstrip().endswith("pip install 'metarl_lib[mujoco]'")
    assert len(done.stderr.splitlines()) == 1


@MUJOCO
def test_quick_prints_a_table_and_one_line_of_json(quick) -> None:
    table, result = quick("locomotion")
    ratios = result["ratios"]
    rates = {
        " ".join(line[:-2]): None if line[-1] == "installed" else float(line[-2].replace(",", ""))
        for line in table
    }
    keys = {"vs_sync_vector": "sync vector", "vs_async_vector": "async vector",
            "vs_sb3_subproc": "sb3 subproc", "vs_envpool": "envpool",
            "of_bare_mj_step": "bare mj step"}  # fmt: skip
    for key, name in keys.items():
        if rates[name] is None:
            assert ratios[key] is None
        else:
            assert ratios[key] == pytest.approx(rates["ours"] / rates[name], rel=0.02, abs=0.006)
    assert ratios["warm_start_of_bare"] > 0
