"""Intervals, publishing, verdicts and the ledger, against numbers worked out by hand."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy import stats

from metarl_lib import report
from metarl_lib.publishing import pooled, publish
from metarl_lib.report import (
    ledger,
    load_checkpoint,
    load_claims,
    load_published,
    mean_interval,
    results_folder,
    summarise,
    tally,
    verdict,
)
from metarl_lib.runs import Run, config_hash

T_975 = {1: 12.7062047, 4: 2.7764451}  # Student's t, from a printed table


@dataclass(frozen=True)
class Settings:
    steps: int = 10


def test_the_interval_by_hand() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 10.0]
    deviation = math.sqrt(sum((v - 4) ** 2 for v in values) / 4)
    half = T_975[4] * deviation / math.sqrt(5)
    assert mean_interval(values) == pytest.approx((4, 4 - half, 4 + half), rel=1e-7)
    assert mean_interval([0.0, 2.0]) == pytest.approx((1, 1 - T_975[1], 1 + T_975[1]), rel=1e-7)
    assert mean_interval([3.5]) == (3.5, 3.5, 3.5)
    assert mean_interval([2.0, 2.0, 2.0]) == (2, 2, 2)


@pytest.mark.parametrize("count", [3, 10])
def test_the_interval_covers_the_mean_in_95_of_100(count) -> None:
    source = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        _, low, high = mean_interval(source.normal(7.0, 3.0, count).tolist())
        covered += low <= 7 <= high
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_the_interval_refuses(values) -> None:
    with pytest.raises(ValueError, match="at least one number, all of them finite") as refusal:
        mean_interval(values)
    assert "\n" not in str(refusal.value)


def test_summarise_has_one_line_per_key_in_order() -> None:
    rows = pd.DataFrame(
        {
            "variant": ["b", "a", "b", "a", "b"],
            "metric": ["x", "x", "x", "x", "y"],
            "value": [1.0, 5.0, 3.0, 7.0, 9.0],
        }
    )
    found = summarise(rows, ["variant", "metric"])
    assert found[["variant", "metric", "mean", "seeds"]].values.tolist() == [
        ["b", "x", 2.0, 2],
        ["a", "x", 6.0, 2],
        ["b", "y", 9.0, 1],
    ]
    assert found["high"].tolist() == pytest.approx([2 + T_975[1], 6 + T_975[1], 9])
    assert found["low"].tolist() == pytest.approx([2 - T_975[1], 6 - T_975[1], 9])


def make_run(
    folder: Path, seed: int, *, name="demo", settings=None, finish=True, scale="smoke", curves=True
) -> Path:
    """A run whose numbers are its seed: return = 10 + seed, and a curve step · seed.

    Something else is logged that is no result.
    """
    run = Run.create(folder, name, settings or Settings(), scale=scale, seed=seed)
    stage = run.stage("ours")
    if curves:
        for step in (0, 5):
            stage.log(step, {"loss": float(step * seed), "aside": 1.0})
    stage.save(5, {"0": torch.full((2,), float(seed))}, finished=True)
    if finish:
        rows = [
            ("ours", "return", 10.0 + seed),
            ("ours", "speed@3", 1.0),
            ("ours", "speed@20", 2.0),
        ]
        if curves:
            rows.append(("ours", "loss", 5.0 * seed))
        run.finish(
            [{"variant": v, "metric": m, "value": value, "budget": 5} for v, m, value in rows]
        )
    return folder


def test_publish_writes_the_documented_files(tmp_path) -> None:
    runs = [make_run(tmp_path / f"s{seed}", seed) for seed in (2, 0, 1)]
    target = publish(runs, tmp_path / "results")
    assert target == tmp_path / "results" / "demo"
    assert sorted(p.name for p in target.iterdir()) == [
        "checkpoint.safetensors", "curves.csv", "provenance.json", "seeds.csv", "summary.json"
    ]  # fmt: skip
    summary = json.loads((target / "summary.json").read_text())
    half = 4.30265273 / math.sqrt(3)  # t with two degrees of freedom, deviation 1
    assert summary[0] == {
        "variant": "ours",
        "metric": "return",
        "mean": 11.0,
        "low": pytest.approx(11 - half),
        "high": pytest.approx(11 + half),
        "seeds": 3,
        "budget": 5,
        "scale": "smoke",
    }
    assert [row["metric"] for row in summary] == ["return", "speed@3", "speed@20", "loss"]


def test_what_was_published_can_be_read(tmp_path) -> None:
    runs = [make_run(tmp_path / f"s{seed}", seed) for seed in (2, 0, 1)]
    publish(runs, tmp_path / "results")
    found = load_published("demo", tmp_path / "results")
    assert found.config == {"steps": 10}
    single = found.seeds[found.seeds["metric"] == "return"]
    assert single[["seed", "value"]].values.tolist() == [[0, 10], [1, 11], [2, 12]]
    curve = found.curves.set_index("step")
    assert curve["variant"].tolist() == ["ours", "ours"]
    assert curve["metric"].tolist() == ["loss", "loss"]
    assert curve["mean"].to_dict() == {0: 0.0, 5: 5.0}
    assert curve["seeds"].tolist() == [3, 3]
    assert [record["command"].split()[-1] for record in found.provenance] == ["0", "1", "2"]
    assert found.provenance[0]["hash"] == config_hash("demo", Settings())
    assert found.row("ours", "return")["mean"] == 11
    assert found.text("ours", "return", ".1f", 2.0) == "22.0 [17.0, 27.0]"
    tiny = dataclasses.replace(found, summary=found.summary.assign(mean=-1e-5, low=-2e-5, high=0))
    assert tiny.text("ours", "return") == "0.00 [0.00, 0.00]"  # without a sign
    assert "demo, smoke scale, 3 seeds" in found.source()
    assert found.provenance[0]["hash"] in found.source()
    # The checkpoint is that of the lowest seed.
    record = json.loads((tmp_path / "results" / "demo" / "provenance.json").read_text())
    assert record["checkpoint_seed"] == 0
    assert load_checkpoint("demo", tmp_path / "results")["ours.0"].tolist() == [0, 0]


def test_against_sorts_by_the_number_and_not_by_its_text(tmp_path) -> None:
    publish([make_run(tmp_path / "s0", 0)], tmp_path / "results")
    found = load_published("demo", tmp_path / "results").against("speed")
    assert found["x"].tolist() == [3.0, 20.0]
    assert found["mean"].tolist() == [1.0, 2.0]


def test_without_curves_an_old_curve_goes_away(tmp_path) -> None:
    publish([make_run(tmp_path / "a", 0)], tmp_path / "results")
    publish([make_run(tmp_path / "b", 0, curves=False)], tmp_path / "results")
    assert not (tmp_path / "results" / "demo" / "curves.csv").exists()
    assert load_published("demo", tmp_path / "results").curves.empty


def test_what_is_not_published_is_named(tmp_path) -> None:
    publish([make_run(tmp_path / "s0", 0)], tmp_path / "results")
    with pytest.raises(FileNotFoundError, match=r"no published results for 'other'.*'demo'"):
        load_published("other", tmp_path / "results")
    demo = load_published("demo", tmp_path / "results")
    metrics = set(demo.summary.query("variant == 'ours'")["metric"])
    for variant, metric, there in (
        ("ours", "speed", metrics), ("theirs", "return", set(demo.summary["variant"])),
    ):  # fmt: skip
        with pytest.raises(KeyError) as refusal:
            demo.row(variant, metric)
        said, names = str(refusal.value).strip("'\"").split("; it has ")
        assert said == f"demo publishes no {variant} {metric}"
        assert names.split(", ") == sorted(there)


@pytest.mark.parametrize("before", [(0,), (3,), (0, 3), (0, 1, 2, 3)])
def test_seeds_that_are_added_give_what_all_at_once_give(tmp_path, before) -> None:
    """Curves join without the single seeds; a curve that one seed alone has stays as it is."""
    runs = {seed: make_run(tmp_path / f"s{seed}", seed) for seed in range(6)}
    once = publish(list(runs.values()), tmp_path / "once")
    folder = tmp_path / "added"
    publish([runs[seed] for seed in before], folder)
    others = [seed for seed in runs if seed not in before]
    publish([runs[seed] for seed in others[:1]], folder, add=True)
    added = publish([runs[seed] for seed in others[1:]], folder, add=True)
    one, other = load_published("demo", tmp_path / "once"), load_published("demo", folder)
    keys = ["variant", "metric"]
    for table in ("seeds", "summary"):
        order = [*keys, "seed"] if table == "seeds" else keys
        pd.testing.assert_frame_equal(
            *(getattr(r, table).sort_values(order, ignore_index=True) for r in (one, other))
        )
    pd.testing.assert_frame_equal(one.curves, other.curves, rtol=1e-5)
    assert (added / "checkpoint.safetensors").read_bytes() == (
        once / "checkpoint.safetensors"
    ).read_bytes()
    records = [json.loads((f / "provenance.json").read_text()) for f in (once, added)]
    assert records[0]["checkpoint_seed"] == records[1]["checkpoint_seed"] == 0
    assert sorted(r["argv"] for r in records[0]["runs"]) == sorted(
        r["argv"] for r in records[1]["runs"]
    )


def test_curves_of_some_seeds_alone_stay_as_they_are() -> None:
    columns = ["variant", "metric", "step", "mean", "low", "high", "seeds"]
    old = pd.DataFrame([["a", "x", 1, 2.0, -1.0, 5.0, 2], ["b", "x", 1, 7.0, 6.0, 8.0, 2]])
    new = pd.DataFrame([["a", "x", 1, 4.0, 4.0, 4.0, 1], ["c", "x", 1, 3.0, 3.0, 3.0, 1]])
    old.columns = new.columns = columns
    found = pooled(old, new).set_index("variant")
    assert found.loc["b", ["mean", "low", "high", "seeds"]].tolist() == pytest.approx([7, 6, 8, 2])
    assert found.loc["c", ["mean", "low", "high", "seeds"]].tolist() == pytest.approx([3, 3, 3, 1])
    apart = 3 / T_975[1]  # the two old seeds are at 2 − apart and 2 + apart
    mean, low, high = mean_interval([2 - apart, 2 + apart, 4.0])
    assert found.loc["a", ["mean", "low", "high"]].tolist() == pytest.approx([mean, low, high])


@pytest.mark.parametrize(
    ("options", "seed", "words"),
    [
        ({}, 0, r"seeds=\[0\]: published already; leave them out"),
        ({"settings": Settings(steps=11)}, 1, "publish all seeds anew, without --add"),
    ],
)
def test_seeds_that_do_not_fit_are_not_added(tmp_path, options, seed, words) -> None:
    target = publish([make_run(tmp_path / "first", 0)], tmp_path / "results")
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(ValueError, match=words) as refusal:
        publish([make_run(tmp_path / "more", seed, **options)], tmp_path / "results", add=True)
    assert "\n" not in str(refusal.value)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_there_must_be_something_to_add_to(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no published results for 'demo'"):
        publish([make_run(tmp_path / "first", 0)], tmp_path / "results", add=True)


def bad_runs(tmp_path, kind) -> list[Path]:
    good = make_run(tmp_path / "good", 0)
    if kind == "none":
        return []
    if kind == "unfinished":
        return [good, make_run(tmp_path / "open", 1, finish=False)]
    if kind == "no run":
        (tmp_path / "empty").mkdir()
        return [good, tmp_path / "empty"]
    if kind == "twice":
        return [good, make_run(tmp_path / "again", 0)]
    options = {
        "experiment": {"name": "other"},
        "configuration": {"settings": Settings(steps=11)},
        "scale": {"scale": "book"},
    }[kind]
    return [good, make_run(tmp_path / "different", 1, **options)]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("none", "no run folders given"),
        ("unfinished", "open is not finished: continue it with metarl run --resume"),
        ("no run", "empty is not a run folder"),
        ("twice", r"seeds=\[0, 0\]: each seed may be published once"),
        ("experiment", r"the runs differ.*demo.*other"),
        ("configuration", "the runs differ"),
        ("scale", "the runs differ.*book.*smoke"),
    ],
)
def test_publish_refuses_and_writes_nothing(tmp_path, kind, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        publish(bad_runs(tmp_path, kind), tmp_path / "results")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "results").exists()


WIDE = "cannot be checked: our seeds differ by too much, compared with the claimed number"
OPEN = "cannot be checked: our seeds do not decide which of the two is larger"


@pytest.mark.parametrize(
    ("claim", "interval", "expected"),
    [
        ({"value": 2.0}, (1.9, 2.1), "reproduced"),
        ({"value": 2.0}, (2.0, 2.1), "reproduced"),
        ({"value": 2.0}, (2.1, 2.3), "not reproduced"),
        ({"value": 2.0}, (1.5, 1.9), "not reproduced"),
        ({"value": 2.0, "tolerance": 0.2}, (2.1, 2.3), "reproduced"),
        ({"value": 2.0, "tolerance": 0.2}, (1.5, 1.9), "reproduced"),
        ({"value": 2.0, "tolerance": 0.05}, (2.1, 2.3), "not reproduced"),
        ({"value": 2.0, "better": "lower"}, (1.5, 1.9), "better"),
        ({"value": 2.0, "better": "lower"}, (2.1, 2.3), "not reproduced"),
        ({"value": 2.0, "better": "higher"}, (2.1, 2.3), "better"),
        ({"value": 2.0, "better": "higher"}, (1.5, 1.9), "not reproduced"),
        ({"value": 2.0, "better": "higher"}, (1.9, 2.3), "reproduced"),
        ({"value": 2.0, "better": "lower", "tolerance": 0.2}, (1.5, 1.9), "reproduced"),
        ({"value": 2.0}, (1.0, 2.9), "reproduced"),
        ({"value": 2.0}, (0.9, 3.0), WIDE),
        ({"value": -2.0}, (-3.0, -0.9), WIDE),
        ({"value": 2.0, "bound": "upper"}, (0.9, 3.0), WIDE),
        ({"value": 2.0, "bound": "upper"}, (-4.0, 1.0), "reproduced"),
        ({"value": 2.0, "bound": "above"}, (-0.1, 4.0), OPEN),
        ({"value": 2.0, "bound": "above"}, (-0.1, 2.0), "not reproduced"),
        ({"value": 0.0}, (-5.0, 4.0), "reproduced"),
        ({"value": 2.0}, None, "cannot be checked: nothing is published yet"),
        ({"value": 2.0, "why": "no code"}, (1.9, 2.1), "cannot be checked: no code"),
        ({"value": 2.0, "why": "no code"}, None, "cannot be checked: no code"),
    ],
)
def test_verdicts(claim, interval, expected) -> None:
    measured = None if interval is None else pd.Series(dict(zip(("low", "high"), interval)))  # noqa: B905
    assert verdict(claim, measured) == expected


def test_a_single_run_is_held_against_one_more_run_of_ours() -> None:
    """The prediction interval of Student's t, from the single values."""
    values = np.array([11.0, 11.4, 10.7, 11.1, 11.6])
    mean, low, high = mean_interval(values.tolist())
    measured = pd.Series({"mean": mean, "low": low, "high": high, "seeds": len(values)})
    reach = stats.t.ppf(0.975, 4) * values.std(ddof=1) * math.sqrt(1 + 1 / 5)
    assert reach > high - mean
    for value, expected in ((reach - 1e-6, "reproduced"), (reach + 1e-6, "not reproduced")):
        for sign in (-1, 1):
            claim = {"value": mean + sign * value, "single_run": True}
            assert verdict(claim, measured) == expected
            assert verdict(claim | {"single_run": False}, measured) == "not reproduced"


