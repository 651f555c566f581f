"""The experiments on robots: what agents are made of, and every number of a test by hand."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip(
    "mujoco", reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'"
)

from metarl_lib.algos import ActorCritic, MAMLPolicy
from metarl_lib.cores import GRU, MetODS
from metarl_lib.envs.locomotion import AntDir, CheetahDir, CheetahVel
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments import ant_dir, cheetah_dir, cheetah_vel, robots
from metarl_lib.experiments.meta_agents import parameters_of
from metarl_lib.runs import generator

STEPS, TRIALS, SEED = 10, 12, 3
SMALL = replace(
    robots.PRESETS["smoke"], segment=STEPS, test_trials=TRIALS, num_units=5, encoder_units=6,
    maml_horizon=4,
)  # fmt: skip
KNOWN = robots.variants(7)


def agent(variant: str, make=CheetahDir):
    return robots.make_agent(make, SMALL, variant, robots.variants(7), SEED)


def lives(
    variant: str, model, goal="hidden", impaired=None, trials=TRIALS, reward=True, wiped=False
):
    """Rewards `[T, B]`, by a loop of our own over steps."""
    env = Trial(CheetahDir(STEPS, impaired, goal), reward_input=reward)
    tasks = env.sample_tasks(trials, generator(SEED, "evaluation"), "test")
    stream = generator(SEED, "evaluation", 1)
    state, seen = env.reset(tasks, stream)
    memory, rewards = model.initial_state(trials), []
    with torch.no_grad():
        for _ in range(STEPS):
            out = model.step(seen, model.initial_state(trials) if wiped else memory)
            noise = torch.empty_like(out.policy.mean).normal_(generator=stream)
            action = (out.policy.mean + out.policy.stddev * noise).clamp(-1, 1)
            state, step = env.step(state, action, stream)
            memory, seen = out.state, step.observation
            rewards.append(step.reward)
    return torch.stack(rewards)


def test_agents_are_what_their_names_say() -> None:
    kinds = {name: agent(name) for name in KNOWN}
    assert [kinds[f"metods-linear-S{s}"].core.depth for s in (4, 1)] == [4, 1]
    assert isinstance(kinds["gru-matched"].core, GRU)
    assert isinstance(kinds["maml"], MAMLPolicy)
    assert kinds["maml"].log_rates[0].requires_grad
    assert kinds["told"].inputs == kinds["gru-matched"].inputs + 1
    for model in kinds.values():
        assert model.seen is not None, "what is seen is normalised"
        assert isinstance(model.value_unit, torch.Tensor), "so is what is earned"
        assert model.log_std.tolist() == [-0.5] * 6
    assert isinstance(kinds["metods-linear-S4"].core, MetODS)
    bounded = kinds["metods-bounded-S4"].core
    assert (bounded.depth, bounded.bounded) == (4, True)
    assert not kinds["metods-linear-S4"].core.bounded
    assert isinstance(kinds["metods-linear-S4"], ActorCritic)


@pytest.mark.parametrize("experiment", [ant_dir, cheetah_dir, cheetah_vel])
def test_the_gated_agent_has_as_many_parameters_at_full_scale(experiment) -> None:
    make, known = experiment.EXPERIMENT.run.args
    config = replace(experiment.EXPERIMENT.config("full"), compile=False)
    count = {
        name: parameters_of(robots.make_agent(make, config, name, known))
        for name in ("metods-linear-S4", "gru-matched")
    }
    assert abs(count["gru-matched"] / count["metods-linear-S4"] - 1) < 0.03
    assert make(steps=3).action_space.shape[0] + 1 == {AntDir: 9}.get(make, 7)
    assert config.rows * config.segment * config.updates >= 8 * 10**5


def test_agents_learn_at_their_own_rates() -> None:
    rates = replace(SMALL, learning_rate=0.1, gru_learning_rate=0.2, maml_learning_rate=0.3)
    found = {name: robots.settings_of(rates, name).learning_rate for name in KNOWN}
    assert found == {
        "metods-linear-S4": 0.1, "metods-linear-S1": 0.1, "gru-matched": 0.2, "maml": 0.3,
        "told": 0.2, "metods-bounded-S4": 0.1,
    }  # fmt: skip


def test_every_number_of_a_test_is_that_of_a_loop() -> None:
    model = agent("metods-linear-S4")
    rows = robots.test(CheetahDir, SMALL, SEED, model, "metods-linear-S4", "hidden")
    found = {r["metric"]: r["value"] for r in rows}
    rewards = lives("metods-linear-S4", model)
    returns = rewards.sum(0).mean()
    expected = {
        "return": returns,
        "return_early": rewards[:5].sum(0).mean(),
        "return_late": rewards[5:].sum(0).mean(),
        "reward@5": rewards[:5].mean(),
        "reward@10": rewards[5:].mean(),
        "return_wiped": lives("", model, wiped=True).sum(0).mean(),
        "return_without_reward": lives("", model, reward=False).sum(0).mean(),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    each = [lives("", model, impaired=k, trials=2).sum(0).mean() for k in range(6)]
    expected |= {f"return_impaired_{k}": value for k, value in enumerate(each)}
    expected["return_impaired"] = sum(each) / 6
    expected["retained"] = expected["return_impaired"] / returns
    assert set(found) == {*expected, "return_greedy"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    assert found["return_wiped"] != found["return"] != found["return_greedy"]
    assert {r["budget"] for r in rows} == {SMALL.rows * STEPS * SMALL.updates}


def test_an_agent_that_sees_the_goal_is_tested_with_the_goal_in_view() -> None:
    model = agent("told")
    rows = robots.test(CheetahDir, SMALL, SEED, model, "told", "visible")
    found = {r["metric"]: r["value"] for r in rows}
    rewards = lives("", model, goal="visible")
    assert found["return"] == pytest.approx(float(rewards.sum(0).mean()), rel=1e-4)


def test_a_still_ant_earns_its_health_and_how_far_it_slides() -> None:
    """What is paid for a way telescopes to the place at its end."""
    config = replace(SMALL, segment=40)
    rows = {r["variant"]: r["value"] for r in robots.by_hand(AntDir, config, SEED)}
    env = AntDir(steps=40)
    stream = generator(SEED, "evaluation", 2)
    tasks = env.sample_tasks(TRIALS, generator(SEED, "evaluation"), "test")
    state, _ = env.reset(tasks, stream)
    start = env.physics.positions(state.physics)[:, :2].clone()
    for _ in range(40):
        torch.rand(TRIALS, 8, generator=stream)
        state, _ = env.step(state, torch.zeros(TRIALS, 8), stream)
    slid = ((env.physics.positions(state.physics)[:, :2] - start) * tasks.goal).sum(1)
    expected = 40 + float(slid.mean()) / env.physics.seconds
    assert rows["still"] == pytest.approx(expected, rel=1e-5)
    assert rows["random"] < rows["still"]


def test_published_agents_are_tested_again_as_they_were() -> None:
    tensors = {}
    for variant in ("metods-linear-S4", "maml"):
        tensors |= {f"{variant}.{k}": t for k, t in agent(variant).state_dict().items()}
    config = replace(SMALL, variants=("metods-linear-S4", "maml"))
    found = robots.evaluate(CheetahDir, KNOWN, config, SEED, tensors)
    assert [(r["variant"], r["metric"]) for r in found] == [
        (variant, f"reward@{t}") for variant in ("metods-linear-S4", "maml") for t in (5, 10)
    ]
    for variant in ("metods-linear-S4", "maml"):
        rewards = lives("", agent(variant))
        expected = [float(rewards[:5].mean()), float(rewards[5:].mean())]
        values = [r["value"] for r in found if r["variant"] == variant]
        assert values == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_later_steps_of_published_agents_are_not_tested_again() -> None:
    """They are those of another processor; the first ones do not know how long a trial is."""
    config = replace(SMALL, segment=40, variants=("maml",), maml_horizon=40)
    model = robots.make_agent(CheetahDir, config, "maml", KNOWN, SEED)
    tensors = {f"maml.{k}": t for k, t in model.state_dict().items()}
    found = robots.evaluate(CheetahDir, KNOWN, config, SEED, tensors)
    assert [r["metric"] for r in found] == [f"reward@{t}" for t in range(5, 31, 5)]
    whole = robots.at_steps(robots.live(CheetahDir, config, SEED, model))
    assert len(whole) == 8
    for row in found:
        assert row["value"] == pytest.approx(float(whole[row["metric"]]), abs=1e-5)


def test_what_is_unknown_or_out_of_range_is_one_line() -> None:
    for name, value, said in (
        ("variants", ("lstm",), "variants"), ("maml_rate", 0.0, "maml_rate=0.0: must be"),
        ("test_trials", 0, "test_trials=0: must be"), ("num_units", -1, "num_units=-1: must be"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said) as refusal:
            replace(SMALL, **{name: value})
        assert "\n" not in str(refusal.value)


def test_velocities_of_test_tasks_are_those_between_the_trained_ones() -> None:
    env = CheetahVel()
    train = env.sample_tasks(500, generator(0, "tasks"), "train").goal
    test = env.sample_tasks(500, generator(0, "tasks"), "test").goal
    stripes = [set((g / 2 * 16).floor().flatten().tolist()) for g in (train, test)]
    assert not stripes[0] & stripes[1]
