"""The benchmark of the maze runs, and says of a missing peer that it is missing."""

import sys

import pytest


def test_a_rate_is_that_of_the_fastest_round_but_the_first(script, monkeypatch) -> None:
    clock, lasts = [0.0], iter([1.0, 8.0, 4.0, 5.0])
    monkeypatch.setattr(script.time, "perf_counter", lambda: clock[0])

    def work() -> None:
        clock[0] += next(lasts)

    assert script.rate(work, 100, 3) == 25


def test_a_missing_peer_is_none(script, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnax", None)
    assert script.gymnax_environment() is None


def test_more_passes_take_longer(script, monkeypatch) -> None:
    monkeypatch.setattr(script, "UNITS", 16)
    monkeypatch.setattr(script, "TRIALS", 8)
    assert 0 < script.training(4, 1) < script.training(1, 1)


def test_quick_prints_a_table_and_one_line_of_json(quick) -> None:
    table, result = quick("maze")
    ratios = result["ratios"]
    rates = [line[-1].replace(",", "") for line in table]
    assert len(rates) == 4
    for name, printed in zip(
        ("env_steps_per_s", None, "train_steps_per_s", "train_steps_per_s_one_pass"), rates,
        strict=True,
    ):  # fmt: skip
        if name is not None:
            assert int(printed) == pytest.approx(ratios[name], abs=1)
    if ratios["env_vs_gymnax"] is not None:
        expected = ratios["env_steps_per_s"] / int(rates[1])
        assert ratios["env_vs_gymnax"] == pytest.approx(expected, rel=0.02)
