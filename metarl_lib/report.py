"""From published results to intervals, tables and the claims ledger."""

from __future__ import annotations

import dataclasses
import html
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from safetensors.torch import load_file
from scipy import stats
from torch import Tensor

from metarl_lib.files import read_json

PACKAGE = Path(__file__).resolve().parent
CLAIM_FIELDS = {"id", "source", "statement", "value", "experiment", "metric"}
OPTIONAL_CLAIM_FIELDS = {
    "variant", "less", "tolerance", "single_run", "bound", "better", "note", "why", "shown",
}  # fmt: skip


def results_folder() -> Path:
    """`book/_results` of this checkout, or the copy that ships inside the installed package."""
    checkout = PACKAGE.parent / "book" / "_results"
    return checkout if checkout.is_dir() else PACKAGE / "_results"


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of the mean over seeds, by Student's t; one value has no width.

    Returns:
        mean, low, high.

    Raises:
        ValueError: for no values, or values that are not finite.
    """
    numbers = np.asarray(values, dtype=float)
    if numbers.size == 0 or not np.isfinite(numbers).all():
        raise ValueError(f"values={list(values)}: need at least one number, all of them finite")
    mean = float(numbers.mean())
    if numbers.size == 1:
        return mean, mean, mean
    half = stats.t.ppf(0.975, numbers.size - 1) * stats.sem(numbers)
    return mean, float(mean - half), float(mean + half)


def summarise(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """One line per `keys`, with `mean`, `low`, `high` and `seeds` of the column `value`."""
    lines = []
    for key, group in rows.groupby(list(keys), sort=False):
        mean, low, high = mean_interval(group["value"].tolist())
        line = dict(zip(keys, key, strict=True))
        lines.append(line | {"mean": mean, "low": low, "high": high, "seeds": len(group)})
    return pd.DataFrame(lines)


@dataclasses.dataclass(frozen=True)
class Published:
    """A published experiment, as the pages read it.

    Attributes:
        summary: rows `{variant, metric, mean, low, high, seeds, budget, scale}`.
        seeds: the single values behind them, `{variant, metric, seed, value}`.
        curves: `{variant, metric, step, mean, low, high, seeds}`; empty where nothing was logged.
        provenance: one record per run.
        config: the configuration's fields.
    """

    name: str
    summary: pd.DataFrame
    seeds: pd.DataFrame
    curves: pd.DataFrame
    provenance: list[dict[str, Any]]
    config: dict[str, Any]

    @cached_property
    def by_seed(self) -> pd.DataFrame:
        """The single values: a row for each `variant, metric`, a column for each seed.

        Where a seed has no such number it is NaN.
        """
        return self.seeds.pivot_table(index=["variant", "metric"], columns="seed", values="value")

    def row(self, variant: str, metric: str) -> pd.Series:
        """The summary of one number.

        Raises:
            KeyError: when it was not published; lists what was of that variant, or all variants.
        """
        found = self.summary.query("variant == @variant and metric == @metric")
        if len(found) != 1:
            own = self.summary.query("variant == @variant")["metric"]
            have = own if len(own) else self.summary["variant"]
            names = ", ".join(sorted(set(have)))
            raise KeyError(f"{self.name} publishes no {variant} {metric}; it has {names}")
        return found.iloc[0]

    def less(self, variant: str, other: str, metric: str) -> pd.Series:
        """What a variant has more of a metric than another, seed by seed, in a row like `row`'s.

        Raises:
            KeyError: when one of the two was not published.
        """
        found = self.row(variant, metric).copy()
        self.row(other, metric)  # refuses what was not published
        gaps = (self.by_seed.loc[variant, metric] - self.by_seed.loc[other, metric]).dropna()
        found["mean"], found["low"], found["high"] = mean_interval(gaps.tolist())
        found["seeds"] = len(gaps)
        return found

    def text(self, variant: str, metric: str, form: str = ".2f", factor: float = 1.0) -> str:
        """`mean [low, high]` of one number, for prose and tables; of one seed, only the mean."""
        return _interval_text(self.row(variant, metric), form, factor)

    def less_text(
        self, variant: str, other: str, metric: str, form: str = "+.2f", factor: float = 1.0
    ) -> str:
        """`less`, as `text` shows a number."""
        return _interval_text(self.less(variant, other, metric), form, factor)

    def table(
        self, variants: Mapping[str, str], metrics: Mapping[str, str], form: str = ".2f"
    ) -> pd.DataFrame:
        """`mean [low, high]` for every variant and metric, under the given headings."""
        return pd.DataFrame(
            {
                heading: [self.text(variant, metric, form) for variant in variants]
                for metric, heading in metrics.items()
            },
            index=list(variants.values()),
        )

    def against(self, metric: str) -> pd.DataFrame:
        """The rows of `metric@x`, with `x` as a number, ready to plot against it."""
        rows = self.summary[self.summary["metric"].str.startswith(f"{metric}@")].copy()
        rows["x"] = rows["metric"].str.split("@").str[1].astype(float)
        return rows.sort_values("x", kind="stable")

    def source(self) -> str:
        """Where the numbers come from, in one line for captions and tables."""
        first = self.provenance[0]
        cpu = sum(record["cpu_seconds"] for record in self.provenance) / 60
        seeds = len(self.provenance)
        scale = self.summary["scale"].iloc[0]
        return (
            f"{self.name}, {scale} scale, {seeds} seed{'s' * (seeds != 1)}, "
            f"{cpu:.0f} CPU minutes, configuration {first['hash']}"
        )


def load_published(name: str, folder: Path | None = None) -> Published:
    """Read `book/_results/<name>`.

    Raises:
        FileNotFoundError: when nothing is published under that name.
    """
    root = folder or results_folder()
    path = root / name
    if not (path / "summary.json").exists():
        have = sorted(p.parent.name for p in root.glob("*/summary.json"))
        raise FileNotFoundError(f"no published results for {name!r}; there are {have}")
    record = read_json(path / "provenance.json")
    curves = path / "curves.csv"
    return Published(
        name,
        pd.DataFrame(read_json(path / "summary.json")),
        pd.read_csv(path / "seeds.csv"),
        pd.read_csv(curves) if curves.exists() else pd.DataFrame(),
        record["runs"],
        record["config"],
    )


def load_claims(folder: Path | None = None) -> list[dict[str, Any]]:
    """The claims of the source documents, from `claims.yaml`.

    Raises:
        ValueError: for a claim with a missing or unknown field.
    """
    claims = yaml.safe_load(((folder or results_folder()) / "claims.yaml").read_text())
    for claim in claims:
        missing = CLAIM_FIELDS - claim.keys()
        if "why" not in claim:  # something is measured, so it must be said what
            missing |= {"variant"} - claim.keys()
        unknown = claim.keys() - CLAIM_FIELDS - OPTIONAL_CLAIM_FIELDS
        if missing or unknown:
            raise ValueError(
                f"claim {claim.get('id')!r}: missing {sorted(missing)}, unknown {sorted(unknown)}"
            )
    return claims


UNDECIDED = "our seeds do not decide which of the two is larger"
TOO_WIDE = "our seeds differ by too much, compared with the claimed number"


def verdict(claim: Mapping[str, Any], measured: pd.Series | None) -> str:
    """Compare a claim with the interval that was measured.

    `reproduced` when the claimed value lies in the interval, widened on both sides by the
    claim's `tolerance` (what reading a number off a figure leaves open), or beyond the value
    where it is a `bound` (`lower` or `upper`; `above` is a lower one that the whole interval has
    to clear); otherwise `better` when the interval lies on the side that `better` names (`lower`,
    `higher`), else `not reproduced`. A `why`: cannot be checked.

    The interval is the 95 % interval of our mean. For a claim that comes from a `single_run`
    it is the 95 % prediction interval of one more run, which is √(seeds + 1) times as wide:
    the mean has standard error s/√n, one more run less the mean has s √(1 + 1/n).

    An interval that holds the claimed value proves little when it holds much else, too. If it
    reaches further to each side of our mean than half the claimed number, the claim cannot be
    checked. Nor can an order of two agents whose difference has either sign in our interval.
    """
    if claim.get("why"):
        return f"cannot be checked: {claim['why']}"
    if measured is None:
        return "cannot be checked: nothing is published yet"
    if measured.get("seeds", 2) < 2:
        return "cannot be checked: one seed has no interval"
    margin, half = claim.get("tolerance", 0.0), (measured["high"] - measured["low"]) / 2
    if claim.get("single_run"):
        margin += half * (math.sqrt(measured["seeds"] + 1) - 1)
    low, high, value = measured["low"] - margin, measured["high"] + margin, claim["value"]
    bound = claim.get("bound", "")
    beyond = high < value if bound == "upper" else bool(bound) and low > value
    if beyond:
        return "reproduced"
    if bound == "above" and low <= value < high:
        return f"cannot be checked: {UNDECIDED}"
    if bound != "above" and low <= value <= high:
        if value and half > abs(value) / 2:
            return f"cannot be checked: {TOO_WIDE}"
        return "reproduced"
    better = claim.get("better")
    if (better == "lower" and high < value) or (better == "higher" and low > value):
        return "better"
    return "not reproduced"


def measured_of(claim: Mapping[str, Any], published: Published) -> pd.Series:
    """The number that a claim is held against: a variant's, or what it has more than another."""
    if other := claim.get("less"):
        return published.less(claim["variant"], other, claim["metric"])
    return published.row(claim["variant"], claim["metric"])


