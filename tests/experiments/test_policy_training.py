"""PPO as the experiments make it, and its training in a stage."""

import dataclasses
import math

import pytest
import torch
from plain_lives import SMALL, small_options, small_space

from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.envs.agents import SharedAgents
from metarl_lib.envs.layerwise import Layerwise
from metarl_lib.envs.weight_space import WeightSpace
from metarl_lib.experiments import learners
from metarl_lib.experiments.learners import (
    LearnerConfig,
    learn_finite,
    log_once,
    make_ppo,
    policy_tensors,
    seed_of,
    train_policy,
)
from metarl_lib.runs import DivergenceError


def test_ppo_takes_whole_lives_and_the_options_it_is_given() -> None:
    env = small_space()
    model = make_ppo(SB3VecEnv(env, 4, seed=1), SMALL, 5)
    assert (model.n_steps, model.batch_size, model.n_epochs) == (6, 12, 2)
    assert (model.gamma, model.gae_lambda) == (0.9, 0.8)
    assert torch.equal(model.policy.log_std, torch.full((8,), -0.5))
    sizes = [m.out_features for m in model.policy.mlp_extractor.policy_net if hasattr(m, "weight")]
    assert sizes == [8, 8]
    recurrent = make_ppo(SB3VecEnv(env, 4, seed=1), SMALL, 5, recurrent=True)
    assert (recurrent.n_steps, recurrent.batch_size, recurrent.gamma) == (6, 12, 0.9)
    assert recurrent.policy.lstm_actor.hidden_size == 4
    few = dataclasses.replace(SMALL, minibatches=1000)
    assert make_ppo(SB3VecEnv(env, 4, seed=1), few, 5, recurrent=True).batch_size == 1


class Recorded(WeightSpace):
    """Keeps every reward, and makes some of them what `change` says."""

    def __init__(self, change=None, **options) -> None:
        super().__init__(**options)
        self.rewards, self.change = [], change

    def step(self, state, action, generator):
        state, step = super().step(state, action, generator)
        self.rewards.append(step.reward)
        if self.change is not None:
            step = step._replace(reward=self.change(len(self.rewards), step.reward))
        return state, step


@pytest.mark.parametrize("recurrent", [False, True])
def test_training_logs_the_mean_return_of_every_rollout(run, recurrent) -> None:
    env = Recorded(**small_options())
    train_policy(run.stage("a"), lambda: SB3VecEnv(env, 4, seed=1), SMALL, 5, recurrent=recurrent)
    rewards = torch.stack(env.rewards)
    assert rewards.shape == (18, 4)
    expected = rewards.unflatten(0, (3, 6)).sum(1).mean(1)
    logged = run.metrics()
    assert logged["step"].tolist() == [24, 48, 72]
    assert set(logged["name"]) == {"a/training_return"}
    assert logged["value"].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    stage = run.stage("a")
    assert (stage.finished, stage.step) == (True, 72)
    assert stage.values == {"training_return": pytest.approx(float(expected[-1]), rel=1e-5)}


def test_agents_of_a_row_count_as_one_step_and_share_its_return(run) -> None:
    env = Layerwise(**small_options())
    env.inner = Recorded(**small_options())
    venv = lambda: SharedAgents(SB3VecEnv(env, 4, seed=1))  # noqa: E731
    train_policy(run.stage("a"), venv, SMALL, 5, agents=2)
    returns = torch.stack(env.inner.rewards).unflatten(0, (3, 6)).sum(1).mean(1)
    logged = run.metrics()
    assert logged["step"].tolist() == [24, 48, 72]
    assert logged["value"].tolist() == pytest.approx(returns.tolist(), rel=1e-5)
    assert run.stage("a").step == 72


def test_the_learning_rate_falls_linearly_to_zero(run, monkeypatch) -> None:
    """It is that of the rollouts still to come: 2/3, 1/3 and 0 of the first after three of them."""
    rates, made = [], []
    real = learners.make_ppo

    def watched(*arguments, **options):
        model = real(*arguments, **options)
        train = model.train

        def and_look():
            train()
            rates.append(model.policy.optimizer.param_groups[0]["lr"])

        model.train = and_look
        made.append(model)
        return model

    monkeypatch.setattr(learners, "make_ppo", watched)
    train_policy(run.stage("a"), lambda: SB3VecEnv(small_space(), 4, seed=1), SMALL, 5)
    assert rates == pytest.approx([2e-3, 1e-3, 0.0])
    assert made[0].lr_schedule(1.0) == pytest.approx(3e-3)


def test_a_finished_stage_trains_nothing(run) -> None:
    venv = lambda: SB3VecEnv(small_space(), 4, seed=1)  # noqa: E731
    train_policy(run.stage("a"), venv, SMALL, 5)
    before, logged = run.tensors(), len(run.metrics())

    def forbidden():
        raise AssertionError("a finished stage must not train")

    train_policy(run.stage("a"), forbidden, SMALL, 5)
    assert len(run.metrics()) == logged
    assert all(torch.equal(t, before[name]) for name, t in run.tensors().items())


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_seed_decides_the_policy(run, recurrent) -> None:
    def trained(name, seed):
        venv = lambda: SB3VecEnv(small_space(), 4, seed=seed)  # noqa: E731
        train_policy(run.stage(name), venv, SMALL, seed, recurrent=recurrent)
        return run.stage(name).tensors

    first, same, other = trained("a", 5), trained("b", 5), trained("c", 6)
    assert first.keys() == same.keys() == other.keys()
    assert all(torch.equal(t, same[name]) for name, t in first.items())
    weights = [name for name in first if "weight" in name]
    assert not any(torch.equal(first[name], other[name]) for name in weights)
    model = make_ppo(SB3VecEnv(small_space(), 4, seed=5), SMALL, 5, recurrent=recurrent)
    untrained = policy_tensors(model.policy)
    assert not any(torch.equal(first[name], untrained[name]) for name in weights)


