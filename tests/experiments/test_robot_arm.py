"""The experiments on Meta-World: what agents are made of, and every number of a test by hand."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip(
    "metaworld", reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'"
)

from metarl_lib.algos import PPO, MAMLPolicy
from metarl_lib.cores import GRU, MetODS
from metarl_lib.envs.manipulation import Manipulation, ManipulationTasks
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments import ml1_push, ml1_reach, ml10, robot_arm
from metarl_lib.experiments.meta_agents import parameters_of
from metarl_lib.experiments.meta_training import streams_of
from metarl_lib.runs import Run, generator

STEPS, EPISODES, TRIALS, SEED = 4, 3, 3, 5
SMALL = replace(
    robot_arm.PRESETS["smoke"], steps=STEPS, episodes=EPISODES, test_trials=TRIALS, num_units=5
)
REACH = "reach-v3"
pytestmark = pytest.mark.xdist_group("metaworld")  # whose tasks take seconds to draw


def agent(variant: str):
    return robot_arm.make_agent(REACH, SMALL, variant, SEED)


def lives(model, split, wiped=False):
    """Rewards and successes `[T, B]`, by a loop of our own over steps."""
    env = Trial(Manipulation(REACH, STEPS), EPISODES)
    tasks = env.sample_tasks(TRIALS, generator(SEED, "evaluation"), split)
    stream = generator(SEED, "evaluation", 1)
    state, seen = env.reset(tasks, stream)
    memory, rewards, met = model.initial_state(TRIALS), [], []
    with torch.no_grad():
        for _ in range(STEPS * EPISODES):
            out = model.step(seen, model.initial_state(TRIALS) if wiped else memory)
            noise = torch.empty_like(out.policy.mean).normal_(generator=stream)
            action = (out.policy.mean + out.policy.stddev * noise).clamp(-1, 1)
            state, step = env.step(state, action, stream)
            memory, seen = out.state, step.observation
            rewards.append(step.reward)
            met.append(step.info["success"])
    return torch.stack(rewards), torch.stack(met)


def test_agents_are_what_their_names_say() -> None:
    kinds = {name: agent(name) for name in robot_arm.AGENTS}
    assert [kinds[f"metods-linear-S{s}"].core.depth for s in (4, 1)] == [4, 1]
    assert isinstance(kinds["metods-linear-S4"].core, MetODS)
    assert kinds["metods-linear-S4"].core.bounded
    assert kinds["metods-linear-S1"].core.bounded
    assert isinstance(kinds["gru-matched"].core, GRU)
    assert isinstance(kinds["maml"], MAMLPolicy)
    assert kinds["maml"].standardised
    assert {model.inputs for model in kinds.values()} == {39 + 4 + 1 + 1}
    assert all(model.seen is not None for model in kinds.values())


def test_at_full_scale_the_gated_agent_has_as_many_parameters_and_the_budget_is_kept() -> None:
    for experiment, benchmark in ((ml1_reach, REACH), (ml1_push, "push-v3"), (ml10, "ML10")):
        assert experiment.EXPERIMENT.run.args == (benchmark,)
        config = replace(experiment.EXPERIMENT.config("full"), compile=False)
        assert config.rows * config.segment * config.updates >= 25 * 10**4
        assert (config.steps, config.episodes) == (150, 10)
    config = replace(config, steps=STEPS)
    count = {
        name: parameters_of(robot_arm.make_agent(REACH, config, name))
        for name in ("metods-linear-S4", "gru-matched")
    }
    assert abs(count["gru-matched"] / count["metods-linear-S4"] - 1) < 0.03


def test_maml_is_trained_on_whole_trials_for_as_many_steps() -> None:
    config = replace(robot_arm.PRESETS["full"], compile=False)
    settings = robot_arm.settings_of(config, "maml", 0.5)
    assert (settings.segment, settings.updates, settings.minibatches) == (1500, 40, 10)
    for field in ("updates", "search"):
        steps = [c.rows * c.segment * getattr(c, field) for c in (settings, config)]
        assert steps[0] == steps[1]
    assert settings.learning_rate == 0.5
    other = robot_arm.settings_of(config, "metods-linear-S4", 0.5)
    assert other == replace(config, learning_rate=0.5)


def test_the_rate_is_that_at_which_the_training_begins_best(tmp_path) -> None:
    config = replace(SMALL, search=2, updates=3, rates=(1e-4, 1e-1))
    run = Run.create(tmp_path / "r", "ml1_reach", config, scale="smoke", seed=SEED)
    robot_arm.train(REACH, config, run, "metods-linear-S4")
    late = {}
    for rate in config.rates:
        model = robot_arm.make_agent(REACH, config, "metods-linear-S4", SEED)
        settings = robot_arm.settings_of(config, "metods-linear-S4", rate)
        env = Trial(Manipulation(REACH, STEPS), EPISODES)
        training = PPO(env, model, settings, streams_of(SEED, 0))
        late[rate] = [training.update()["reward"] for _ in range(2)][1]
    values = run.stage("metods-linear-S4-rate").values
    assert values["rate"] == max(late, key=lambda rate: late[rate])
    assert values["score"] == pytest.approx(max(late.values()))
    assert run.stage("metods-linear-S4").step == config.rows * config.segment * 3


def test_outcomes_are_counted_by_episodes() -> None:
    """Two rows of three episodes of two steps."""
    met = torch.tensor([[0, 1], [0, 0], [0, 0], [1, 0], [1, 0], [0, 0]]).bool()
    rewards = torch.arange(12.0).reshape(6, 2)
    found = robot_arm.outcomes(rewards, met, 3)
    assert [found[f"success@{k}"].tolist() for k in (1, 2, 3)] == [[0, 1], [1, 0], [1, 0]]
    assert found["success"].tolist() == [1, 0]
    assert found["return"].tolist() == [10.0, 12.0]
    assert [found[f"return@{k}"].tolist() for k in (1, 2, 3)] == [[2, 4], [10, 12], [18, 20]]
    assert set(found) == {
        "success", "return", *(f"{name}@{k}" for name in ("success", "return") for k in (1, 2, 3))
    }  # fmt: skip


def test_successes_are_counted_kind_by_kind() -> None:
    """Three rows of two episodes of two steps; two of them have tasks of one kind."""
    met = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]]).bool()
    tasks = ManipulationTasks(torch.tensor([2, 0, 2]), torch.tensor([0, 1, 2]))
    found = robot_arm.by_kind(("reach", "push", "door"), tasks, met, 2)
    assert {k: v.tolist() for k, v in found.items()} == {
        "success:reach": [0.5], "success:door": [0.5, 0.5],
    }  # fmt: skip


def test_with_ten_kinds_each_has_its_own_row(monkeypatch) -> None:
    stream = generator(SEED, "evaluation")

    def live(*_, **__):
        rewards = torch.rand(STEPS * EPISODES, TRIALS, generator=stream)
        return rewards, rewards > 0.8

    monkeypatch.setattr(robot_arm, "live", live)
    model = robot_arm.make_agent("ML10", SMALL, "gru-matched", SEED)
    rows = robot_arm.test("ML10", SMALL, SEED, model, "gru-matched")
    found = {r["metric"]: r["value"] for r in rows}
    env = robot_arm.arm_of("ML10", SMALL)
    for split in ("train", "test"):
        tasks = robot_arm.drawn("ML10", SMALL, SEED, split)
        each = [found[f"success:{env.kinds[kind]}"] for kind in tasks.kind.tolist()]
        mean = sum(found[f"{split}_success@{k + 1}"] for k in range(EPISODES)) / EPISODES
        assert 0 < mean < 1
        assert sum(each) / TRIALS == pytest.approx(mean)


def test_every_number_of_a_test_is_that_of_a_loop(monkeypatch) -> None:
    model = agent("metods-linear-S4")
    found = {
        r["metric"]: r["value"] for r in robot_arm.test(REACH, SMALL, SEED, model, "gru-matched")
    }
    for split in ("train", "test"):
        rewards, met = lives(model, split)
        assert found[f"{split}_return"] == pytest.approx(float(rewards.sum(0).mean()) / 3, rel=1e-4)
        for k in range(EPISODES):
            earned = rewards[STEPS * k : STEPS * (k + 1)].sum(0).mean()
            assert found[f"{split}_return@{k + 1}"] == pytest.approx(float(earned), rel=1e-4)
            share = met[STEPS * k : STEPS * (k + 1)].any(0).float().mean()
            assert found[f"{split}_success@{k + 1}"] == pytest.approx(float(share))
    assert found["train_return"] != found["test_return"]
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    wiped = []
    monkeypatch.setattr(
        robot_arm, "play", lambda *_, **options: wiped.append(options["wiped"]) or _played()
    )
    robot_arm.test(REACH, SMALL, SEED, model, "gru-matched")
    assert wiped == [False, False, True]


def _played():
    from metarl_lib.experiments.meta_training import Played

    flags = torch.ones(STEPS * EPISODES, TRIALS, dtype=torch.bool)
    return Played(flags.float(), flags, flags, {"success": flags})


def test_published_agents_are_tested_again_as_they_were() -> None:
    model = agent("maml")
    tensors = {f"maml.{k}": t for k, t in model.state_dict().items()}
    config = replace(SMALL, variants=("maml",))
    found = robot_arm.evaluate(REACH, config, SEED, tensors)
    rewards, _ = lives(model, "test")
    row = next(r for r in found if r["metric"] == "test_return")
    assert row["variant"] == "maml"
    assert row["value"] == pytest.approx(float(rewards.sum(0).mean()) / 3, rel=1e-4)


def test_what_is_unknown_or_out_of_range_is_one_line() -> None:
    for name, value, said in (
        ("variants", ("lstm",), "variants"), ("episodes", 0, "episodes=0: must be"),
        ("test_trials", 0, "test_trials=0: must be"), ("workers", 0, "workers=0: must be"),
        ("reward", "v3", "reward='v3' is unknown: choose one of v2, v1"),
        ("steps", 600, "steps=600: must be at most 500, as in Meta-World"),
        ("task_seed", -1, "task_seed=-1: must be 0 or more"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said) as refusal:
            replace(SMALL, **{name: value})
        assert "\n" not in str(refusal.value)
