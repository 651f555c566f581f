"""The methods on one task: the same tasks as on the page on evolved losses, and exact bounds."""

from dataclasses import replace

import pytest
import torch

from metarl_lib.algos import AfterSteps, MAMLPolicy, PEARLAgent
from metarl_lib.envs.point_robot import PointTasks
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments import epg, one_table, pearl
from metarl_lib.experiments.epg_evaluation import conditions
from metarl_lib.experiments.epg_tasks import TASKS
from metarl_lib.experiments.from_scratch import live
from metarl_lib.experiments.meta_training import streams_of
from metarl_lib.runs import Run

SMALL = one_table.PRESETS["smoke"]
FULL = replace(one_table.PRESETS["full"], compile=False)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[tuple[str, str], float]:
    run = Run.create(
        tmp_path_factory.mktemp("run") / "r", "one_table", SMALL, scale="smoke", seed=3
    )
    found = one_table.run(SMALL, run)
    again = one_table.evaluate(SMALL, 3, run.tensors())
    values = {(r["variant"], r["metric"]): r["value"] for r in found}
    assert len(again) >= 10
    assert all(values[r["variant"], r["metric"]] == r["value"] for r in again)
    return values


def test_every_method_is_measured_as_evolved_losses_are(rows) -> None:
    kinds = {"steps", "solved", "return", "gained"}
    for variant in one_table.TRAINED:
        for condition in ("point_test", "point_outside"):
            assert kinds <= {m.removesuffix(f"_{condition}") for v, m in rows if v == variant}
            every = [rows[variant, f"return_{condition}@{20 * k}"] for k in (1, 2)]
            assert rows[variant, f"return_{condition}"] == pytest.approx(every[-1])
            gained = rows[variant, f"gained_{condition}"]
            assert gained == pytest.approx(every[1] - every[0], abs=1e-4)


def test_who_learns_from_nothing_meets_the_same_tasks_and_its_life_is_longer(rows) -> None:
    borrowed = epg.PRESETS["smoke"]
    life = borrowed.of("ppo_life", "point")
    for variant in one_table.VARIANTS[4:]:
        for place, name in enumerate(("point_test", "point_outside")):
            _, tasks, _ = conditions(borrowed, 3, TASKS["point"](), "point")[place]
            lived = live(
                one_table.robot(), PointTasks(tasks.goal[: SMALL.scratch_lives]), variant,
                (3e-3, 0.8), life, 3, hidden=borrowed.hidden, log_std=SMALL.log_std,
            )  # fmt: skip
            for k, returned in enumerate(20 * lived.rewards.mean(1), start=1):
                found = rows[variant, f"return_{name}@{20 * k}"]
                assert found == pytest.approx(float(returned), rel=1e-5)
            shown = rows[variant, f"return_{name}@{20 * SMALL.episodes}"]
            assert rows[variant, f"return_{name}"] == pytest.approx(shown)
        assert rows[variant, "rate"] == pytest.approx(3e-3)
        assert (rows[variant, "discount_end"] != pytest.approx(0.8, abs=1e-6)) == (
            variant == "meta-gradient"
        )


def test_no_one_earns_more_than_who_knows_and_blind_is_between(rows) -> None:
    for condition in ("point_test", "point_outside"):
        told = rows["shortest-path", f"return_{condition}"]
        blind = rows["blind", f"return_{condition}"]
        assert -20 < blind < told < -3
        for variant in one_table.VARIANTS:
            assert rows[variant, f"return_{condition}"] < told