def ledger(folder: Path | None = None) -> pd.DataFrame:
    """Every claim beside what we measured, with a verdict.

    What was measured stands beside a claim that cannot be checked, too, where it is `shown`.
    """
    root = folder or results_folder()
    lines = []
    for claim in load_claims(root):
        measured = None
        asked = claim.get("shown") or not claim.get("why")
        if asked and (root / claim["experiment"] / "summary.json").exists():
            measured = measured_of(claim, load_published(claim["experiment"], root))
        line = {key: claim[key] for key in ("id", "source", "statement", "value", "experiment")}
        line["variant"], line["metric"] = claim.get("variant", ""), claim["metric"]
        line["less"] = claim.get("less", "")
        for key in ("mean", "low", "high", "seeds", "budget", "scale"):
            line[key] = None if measured is None else measured[key]
        line["verdict"] = verdict(claim, measured)
        line["note"] = claim.get("note", "")
        lines.append(line)
    return pd.DataFrame(lines)


def tally(experiments: Sequence[str], folder: Path | None = None) -> str:
    """How often the ledger finds what among the claims about some experiments, in words."""
    table = ledger(folder)
    found = table.loc[table["experiment"].isin(experiments), "verdict"].str.split(":").str[0]
    return ", ".join(f"{count} {name}" for name, count in found.value_counts().items())


