"""From finished run folders to the small results that are published with the book."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import save_file
from scipy import stats

from metarl_lib.files import read_json, write_atomically, write_json
from metarl_lib.folder import check_finished, read_header, stage_tensors
from metarl_lib.provenance import portable
from metarl_lib.report import Published, load_published, summarise
from metarl_lib.runs import SCALES


def publish(runs: Sequence[Path], folder: Path, *, add: bool = False) -> Path:
    """Copy the small results of finished runs of one experiment to `folder/<experiment>/`.

    Written are `summary.json` (means and 95 % intervals over seeds), `seeds.csv`, `curves.csv`,
    `provenance.json`, and `checkpoint.safetensors` with the last tensors of the lowest seed. Of
    what runs have logged, those curves are kept that end in a result.

    Args:
        runs: their folders.
        folder: of all that is published.
        add: the seeds join those that are published already, instead of taking their place.

    Returns:
        The folder that was written.

    Raises:
        ValueError: for no runs, an unfinished one, two of one seed, runs whose configurations
            differ from each other or from those that they join, or a smaller scale than is
            published already; nothing is written then.
        FileNotFoundError: when there is nothing to add to.
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
    target = folder / headers[0]["experiment"]
    _refuse_smaller_scale(target, headers[0]["scale"])
    curves, records = _curves(runs), [_portable_provenance(path) for path in runs]
    first = headers[0]["seed"]
    if add:
        old = load_published(target.name, folder)
        _refuse_misfits(old, headers)
        first = min(first, *old.seeds["seed"])
        budgets = old.summary[["variant", "metric", "budget"]]
        results = pd.concat([old.seeds.merge(budgets), results])
        curves, records = pooled(old.curves, curves), [*old.provenance, *records]
    summary = summarise(results, ["variant", "metric", "budget"])
    summary["scale"] = headers[0]["scale"]
    columns = ["variant", "metric", "mean", "low", "high", "seeds", "budget", "scale"]
    single = results[["variant", "metric", "seed", "value"]]
    _write_csv(target / "seeds.csv", single)
    if len(curves):
        curves = curves.merge(results[["variant", "metric"]].drop_duplicates())
        _write_csv(target / "curves.csv", curves)
    else:
        (target / "curves.csv").unlink(missing_ok=True)
    checkpoint = target / "checkpoint.safetensors"
    if first == headers[0]["seed"]:  # else a lower seed's is there
        if tensors := stage_tensors(runs[0]):
            write_atomically(checkpoint, lambda path: save_file(tensors, path))
        else:
            checkpoint.unlink(missing_ok=True)
    write_json(
        target / "provenance.json",
        {
            "experiment": headers[0]["experiment"],
            "hash": headers[0]["hash"],
            "config": headers[0]["config"],
            "checkpoint_seed": int(first),
            "runs": records,
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


def _curves(runs: Sequence[Path]) -> pd.DataFrame:
    tables = [pd.read_parquet(p) for run in runs if (p := run / "metrics.parquet").exists()]
    if not tables:
        return pd.DataFrame()
    rows = pd.concat(tables)
    rows[["variant", "metric"]] = rows["name"].str.split("/", n=1, expand=True)
    return summarise(rows, ["variant", "metric", "step"])


def _refuse_misfits(old: Published, headers: Sequence[dict[str, Any]]) -> None:
    published, ours = old.provenance[0]["hash"], headers[0]["hash"]
    if published != ours:
        raise ValueError(
            f"{old.name} is published with configuration {published}, these runs have {ours}: "
            "publish all seeds anew, without --add"
        )
    if twice := sorted(set(old.seeds["seed"]) & {h["seed"] for h in headers}):
        raise ValueError(f"seeds={twice}: published already; leave them out, or publish all anew")


def pooled(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Curves over the seeds of both tables, which have those of `summarise`.

    A mean m over n seeds and the half h of its 95 % interval give back the seeds' sum n m and the
    sum of their squared deviations (n − 1) n (h / t)², with t Student's for n − 1 degrees of
    freedom. With these the two tables are put together; the single seeds are not needed.
    """
    keys = ["variant", "metric", "step"]
    if not len(old) or not len(new):
        return old if len(old) else new
    both = pd.concat([old, new], ignore_index=True)
    n = both["seeds"]
    scale = stats.t.ppf(0.975, np.maximum(n - 1, 1)) / np.sqrt(n)
    both["total"] = n * both["mean"]
    in_groups = both.groupby(keys)
    mean = in_groups["total"].transform("sum") / in_groups["seeds"].transform("sum")
    within = (n - 1) * ((both["high"] - both["low"]) / 2 / scale) ** 2
    both["squares"] = within + n * (both["mean"] - mean) ** 2
    sums = both.groupby(keys, sort=False)[["total", "squares", "seeds"]].sum().reset_index()
    n, mean = sums["seeds"], sums["total"] / sums["seeds"]
    error = np.sqrt(sums["squares"] / np.maximum(n - 1, 1) / n)
    half = stats.t.ppf(0.975, np.maximum(n - 1, 1)) * error
    sums = sums.assign(mean=mean, low=mean - half, high=mean + half)
    return sums[[*keys, "mean", "low", "high", "seeds"]]


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_atomically(path, lambda partial: table.to_csv(partial, index=False, float_format="%.6g"))
