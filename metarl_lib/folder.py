"""Reading a run folder: every file is checked, and one that cannot be used is named."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import Tensor

from metarl_lib.files import damaged, read_json

HEADER = {"experiment": str, "scale": str, "seed": int, "hash": str, "config": dict}
STATE = {"stages": dict, "rows": int, "cpu_seconds": (int, float)}
RECORD = {"step": int, "values": dict, "finished": bool, "file": (str, type(None))}


def is_vacant(folder: Path) -> bool:
    """Whether nothing is in a folder but what a start that was killed may leave."""
    return all(path.name == ".config.json.partial" for path in folder.iterdir())


def read_header(folder: Path) -> dict[str, Any]:
    """What `config.json` says: experiment, scale, seed, hash and config.

    Raises:
        ValueError: when it is missing or damaged.
    """
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"{folder} is not a run folder: it has no config.json")
    header: dict[str, Any] = read_json(path)
    _check(path, header, HEADER)
    return header


def check_finished(folder: Path) -> None:
    """Refuse a run folder without results.

    Raises:
        ValueError: with the command that continues the run.
    """
    if not (folder / "results.json").exists():
        raise ValueError(f"{folder} is not finished: continue it with metarl run --resume {folder}")


def read_state(folder: Path) -> dict[str, Any]:
    """What `state.json` says: the record of each stage, how many rows of metrics count.

    Raises:
        ValueError: when it is missing or damaged.
    """
    path = folder / "state.json"
    if not path.exists():
        raise damaged(path, "is missing")
    state: dict[str, Any] = read_json(path)
    _check(path, state, STATE)
    for name, record in state["stages"].items():
        _check(path, record, RECORD, f" of stage {name}")
        if record["file"] and not re.fullmatch(r"ckpt-[^/\\]+\.safetensors", record["file"]):
            raise damaged(path, f"names no checkpoint, but {record['file']!r}")
    return state


def load_checkpoint(folder: Path, record: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of one stage's record; none when it has no file.

    Raises:
        ValueError: when the file is missing, damaged, or not the one that the record means.
    """
    if record["file"] is None:
        return {}
    path = folder / record["file"]
    if not path.exists():
        raise damaged(path, "is missing")
    contents = path.read_bytes()
    if record.get("sha256") not in (None, hashlib.sha256(contents).hexdigest()):
        raise damaged(path, "is not what this run wrote (its SHA-256 differs)")
    try:
        tensors = load(contents)
    except Exception as error:
        raise damaged(path, f"is no safetensors file ({_first_line(error)})") from None
    # In memory of their own, where torch aligns them: sums come out the same as before.
    return {key: tensor.clone() for key, tensor in tensors.items()}


def stage_tensors(folder: Path) -> dict[str, Tensor]:
    """Every stage's last tensors in a run folder, under `stage.key`; random streams left out.

    Raises:
        ValueError: when a file is missing or damaged.
    """
    collected = {}
    for name, record in read_state(folder)["stages"].items():
        for key, tensor in load_checkpoint(folder, record).items():
            if key != "generator":
                collected[f"{name}.{key}"] = tensor
    return collected


def _check(path: Path, value: Any, kinds: dict[str, Any], where: str = "") -> None:
    if not isinstance(value, dict):
        raise damaged(path, f"holds no record{where}")
    for key, kind in kinds.items():
        if not isinstance(value.get(key), kind) or (key not in value):
            raise damaged(path, f"lacks {key!r}{where}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