def diverged(step, number, stage, venv) -> None:
    message = rf"wild diverged at step {step}: .*{number} = (nan|inf)"
    with pytest.raises(DivergenceError, match=message) as failure:
        train_policy(stage, venv, SMALL, 5)
    assert "\n" not in str(failure.value)
    assert not stage.finished


def test_a_reward_that_is_no_number_stops_the_training_at_its_rollout(run) -> None:
    change = lambda count, reward: reward * (math.nan if count == 8 else 1.0)  # noqa: E731
    env = Recorded(change, **small_options())
    diverged(48, "return", run.stage("wild"), lambda: SB3VecEnv(env, 4, seed=1))
    assert run.metrics()["step"].tolist() == [24]


def test_a_weight_that_is_no_number_stops_the_training_at_its_rollout(run, monkeypatch) -> None:
    real = learners.make_ppo

    def poisoned(*arguments, **options):
        model = real(*arguments, **options)
        with torch.no_grad():
            model.policy.value_net.bias.fill_(math.nan)
        return model

    monkeypatch.setattr(learners, "make_ppo", poisoned)
    venv = lambda: SB3VecEnv(small_space(), 4, seed=1)  # noqa: E731
    diverged(24, "policy weights", run.stage("wild"), venv)


def test_what_torch_refuses_because_weights_are_no_numbers_is_called_divergence(run) -> None:
    model = make_ppo(SB3VecEnv(small_space(), 4, seed=1), SMALL, 5)

    def learn():
        with torch.no_grad():
            model.policy.action_net.bias.fill_(math.nan)
        model.learn(24)

    with pytest.raises(DivergenceError, match=r"a diverged at step \d+: .*policy weights = nan"):
        learn_finite(learn, model, run.stage("a"))


def test_a_rate_that_makes_the_policy_explode_is_called_divergence(run) -> None:
    wild = dataclasses.replace(SMALL, ppo_rate=1e30)
    with pytest.raises(DivergenceError, match=r"wild diverged at step \d+: .*noise = (nan|inf)"):
        train_policy(run.stage("wild"), lambda: SB3VecEnv(small_space(), 4, seed=1), wild, 5)
    assert not run.stage("wild").finished


def test_noise_that_vanishes_is_called_divergence(run) -> None:
    """Its logarithm is an ordinary number, but torch refuses what it is the logarithm of."""
    model = make_ppo(SB3VecEnv(small_space(), 4, seed=1), SMALL, 5)

    def learn():
        with torch.no_grad():
            model.policy.log_std.fill_(-300.0)
        model.learn(24)

    with pytest.raises(DivergenceError, match=r"a diverged at step \d+: .*noise = (-inf|nan)"):
        learn_finite(learn, model, run.stage("a"))


def test_a_refusal_that_is_no_divergence_is_passed_on(run) -> None:
    model = make_ppo(SB3VecEnv(small_space(), 4, seed=1), SMALL, 5)

    def refuse():
        raise ValueError("another reason")

    with pytest.raises(ValueError, match=r"^another reason$"):
        learn_finite(refuse, model, run.stage("a"))


def test_weights_that_are_no_numbers_at_the_end_are_divergence(run) -> None:
    """The last update comes after the last look at a rollout."""
    model = make_ppo(SB3VecEnv(small_space(), 4, seed=1), SMALL, 5)
    model.num_timesteps = 72

    def spoil():
        with torch.no_grad():
            model.policy.value_net.bias.fill_(math.inf)

    with pytest.raises(DivergenceError, match=r"a diverged at step 72: .*policy weights = inf"):
        learn_finite(spoil, model, run.stage("a"))


def test_a_finished_stage_of_tests_logs_nothing_again(run) -> None:
    log = log_once(run, run.stage("tests"))
    log(1, {"a/loss": 2.0})
    run.stage("tests").save(1, {}, finished=True)
    log_once(run, run.stage("tests"))(1, {"a/loss": 3.0})
    assert run.metrics()["value"].tolist() == [2.0]


def test_seeds_of_different_indices_differ_and_fit_into_32_bits() -> None:
    seeds = [seed_of(seed, index) for seed in range(3) for index in range(20)]
    assert len(set(seeds)) == 60
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seed_of(1, 2) == seed_of(1, 2)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("steps", 0, "steps=0: must be greater than 0"),
        ("rows", -1, "rows=-1: must be greater than 0"),
        ("ppo_rate", math.inf, "ppo_rate=inf: must be greater than 0 and finite"),
        ("units", 0, "units=0: must be greater than 0"),
        ("discount", 1.01, "discount=1.01: must lie between 0 and 1"),
        ("gae_lambda", -0.1, "gae_lambda=-0.1: must lie between 0 and 1"),
        ("discount", math.nan, "discount=nan: must lie between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(field, value, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        LearnerConfig(**{field: value})
    assert "\n" not in str(refusal.value)
