"""Run folders with files that are damaged, missing or foreign; folders in use; older folders."""

import json
import os
import shutil
from pathlib import Path

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from test_reliability import TINY, assert_equal
from tiny_experiment import Config, half_way, run_tiny

from metarl_lib import cli
from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.runs import Run, read_json, stage_tensors, write_json


@pytest.fixture(autouse=True)
def registered(monkeypatch) -> None:
    """`metarl run tiny` works, at full speed."""
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A stopped run, another seed's, and the first one uninterrupted."""
    top = tmp_path_factory.mktemp("folders")
    return half_way(top / "run"), half_way(top / "other", 8), run_tiny(top / "whole").folder


CHECKPOINT = "ckpt-walk-3.safetensors"


def edit(name: str, *keys: str, value=None, remove: bool = False):
    """Change one entry of a JSON file, or remove it."""

    def change(folder: Path, other: Path) -> None:
        record = part = json.loads((folder / name).read_text())
        for key in keys[:-1]:
            part = part[key]
        if remove:
            del part[keys[-1]]
        else:
            part[keys[-1]] = value
        (folder / name).write_text(json.dumps(record))

    return change


def cut(name: str, share: float = 0.5):
    """Cut a file off."""

    def change(folder: Path, other: Path) -> None:
        os.truncate(folder / name, int((folder / name).stat().st_size * share))

    return change


def noise(name: str):
    """Random bytes for a file."""

    def change(folder: Path, other: Path) -> None:
        (folder / name).write_bytes(np.random.default_rng(0).bytes(500))

    return change


def foreign(name: str):
    """The file of the same name of another run."""

    def change(folder: Path, other: Path) -> None:
        shutil.copy(other / name, folder / name)

    return change


def removed(name: str):
    def change(folder: Path, other: Path) -> None:
        (folder / name).unlink()

    return change


def flip(folder: Path, other: Path) -> None:
    """One bit of one number."""
    contents = bytearray((folder / CHECKPOINT).read_bytes())
    contents[-3] ^= 1
    (folder / CHECKPOINT).write_bytes(contents)


def another_stage(folder: Path, other: Path) -> None:
    """The checkpoint of a stage, under the name of another's."""
    save_file({"place": torch.zeros(3)}, folder / CHECKPOINT)


def another_number(folder: Path, other: Path) -> None:
    table = pd.read_parquet(folder / "metrics.parquet")
    table.loc[0, "value"] += 1e-9
    table.to_parquet(folder / "metrics.parquet", index=False)


def fewer_rows(folder: Path, other: Path) -> None:
    pd.read_parquet(folder / "metrics.parquet")[:2].to_parquet(folder / "metrics.parquet")


def other_columns(folder: Path, other: Path) -> None:
    pd.DataFrame({"x": [1.0]}).to_parquet(folder / "metrics.parquet")


def other_experiment(folder: Path, other: Path) -> None:
    config = EXPERIMENTS["teacher_student"].config("smoke")
    made = Run.create(other.with_name("teacher"), "teacher_student", config, scale="smoke", seed=7)
    shutil.copy(made.folder / "config.json", folder / "config.json")
    shutil.rmtree(made.folder)


