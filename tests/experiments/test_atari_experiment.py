"""The experiment on Atari, as small as it can be; without the extra it says which to install."""

import dataclasses
import sys
from importlib.util import find_spec

import jaxtyping
import pytest
from plain_lives import rows_of

from metarl_lib.cli import main
from metarl_lib.experiments import atari
from metarl_lib.runs import Run

TINY = dataclasses.replace(atari.PRESETS["smoke"], games=("pong",), updates=2)


@pytest.mark.skipif(
    find_spec("ale_py") is None,
    reason="the extra atari is missing: pip install 'metarl_lib[atari]'",
)
def test_two_methods_play_and_are_read_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr("metarl_lib.metrics.Metrics.write_events", lambda metrics: None)
    run = Run.create(tmp_path / "r", "atari", TINY, scale="smoke", seed=0)
    rows = atari.run(TINY, run)
    again = atari.evaluate(TINY, 0, run.tensors())
    assert [r for r in rows if r in again] == again
    found = rows_of(rows)
    for name, curve in run.metrics().groupby("name", sort=False):
        assert found[tuple(name.split("/"))] == pytest.approx(curve["value"].iloc[-1], abs=1e-6)
    assert found["pong-fixed", "discount"] == 0.99
    assert found["pong-mg", "frames"] == 4 * 2 * 5 * 2
    assert found["pong-mg", "discount"] != 0.99


def test_without_the_emulator_a_run_names_the_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    run = Run.create(tmp_path / "r", "atari", TINY, scale="smoke", seed=0)
    with pytest.raises(ImportError, match=r"pip install 'metarl_lib\[atari\]'"):
        atari.run(TINY, run)


def test_without_the_emulator_the_command_line_says_so_in_one_line(
    tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    out = str(tmp_path / "r")
    assert main(["run", "atari", "--scale", "smoke", "--out", out]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].endswith("pip install 'metarl_lib[atari]'")
    assert not any("Traceback" in line for line in lines)


def test_the_papers_games_are_57() -> None:
    assert len(set(atari.GAMES)) == len(atari.GAMES) == 57
    with pytest.raises(ValueError, match="methods='dqn' is unknown: choose from fixed, mg"):
        dataclasses.replace(TINY, methods=("dqn",))
    words = "gae_lambda=1.0: must lie strictly between 0 and 1 with learned='both'"
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(TINY, methods=("mg-both",), gae_lambda=1.0)


@pytest.mark.skipif(
    find_spec("ale_py") is None,
    reason="the extra atari is missing: pip install 'metarl_lib[atari]'",
)
def test_games_are_those_of_the_emulator() -> None:
    assert dataclasses.replace(TINY, games=("adventure",)).games == ("adventure",)
    with pytest.raises(ValueError, match="game='foo' is unknown to the emulator: give a name"):
        dataclasses.replace(TINY, games=("pong", "foo"))
