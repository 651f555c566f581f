"""The experiment on meta-gradients: its variants, what its rows say, and going on after a stop."""

import dataclasses

import pytest
import torch
from plain_lives import rows_of

from metarl_lib.experiments import meta_chains, meta_control, meta_gradient
from metarl_lib.experiments.meta_gradient import PRESETS, Config
from metarl_lib.oracles.chains import best
from metarl_lib.runs import Run

pytestmark = pytest.mark.usefixtures("fast")

SMALL = dataclasses.replace(PRESETS["smoke"], chain_variants=("mg", "mg-exact"), oracle_steps=3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mg") / "mg"
    run = Run.create(folder, "meta_gradient", SMALL, scale="smoke", seed=3)
    return run, meta_gradient.run(SMALL, run)


def test_evaluate_gives_the_rows_of_the_run(finished) -> None:
    run, rows = finished
    had = {(r["variant"], r["metric"]): r for r in rows}
    found = meta_gradient.evaluate(SMALL, 3, run.tensors())
    assert len(found) > 30
    assert all(had[r["variant"], r["metric"]] == r for r in found)


def test_rows_of_a_chain_are_what_was_learned(finished) -> None:
    run, rows = finished
    found = {k: v for k, v in rows_of(rows).items() if k[0] == "pattern-mg"}
    learned = torch.sigmoid(run.tensors()["pattern-mg.eta"])[1:].double()
    for i, value in enumerate(learned.tolist()):
        assert found["pattern-mg", f"eta_{i + 2}"] == pytest.approx(value)
    ends = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0]).double()
    worst = float((learned - ends).abs().max())
    assert found["pattern-mg", "extreme"] == pytest.approx(worst)
    problem = meta_chains.problem_of(meta_chains.CHAINS["pattern"])
    error = float(problem.error(learned, torch.ones(9).double()))
    assert found["pattern-mg", "value_error"] == pytest.approx(error)
    top = best(problem, "discount")[1]
    assert rows_of(rows)["pattern-best", "value_error"] == pytest.approx(top)
    assert top < rows_of(rows)["pattern-uniform", "value_error"] < error


def test_theory_says_where_the_pattern_reaches_its_ends() -> None:
    """Within 0.05 of 0 and 1 on the chain that is meant to show it."""
    problem = meta_chains.problem_of(meta_chains.CHAINS["pattern"])
    found, _ = best(problem, "discount")
    ends = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0]).double()
    assert float((found - ends).abs().max()) < 0.05
    graded, _ = best(meta_chains.problem_of(meta_chains.CHAINS["graded"]), "discount")
    assert bool((graded[1::2] == 1).all())
    assert graded[0] > graded[2] > graded[4] > graded[6] > 0.2


def test_variants_differ_in_what_they_are_named_after() -> None:
    found = meta_control.variants(Config())
    whole = found["laps-mg"]
    assert whole.context
    assert (whole.settings.learned, whole.settings.outer_critic) == ("discount", "own")
    changed = {
        "mg-both": {"learned": "both"},
        "mg-no-context": {},
        "mg-inner": {"outer_critic": "inner"},
        "mg-trace": {"trace_decay": 0.9},
        "fixed-0.97": {"learned": "none", "discount": 0.97},
    }
    for name, fields in changed.items():
        other = found[f"laps-{name}"]
        assert other.settings == dataclasses.replace(whole.settings, **fields)
        assert other.context == (name not in ("mg-no-context", "fixed-0.97"))
    assert "cartpole-mg-inner" not in found
    assert found["laps-mg"].settings.updates == 6 * 500 * 6 // 20
    assert len(found) == 5 + 5 + 4 * (5 + 3)


def test_agents_of_a_task_start_equal_and_laps_differ_by_seed() -> None:
    one, other = (meta_control.make_agent(SMALL, f"catch-{n}", 1) for n in ("fixed-0.9", "mg"))
    assert torch.equal(one.policy_net[2].weight, other.policy_net[2].weight) or (
        one.inputs != other.policy_net[0].in_features
    )
    lives = [meta_control.make_env(Config(), "laps", seed).answers for seed in (0, 0, 1)]
    assert torch.equal(lives[0], lives[1])
    assert not torch.equal(lives[0], lives[2])


def test_what_was_earned_is_the_mean_of_what_was_logged(finished) -> None:
    """Updates are so few that each is logged."""
    run, rows = finished
    metrics = run.metrics()
    logged = metrics[metrics["name"] == "laps-mg/reward"]["value"]
    assert len(logged) >= 2
    whole = rows_of(rows)["laps-mg", "whole"]
    assert whole == pytest.approx(float(logged.mean()), rel=1e-4)


def test_what_learning_gains_is_a_difference_to_the_outer_discount(finished) -> None:
    """Without that agent there is no such row; read as γ̄ = 0.9, there is."""
    run, rows = finished
    assert not any(metric == "whole_minus_fixed" for _, metric in rows_of(rows))
    other = dataclasses.replace(SMALL, outer_discount=0.9)
    found = rows_of(meta_gradient.evaluate(other, 3, run.tensors()))
    for name in ("laps-mg", "catch-mg"):
        fixed = found[f"{name[:-3]}-fixed-0.9", "whole"]
        assert found[name, "whole_minus_fixed"] == found[name, "whole"] - fixed
    assert ("laps-fixed-0.9", "whole_minus_fixed") not in found


def test_every_curve_ends_at_a_row(finished) -> None:
    """At its last step and with its last number; of a changing γ, the one at that step."""
    run, rows = finished
    ends = {(r["variant"], r["metric"]): r for r in rows}
    curves = run.metrics().groupby("name", sort=False).last()
    assert {name.split("/")[1] for name in curves.index} >= {"return", "reward", "discount"}
    for name, step, value in curves.itertuples():
        row = ends[tuple(name.split("/"))]
        assert (row["budget"], row["value"]) == (step, pytest.approx(value, abs=1e-6))


@pytest.mark.parametrize("stop", [1, 4])
def test_a_run_that_was_stopped_ends_the_same(tmp_path, finished, stop) -> None:
    run = Run.create(tmp_path / "r", "meta_gradient", SMALL, scale="smoke", seed=3)
    saves = []
    original = Run.save

    def save(self):
        saves.append(0)
        self.stopping = len(saves) == stop
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "save", save)
        with pytest.raises(KeyboardInterrupt):
            meta_gradient.run(SMALL, run)
    again = Run.resume(tmp_path / "r", "meta_gradient", SMALL)
    assert meta_gradient.run(SMALL, again) == finished[1]
    assert all(torch.equal(t, again.tensors()[n]) for n, t in finished[0].tensors().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chains": ("loop",)}, "chains='loop' is unknown: choose one of 'pattern'"),
        ({"methods": ("mgx",)}, "methods='mgx' is unknown"),
        ({"tasks": ("pong",)}, "tasks='pong' is unknown: choose one of 'laps'"),
        ({"discounts": (1.2,)}, "discounts=1.2: must lie between 0 and 1"),
        ({"units": 0}, "units=0: must be greater than 0"),
        ({"discount": 1.0}, "discount=1.0: must lie strictly between 0 and 1 with learned='disc"),
        ({"gae_lambda": 1.0}, "gae_lambda=1.0: must lie strictly between 0 and 1 with learned='b"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        Config(**options)
    assert "\n" not in str(refusal.value)