def ledger_html(table: pd.DataFrame) -> str:
    """The ledger as HTML; a small second line says where a claim stands and what was measured."""
    lines = []
    for _, row in table.iterrows():
        measured = "" if pd.isna(row["mean"]) else _interval_text(row, _short(row["mean"]))
        origin = f"{row['id']} · document {row['source']}"
        if measured:
            variant = row["variant"] + (f" less {row['less']}" if row.get("less") else "")
            origin += (
                f" · metarl run {row['experiment']} --scale {row['scale']}: {variant}, "
                f"{row['metric']}, {row['seeds']:.0f} seeds"
            )
        cells = (
            f"{html.escape(row['statement'])}<br><small>{html.escape(origin)}</small>",
            POINT.sub("", format(row["value"], _short(row["value"]))),
            POINT.sub("", measured),
            html.escape(row["verdict"])
            + (f"<br><small>{html.escape(row['note'])}</small>" if row["note"] else ""),
        )
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>claim</th><th>claimed</th><th>measured</th><th>verdict</th></tr>"
    body = "\n".join(lines)
    return f'<table class="ledger"><thead>{head}</thead>\n<tbody>{body}</tbody></table>'


POINT = re.compile(r"\.(?!\d)")  # one that no digit follows, as "#.3g" leaves in 380.


def _short(number: float) -> str:
    """The format of a number in the ledger: three digits, or all before the point."""
    return ",.0f" if abs(number) >= 1000 else "#.3g"


def interval_text(values: pd.Series, form: str = ".2f", factor: float = 1.0) -> str:
    """`mean [low, high]` over seeds, as `Published.text` shows it; NaN is left out.

    Raises:
        ValueError: where nothing is left.
    """
    kept = values.dropna()
    found = dict(zip(("mean", "low", "high"), mean_interval(kept.tolist()), strict=True))
    return _interval_text(found | {"seeds": len(kept)}, form, factor)


def _interval_text(row: Mapping[str, Any] | pd.Series, form: str, factor: float = 1.0) -> str:
    # z: what is rounded to zero has no sign. It comes after the sign.
    form = f"+z{form[1:]}" if form.startswith("+") else f"z{form}"
    mean, low, high = (format(row[key] * factor, form) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]" if row["seeds"] > 1 else mean


def load_checkpoint(name: str, folder: Path | None = None) -> dict[str, Tensor]:
    """The tensors published beside an experiment's results."""
    return load_file((folder or results_folder()) / name / "checkpoint.safetensors")
