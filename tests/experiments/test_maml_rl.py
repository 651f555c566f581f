"""Policies that take gradient steps: who takes them when, sizes chosen, returns by hand."""

import math
from dataclasses import replace

import pytest
import torch
from streams import stream

from metarl_lib.algos.actor_critic import draw
from metarl_lib.experiments import maml_rl
from metarl_lib.experiments.meta_training import play, streams_of
from metarl_lib.runs import DivergenceError, Run, generator

TINY = replace(maml_rl.PRESETS["smoke"], test_tasks=6, test_steps=2)
STEPS = maml_rl.robot().max_steps


@pytest.mark.parametrize("variant", list(maml_rl.VARIANTS))
def test_weights_change_after_the_shots_and_only_in_those_who_step(variant) -> None:
    chosen = maml_rl.VARIANTS[variant]
    for training in (True, False):
        agent = maml_rl.make_agent(TINY, variant, training=training)
        env = maml_rl.env_of(variant, TINY.segment // STEPS)
        tasks = env.sample_tasks(3, stream(), "test")
        state, seen = env.reset(tasks, stream(1))
        memory, changed = agent.initial_state(3), []
        for _ in range(TINY.segment):
            outputs = agent.step(seen, memory)
            changed.append(not torch.equal(outputs.state[0], memory[0]))
            state, step = env.step(state, agent.clip(draw(outputs.policy, stream(2))), stream(3))
            memory, seen = outputs.state, step.observation
        steps = [t for t, moved in enumerate(changed) if moved]
        assert steps == ([TINY.horizon] if chosen.stepping or not training else [])


def test_all_start_from_the_same_numbers_and_see_no_more_than_they_should() -> None:
    agents = {v: maml_rl.make_agent(TINY, v, 5) for v in maml_rl.VARIANTS}
    for variant, agent in agents.items():
        told = maml_rl.VARIANTS[variant].told
        assert agent.read == (4 if told else 2)
        if not told:
            assert torch.equal(agent.weights[0], agents["maml"].weights[0])
    other = maml_rl.make_agent(TINY, "maml", 6)
    assert not torch.equal(other.weights[0], agents["maml"].weights[0])
    assert agents["maml-ratio"].surrogate == "ratio"
    assert agents["first-order"].first_order
    critics = [v for v, agent in agents.items() if agent.baseline == "critic"]
    assert critics == ["maml-critic"]


def test_returns_of_stages_are_those_of_their_episodes() -> None:
    agent = maml_rl.make_agent(TINY, "maml", 1)
    found = maml_rl.live(TINY, 4, agent, "maml")
    env = maml_rl.env_of("maml", 3)
    tasks = env.sample_tasks(6, generator(4, "evaluation", 0), "test")
    rewards = play(env, agent, tasks, generator(4, "evaluation", 1), greedy=False).rewards
    for k in range(3):
        for b in range(6):
            total = sum(float(rewards[t, b]) for t in range(k * STEPS, (k + 1) * STEPS))
            assert float(found[k, b]) == pytest.approx(total / TINY.shots, abs=1e-4)


def test_who_is_told_is_judged_before_any_step() -> None:
    config = replace(TINY, variants=("told",))
    agent = maml_rl.make_agent(config, "told", 3)
    tensors = {f"told.{name}": tensor for name, tensor in agent.state_dict().items()}
    rows = {r["metric"]: r["value"] for r in maml_rl.evaluate(config, 4, tensors)}
    unhurried = maml_rl.make_agent(config, "told", 3, training=True)
    env = maml_rl.env_of("told", config.shots)
    tasks = env.sample_tasks(6, generator(4, "evaluation", 0), "test")
    lived = play(env, unhurried, tasks, generator(4, "evaluation", 1), greedy=False).rewards
    assert rows.keys() == {"return@0", "parameters"}
    assert rows["return@0"] == pytest.approx(float(lived.sum(0).mean()) / config.shots, abs=1e-4)


def test_the_size_of_steps_that_earns_most_with_training_goals_is_chosen(tmp_path) -> None:
    run = Run.create(tmp_path / "run", "maml_rl", TINY, scale="smoke", seed=2)
    agent = maml_rl.make_agent(TINY, "random", 2)
    stage = run.stage("random-rate")
    maml_rl.choose_rate(stage, TINY, "random", agent.state_dict(), 2)
    chosen = float(stage.tensors["rate"])
    earned = {}
    for rate in TINY.tuning_rates:
        for log_rate in agent.log_rates:
            log_rate.data.fill_(math.log(rate))
        earned[rate] = float(maml_rl.live(TINY, 2, agent, "random", "train")[1].mean())
    assert chosen == pytest.approx(max(earned, key=earned.get))
    tested = maml_rl.agent_of(TINY, run.tensors(), "random", 2)
    assert torch.equal(tested.weights[0], agent.weights[0])
    for log_rate in tested.log_rates:
        assert float(log_rate.exp().mean()) == pytest.approx(chosen)


def test_a_size_after_which_nothing_is_finite_is_not_chosen(tmp_path, monkeypatch) -> None:
    run = Run.create(tmp_path / "run", "maml_rl", TINY, scale="smoke", seed=2)
    weights = maml_rl.make_agent(TINY, "random", 2).state_dict()
    config = replace(TINY, tuning_rates=(1e300, 0.1))  # the first one is infinite in float32
    maml_rl.choose_rate(run.stage("refused"), config, "random", weights, 2)
    assert float(run.stage("refused").tensors["rate"]) == 0.1
    config = replace(TINY, tuning_rates=(1e300,))
    with pytest.raises(DivergenceError, match=r"tuning_rates=\(1e\+300,\): every one diverged"):
        maml_rl.choose_rate(run.stage("all"), config, "random", weights, 2)

    def nan_but_at_one(config, seed, agent, variant, split):
        rate = float(agent.log_rates[0].exp().mean())
        return torch.full((2, 3), -1.0 if rate == pytest.approx(0.3) else math.nan)

    monkeypatch.setattr(maml_rl, "live", nan_but_at_one)
    config = replace(TINY, tuning_rates=(0.1, 0.3, 1.0))
    maml_rl.choose_rate(run.stage("nan"), config, "random", weights, 2)
    assert float(run.stage("nan").tensors["rate"]) == 0.3


def test_training_goals_choose_and_test_goals_judge() -> None:
    seen = [maml_rl.robot().sample_tasks(50, generator(0, "evaluation", k), split).goal
            for k, split in ((0, "test"), (10, "train"))]  # fmt: skip
    cells = [((8 * (goal + 1)).long().sum(-1) % 2) for goal in seen]
    assert all(len(set(each.tolist())) == 1 for each in cells)
    assert cells[0][0] != cells[1][0]


def test_who_knows_and_who_stays(tmp_path) -> None:
    rows = {r["variant"]: r["value"] for r in maml_rl.by_hand(TINY, 7)}
    goals = maml_rl.robot().sample_tasks(6, generator(7, "evaluation"), "test").goal.tolist()
    known, still = 0.0, 0.0
    for x, y in goals:
        for t in range(1, STEPS + 1):
            left = [max(abs(c) - 0.1 * t, 0.0) for c in (x, y)]
            known -= math.hypot(*left) / 6
        still -= STEPS * math.hypot(x, y) / 6
    assert rows["shortest-path"] == pytest.approx(known, rel=1e-4)
    assert rows["still"] == pytest.approx(still, rel=1e-5)


def test_the_outer_loops(tmp_path, monkeypatch) -> None:
    """What comes after the step, or the whole life, decides the loss; the streams tell apart."""
    used = {}

    def watch(stage, env, model, settings, seed, index, *, algorithm):
        used[stage.name] = algorithm.__name__, env.episodes, index
        assert (settings.value_weight > 0) == (model.baseline == "critic")
        assert streams_of(seed, index) is not None

    monkeypatch.setattr(maml_rl, "train_agent", watch)
    monkeypatch.setattr(maml_rl, "choose_rate", lambda *_: None)
    run = Run.create(tmp_path / "run", "maml_rl", TINY, scale="smoke", seed=2)
    for variant in maml_rl.VARIANTS:
        maml_rl.train(TINY, run, variant)
    after = {"maml", "maml-ratio", "maml-critic", "first-order"}
    assert used.keys() == maml_rl.VARIANTS.keys() - {"random"}
    assert {v for v, (name, *_) in used.items() if name == "AfterSteps"} == after
    each = {"joint", "told"}
    assert {v for v, (name, *_) in used.items() if name == "EachEpisode"} == each
    assert {episodes for _, episodes, _ in used.values()} == {2}
    assert len({index for *_, index in used.values()}) == len(used)


@pytest.mark.parametrize("segment", [20, 30, 60])
def test_lives_are_one_gradient_step(segment) -> None:
    words = f"segment={segment}: must be whole episodes of 20 steps, and from more than 20 to 40"
    with pytest.raises(ValueError, match=words):
        replace(TINY, segment=segment)
