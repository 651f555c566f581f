"""What the tests of the benchmarks share: the script as a module, and a quick run of it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script(request):
    """The benchmark that a file `test_<name>_benchmark.py` is about, as a module."""
    name = request.path.stem.removeprefix("test_").removesuffix("_benchmark")
    path = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_of_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def quick():
    """`quick(name)` runs a benchmark; the cells of its table's lines, and what its JSON says."""

    def run(name):
        done = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=300,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.strip().splitlines()
        result = json.loads(lines[-1])
        assert result["benchmark"] == name
        return [line.split() for line in lines[2:-1]], result

    return run
