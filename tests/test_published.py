"""What is published: complete, current, small, portable, and given again by its checkpoint."""

import functools
import json
import math
import re
from pathlib import Path

import pytest
from extras import need_extra

from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.report import (
    TOO_WIDE,
    UNDECIDED,
    ledger,
    load_checkpoint,
    load_claims,
    load_published,
    measured_of,
    verdict,
)
from metarl_lib.runs import SCALES, config_hash

RESULTS = Path(__file__).resolve().parents[1] / "book" / "_results"
NAMES = sorted(path.parent.name for path in RESULTS.glob("*/summary.json"))
LARGEST = 4 * 2**20  # bytes an experiment may publish
# Networks that policies train amplify how a processor rounds; 0.05 lay between two machines.
# So do the contacts of a robot: see `robots.SURE`.
ROUNDING = {
    "layerwise": 0.08, "update_rule": 0.08, "maml_rl": 0.03,
    **dict.fromkeys(("ant_dir", "cheetah_dir", "cheetah_vel"), 0.02), "pearl_robots": 0.1,
}  # fmt: skip
# Thousands of updates in a row by an evolved loss do so most; there 5 % lay between two machines.
SHARE = {"epg": 0.1, "ml1_reach": 0.02, "pearl_robots": 0.02}
FOLDERS = re.compile(r"(?<![\w.])/(home|tmp|root|work|Users|mnt|usr)\b|[A-Z]:\\\\")

published = functools.cache(load_published)
by_name = pytest.mark.parametrize("name", NAMES)


def record(name: str) -> dict:
    return json.loads((RESULTS / name / "provenance.json").read_text())


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_every_experiment_has_results(name) -> None:
    assert name in NAMES, f"metarl run {name} --scale full, then metarl publish"


def test_every_result_has_its_experiment() -> None:
    assert NAMES
    assert set(NAMES) <= set(EXPERIMENTS)


@by_name
def test_the_summary_has_the_documented_columns(name) -> None:
    rows = json.loads((RESULTS / name / "summary.json").read_text())
    assert len({(row["variant"], row["metric"]) for row in rows}) == len(rows) > 0
    for row in rows:
        assert list(row) == [
            "variant", "metric", "mean", "low", "high", "seeds", "budget", "scale"
        ]  # fmt: skip
        assert all(math.isfinite(row[key]) for key in ("mean", "low", "high"))
        assert row["low"] <= row["mean"] <= row["high"]
        assert row["seeds"] >= 1
        assert row["budget"] >= 1
        assert row["scale"] in SCALES
    assert len({row["scale"] for row in rows}) == 1


@by_name
def test_the_summary_is_that_of_the_single_seeds(name) -> None:
    found = published(name)
    for key, group in found.seeds.groupby(["variant", "metric"]):
        row = found.row(*key)
        assert row["seeds"] == len(group) == group["seed"].nunique()
        assert row["mean"] == pytest.approx(group["value"].mean(), rel=1e-4, abs=1e-5)
    assert len(found.summary) == found.seeds.groupby(["variant", "metric"]).ngroups


@by_name
def test_the_configuration_is_still_the_experiments(name) -> None:
    scale = published(name).summary["scale"].iloc[0]
    config = EXPERIMENTS[name].config(scale)
    assert record(name)["hash"] == config_hash(name, config), "run and publish it again"
    assert record(name)["experiment"] == name
    assert record(name)["config"] == json.loads(json.dumps(vars(config)))


@by_name
def test_every_run_says_where_it_comes_from(name) -> None:
    runs = record(name)["runs"]
    assert len(runs) == published(name).seeds["seed"].nunique()
    scale = published(name).summary["scale"].iloc[0]
    seeds = sorted(published(name).seeds["seed"].unique())
    assert [run["command"] for run in runs] == [
        f"metarl run {name} --scale {scale} --seed {seed}" for seed in seeds
    ]
    for run in runs:
        assert run["hash"] == record(name)["hash"]
        assert re.fullmatch("[0-9a-f]{40}", run["commit"])
        assert run["versions"]["torch"]
        assert run["hardware"]["processor"]
        assert run["start"] < run["end"]
        assert run["cpu_seconds"] > 0