def test_the_best_blind_path_is_found_among_all_places() -> None:
    """Against a search over places in the plane, with goals of our own."""
    angles = torch.linspace(0, torch.pi, 41)
    tasks = PointTasks(torch.stack([angles.cos(), angles.sin()], -1))
    places = torch.cartesian_prod(torch.linspace(-0.6, 0.6, 13), torch.linspace(-0.4, 1, 15))
    anywhere = max(one_table.returned(tasks, place) for place in places)
    on_axis = max(
        one_table.returned(tasks, torch.tensor([0.0, float(y)]))
        for y in torch.linspace(-1, 1, one_table.BLIND)
    )
    assert on_axis >= anywhere - 1e-4
    by_loop = -sum(
        float((torch.tensor([0.0, min(0.1 * t, 0.3)]) - tasks.goal).norm(dim=1).mean())
        for t in range(1, 21)
    )
    assert one_table.returned(tasks, torch.tensor([0.0, 0.3])) == pytest.approx(by_loop, abs=1e-4)


def test_tasks_and_lives_are_those_of_the_page_on_evolved_losses() -> None:
    other = epg.EXPERIMENT.config("full")
    assert FULL.episodes == other.of("life", "point")
    assert FULL.segment == FULL.episodes * TASKS["point"]().env.max_steps
    steps = other.rl2_rows * other.rl2_segment * other.of("rl2_updates", "point")
    for variant in one_table.TRAINED:
        assert one_table.steps_of(FULL, variant) == pytest.approx(steps, rel=0.02)
    assert [name for name, *_ in conditions(other, 0, TASKS["point"](), "point")] == [
        "point_test", "point_outside"
    ]  # fmt: skip


def test_agents_are_what_their_names_say() -> None:
    agents = {v: one_table.make_agent(SMALL, v) for v in one_table.TRAINED}
    assert [agents[v].core.bounded for v in one_table.TRAINED[:2]] == [False, True]
    assert agents["metods-linear-S4"].core.depth == 4
    assert isinstance(agents["maml"], MAMLPolicy)
    assert isinstance(agents["pearl"], PEARLAgent)
    assert one_table.algorithm_of("maml") is AfterSteps
    assert one_table.ppo_settings(FULL, "maml", 0.1).value_weight == 0
    assert one_table.ppo_settings(FULL, "metods-linear-S4", 0.1).value_weight > 0
    settings = one_table.pearl_settings(FULL)
    assert (settings.prior_episodes, settings.posterior_episodes) == (4, 4)
    dense = pearl.settings_of(pearl.EXPERIMENT.config("full"), "pearl-dense")
    assert settings.kl_weight == dense.kl_weight


def test_a_rate_is_judged_by_how_the_training_begins(tmp_path) -> None:
    config = replace(SMALL, variants=("maml",), updates=4, search=2, rates=(1e-3, 3e-2))
    run = Run.create(tmp_path / "r", "one_table", config, scale="smoke", seed=3)
    one_table.train(config, run, "maml")
    search, trained = run.stage("maml-rate"), run.stage("maml")
    begun, score = {}, {}
    for rate in config.rates:
        training = one_table.algorithm_of("maml")(
            Trial(one_table.robot(), config.episodes), one_table.make_agent(config, "maml", 3),
            one_table.ppo_settings(config, "maml", rate), streams_of(3, one_table.index_of("maml")),
        )  # fmt: skip
        score[rate] = [training.update()["reward"] for _ in range(2)][1]
        begun[rate] = training
    best = max(score, key=lambda rate: score[rate])
    assert search.values["rate"] == best
    assert search.values["score"] == pytest.approx(score[best])
    for _ in range(2):
        begun[best].update()
    whole = begun[best].model.state_dict()
    assert trained.tensors.keys() == whole.keys()
    assert all(torch.equal(trained.tensors[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"segment": 50}, "segment=50: must be 40, so that as many"),
        ({"variants": ("sgd",)}, "variants='sgd' is unknown"),
        ({"borrowed": "huge"}, "borrowed='huge' is unknown"),
        ({"search": 0}, "search=0"),
        ({"scratch_discounts": (0.8, 1.0)}, "scratch_discounts=0.8,1.0: must lie strictly between"),
        ({"scratch_discounts": ()}, "scratch_discounts=: must lie strictly between"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        replace(SMALL, **options)
    assert "\n" not in str(refusal.value)
