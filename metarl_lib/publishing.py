"""From finished run folders to the small results that are published with the book."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import save_file

from metarl_lib.files import read_json, write_atomically, write_json
from metarl_lib.folder import check_finished, read_header, stage_tensors
from metarl_lib.provenance import portable
from metarl_lib.report import summarise
from metarl_lib.runs import SCALES


def publish(runs: Sequence[Path], folder: Path) -> Path:
    """Copy the small results of finished runs of one experiment to `folder/<experiment>/`.

    Written are `summary.json` (means and 95 % intervals over seeds), `seeds.csv`, `curves.csv`,
    `provenance.json`, and `checkpoint.safetensors` with the last tensors of the lowest seed.

    Returns:
        The folder that was written.

    Raises:
        ValueError: for no runs, an unfinished one, two of one seed, runs whose configurations
            differ, or a smaller scale than is published already; nothing is written then.
    """
    headers = [read_header(path) for path in runs]
    for path in runs:
        check_finished(path)
    if not headers:
        raise ValueError("no run folders given: name at least one finished run")
    kinds = {(h["experiment"], h["hash"], h["scale"]) for h in headers}
    if len(kinds) > 1:
        listed = "; ".join(sorted(" ".join(kind) for kind in kinds))
        raise ValueError(f"the runs differ in experiment, configuration or scale: {listed}")
    seeds = [h["seed"] for h in headers]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={sorted(seeds)}: each seed may be published once")
    order = np.argsort(seeds)
    runs, headers = [runs[i] for i in order], [headers[i] for i in order]

    results = pd.concat(
        [
            pd.DataFrame(read_json(path / "results.json")).assign(seed=header["seed"])
            for path, header in zip(runs, headers, strict=True)
        ]
    )
    summary = summarise(results, ["variant", "metric", "budget"])
    summary["scale"] = headers[0]["scale"]
    target = folder / headers[0]["experiment"]
    _refuse_smaller_scale(target, headers[0]["scale"])
    columns = ["variant", "metric", "mean", "low", "high", "seeds", "budget", "scale"]
    single = results[["variant", "metric", "seed", "value"]]
    _write_csv(target / "seeds.csv", single)
    _publish_curves(runs, target / "curves.csv")
    tensors = stage_tensors(runs[0])
    checkpoint = target / "checkpoint.safetensors"
    if tensors:
        write_atomically(checkpoint, lambda path: save_file(tensors, path))
    else:
        checkpoint.unlink(missing_ok=True)
    write_json(
        target / "provenance.json",
        {
            "experiment": headers[0]["experiment"],
            "hash": headers[0]["hash"],
            "config": headers[0]["config"],
            "checkpoint_seed": headers[0]["seed"],
            "runs": [_portable_provenance(path) for path in runs],
        },
    )
    write_json(target / "summary.json", summary[columns].to_dict("records"))
    return target


def _refuse_smaller_scale(target: Path, scale: str) -> None:
    summary = target / "summary.json"
    if summary.exists():
        old = read_json(summary)[0]["scale"]
        if SCALES.index(scale) < SCALES.index(old):
            raise ValueError(
                f"{target.name} is published at scale {old}, these runs have scale {scale}: "
                f"remove {target} first if you mean to replace it"
            )


def _portable_provenance(run: Path) -> dict[str, Any]:
    """A run's provenance, with the folders of the machine that made it left out."""
    record: dict[str, Any] = read_json(run / "provenance.json")
    record["argv"] = [portable(word) for word in record["argv"]]
    return record


def _publish_curves(runs: Sequence[Path], target: Path) -> None:
    tables = [pd.read_parquet(p) for run in runs if (p := run / "metrics.parquet").exists()]
    if not tables:
        target.unlink(missing_ok=True)
        return
    rows = pd.concat(tables)
    rows[["variant", "metric"]] = rows["name"].str.split("/", n=1, expand=True)
    _write_csv(target, summarise(rows, ["variant", "metric", "step"]))


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_atomically(path, lambda partial: table.to_csv(partial, index=False, float_format="%.6g"))
