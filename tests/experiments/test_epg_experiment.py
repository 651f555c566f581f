"""The experiment on evolved losses: its tasks, its readings, and a whole small run."""

import dataclasses

import pytest
import torch
from streams import stream

from metarl_lib.algos import Lives
from metarl_lib.algos.loss_network import LossNetwork
from metarl_lib.envs.point_robot import PointTasks
from metarl_lib.experiments import epg
from metarl_lib.experiments.epg_config import life_of
from metarl_lib.experiments.epg_evaluation import saved
from metarl_lib.experiments.epg_readings import PARTS, columns, cosine, pushes, without
from metarl_lib.experiments.epg_tasks import TASKS, episode_returns, steps_to_solve
from metarl_lib.experiments.meta_training import best_of
from metarl_lib.runs import DivergenceError, Run

SMOKE = epg.PRESETS["smoke"]


def test_goals_outside_lie_on_the_other_half() -> None:
    draws = TASKS["point"]().draws
    inside, outside = (draws[name](500, stream()).goal for name in ("test", "outside"))
    assert float(inside[:, 1].min()) >= 0
    assert float(outside[:, 1].max()) <= 0
    assert torch.allclose(outside.norm(dim=1), torch.ones(500), atol=1e-5)


def test_pendulums_outside_have_masses_that_never_occur() -> None:
    task = TASKS["pendulum"]()
    mass = [task.env.sample_tasks(2000, stream(), split).mass for split in ("train", "test")]
    assert min(float(m.min()) for m in mass) > 0.6999
    assert max(float(m.max()) for m in mass) < 1.3001
    outside = task.draws["outside"](400, stream())
    assert set(outside.mass.tolist()) == {0.5, 1.5}
    assert 100 < int((outside.mass > 1).sum()) < 300
    assert set(outside.gravity.tolist()) == {10.0}


def test_a_loss_can_be_evolved_for_a_robot() -> None:
    pytest.importorskip(
        "mujoco", reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'"
    )
    task = TASKS["cheetah"]()
    lives = Lives(task.env, life_of(SMOKE, "cheetah"))
    goals = task.draws["test"](2, stream())
    lived = lives.live(lives.network.initial(stream())[None], 0.0, 2, (0,), tasks=goals)
    assert lived.rewards.shape == (100, 1, 2)
    assert torch.isfinite(lived.fitness).all()
    assert lived.ended[-1].all()


def test_returns_and_steps_to_solve_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0], [1.0, 0.0]] * 6 + [[9.0, 0.0]])
    rewards[4:, 0] = 5.0
    returns = episode_returns(rewards, 2)
    assert returns[:, 0].tolist() == [2, 2, 10, 10, 10, 10]
    steps, solved = steps_to_solve(returns, 2, 7.0, 50)
    assert steps.tolist() == [8, 100]  # episodes 2, 3 and 4 are the first three of mean 7 or more
    assert solved.tolist() == [True, False]
    assert steps_to_solve(returns, 2, 10.0, 6)[0].tolist() == [10, 12]
    assert steps_to_solve(returns[:2], 2, 1.5, 2)[0].tolist() == [4, 4]


def test_columns_tile_what_is_described() -> None:
    network = LossNetwork(3, 2)
    names = ("observation", "action", "reward", "ended", "policy", "memory", "context")
    slices = [columns(network, name) for name in names]
    assert slices[0].start == 0
    assert all(a.stop == b.start for a, b in zip(slices, slices[1:], strict=False))
    assert slices[5].stop == network.described
    with pytest.raises(ValueError, match="part='colour' is unknown: choose one of observation"):
        columns(network, "colour")


@pytest.mark.parametrize("part", [*PARTS, "ended"])
def test_a_blinded_loss_is_the_loss_of_what_is_zero(part) -> None:
    """And it does respond to the part before it is blinded."""
    network, phi = LossNetwork(2, 2), LossNetwork(2, 2).initial(stream())
    x = torch.randn(1, 30, network.described, generator=stream(1))
    x[:, :, network.seen + 2 :] = x[:, :1, network.seen + 2 :]

    def loss(phi, x):
        losses = network.layers(phi[None])
        seen, mean, log_std, memory = x.split([network.seen, 2, 2, 32], 2)
        prepared = network.prepare(losses, seen, 30)
        constant = log_std[:, 0], memory[:, 0]
        return network(losses, prepared, mean, *constant, torch.arange(4)).item()

    blind = without(network, phi, part)
    zero = x.clone()
    if part != "context":
        zero[..., columns(network, part)] = 0
        assert loss(blind, x) == pytest.approx(loss(phi, zero), abs=1e-5)
        assert loss(blind, x) == pytest.approx(loss(blind, zero), abs=1e-5)
    else:
        far = x.clone()
        far[:, 4:26] += 1.0  # seen through the context alone
        assert loss(blind, x) == pytest.approx(loss(blind, far), abs=1e-5)
        assert loss(phi, x) != pytest.approx(loss(phi, far), abs=1e-3)
    assert loss(phi, x) != pytest.approx(loss(blind, x), abs=1e-3)


