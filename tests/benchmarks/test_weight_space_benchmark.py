"""The benchmark of the base networks runs, and its last line is JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "weight_space.py"


def test_quick_prints_a_table_and_one_line_of_json() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"],
        capture_output=True,
        text=True,
        cwd=SCRIPT.parents[1],
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == ["perturbation", "gradient"]
    result = json.loads(lines[-1])
    assert result["benchmark"] == "weight_space"
    for line in lines[2:-1]:  # the table and the JSON say the same
        drive, batched, single, ratio = line.split()
        assert result["ratios"][f"{drive}_updates_per_s"] == pytest.approx(float(batched), abs=1)
        assert float(ratio) == pytest.approx(float(batched) / float(single), rel=0.05)
    share = result["ratios"]["perturbation_updates_per_s"] / 4000
    assert result["ratios"]["of_target"] == pytest.approx(share, abs=0.01)