@by_name
def test_the_checkpoint_gives_the_published_numbers_again(name, unchecked) -> None:
    need_extra(name)
    seed = record(name)["checkpoint_seed"]
    config = EXPERIMENTS[name].config(published(name).summary["scale"].iloc[0])
    rows = EXPERIMENTS[name].evaluate(config, seed, load_checkpoint(name))
    single = published(name).seeds
    expected = single[single["seed"] == seed].set_index(["variant", "metric"])["value"]
    assert len(rows) >= 10
    for row in rows:
        value = expected[row["variant"], row["metric"]]
        room = {"rel": SHARE.get(name, 1e-3), "abs": ROUNDING.get(name, 1e-4)}
        assert row["value"] == pytest.approx(value, **room), row


@by_name
def test_curves_belong_to_published_variants(name) -> None:
    curves = published(name).curves
    if curves.empty:
        assert not (RESULTS / name / "curves.csv").exists()
        return
    assert set(curves["variant"]) <= set(published(name).summary["variant"])
    assert (curves["low"] <= curves["high"]).all()
    # A curve ends at the number that the summary gives.
    for (variant, metric), curve in curves.groupby(["variant", "metric"]):
        last = curve.sort_values("step").iloc[-1]
        row = published(name).row(variant, metric)
        assert last["step"] == row["budget"]
        assert last["mean"] == pytest.approx(row["mean"], rel=1e-3, abs=1e-3)


@by_name
def test_results_are_small_and_name_no_folder_of_a_machine(name) -> None:
    files = [path for path in (RESULTS / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST
    for path in files:
        assert path.suffix in {".json", ".csv", ".safetensors", ".yaml"}, path.name
        if path.suffix != ".safetensors":
            found = FOLDERS.search(path.read_text())
            assert found is None, f"{path.name}: {found.group() if found else ''}"


def test_the_search_for_folders_finds_them() -> None:
    # Written in two parts, because no file of the project may name such a folder.
    for text in ('"/tm' + 'p/x"', "--out=/ho" + "me/me", '"C:' + '\\\\Users"', "at /wo" + "rk/x"):
        assert FOLDERS.search(text), text
    for text in ('"a/tmp/b"', "log/home", "2024-01-01T00:00:00Z", "teacher/work"):
        assert not FOLDERS.search(text), text


def test_claims_are_complete_and_measured() -> None:
    claims = load_claims(RESULTS)
    assert claims
    assert len({claim["id"] for claim in claims}) == len(claims)
    for claim in claims:
        assert isinstance(claim["source"], str)
        assert re.fullmatch(r"\d{3}", claim["source"]), claim["id"]
        assert claim.get("better") in (None, "lower", "higher")
        assert claim.get("tolerance", 0) >= 0
        assert claim["statement"].strip()
        if claim.get("why"):
            continue
        assert claim["experiment"] in NAMES, claim["id"]
        measured = measured_of(claim, published(claim["experiment"]))
        assert isinstance(claim["value"], (int, float))
        assert measured is not None, claim["id"]
        assert measured["seeds"] >= 2, claim["id"]
        said = verdict(claim, measured)
        assert said in ("reproduced", "not reproduced", "better") or said.endswith(
            (UNDECIDED, TOO_WIDE)
        ), claim["id"]


def test_the_ledger_shows_every_claim() -> None:
    table = ledger(RESULTS)
    assert table["id"].tolist() == [claim["id"] for claim in load_claims(RESULTS)]
    assert set(table["verdict"].str.split(":").str[0]) <= {
        "reproduced", "not reproduced", "better", "cannot be checked"
    }  # fmt: skip
