"""Visits as the thesis made them: ranges, pools that go on, counts, and networks that are built."""

import math

import numpy as np
import pytest
import torch
from gymnasium.wrappers import NormalizeObservation
from streams import stream

from metarl_lib.envs.adapters import SingleEnv
from metarl_lib.envs.layer_pool_thesis import ThesisLayerPool
from metarl_lib.experiments import thesis_pool, thesis_visits
from metarl_lib.experiments.protocols import torch_default_init
from metarl_lib.experiments.thesis_pool import (
    Builder,
    few_shots,
    thesis_rows,
    train_thesis,
)
from metarl_lib.experiments.thesis_visits import TASKS, Visits
from metarl_lib.rules import Network

pytestmark = pytest.mark.usefixtures("fast")

CURVE = (0, 2, 9)
SHORT = {"timesteps": 24, "inner_steps": 2, "n_steps": 8, "batch_size": 8, "n_epochs": 1}


def losses_of(visits: Visits, task: int, **options) -> tuple[list[list[float]], object]:
    """The losses of each episode of a visit."""
    episodes: list[list[float]] = [[]]
    original = ThesisLayerPool.step

    def watched(env, state, action, generator):
        after, step = original(env, state, action, generator)
        episodes[-1].append(float(step.info["loss"]))
        if bool(step.terminated):
            episodes.append([])
        return after, step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThesisLayerPool, "step", watched)
        diary = visits.visit(task, **options)
    return episodes, diary


@pytest.mark.parametrize("kind", ["recurrent-ppo", "ppo"])
def test_the_range_takes_in_all_losses_first_and_then_those_of_the_last_episode(kind) -> None:
    visits = Visits(kind, 3, **SHORT)
    episodes, diary = losses_of(visits, 2, calibrate=True)
    met = [loss for episode in episodes for loss in episode]
    assert len(met) == diary.steps == 24
    assert visits.bounds[2] == [pytest.approx(min(met)), pytest.approx(max(met))]
    assert visits.bounds[1] == [math.inf, -math.inf]
    low, high = visits.bounds[2] = [0.5, 0.6]
    episodes, diary = losses_of(visits, 2)
    assert len(diary.final) == len(diary.returns) == len(episodes) - 1
    assert diary.final == [pytest.approx(e[-1]) for e in episodes[:-1]]
    last = episodes[-1] or []
    assert visits.bounds[2] == [min(low, *last, low), max(high, *last, high)]


def test_the_pool_goes_on_from_visit_to_visit() -> None:
    visits = Visits("ppo", 3, **SHORT)
    pools = [visits.pool]
    for task in (0, 1):
        visits.visit(task, calibrate=True)
        pools.append(visits.pool)
    for before, after in zip(pools[:-1], pools[1:], strict=True):
        changed = (before.hidden_weight != after.hidden_weight).flatten(2).any(-1)
        assert 0 < int(changed.sum()) < 21
    assert pools[0].hidden_weight.shape == (1, 21, 40, 40)


def test_a_stage_holds_the_pool_and_what_networks_are_worth(run, monkeypatch) -> None:
    monkeypatch.setattr(thesis_pool, "CURVE", CURVE)
    for module in (thesis_pool, thesis_visits):
        monkeypatch.setattr(module, "TASKS", 3)
    stage = run.stage("thesis-ppo")
    options = {"epochs": 1, "rate": 0.01, "shots": (5,), **SHORT}
    train_thesis(stage, "ppo", 2, **options)
    names = {name.removeprefix("thesis-ppo/") for name in run.metrics()["name"]}
    assert {"errors", "return", "positive_returns", "errors_per_episode"} <= names
    assert set(stage.tensors) == {f"pool.{name}" for name in Visits("ppo", 2).pool._fields}
    rows = {(row["variant"], row["metric"]): row["value"] for row in thesis_rows(stage)}
    variants = {"thesis", "thesis-untrained", "thesis-no-leak", "thesis-untrained-no-leak",
                "thesis-fresh-pool", "thesis-scratch"}  # fmt: skip
    wanted = {f"{part}_mse@{step}" for part in ("train", "eval") for step in CURVE}
    built = {"train_errors", "eval_errors"}
    assert {v for v, _ in rows} == variants | {f"{v}-k5" for v in variants}
    for variant in variants:
        found = {m for v, m in rows if v == variant}
        assert found == (wanted if variant == "thesis-scratch" else wanted | built)
        few = {m for v, m in rows if v == f"{variant}-k5"}
        assert few == {"mse_0_steps", "mse_1_step", "mse_10_steps"}
    assert rows["thesis-scratch", "eval_mse@9"] < rows["thesis-scratch", "eval_mse@0"]
    before = dict(stage.values)
    train_thesis(run.stage("thesis-ppo"), "ppo", 9, **options)
    assert run.stage("thesis-ppo").values == before


