"""Where a result comes from: code, versions, hardware, command and time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

RL_PACKAGES = ("gymnasium", "stable-baselines3", "sb3-contrib")
RECORDED_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "mlxtend", "pandas", *RL_PACKAGES)


def config_hash(experiment: str, config: Any) -> str:
    """A short fingerprint of an experiment's name and every field of its configuration."""
    text = json.dumps([experiment, dataclasses.asdict(config)], sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:12]


def provenance(experiment: str, config: Any, scale: str, seed: int) -> dict[str, Any]:
    """Where a result comes from: code, versions, hardware, command and start time."""
    return {
        "command": f"metarl run {experiment} --scale {scale} --seed {seed}",
        "argv": [portable(word) for word in sys.argv],
        "experiment": experiment,
        "hash": config_hash(experiment, config),
        **_code_version(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in RECORDED_PACKAGES},
        "hardware": {
            "machine": platform.machine(),
            "system": platform.system(),
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "start": now(),
    }


def portable(word: str) -> str:
    """A word of the command line; of an absolute path, only the last part."""
    flag, equals, value = word.rpartition("=")
    return flag + equals + (Path(value).name if Path(value).is_absolute() else value)


def now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _code_version() -> dict[str, str | None]:
    """The commit of this checkout and a hash of what differs from it; None outside of one."""
    root = Path(__file__).resolve().parent

    def git(*arguments: str) -> bytes | None:
        try:
            answer = subprocess.run(
                ["git", *arguments], cwd=root, capture_output=True, check=True, timeout=30
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout

    if git("ls-files", "--error-unmatch", "runs.py") is None:  # not this project's checkout
        return {"commit": None, "diff_hash": None}
    commit = git("rev-parse", "HEAD")
    difference = git("diff", "HEAD", "--", str(root)) or b""
    for name in (git("ls-files", "--others", "--exclude-standard") or b"").splitlines():
        difference += name + (root / name.decode()).read_bytes()
    return {
        "commit": commit.decode().strip() if commit else None,
        "diff_hash": hashlib.sha256(difference).hexdigest()[:12] if difference else None,
    }
