"""Run folders: streams, atomic writes, checkpoints, resuming after a kill, provenance."""

import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytest
import torch

from metarl_lib import cli, provenance
from metarl_lib.runs import (
    STREAMS,
    DivergenceError,
    Run,
    config_hash,
    generator,
    read_json,
    stage_tensors,
    write_atomically,
    write_json,
)


@dataclass(frozen=True)
class Settings:
    steps: int = 10
    rates: tuple[float, ...] = (0.1, 1.0)


def create(folder, settings=None, name="test") -> Run:
    return Run.create(folder, name, settings or Settings(), scale="smoke", seed=3)


def numbers(stream, count=10_000):
    return torch.randn(count, generator=stream, dtype=torch.float64)


def test_streams_are_reproducible() -> None:
    for stream in STREAMS:
        assert torch.equal(numbers(generator(5, stream)), numbers(generator(5, stream)))


def test_streams_are_different_and_uncorrelated() -> None:
    keys = [(seed, s, index) for seed in (0, 1) for s in STREAMS for index in (0, 1)]
    drawn = torch.stack([numbers(generator(*key)) for key in keys])
    correlation = torch.corrcoef(drawn) - torch.eye(len(keys), dtype=drawn.dtype)
    assert correlation.abs().max() < 5 / 10_000**0.5