WALK = ("stages", "walk")
DAMAGES = {
    "a checkpoint cut in half": (cut(CHECKPOINT), CHECKPOINT, "SHA-256"),
    "an empty checkpoint": (cut(CHECKPOINT, 0), CHECKPOINT, "SHA-256"),
    "noise for a checkpoint": (noise(CHECKPOINT), CHECKPOINT, "SHA-256"),
    "a flipped bit": (flip, CHECKPOINT, "SHA-256"),
    "another run's checkpoint": (foreign(CHECKPOINT), CHECKPOINT, "SHA-256"),
    "another stage's checkpoint": (another_stage, CHECKPOINT, "SHA-256"),
    "no checkpoint": (removed(CHECKPOINT), CHECKPOINT, "missing"),
    "half a state": (cut("state.json"), "state.json", "not JSON"),
    "an empty state": (cut("state.json", 0), "state.json", "not JSON"),
    "noise for a state": (noise("state.json"), "state.json", "not JSON"),
    "no state": (removed("state.json"), "state.json", "missing"),
    "another run's state": (foreign("state.json"), "state.json", "another run"),
    "a state without stages": (edit("state.json", "stages", remove=True), "state.json", "'stages'"),
    "a state without rows": (edit("state.json", "rows", remove=True), "state.json", "'rows'"),
    "a list of stages": (edit("state.json", "stages", value=[]), "state.json", "'stages'"),
    "a stage without step": (
        edit("state.json", *WALK, "step", remove=True), "state.json", "'step' of stage walk"
    ),
    "a stage without file": (
        edit("state.json", *WALK, "file", remove=True), "state.json", "'file' of stage walk"
    ),
    "a stage that is text": (edit("state.json", *WALK, value="x"), "state.json", "of stage walk"),
    "a file from outside": (
        edit("state.json", *WALK, "file", value="../other/" + CHECKPOINT), "state.json", "../other"
    ),
    "half the metrics": (cut("metrics.parquet"), "metrics.parquet", "no table of metrics"),
    "noise for metrics": (noise("metrics.parquet"), "metrics.parquet", "no table of metrics"),
    "no metrics": (removed("metrics.parquet"), "metrics.parquet", "missing"),
    "another run's metrics": (foreign("metrics.parquet"), "metrics.parquet", "not what this run"),
    "another number": (another_number, "metrics.parquet", "not what this run wrote"),
    "fewer rows": (fewer_rows, "metrics.parquet", "not what this run wrote"),
    "other columns": (other_columns, "metrics.parquet", "no table of metrics"),
    "half a configuration": (cut("config.json"), "config.json", "not JSON"),
    "no seed": (edit("config.json", "seed", remove=True), "config.json", "'seed'"),
    "another experiment": (other_experiment, "state.json", "another run than config.json"),
    "half a provenance": (cut("provenance.json"), "provenance.json", "not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_by_name_and_left_alone(
    tmp_path, folders, capsys, name
) -> None:
    damage, file, words = DAMAGES[name]
    folder = shutil.copytree(folders[0], tmp_path / "run")
    damage(folder, folders[1])
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    assert cli.main(["run", "--resume", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"metarl: {folder}/{file} ")
    assert words in err
    assert err.endswith(f": delete the folder {folder} and start the run anew\n")
    assert len(err.splitlines()) == 1
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after == before


def test_without_damage_it_goes_on(tmp_path, folders) -> None:
    folder = shutil.copytree(folders[0], tmp_path / "run")
    assert read_json(folder / "state.json")["stages"]["walk"]["step"] == 3
    assert_equal(run_tiny(folder).folder, folders[2])


def test_what_a_kill_left_is_removed(tmp_path, folders) -> None:
    folder = shutil.copytree(folders[0], tmp_path / "run")
    for name in (".state.json.partial", ".x.partial", "ckpt-walk-2.safetensors", "ckpt-a-9.x"):
        (folder / name).write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    Run.resume(folder, "tiny", Config())
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in folders[0].iterdir()} | {"notes.txt", ".lock"} == names | {
        ".lock"
    }


def test_the_first_moments_can_be_repeated(tmp_path) -> None:
    """A kill before `config.json` leaves at most its first half."""
    (tmp_path / ".config.json.partial").write_text('{"experi')
    run_tiny(tmp_path)
    assert (tmp_path / "results.json").exists()


def older(folder: Path) -> Path:
    """As folders were before there were fingerprints, and other files of TensorBoard's."""
    state = read_json(folder / "state.json")
    for key in ("run", "metrics"):
        del state[key]
    for record in state["stages"].values():
        record.pop("sha256", None)
    write_json(folder / "state.json", state)
    for events in folder.glob("events.*"):
        events.rename(folder / "events.out.tfevents.1700000000.host.1.0")
    return folder


@pytest.mark.parametrize("which", [0, 2])
def test_an_older_folder_opens(tmp_path, folders, which) -> None:
    folder = older(shutil.copytree(folders[which], tmp_path / "run"))
    tensors = stage_tensors(folders[which])
    assert all(torch.equal(t, tensors[key]) for key, t in stage_tensors(folder).items())
    assert cli.main(["run", "--resume", str(folder)]) == 0
    assert_equal(folder, folders[2])


def test_an_older_folder_may_still_be_damaged(tmp_path, folders) -> None:
    folder = older(shutil.copytree(folders[0], tmp_path / "run"))
    cut(CHECKPOINT)(folder, folder)
    with pytest.raises(ValueError, match=f"{CHECKPOINT} is no safetensors file"):
        Run.resume(folder, "tiny", Config())


def test_a_finished_folder_shows_all_its_metrics(tmp_path, folders) -> None:
    """Also what was logged after the last checkpoint, which the state does not count."""
    run = Run.resume(shutil.copytree(folders[2], tmp_path / "run"), "tiny", Config())
    assert run.finished
    assert run.metrics()["name"].tolist()[-1] == "end"
    assert not (tmp_path / "run" / ".lock").exists()
