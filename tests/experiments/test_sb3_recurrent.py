"""sb3-contrib's RecurrentPPO on trials: its settings, its curve, and its policy step by step."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_lives import opinionated, seeded

from metarl_lib.algos import Settings
from metarl_lib.algos.losses import value_loss
from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.envs.harlow import Harlow
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments import sb3_recurrent
from metarl_lib.experiments.learners import policy_tensors
from metarl_lib.experiments.sb3_recurrent import (
    SB3Agent,
    make_recurrent_ppo,
    train_recurrent_ppo,
)
from metarl_lib.runs import DivergenceError, Run

ENV = Trial(Harlow(1, max_steps=8))
SIZE, UNITS = 13, 5
SMALL = Settings(
    rows=3, segment=5, updates=4, epochs=2, minibatches=3, learning_rate=0.01, entropy=0.03
)


def fresh(seed=1):
    model = make_recurrent_ppo(ENV, SMALL, UNITS, seed)
    opinionated(model.policy, seed)
    return model.policy.eval()


def cell(tensors, x, hidden, memory):
    """One step of the actor's LSTM, its gates in PyTorch's order."""
    z = tensors["lstm_actor.bias_ih_l0"] + tensors["lstm_actor.bias_hh_l0"]
    z = z + x @ tensors["lstm_actor.weight_ih_l0"].T + hidden @ tensors["lstm_actor.weight_hh_l0"].T
    take, keep, new, show = z.chunk(4, -1)
    memory = keep.sigmoid() * memory + take.sigmoid() * new.tanh()
    return show.sigmoid() * memory.tanh(), memory


@torch.no_grad()
def test_a_policy_steps_as_it_predicts_and_as_its_lstm_is_written_out() -> None:
    """Rebuilt from tensors that stand beside those of a longer name."""
    policy = fresh()
    tensors = policy_tensors(policy)
    kept = {f"a.{name}": t for name, t in tensors.items()}
    kept |= {f"a-b.{name}": t + 1 for name, t in tensors.items()}
    agent = SB3Agent.rebuild(ENV, kept, "a", UNITS)
    state, other = agent.initial_state(6), None
    assert [tuple(s.shape) for s in state] == [(6, UNITS)] * 2
    hidden = memory = torch.zeros(6, UNITS)
    chosen = []
    for t, seen in enumerate(torch.randn(5, 6, SIZE, generator=seeded())):
        found = agent.step(seen, state)
        state = found.state
        hidden, memory = cell(tensors, seen, hidden, memory)
        logits = hidden @ tensors["action_net.weight"].T + tensors["action_net.bias"]
        torch.testing.assert_close(found.policy.probs, logits.softmax(-1))
        torch.testing.assert_close(state, (hidden, memory))
        start = np.full(6, t == 0)
        action, other = policy.predict(seen.numpy(), other, start, deterministic=True)
        assert agent.clip(found.policy.mode).tolist() == action.tolist()
        for ours, theirs in zip(state, other, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs[0], rtol=1e-5, atol=1e-6)
        chosen += action.tolist()
    assert set(chosen) == {0, 1}
    alone = agent.step(seen, agent.initial_state(6))
    assert (alone.policy.probs - found.policy.probs).abs().max() > 0.01


def test_a_policy_is_that_of_two_lstms_and_linear_heads() -> None:
    names = {name: tuple(t.shape) for name, t in policy_tensors(fresh()).items()}
    lstm = {"weight_ih_l0": (20, 13), "weight_hh_l0": (20, 5), "bias_ih_l0": (20,),
            "bias_hh_l0": (20,)}  # fmt: skip
    expected = {f"lstm_{who}.{n}": s for who in ("actor", "critic") for n, s in lstm.items()}
    heads = {"action_net.weight": (2, 5), "action_net.bias": (2,), "value_net.weight": (1, 5)}
    assert names == expected | heads | {"value_net.bias": (1,)}


def test_recurrent_ppo_has_our_settings() -> None:
    settings = Settings(
        rows=6, segment=10, updates=2, epochs=3, minibatches=2, learning_rate=0.01,
        learning_rate_end=0.002, discount=0.8, gae_lambda=0.7, clip=0.3, entropy=0.04,
        value_weight=0.6, max_grad_norm=0.9,
    )  # fmt: skip
    model = make_recurrent_ppo(ENV, settings, 4, 3)
    assert (model.n_envs, model.n_steps, model.batch_size, model.n_epochs) == (6, 10, 30, 3)
    assert [model.lr_schedule(left) for left in (1.0, 0.5, 0.0)] == pytest.approx(
        [0.01, 0.006, 0.002]
    )
    assert (model.gamma, model.gae_lambda, model.clip_range(1.0)) == (0.8, 0.7, 0.3)
    assert (model.ent_coef, model.vf_coef, model.max_grad_norm) == (0.04, 0.6, 0.9)


def test_the_same_weight_of_the_value_loss_counts_double_and_that_of_entropy_stays() -> None:
    """As the docstring and the pages say; nothing moves at a learning rate of 0."""
    still = replace(SMALL, epochs=1, minibatches=1, learning_rate=0.0, entropy_end=0.0)
    model = make_recurrent_ppo(ENV, still, UNITS, 1)
    model.learn(2 * 3 * 5)
    buffer, logged = model.rollout_buffer, model.logger.name_to_value
    values, returns = (torch.as_tensor(part) for part in (buffer.values, buffer.returns))
    ours = float(value_loss(values, returns))
    assert ours > 1e-4
    assert logged["train/value_loss"] == pytest.approx(2 * ours, rel=1e-4)
    terms = logged["train/policy_gradient_loss"] + 0.5 * logged["train/value_loss"]
    entropy = -logged["train/entropy_loss"]  # the last of two updates has the first one's weight
    assert logged["train/loss"] == pytest.approx(terms - 0.03 * entropy, rel=1e-4)


class Killed(Exception):
    """The moment at which a run is killed."""


def train(run, seed=0, index=2):
    train_recurrent_ppo(run.stage("r"), ENV, SMALL, UNITS, seed, index)


@pytest.fixture
def new_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "metarl_lib.metrics.Metrics.write_events", lambda metrics: None
    )  # for speed
    monkeypatch.setattr("metarl_lib.provenance._code_version", dict)  # for speed

    def make(name):
        return Run.create(tmp_path / name, "test", SMALL, scale="smoke", seed=0)

    return make


def test_a_curve_has_the_mean_return_of_the_trials_that_ended_in_each_rollout(
    new_run, monkeypatch
) -> None:
    """Trials that began in the rollout before count whole; the budget is that of our agents."""
    said, real = [], SB3VecEnv.step_wait

    def step_wait(venv):
        found = real(venv)
        said.append((found[1].tolist(), found[2].tolist()))
        return found

    monkeypatch.setattr(SB3VecEnv, "step_wait", step_wait)
    run = new_run("run")
    train(run)
    assert len(said) == 5 * 4
    running, ended, expected, crossed = [0.0] * 3, [], {}, 0
    ages = [0] * 3
    for t, (rewards, dones) in enumerate(said):
        for b in range(3):
            running[b] += rewards[b]
            ages[b] += 1
            if dones[b]:
                ended.append(running[b])
                crossed += ages[b] > t % 5 + 1
                running[b], ages[b] = 0.0, 0
        if t % 5 == 4:
            if ended:
                expected[3 * (t + 1)] = sum(ended) / len(ended)
            ended = []
    found = run.metrics()
    assert set(found["name"]) == {"r/training_return"}
    assert dict(zip(found["step"], found["value"], strict=True)) == pytest.approx(expected)
    assert len(found) == len(expected) > 1
    assert crossed
    stage = run.stage("r")
    assert (stage.finished, stage.step) == (True, 3 * 5 * 4)


def test_a_training_that_was_stopped_starts_again_and_ends_the_same(new_run, monkeypatch) -> None:
    straight, broken = new_run("straight"), new_run("broken")
    train(straight)
    calls, real = [], SB3VecEnv.step_wait

    def step_wait(venv):
        calls.append(1)
        if len(calls) == 13:
            raise Killed
        return real(venv)

    with monkeypatch.context() as patch:
        patch.setattr(SB3VecEnv, "step_wait", step_wait)
        with pytest.raises(Killed):
            train(broken)
    resumed = Run.resume(broken.folder, "test", SMALL)
    assert not resumed.stage("r").finished
    train(resumed)
    kept, expected = resumed.tensors(), straight.tensors()
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[name], t) for name, t in expected.items())
    assert resumed.metrics().equals(straight.metrics())
    monkeypatch.setattr(sb3_recurrent, "make_recurrent_ppo", None)
    train(resumed)  # nothing is left to do


def test_a_training_depends_on_its_seed_and_index(new_run) -> None:
    found = []
    for place, (seed, index) in enumerate([(0, 2), (1, 2), (0, 3)]):
        run = new_run(f"run{place}")
        train(run, seed, index)
        found.append(run.stage("r").tensors["value_net.weight"])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("checked", [True, False])
def test_weights_that_are_no_numbers_stop_the_run(new_run, monkeypatch, checked) -> None:
    """Also where torch's distributions do not check what they are given, as once it compiled."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", checked)
    real = SB3VecEnv.step_wait

    def step_wait(venv):
        seen, rewards, *rest = real(venv)
        return seen, rewards * math.nan, *rest

    monkeypatch.setattr(SB3VecEnv, "step_wait", step_wait)
    run = new_run("run")
    with pytest.raises(DivergenceError, match="r diverged at step 15: policy weights = nan"):
        train(run)
    assert not run.stage("r").finished