def test_a_stream_does_not_move_another() -> None:
    expected = numbers(generator(0, "actions"))
    evaluation, actions = generator(0, "evaluation"), generator(0, "actions")
    numbers(evaluation)
    assert torch.equal(numbers(actions), expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((-1, "init"), "seed=-1.*>= 0"), ((0, "noise"), "stream='noise' is unknown.*init, tasks")],
)
def test_streams_refuse(arguments, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        generator(*arguments)
    assert "\n" not in str(refusal.value)


def test_the_hash_sees_every_field_and_the_name() -> None:
    text = json.dumps(["a", {"steps": 10, "rates": [0.1, 1.0]}], sort_keys=True)
    assert config_hash("a", Settings()) == hashlib.sha256(text.encode()).hexdigest()[:12]
    others = [("b", Settings()), ("a", Settings(steps=11)), ("a", Settings(rates=(0.1,)))]
    assert len({config_hash(*o) for o in [*others, ("a", Settings())]}) == 4


def test_a_write_that_fails_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_the_new_file_appears_at_once(tmp_path) -> None:
    path = tmp_path / "new" / "file.txt"

    def write(temporary: Path) -> None:
        assert temporary.parent == path.parent  # a rename within one file system
        temporary.write_text("half")
        assert not path.exists()

    write_atomically(path, write)
    assert path.read_text() == "half"


def test_json_refuses_nan(tmp_path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_create_refuses_a_folder_in_use(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"not empty.*--resume") as refusal:
        create(tmp_path)
    assert "\n" not in str(refusal.value)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_resume_refuses_another_configuration(tmp_path) -> None:
    create(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    for name, settings in (("test", Settings(steps=11)), ("other", Settings())):
        with pytest.raises(ValueError, match=r"another configuration.*start a new run") as refusal:
            Run.resume(tmp_path / "run", name, settings)
        assert "\n" not in str(refusal.value)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_a_run_killed_while_its_folder_was_made_can_resume(tmp_path) -> None:
    """`config.json` is the first file; without the others the run is at its start."""
    create(tmp_path / "run")
    for name in ("provenance.json", "state.json"):
        (tmp_path / "run" / name).unlink()
    resumed = Run.resume(tmp_path / "run", "test", Settings())
    assert resumed.stage("a").step == 0
    assert resumed.seed == 3
    assert read_json(tmp_path / "run" / "provenance.json")["experiment"] == "test"
    resumed.finish([])


def test_a_stage_comes_back(tmp_path) -> None:
    run = create(tmp_path / "run")
    stage = run.stage("a")
    assert (stage.step, stage.finished, stage.tensors, stage.values) == (0, False, {}, {})
    tensors = {"w": torch.tensor([1 / 3, 2.0]), "b": torch.arange(3)}
    stage.log(4, {"loss": 1 / 3})
    stage.save(4, tensors, {"best": 0.1})
    run.stage("other").save(1, {}, {"text": "x"}, finished=True)

    back = Run.resume(tmp_path / "run", "test", Settings())
    assert back.stage("a").step == 4
    assert not back.stage("a").finished
    assert back.stage("a").values == {"best": 0.1}
    assert all(torch.equal(back.stage("a").tensors[k], t) for k, t in tensors.items())
    assert back.stage("other").finished
    assert back.metrics().values.tolist() == [[4, "a/loss", 1 / 3]]
    assert set(back.tensors()) == {"a.w", "a.b"}
    assert not back.finished


def test_a_checkpoint_does_not_follow_the_training(tmp_path) -> None:
    stage, w = create(tmp_path / "run").stage("a"), torch.zeros(2)
    stage.save(1, {"w": w})
    w += 1
    assert torch.equal(stage.tensors["w"], torch.zeros(2))


def test_one_checkpoint_a_stage_is_kept_and_streams_stay_private(tmp_path) -> None:
    stage = create(tmp_path / "run").stage("a")
    for step in (1, 2, 3):
        state = torch.Generator().get_state()
        stage.save(step, {"w": torch.full((2,), float(step)), "generator": state})
    assert [p.name for p in (tmp_path / "run").glob("ckpt-*")] == ["ckpt-a-3.safetensors"]
    assert {k: t.tolist() for k, t in stage_tensors(tmp_path / "run").items()} == {"a.w": [3, 3]}


def test_metrics_after_the_last_save_do_not_count(tmp_path) -> None:
    """A kill between writing the metrics and writing the state: the state decides."""
    run = create(tmp_path / "run")
    run.log(1, {"x": 1.0})
    run.save()
    run.log(2, {"x": 2.0})
    table = run.metrics()
    table.to_parquet(tmp_path / "run" / "metrics.parquet", index=False)
    back = Run.resume(tmp_path / "run", "test", Settings())
    assert back.metrics()["step"].tolist() == [1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_stop_the_run(tmp_path, bad) -> None:
    stage = create(tmp_path / "run").stage("a")
    stage.check_finite(1, {"loss": 1e30})
    with pytest.raises(DivergenceError, match=rf"a diverged at step 7: loss = {bad}.*none yet"):
        stage.check_finite(7, {"ok": 1.0, "loss": bad})
    stage.save(5, {"w": torch.ones(1)})
    with pytest.raises(DivergenceError, match=r"ckpt-a-5.safetensors \(step 5\)") as failure:
        stage.check_finite(7, {"loss": bad})
    assert "\n" not in str(failure.value)


def test_provenance_is_complete_and_portable(tmp_path, monkeypatch) -> None:
    out = tmp_path / "run"
    words = [
        "/usr/local/bin/metarl",
        "run",
        "test",
        "--out",
        str(out),
        f"--x={out}",
        "--k=3",
        "a/b",
    ]
    monkeypatch.setattr(sys, "argv", words)
    run = create(out)
    run.finish([])
    record = read_json(out / "provenance.json")
    assert record["argv"] == ["metarl", "run", "test", "--out", "run", "--x=run", "--k=3", "a/b"]
    assert record["command"] == "metarl run test --scale smoke --seed 3"
    assert record["hash"] == config_hash("test", Settings())
    assert set(record["versions"]) == set(provenance.RECORDED_PACKAGES)
    assert record["versions"]["torch"] == metadata.version("torch")
    assert set(record["hardware"]) == {
        "machine", "system", "processor", "cpus", "threads", "gpu"
    }  # fmt: skip
    assert record["hardware"]["processor"]
    assert record["commit"] is None or re.fullmatch("[0-9a-f]{40}", record["commit"])
    assert record["diff_hash"] is None or re.fullmatch("[0-9a-f]{12}", record["diff_hash"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["start"])
    assert record["start"] <= record["end"]
    assert record["cpu_seconds"] >= 0
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    for path in out.glob("*.json"):
        assert str(tmp_path) not in path.read_text()
        assert not re.search(r'"/(home|tmp|root|work|usr)\b', path.read_text())


def test_config_json_holds_every_field(tmp_path) -> None:
    create(tmp_path / "run")
    assert read_json(tmp_path / "run" / "config.json") == {
        "experiment": "test",
        "scale": "smoke",
        "seed": 3,
        "hash": config_hash("test", Settings()),
        "config": {"steps": 10, "rates": [0.1, 1.0]},
    }
    assert dataclasses.asdict(Settings()) == {"steps": 10, "rates": (0.1, 1.0)}


def test_tensorboard_gets_every_number(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = create(tmp_path / "run")
    for step in range(4):
        run.log(step, {"a/loss": step / 2})
        if step % 2:
            run.save()
    run.finish([])
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("a/loss")] == [
        (0, 0.0), (1, 0.5), (2, 1.0), (3, 1.5)
    ]  # fmt: skip


ARGUMENTS = ["run", "teacher_student", "--scale", "smoke", "--steps", "400", "--seed", "3"]
KILLED_IN = ["sgd", "np", "np-as-coded"]


def run_until(stage: str, folder: Path, arguments: list[str]) -> None:
    """Run in a process of its own; SIGKILL as soon as the stage's first checkpoint is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "metarl_lib.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        limit = time.monotonic() + 60
        while not list(folder.glob(f"ckpt-{stage}-*")):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.usefixtures("unchecked")
def test_a_run_killed_three_times_ends_as_if_it_had_not_been(tmp_path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert cli.main([*ARGUMENTS, "--out", str(whole)]) == 0

    arguments = [*ARGUMENTS, "--out", str(killed)]
    for stage in KILLED_IN:
        run_until(stage, killed, arguments)
        assert not (killed / "results.json").exists()
        arguments = ["run", "--resume", str(killed)]
    done, all_stages = (read_json(run / "state.json")["stages"] for run in (killed, whole))
    assert sum(record["finished"] for record in done.values()) < len(all_stages)
    assert cli.main(arguments) == 0

    assert (killed / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    tables = [pd.read_parquet(folder / "metrics.parquet") for folder in (killed, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    tensors = [stage_tensors(folder) for folder in (killed, whole)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensor, tensors[1][key]) for key, tensor in tensors[0].items())

    # Nothing in the folder is pickled: text, Parquet, safetensors and TensorBoard's records.
    for path in whole.iterdir():
        events = path.name.startswith("events.out.tfevents")
        assert events or path.suffix in {".json", ".parquet", ".safetensors"}, path.name
        start = path.read_bytes()[:2]
        assert start[:1] != b"\x80", "a pickle starts with this byte"
        assert start != b"PK", "a zip file, such as torch.save writes"
