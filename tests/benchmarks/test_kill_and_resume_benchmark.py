"""The benchmark that kills: nothing is lost in twenty kills, and it would see if it were."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "kill_and_resume.py"


def test_twenty_kills_lose_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "20"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["benchmark"] == "kill_and_resume"
    assert result["ratios"]["kills"] == 20
    assert result["ratios"]["equal"] == 1.0
    assert result["ratios"]["places"] >= 8


def test_it_sees_every_difference(script, tmp_path) -> None:
    script.go_on(tmp_path / "whole")

    def changed(name: str, change) -> Path:
        folder = shutil.copytree(tmp_path / "whole", tmp_path / name)
        state = folder / "state.json"
        record = json.loads(state.read_text())
        for stage in record["stages"].values():
            stage.pop("sha256", None)
        state.write_text(json.dumps(record))
        change(folder)
        return folder

    def another_result(folder: Path) -> None:
        path = folder / "results.json"
        path.write_text(path.read_text().replace("1", "2", 1))

    def another_metric(folder: Path) -> None:
        table = pd.read_parquet(folder / "metrics.parquet")
        table.loc[3, "value"] += 1e-12
        table.to_parquet(folder / "metrics.parquet", index=False)

    def another_tensor(folder: Path) -> None:
        path = sorted(folder.glob("ckpt-np-*"))[0]
        tensors = load_file(path)
        tensors["0"][0, 0] += 1e-4
        save_file(tensors, path)

    assert script.equal(changed("same", lambda folder: None), tmp_path / "whole")
    for change in (another_result, another_metric, another_tensor):
        assert not script.equal(changed(change.__name__, change), tmp_path / "whole")
