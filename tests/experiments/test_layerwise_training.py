"""A whole run of the experiment with one agent per layer: budgets, policies, rates, settings."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from plain_lives import rows_of
from plain_training import runs_again_for_nothing

from metarl_lib.envs.agents import one_agent
from metarl_lib.envs.weight_space import WeightSpace
from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.experiments.hand_made import tune
from metarl_lib.experiments.layerwise import TEAMS, Config, agents, environment, evaluate
from metarl_lib.experiments.layerwise import run as run_experiment
from metarl_lib.experiments.learners import rebuild
from metarl_lib.runs import Run

SMALL = Config(
    hidden=4, samples=8, steps=5, rows=2, rollouts=2, epochs=1, minibatches=2, units=8,
    test_tasks=3, search_tasks=2, rates=(1e-3, 1e-2), sigma=0.05,
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run far below smoke scale, and how many updates each network's shape was given."""
    run = Run.create(tmp_path_factory.mktemp("r") / "r", "layerwise", SMALL, scale="smoke", seed=1)
    made: list[int] = []
    updates: dict[str, int] = {}
    real, save = WeightSpace.step, Run.save

    def counted(env, state, action, generator):
        made.append(len(state.time))
        return real(env, state, action, generator)

    def saved(own):
        for name in own._state["stages"]:
            updates.setdefault(name, sum(made))
        save(own)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # for speed
        patch.setattr(WeightSpace, "step", counted)
        patch.setattr(Run, "save", saved)
        rows = run_experiment(SMALL, run)
    return run, rows, updates


def test_every_team_learns_from_equally_many_updates(finished) -> None:
    """2 networks, 2 rollouts, 5 steps each; counted where the networks are changed."""
    run, rows, updates = finished
    totals = [0, *(updates[name] for name in TEAMS)]
    assert np.diff(totals).tolist() == [20] * 5
    budgets = {r["variant"]: r["budget"] for r in rows if r["metric"] == "training_return"}
    assert budgets == dict.fromkeys(TEAMS, 20)
    assert {name: run.stage(name).step for name in TEAMS} == budgets
    metrics = run.metrics()
    for name in TEAMS:
        curve = metrics[metrics["name"] == f"{name}/training_return"]
        assert curve["step"].tolist() == [10, 20]
        assert rows_of(rows)[name, "training_return"] == pytest.approx(curve["value"].tolist()[-1])


def test_independent_agents_learn_policies_of_their_own(finished) -> None:
    run, _, _ = finished
    own = run.stage("independent").tensors
    names = {name.split(".", 1)[1] for name in own}
    assert set(own) == {f"{agent}.{name}" for agent in range(3) for name in names}
    heads = [own[f"{agent}.action_net.weight"] for agent in range(3)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        pair = torch.stack([heads[i].flatten(), heads[j].flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.8  # from the very start
    env = agents(SMALL, "global")
    spaces = one_agent(env.observation_space), one_agent(env.action_space)
    policy = rebuild(run.tensors(), "independent.2", *spaces, SMALL.units)
    assert torch.equal(policy.action_net.weight, heads[2])


def test_rates_are_tuned_in_each_condition(finished) -> None:
    rows = finished[1]
    for place, condition in enumerate(("held_out", "deeper")):
        env = environment(SMALL, condition)
        for name in ("np", "wp", "np-normalised", "np-recipe"):
            expected = tune(env, name, SMALL.rates, 2, 1, 10 * place)
            assert rows_of(rows)[name, f"rate_{condition}"] == pytest.approx(expected)


def test_evaluating_repeats_the_rows_on_held_out_teachers_to_the_last_bit(finished) -> None:
    run, rows, _ = finished
    found = evaluate(SMALL, run.seed, run.tensors())
    names = [name for name in rows_of(found) if not name[1].endswith("_held_out")]
    assert sorted(metric for _, metric in names) == [
        *["loss_minus_shared"],
        *["loss_minus_single"] * 4,
    ]
    assert all(row in rows for row in found)
    kept = [r for r in rows if r["metric"].endswith("_held_out")]
    assert len(found) == len(kept) + 5


def test_a_second_run_of_a_finished_folder_logs_and_learns_nothing(finished, monkeypatch) -> None:
    run, rows, _ = finished
    monkeypatch.setattr("metarl_lib.experiments.layerwise.make_ppo", None)
    runs_again_for_nothing(run, rows, SMALL, run_experiment, monkeypatch)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("depth", 0, "depth=0: must be greater than 0"),
        ("rates", (1e-3, -1.0), "rates=0.001,-1.0: must be greater than 0"),
        ("discount", 2.0, "discount=2.0: must lie between 0 and 1"),
        ("steps", 0, "steps=0: must be greater than 0"),
        ("test_tasks", 0, "test_tasks=0: must be greater than 0"),
        ("sigma", math.inf, "sigma=inf: must be greater than 0 and finite"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(field, value, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        EXPERIMENTS["layerwise"].config("smoke", {field: value})
    assert "\n" not in str(refusal.value)
