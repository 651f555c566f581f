"""Checkpoints: what they keep, when they count, and who may write them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file
from test_reliability import TINY
from tiny_experiment import Config, half_way, run_tiny

from metarl_lib import cli, runs
from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.files import BusyError, StorageError
from metarl_lib.runs import Run


@pytest.fixture(autouse=True)
def registered(monkeypatch) -> None:
    """`metarl run tiny` works, at full speed."""
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


HOLD = """
import sys, time
from pathlib import Path
from metarl_lib.files import hold
lock = hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_a_folder_in_use_is_refused_until_its_process_is_killed(tmp_path, capsys) -> None:
    folder = half_way(tmp_path / "run")
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(runs.__file__).parents[1])},
    )
    try:
        assert other.stdout.readline() == b"held\n"
        assert cli.main(["run", "--resume", str(folder)]) == 2
        err = capsys.readouterr().err
        assert f"{folder} is being run by process {other.pid} on" in err
        assert len(err.splitlines()) == 1
        with pytest.raises(BusyError):
            Run.resume(folder, "tiny", Config())
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdout.close()
    assert run_tiny(folder).finished


def test_one_process_may_open_a_folder_twice(tmp_path) -> None:
    folder = half_way(tmp_path / "run")
    first, second = (Run.resume(folder, "tiny", Config()) for _ in range(2))
    assert first._lock is second._lock is not None


def test_a_long_run_waits_for_the_disk_before_a_file_counts(tmp_path, monkeypatch) -> None:
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: done.append("disk") or fsync(f))
    monkeypatch.setattr(os, "replace", lambda a, b: done.append(Path(b).name) or replace(a, b))
    run = Run.create(tmp_path / "run", "tiny", Config(), scale="smoke", seed=0)
    stage = run.stage("a")
    stage.log(1, {"x": 1.0})
    stage.save(1, {"w": torch.ones(1)})
    assert "disk" not in done
    done.clear()
    run._state["cpu_seconds"] = runs.SYNC_AFTER + 1
    stage.log(2, {"x": 1.0})
    stage.save(2, {"w": torch.ones(1)})
    names = ["ckpt-a-2.safetensors", "metrics.parquet", "state.json"]
    assert done == [word for name in names for word in ("disk", name)]


def test_the_same_step_saved_twice(tmp_path, monkeypatch) -> None:
    """The first of the two counts until the state names the second, so it must stay till then."""
    run = Run.create(tmp_path / "run", "tiny", Config(), scale="smoke", seed=0)
    for number in (1.0, 2.0, 3.0):
        run.stage("a").save(1, {"w": torch.full((1,), number)})

    def killed(*words, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run.stage("a").save(1, {"w": torch.full((1,), 4.0)})
    monkeypatch.undo()
    back = Run.resume(tmp_path / "run", "tiny", Config())
    assert back.stage("a").tensors["w"] == 3.0
    assert len(list((tmp_path / "run").glob("ckpt-*"))) == 1


def test_a_checkpoint_without_tensors_takes_the_place_of_one_with(tmp_path) -> None:
    run = Run.create(tmp_path / "run", "tiny", Config(), scale="smoke", seed=0)
    stage = run.stage("a")
    stage.save(1, {"w": torch.ones(2)})
    stage.save(2, {}, {"best": 1.0}, finished=True)
    back = Run.resume(tmp_path / "run", "tiny", Config()).stage("a")
    assert (back.tensors, back.values, back.finished) == ({}, {"best": 1.0}, True)
    assert not list((tmp_path / "run").glob("ckpt-*"))


def test_every_kind_of_tensor_comes_back(tmp_path) -> None:
    run = Run.create(tmp_path / "run", "tiny", Config(), scale="smoke", seed=0)
    tensors = {
        "half": torch.randn(3, 4).T.half(),
        "double": torch.randn(5, dtype=torch.float64, requires_grad=True),
        "mask": torch.tensor([[True], [False]]),
        "count": torch.tensor(7),
        "none": torch.empty(0, 3),
        "complex": torch.randn(2, dtype=torch.complex64),
        "generator.actions": torch.Generator().manual_seed(3).get_state(),
        "shared": (base := torch.arange(6))[2:],
        "base": base,
    }
    run.stage("a").save(1, tensors)
    back = Run.resume(tmp_path / "run", "tiny", Config()).stage("a").tensors
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert (back[key].dtype, back[key].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(back[key], tensor)
    on_disk = load_file(next((tmp_path / "run").glob("ckpt-*")))
    assert on_disk.keys() == tensors.keys()


def test_numbers_of_a_stage_count_with_its_own_checkpoint(tmp_path) -> None:
    """Else a run killed after another stage's checkpoint would log them a second time."""
    run = Run.create(tmp_path / "run", "tiny", Config(), scale="smoke", seed=0)
    run.stage("training").log(1, {"loss": 1.0})
    run.stage("test").log(1, {"loss": 2.0})
    run.stage("test").save(1, {})
    assert run.metrics()["name"].tolist() == ["test/loss", "training/loss"]
    back = Run.resume(tmp_path / "run", "tiny", Config())
    assert back.metrics()["name"].tolist() == ["test/loss"]
    back.stage("training").log(1, {"loss": 1.0})
    back.finish([])
    done = Run.resume(tmp_path / "run", "tiny", Config())
    assert done.metrics().values.tolist() == [[1, "test/loss", 2.0], [1, "training/loss", 1.0]]


def test_a_checkpoint_that_could_not_be_written_can_be_tried_again(tmp_path, monkeypatch) -> None:
    run = Run.create(tmp_path / "run", "tiny", Config(), scale="smoke", seed=0)
    stage = run.stage("a")
    stage.save(1, {"w": torch.ones(1)})
    stage.log(2, {"x": 1.0})

    def full(*words, **more):
        raise StorageError("full")

    for name in ("write_atomically", "write_json"):
        with monkeypatch.context() as patch:
            patch.setattr(runs, name, full)
            with pytest.raises(StorageError):
                stage.save(2, {"w": torch.zeros(1)})
        assert stage.step == 1
        assert Run.resume(tmp_path / "run", "tiny", Config()).stage("a").step == 1
    stage.save(2, {"w": torch.zeros(1)})
    back = Run.resume(tmp_path / "run", "tiny", Config())
    assert (back.stage("a").step, back.stage("a").tensors["w"]) == (2, 0.0)
    assert back.metrics().values.tolist() == [[2, "a/x", 1.0]]


def test_the_cpu_time_of_a_stage_adds_up_over_resumes(tmp_path, monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(runs.time, "process_time", lambda: clock[0])
    run = Run.create(tmp_path / "run", "tiny", Config(), scale="smoke", seed=0)
    first, second = run.stage("a"), run.stage("b")
    for step in (1, 2):
        clock[0] += 3
        first.save(step, {})
    clock[0] += 5  # a kill: nothing counts that no checkpoint holds
    again = Run.resume(tmp_path / "run", "tiny", Config())
    third = again.stage("a")
    clock[0] += 4
    third.save(3, {}, finished=True)
    again.finish([])
    record = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert record["stage_cpu_seconds"] == {"a": 10.0}
    assert not second.finished