def test_without_the_leak_networks_are_made_of_the_pool_as_it_is() -> None:
    visits = Visits("ppo", 5, **SHORT)
    for steps in (0, 2):
        builder = Builder(visits, visits.model.policy, None, steps)
        params = builder.build(TASKS - 1)
        hidden = [p[0] for p in params[2:8:2]]
        stored = list(builder.env.pool.hidden_weight)
        same = [any(torch.equal(p, layer) for layer in stored) for p in hidden]
        assert same == [steps == 0] * 3
    again = Builder(visits, visits.model.policy, None, 2).build(TASKS - 1)
    assert all(map(torch.equal, params, again))


def test_few_points_are_learned_from_and_all_judge() -> None:
    env = ThesisLayerPool(inner_steps=1)
    params = [p.unsqueeze(0) for p in torch_default_init(env.network, stream(1))]
    found = few_shots(env, 3, params, 0.01, 5, stream(2))
    chosen = torch.randperm(100, generator=stream(2))[:5]
    for steps, name in ((0, "mse_0_steps"), (1, "mse_1_step"), (10, "mse_10_steps")):
        leaves = [p[0].clone().requires_grad_() for p in params]
        network = Network((1, 40, 40, 40, 40, 1), bias=True)
        optimiser = torch.optim.Adam(leaves, lr=0.01)
        for _ in range(steps):
            optimiser.zero_grad()
            (network(leaves, env.x[chosen]) - env.y[3][chosen]).square().mean().backward()
            optimiser.step()
        error = (network(leaves, env.x) - env.y[3]).square().mean()
        assert float(found[name]) == pytest.approx(error.item(), rel=1e-3)


def test_an_epochs_return_adds_up_what_the_visits_ends_cut_off(monkeypatch) -> None:
    visits, cut = Visits("ppo", 3, **SHORT), []

    def watched(task, *, calibrate=False):
        episodes: list[list[float]] = [[]]
        original = ThesisLayerPool.step

        def step(env, state, action, generator):
            after, step = original(env, state, action, generator)
            episodes[-1].append(float(step.reward))
            if bool(step.terminated):
                episodes.append([])
            return after, step

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ThesisLayerPool, "step", step)
            diary = Visits.visit(visits, task, calibrate=calibrate)
        cut.append(sum(episodes[-1]))
        assert diary.returns == [pytest.approx(sum(e), abs=1e-5) for e in episodes[:-1]]
        return diary

    monkeypatch.setattr(visits, "visit", watched)
    visits.round(calibrate=True)
    cut.clear()
    values = visits.round()
    assert len(cut) == TASKS - 1
    assert min(cut) < -0.5
    assert values["epoch_return"] == pytest.approx(sum(cut), abs=1e-4)


def test_a_policy_sees_what_gymnasiums_wrapper_would_show_it(monkeypatch) -> None:
    """Observations normalised by running means that start anew with a task and settle."""
    monkeypatch.setattr(thesis_pool, "WARM_UP", 3)
    visits = Visits("ppo", 5, **SHORT)
    builder, shown, raw = Builder(visits, visits.model.policy, None, 0), [], []
    act, reset, step = builder._act, builder.env.reset, builder.env.step

    def watched(seen, memory, t):
        shown.append(seen[0])
        return act(seen, memory, t)

    def watched_reset(*given):
        state, seen = reset(*given)
        raw.append(seen[0].numpy())
        return state, seen

    def watched_step(*given):
        state, found = step(*given)
        if not bool(found.terminated):
            raw.append(found.observation[0].numpy())
        return state, found

    monkeypatch.setattr(builder, "_act", watched)
    monkeypatch.setattr(builder.env, "reset", watched_reset)
    monkeypatch.setattr(builder.env, "step", watched_step)
    for task in (1, TASKS - 1):
        shown.clear(), raw.clear()
        builder.build(task)
        wrapper = NormalizeObservation(SingleEnv(ThesisLayerPool(inner_steps=0)))
        expected = [wrapper.observation(seen) for seen in raw]
        assert len(shown) > 4 * 5
        np.testing.assert_allclose(np.stack(shown), np.stack(expected), atol=1e-5)