def test_one_seed_supports_no_verdict() -> None:
    measured = pd.Series({"mean": 1.0, "low": 1.0, "high": 1.0, "seeds": 1})
    assert verdict({"value": 2.0, "better": "lower"}, measured).startswith("cannot be checked")


CLAIM = {
    "id": "A1",
    "source": "000",
    "statement": "returns eleven",
    "value": 10.0,
    "experiment": "demo",
    "variant": "ours",
    "metric": "return",
}


def write_claims(folder: Path, *claims: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "claims.yaml").write_text(yaml.safe_dump(list(claims)))
    return folder


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({k: v for k, v in CLAIM.items() if k != "value"}, r"'A1': missing \['value'\]"),
        (CLAIM | {"colour": "red"}, r"'A1'.*unknown \['colour'\]"),
    ],
)
def test_claims_with_wrong_fields_are_refused(tmp_path, claim, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        load_claims(write_claims(tmp_path, CLAIM, claim))
    assert "\n" not in str(refusal.value)


def test_the_ledger_puts_each_claim_beside_its_number(tmp_path) -> None:
    folder = tmp_path / "results"
    publish([make_run(tmp_path / f"s{seed}", seed) for seed in (0, 1, 2)], folder)
    write_claims(
        folder,
        CLAIM,
        CLAIM | {"id": "A2", "value": 100.0, "note": "far off"},
        CLAIM | {"id": "A3", "why": "hard-coded"},
        CLAIM | {"id": "A4", "experiment": "later"},
        CLAIM | {"id": "A5", "why": "no such agent", "shown": True},
    )
    found = ledger(folder).set_index("id")
    assert found["verdict"].tolist() == [
        "reproduced",
        "not reproduced",
        "cannot be checked: hard-coded",
        "cannot be checked: nothing is published yet",
        "cannot be checked: no such agent",
    ]
    assert found.loc["A1", "mean"] == 11
    assert found.loc["A1", "seeds"] == 3
    assert found.loc["A2", "note"] == "far off"
    assert found.loc["A5", "mean"] == 11  # shown, though it decides nothing
    assert found.loc[["A3", "A4"], "mean"].isna().all()
    assert tally([CLAIM["experiment"]], folder) in (
        "2 cannot be checked, 1 reproduced, 1 not reproduced",
        "2 cannot be checked, 1 not reproduced, 1 reproduced",
    )
    assert tally([CLAIM["experiment"], "later"], folder).startswith("3 cannot be checked, 1 ")
    assert tally(["nowhere"], folder) == ""


def test_a_claimed_order_is_held_against_differences_seed_by_seed() -> None:
    """Seeds differ by ten, the two variants by one in each of them, so the interval is narrow."""
    values = {"one": [11.0, 21.0, 32.0], "other": [10.0, 20.0, 30.0]}
    seeds = pd.DataFrame(
        [
            {"variant": variant, "metric": "return", "seed": seed, "value": value}
            for variant, found in values.items()
            for seed, value in enumerate(found)
        ]
        + [{"variant": "one", "metric": "return", "seed": 3, "value": 99.0}]
    )
    rows = summarise(seeds, ("variant", "metric")).assign(budget=7, scale="full")
    results = report.Published("demo", rows, seeds, pd.DataFrame(), [], {})
    gap = results.less("one", "other", "return")
    assert (gap["mean"], gap["seeds"], gap["budget"]) == (pytest.approx(4 / 3), 3, 7)
    half = 4.302653 * (1 / 3)  # Student's t for two degrees of freedom, standard error 1/3
    assert gap["high"] - gap["mean"] == pytest.approx(half, rel=1e-6)
    back = results.less("other", "one", "return")
    assert (back["low"], back["high"]) == pytest.approx((-gap["high"], -gap["low"]))
    assert report.measured_of(CLAIM | {"variant": "one", "less": "other"}, results).equals(gap)
    assert report.measured_of(CLAIM | {"variant": "one"}, results)["seeds"] == 4
    with pytest.raises(KeyError, match="demo publishes no third return"):
        results.less("one", "third", "return")


def test_single_values_stand_side_by_side_and_in_text() -> None:
    """One seed has no value of the other variant; a rounded zero keeps no sign of its own."""
    lines = [
        ("one", 0, 5.0), ("one", 1, 7.0), ("one", 2, 1.0), ("other", 0, 4.0), ("other", 1, 4.0),
    ]  # fmt: skip
    seeds = pd.DataFrame(
        [{"variant": v, "metric": "return", "seed": s, "value": x} for v, s, x in lines]
    )
    summary = summarise(seeds, ["variant", "metric"])
    results = report.Published("demo", summary, seeds, pd.DataFrame(), [], {})
    assert results.by_seed.loc["one", "return"].tolist() == [5, 7, 1]
    assert results.by_seed.loc["other", "return"].tolist()[:2] == [4, 4]
    assert math.isnan(results.by_seed.loc[("other", "return"), 2])
    half = T_975[1]  # of gaps 1 and 3, whose mean has the standard error 1
    assert (
        results.less_text("one", "other", "return") == f"+2.00 [{2 - half:+.2f}, {2 + half:+.2f}]"
    )
    assert results.less_text("one", "other", "return", ".0f", 10.0) == "20 [-107, 147]"
    gaps = results.by_seed.loc["one"] - results.by_seed.loc["other"]
    assert report.interval_text(gaps.loc["return"], "+.0f") == "+2 [-11, +15]"
    assert report.interval_text(pd.Series([-0.001, math.nan]), "+.2f") == "+0.00"
    with pytest.raises(ValueError, match="at least one number"):
        report.interval_text(pd.Series([math.nan]))


def test_the_ledger_as_html_shows_numbers_and_escapes_text() -> None:
    line = {"id": "X1", "source": "000", "experiment": "e", "metric": "m", "variant": "v"}
    line |= {"statement": "a < b", "value": 2.5, "mean": 2.0, "low": 1.0, "high": 3.0}
    line |= {
        "seeds": 5,
        "budget": 10,
        "scale": "full",
        "verdict": "reproduced",
        "note": "at < once",
    }
    unchecked = line | {
        "note": "",
        "mean": None,
        "low": None,
        "high": None,
        "verdict": "cannot be checked: x",
    }
    rows = report.ledger_html(pd.DataFrame([line, unchecked])).split("<tr>")[2:]
    assert "a &lt; b" in rows[0]
    assert "5 seeds" in rows[0]
    assert "metarl run e --scale full: v, m" in rows[0]
    assert (
        "<td>2.50</td><td>2.00 [1.00, 3.00]</td><td>reproduced<br><small>at &lt; once</small></td>"
        in rows[0]
    )
    assert "<td>2.50</td><td></td><td>cannot be checked: x</td>" in rows[1]
    whole = line | {"value": 380.0, "mean": -5.953, "low": -246.1, "high": 234.4}
    cells = "<td>380</td><td>-5.95 [-246, 234]</td>"
    assert cells in report.ledger_html(pd.DataFrame([whole]))
    large = line | {"value": -4100.0, "mean": -6133.8, "low": -6134.1, "high": -6133.5}
    assert "<td>-4,100</td><td>-6,134 [-6,134, -6,134]</td>" in report.ledger_html(
        pd.DataFrame([large])
    )


def test_results_folder_is_the_books(monkeypatch, tmp_path) -> None:
    assert results_folder() == Path(__file__).resolve().parents[1] / "book" / "_results"
    monkeypatch.setattr(report, "PACKAGE", tmp_path / "site-packages" / "metarl_lib")
    assert results_folder() == tmp_path / "site-packages" / "metarl_lib" / "_results"


def test_a_smaller_scale_does_not_replace_a_larger_one(tmp_path) -> None:
    folder = tmp_path / "results"
    target = publish([make_run(tmp_path / "full", 0)], folder)
    summary = target / "summary.json"
    rows = json.loads(summary.read_text())
    summary.write_text(json.dumps([row | {"scale": "full"} for row in rows]))
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(ValueError, match="scale full, these runs have scale"):
        publish([make_run(tmp_path / "again", 1)], folder)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


@pytest.mark.parametrize(
    ("bound", "low", "high", "expected"),
    [
        ("lower", 0.1, 0.3, "reproduced"),
        ("lower", -0.1, 0.1, "reproduced"),
        ("lower", -0.3, -0.1, "better"),
        ("upper", 0.1, 0.3, "not reproduced"),
        ("upper", -0.3, -0.1, "reproduced"),
        ("above", 0.1, 0.3, "reproduced"),
        ("above", 0.0, 0.3, OPEN),
        ("above", -0.1, 0.3, OPEN),
        ("above", -0.1, 0.0, "not reproduced"),
        ("above", 0.0, 0.0, "not reproduced"),
        (None, 0.1, 0.3, "not reproduced"),
    ],
)
def test_a_claimed_bound_is_met_beyond_it(bound, low, high, expected) -> None:
    claim = {"value": 0.0, "better": "lower"} | ({"bound": bound} if bound else {})
    measured = pd.Series({"mean": (low + high) / 2, "low": low, "high": high, "seeds": 5})
    assert verdict(claim, measured) == expected