def test_pushes_are_slopes_of_the_loss() -> None:
    """Against finite differences, with a hand-made loss that pulls every mean to 1 as well."""
    task = TASKS["point"]()
    network = Lives(task.env, life_of(SMOKE, "point")).network
    phi = network.initial(stream(3))
    tasks = PointTasks(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.6, -0.8]]))
    found = pushes(task.env, network, phi, tasks, 40, -0.5, stream(4))
    assert found.push.shape == found.actions.shape == (3, 40, 2)
    assert float(found.actions.std()) == pytest.approx(2.718281828**-0.5, rel=0.2)
    assert torch.equal(found.observations[:, [0, 20]], torch.zeros(3, 2, 2)), "episodes begin anew"
    phi, losses = phi.double(), network.layers(phi.double()[None])
    ends = torch.zeros(3, 40, 1)
    ends[:, [19, 39]] = 1
    parts = [found.observations, found.actions, found.rewards[..., None], ends]
    described = torch.cat(parts, -1).double()

    def loss(mean):
        prepared = network.prepare(losses, described, 40)
        log_std, memory = torch.full((3, 2), -0.5).double(), torch.zeros(3, 32).double()
        return network(losses, prepared, mean, log_std, memory, torch.arange(40))

    for step, axis in ((0, 0), (17, 1), (39, 0)):
        nudge = torch.zeros(3, 40, 2, dtype=torch.float64)
        nudge[:, step, axis] = 1e-6
        slope = (loss(nudge) - loss(-nudge)) / 2e-6
        assert torch.allclose(-slope.float(), found.push[:, step, axis], atol=1e-5)
    ways = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[4.0, 3.0]]])
    assert cosine(*ways).item() == pytest.approx(24 / 25)


def test_a_small_run_resumes_evaluates_and_reports(tmp_path) -> None:
    config = dataclasses.replace(SMOKE, tasks=("point",))
    run = Run.create(tmp_path / "a", epg.NAME, config, scale="smoke", seed=1)
    rows = epg.run(config, run)
    run.finish(rows)
    values = {(r["variant"], r["metric"]): r["value"] for r in rows}
    assert len(values) == len(rows)
    for variant in ("epg", "ppo", "rl2-gru"):
        for condition in ("point_test", "point_outside"):
            assert -80 < values[variant, f"return_{condition}"] < 0
            assert 0 <= values[variant, f"solved_{condition}"] <= 1
    whole = config.of("ppo_life", "point") * 20
    assert {values[v, "steps_point_test"] for v in ("epg", "ppo", "rl2-gru")} == {whole}, (
        "nobody has learned anything yet, and shorter lives are no merit"
    )
    gain = values["ppo", "steps_point_test"] - values["epg", "steps_point_test"]
    assert values["ppo-minus-epg", "steps_point_test"] == pytest.approx(gain)
    returns = [values["epg", f"return_point_test@{t}"] for t in (20, 60)]
    assert values["epg", "gained_point_test"] == pytest.approx(returns[1] - returns[0], abs=1e-5)
    assert values["rl2-gru", "rate_point"] == config.rl2_rates[0]
    assert values["epg", "parameters_point"] == LossNetwork(2, 2).parameters
    for part in PARTS:
        assert (f"epg-without-{part}", "return_point_test") in values
    for metric in ("to_goal", "with_gradient"):
        assert -1 <= values["epg", f"{metric}_point_outside"] <= 1

    tensors = run.tensors()
    assert set(tensors) >= {"epg-point.phi"}
    for row in epg.evaluate(config, 1, tensors):
        assert row["value"] == pytest.approx(values[row["variant"], row["metric"]], abs=1e-6)

    again = Run.create(tmp_path / "b", epg.NAME, config, scale="smoke", seed=1)
    epg.evolve(again.stage("epg-point"), config, "point", 1)
    assert torch.equal(again.tensors()["epg-point.phi"], tensors["epg-point.phi"])
    epg.evolve(again.stage("epg-point"), config, "point", 1)  # finished: nothing is done


def test_an_interrupted_evolution_goes_on_bit_for_bit(tmp_path) -> None:
    config = dataclasses.replace(SMOKE, tasks=("point",), generations=(4, 1, 1))
    whole = Run.create(tmp_path / "a", epg.NAME, config, scale="smoke", seed=0)
    epg.evolve(whole.stage("epg-point"), config, "point", 0)
    part = Run.create(tmp_path / "b", epg.NAME, config, scale="smoke", seed=0)
    part.stopping = True
    with pytest.raises(KeyboardInterrupt):
        epg.evolve(part.stage("epg-point"), config, "point", 0)
    part.stopping = False
    assert part.stage("epg-point").step == 1
    epg.evolve(part.stage("epg-point"), config, "point", 0)
    name = "epg-point.phi"
    assert torch.equal(whole.tensors()[name], part.tensors()[name])


