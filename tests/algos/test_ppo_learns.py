"""Short trainings that only an agent with a working memory can pass."""

import jaxtyping
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from toy_envs import Recall
from trainings import streams

from metarl_lib.algos import PPO, ActorCritic, Settings
from metarl_lib.cores import GRU, MetODS
from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.envs.bandit import Bandit
from metarl_lib.envs.trial import Trial
from metarl_lib.oracles.bayes_bandit import bayes_optimal


class Forgetful:
    """An agent whose memory is wiped before every step."""

    def __init__(self, model: ActorCritic) -> None:
        self.model = model

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return self.model.predict(observation, None, None, deterministic)


def trained(env, core, **options) -> ActorCritic:
    torch.manual_seed(0)
    size = env.observation_space.shape[0]
    model = ActorCritic(core(size), env.observation_space, env.action_space)
    common = {"minibatches": 2, "discount": 0.95, "whole_trials": True}
    learner = PPO(env, model, Settings(**(common | options)), streams(0))
    learner.update()
    # The other updates have the same shapes, which need no second check.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        for _ in range(learner.settings.updates - 1):
            learner.update()
    return model


def interval(agent, env, trials: int) -> tuple[float, float]:
    """Three standard errors about the mean return of test tasks."""
    torch.manual_seed(1)
    venv = SB3VecEnv(env, 200, seed=1, split="test")
    returns, _ = evaluate_policy(
        agent, venv, trials, deterministic=False, return_episode_rewards=True, warn=False
    )
    error = 3 * np.std(returns, ddof=1) / np.sqrt(len(returns))
    return np.mean(returns) - error, np.mean(returns) + error


CORES = {"gru": (lambda size: GRU(size, 16), 60), "metods": (lambda size: MetODS(size, 10), 40)}


@pytest.mark.parametrize("core", CORES)
def test_a_symbol_is_recalled(core) -> None:
    """Nearly always, and without memory no better than the best that is possible without."""
    env = Recall(symbols=4, delay=3)
    make, updates = CORES[core]
    model = trained(env, make, segment=4, updates=updates, learning_rate=5e-3)
    assert interval(model, env, 1000)[0] > 0.9
    assert interval(Forgetful(model), env, 1000)[0] < env.without_memory < 0.3


def test_a_bandit_pays_more_than_any_fixed_choice() -> None:
    """Those get half of ten pulls on average; and nobody gets more than the Bayes optimum."""
    env = Trial(Bandit(arms=2, steps=10))
    model = trained(
        env, lambda size: GRU(size, 16), rows=128, segment=10, updates=100, learning_rate=0.01
    )
    low, high = interval(model, env, 3000)
    assert low > 5.3
    assert low < bayes_optimal(2, 10)
    assert interval(Forgetful(model), env, 3000)[0] < low - 0.2
    assert high < 7
