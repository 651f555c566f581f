"""RecurrentPPO of sb3-contrib itself, trained on trials as a baseline for our agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from tqdm import tqdm

from metarl_lib.algos import Settings
from metarl_lib.algos.actor_critic import Outputs
from metarl_lib.algos.checkpoints import own_tensors
from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.envs.base import BatchedEnv
from metarl_lib.experiments.learners import learn_finite, policy_tensors, seed_of
from metarl_lib.runs import Stage


class Returns:
    """The returns of the trials that end in running rows."""

    def __init__(self) -> None:
        self.running = np.zeros(1)
        self.ended: list[float] = []

    def add(self, rewards: np.ndarray, dones: np.ndarray) -> None:
        """One step of every row, `[B]` each."""
        self.running = self.running + rewards
        self.ended += self.running[dones].tolist()
        self.running = np.where(dones, 0.0, self.running)

    def take(self) -> float | None:
        """The mean of the trials that ended since the last call, if there were any."""
        mean = sum(self.ended) / len(self.ended) if self.ended else None
        self.ended = []
        return mean


class Curve(BaseCallback):
    """Logs the mean return of the trials that ended in each rollout, and shows a bar."""

    def __init__(self, stage: Stage, total: int) -> None:
        super().__init__()
        self.stage, self.returns = stage, Returns()
        self.bar = tqdm(total=total, desc=stage.name, leave=False, disable=None, unit="step")

    def _on_step(self) -> bool:
        self.returns.add(self.locals["rewards"], self.locals["dones"])
        return True

    def _on_rollout_end(self) -> None:
        mean = self.returns.take()
        if mean is not None:
            self.stage.log(self.num_timesteps, {"training_return": mean})
        self.bar.update(self.num_timesteps - self.bar.n)

    def _on_training_end(self) -> None:
        self.bar.close()


def make_recurrent_ppo(
    env: BatchedEnv | VecEnv, settings: Settings, units: int, seed: int, **policy: Any
) -> RecurrentPPO:
    """RecurrentPPO with our settings: one LSTM for the policy, one for the value function.

    Two of them mean something else there. Its value loss lacks our factor ½, so that the same
    `value_weight` counts double; and the entropy keeps the weight that it has at the start, where
    ours falls to `entropy_end`.

    Args:
        env: the trials, or as many of them as `settings.rows` in a vector environment; one
            episode of Stable-Baselines3 is one whole trial.
        settings: rows, segment, epochs, minibatches (as many steps in each), rates and weights.
        units: of both LSTMs; two linear heads read them.
        seed: of everything.
        policy: further arguments of its `MlpLstmPolicy`.
    """
    span = settings.learning_rate - settings.learning_rate_end
    return RecurrentPPO(
        "MlpLstmPolicy",
        env if isinstance(env, VecEnv) else SB3VecEnv(env, settings.rows, seed=seed),
        n_steps=settings.segment,
        batch_size=settings.rows * settings.segment // settings.minibatches,
        n_epochs=settings.epochs,
        learning_rate=lambda left: settings.learning_rate_end + left * span,
        gamma=settings.discount,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip,
        ent_coef=settings.entropy,
        vf_coef=settings.value_weight,
        max_grad_norm=settings.max_grad_norm,
        policy_kwargs={"net_arch": [], "lstm_hidden_size": units} | policy,
        seed=seed,
        device="cpu",
    )


def train_recurrent_ppo(
    stage: Stage, env: BatchedEnv, settings: Settings, units: int, seed: int, index: int
) -> None:
    """Train for as many steps as ours; a stage that was stopped starts again."""
    if stage.finished:
        return
    total = settings.rows * settings.segment * settings.updates
    model = make_recurrent_ppo(env, settings, units, seed_of(seed, index))
    learn_finite(lambda: model.learn(total, callback=Curve(stage, total)), model, stage)
    stage.save(total, policy_tensors(model.policy), finished=True)


class SB3Agent:
    """A recurrent policy of sb3-contrib that plays like one of our agents."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy.eval()

    @classmethod
    def rebuild(
        cls, env: BatchedEnv, tensors: Mapping[str, Tensor], prefix: str, units: int
    ) -> SB3Agent:
        """The policy whose tensors stand under `prefix.`."""
        policy = make_recurrent_ppo(env, Settings(rows=1), units, 0).policy
        policy.load_state_dict(own_tensors(tensors, prefix))
        return cls(policy)

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """(h, c) of the actor's LSTM, `[B, units]` each."""
        zero = torch.zeros(batch, self.policy.lstm_actor.hidden_size)
        return zero, zero

    def step(self, observation: Tensor, state: tuple[Tensor, ...]) -> Outputs:
        """One step of every row, of observations `[B, I]`; the value is not computed."""
        carried = tuple(s[None] for s in state)
        starts = torch.zeros(len(observation))
        found, after = self.policy.get_distribution(observation, carried, starts)
        value = torch.zeros(len(observation))
        return Outputs(found.distribution, value, tuple(s[0] for s in after))

    def clip(self, action: Tensor) -> Tensor:
        """Choices, `[B]`, need no bounds."""
        return action