def test_the_best_setting_of_ppo_is_kept(tmp_path, monkeypatch) -> None:
    config = dataclasses.replace(
        SMOKE, tasks=("point",), ppo_rates=(1e-3, 2e-3), ppo_stretches=(2,), ppo_passes=(1, 2)
    )

    class Fake:
        def __init__(self, env, settings):
            self.settings = settings

        def live(self, phi, alpha, learners, key):
            assert phi is None
            assert alpha == 1.0
            score = self.settings.learner_rate == 2e-3 and self.settings.passes == 1
            return type("Lived", (), {"rewards": torch.full((2, 1, 1), float(score))})

    monkeypatch.setattr(epg, "Lives", Fake)
    run = Run.create(tmp_path / "a", epg.NAME, config, scale="smoke", seed=0)
    stage = run.stage("ppo-point")
    epg.tune(stage, config, "point", 0)
    assert stage.values == {"rate": 2e-3, "episodes": 2, "passes": 1, "score": 1.0}


def test_settings_of_ppo_with_which_it_diverges_are_not_chosen(tmp_path) -> None:
    run = Run.create(tmp_path / "a", epg.NAME, SMOKE, scale="smoke", seed=0)
    stage, alone = run.stage("ppo-point"), run.stage("alone")
    epg.tune(alone, dataclasses.replace(SMOKE, ppo_rates=(1e-2,)), "point", 0)
    epg.tune(stage, dataclasses.replace(SMOKE, ppo_rates=(1e30, 1e-2)), "point", 0)
    assert stage.values == alone.values
    with pytest.raises(DivergenceError, match=r"ppo_rates=\(1e\+30,\): every one diverged"):
        epg.tune(run.stage("b"), dataclasses.replace(SMOKE, ppo_rates=(1e30,)), "point", 0)


def test_the_best_rate_of_rl2_is_kept_and_what_diverged_is_not(tmp_path, monkeypatch) -> None:
    """Rewards grow from update to update, at a pace of the rate's; the last rate's are NaN."""
    config = dataclasses.replace(SMOKE, rl2_rates=(1e-3, 1e-2, 3e-3, 1.0), rl2_search=5)

    class Fake:
        def __init__(self, env, agent, settings, streams):
            assert settings.updates == 5
            self.rate, self.done = settings.learning_rate, 0

        def update(self):
            self.done += 1
            return {"reward": float("nan") if self.rate == 1 else self.rate * self.done}

    monkeypatch.setattr(epg, "PPO", Fake)
    run = Run.create(tmp_path / "a", epg.NAME, config, scale="smoke", seed=0)
    stage = run.stage("rl2-search-point")
    epg.tune_rl2(stage, config, "point", 0)
    assert stage.values == {"rate": 1e-2, "score": pytest.approx(1e-2 * (3 + 4 + 5) / 3)}
    assert best_of({"a": float("nan"), "b": -3.0}) == "b"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": ("walk",)}, "tasks='walk' is unknown"),
        ({"life": (4,)}, r"life=\(4,\): needs a number for each of point, pendulum, cheetah"),
        ({"ppo_lives": 0}, "ppo_lives=0: must be greater than 0"),
        ({"minibatch": (7, 50, 50)}, "minibatch=7: must divide stretch=20"),
        ({"losses": 5}, "losses=5: must be even"),
        ({"rl2_rows": 0}, "rl2_rows=0: must be a whole number >= 1"),
        ({"rl2_segment": 0}, "rl2_segment=0: must be a whole number >= 1"),
        ({"ppo_stretches": (2, 5)}, "ppo_stretches=5: must divide ppo_life=6"),
    ],
)
def test_bad_fields_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        dataclasses.replace(SMOKE, **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("by_ppo", "more"), [([-9.0, -8.0, -5.0, -6.0], 60 - 60), ([-9.0] * 4, 120 - 60)]
)
def test_steps_until_ppo_returns_as_much(by_ppo, more) -> None:
    """With the point: a life of three episodes of 20 steps by the loss, of six by PPO."""
    assert (SMOKE.of("life", "point"), SMOKE.of("ppo_life", "point")) == (3, 6)
    rows = [
        {"variant": v, "metric": m, "value": value, "budget": 1}
        for v, m, value in (
            ("epg", "steps_point_test", 70.0), ("ppo", "steps_point_test", 110.0),
            ("epg", "return_point_test", -5.5), ("epg", "return_point_test@20", -4.0),
            ("rl2-gru", "return_point_test@20", 0.0), ("ppo", "return_point_test", -1.0),
            ("ppo", "return_point_outside@20", 0.0),
            *((("ppo", f"return_point_test@{20 * k}", r) for k, r in enumerate(by_ppo, 1))),
        )
    ]  # fmt: skip
    assert {r["metric"]: r["value"] for r in saved(SMOKE, rows, "point")} == {
        "steps_point_test": 40.0, "same_point_test": more,
    }  # fmt: skip
