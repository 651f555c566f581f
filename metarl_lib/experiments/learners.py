"""Agents of Stable-Baselines3: trained in a stage, kept as tensors, and followed over a life."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.ppo_recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from tqdm import tqdm

from metarl_lib.algos.checkpoints import copies, own_tensors
from metarl_lib.algos.options import check_share
from metarl_lib.datasets import Tasks
from metarl_lib.envs.weight_space import LOSS_LIMIT, WeightSpace
from metarl_lib.envs.weight_state import TINY, State, rms
from metarl_lib.experiments.base import check_minibatch, check_positive, option
from metarl_lib.runs import Run, Stage, generator

Log = Callable[[int, Mapping[str, float]], None]
"""`log(step, values)` keeps named numbers of a step."""

Actor = Callable[[Tensor, State], Tensor]
"""`actor(observation, state)` gives the actions of all rows."""


@dataclass(frozen=True)
class LearnerConfig:
    """The fields of every experiment that trains PPO on lives of base networks."""

    steps: int = option(100, "updates in a base network's life")
    rows: int = option(128, "base networks that are trained side by side")
    rollouts: int = option(100, "rollouts of PPO, one whole life of every row each")
    epochs: int = option(8, "passes of PPO over a rollout")
    minibatches: int = option(8, "minibatches of a pass")
    ppo_rate: float = option(1e-3, "learning rate of PPO at the start; it falls to zero")
    discount: float = option(0.97, "discount of PPO")
    gae_lambda: float = option(0.95, "decay of the advantage estimate")
    log_std: float = option(-1.0, "logarithm of the policy's initial noise")
    units: int = option(64, "units of the policy's two hidden layers")

    def __post_init__(self) -> None:
        check_positive(self, "steps", "rows", "rollouts", "epochs", "minibatches", "ppo_rate")
        check_positive(self, "units")
        check_share(self, "discount", "gae_lambda")

    def check_minibatches(self, rows: str = "rows", agents: int = 1, parts: int = 1) -> None:
        """Refuse minibatches of one step, of rollouts with the field `rows` of rows.

        Args:
            rows: the field's name.
            agents: in a row.
            parts: of each of the `minibatches`.
        """
        names = (rows, "steps", "minibatches")
        count, steps, minibatches = (getattr(self, name) for name in names)
        given = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        check_minibatch(count * agents * steps // (minibatches * parts), given)


def seed_of(seed: int, index: int) -> int:
    """A seed for Stable-Baselines3, which wants 32 bits."""
    return generator(seed, "init", index).initial_seed() % 2**32


def make_ppo(
    venv: VecEnv, settings: LearnerConfig, seed: int, *, recurrent: bool = False
) -> OnPolicyAlgorithm:
    """Stable-Baselines3's PPO, or sb3-contrib's RecurrentPPO, a rollout at a time.

    A rollout is one whole episode of every row, so that a recurrent policy carries its memory
    over exactly one life. The learning rate falls linearly to zero.
    """
    batch = max(1, venv.num_envs * settings.steps // settings.minibatches)
    policy: dict[str, Any] = {
        "log_std_init": settings.log_std,
        "net_arch": [settings.units, settings.units],
    }
    options: dict[str, Any] = {
        "n_steps": settings.steps,
        "batch_size": batch,
        "n_epochs": settings.epochs,
        "gamma": settings.discount,
        "gae_lambda": settings.gae_lambda,
        "learning_rate": lambda left: settings.ppo_rate * left,
        "seed": seed,
        "device": "cpu",
    }
    if recurrent:
        policy = {
            "log_std_init": settings.log_std,
            "net_arch": [settings.units // 2],
            "lstm_hidden_size": settings.units // 2,
        }
        return RecurrentPPO("MlpLstmPolicy", venv, policy_kwargs=policy, **options)
    return PPO("MlpPolicy", venv, policy_kwargs=policy, **options)


class Progress(BaseCallback):
    """Logs the mean return of each rollout, shows a bar, and stops at numbers that are not finite.

    Args:
        stage: where the returns go, under `training_return`.
        total: environment steps of the whole training.
        weight: how many of the learner's steps are one environment step (rows of agents).
    """

    def __init__(self, stage: Stage, total: int, weight: int = 1) -> None:
        super().__init__()
        self.stage, self.weight = stage, weight
        self.last = 0.0
        self.bar = tqdm(total=total, desc=stage.name, leave=False, disable=None, unit="step")

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, OnPolicyAlgorithm)
        rewards = self.model.rollout_buffer.rewards
        self.last = float(rewards.sum(0).mean())
        done = self.num_timesteps // self.weight
        self.stage.check_finite(done, {"return": self.last, **policy_size(self.model)})
        self.stage.log(done, {"training_return": self.last})
        self.bar.update(done - self.bar.n)
        self.bar.set_postfix(training_return=f"{self.last:.3g}", refresh=False)

    def _on_training_end(self) -> None:
        self.bar.close()


def policy_tensors(policy: torch.nn.Module) -> dict[str, Tensor]:
    """A policy's parameters; what policy and value function share is kept once."""
    return copies(policy.state_dict())


def rebuild(
    tensors: Mapping[str, Tensor], prefix: str, observation: Any, action: Any, units: int
) -> ActorCriticPolicy:
    """The policy, of hidden layers with `units`, whose tensors stand under `prefix.`."""
    own = own_tensors(tensors, prefix)
    kind: Any
    shape: dict[str, Any]
    if any(name.startswith("lstm_actor") for name in own):
        kind = RecurrentActorCriticPolicy
        shape = {"net_arch": [units // 2], "lstm_hidden_size": units // 2}
    else:
        kind, shape = ActorCriticPolicy, {"net_arch": [units, units]}
    policy: ActorCriticPolicy = kind(observation, action, lambda _: 0.0, **shape)
    policy.load_state_dict(own)
    return policy.eval()


@dataclass
class Follow:
    """An actor that does what a policy says, without its noise; memory starts at a new life.

    Args:
        policy: of Stable-Baselines3.
        agents: whether several agents act in a row; observations then have them second.
        change: what is done to the actions, if anything, such as leaving a signal out.
    """

    policy: ActorCriticPolicy
    agents: bool = False
    change: Callable[[Tensor], Tensor] | None = None
    _memory: Any = None

    def __call__(self, observation: Tensor, state: State) -> Tensor:
        """The actions `[B, …]`."""
        flat = observation.flatten(0, 1) if self.agents else observation
        start = np.full(len(flat), bool((state.time == 0).all()))
        action, self._memory = self.policy.predict(
            flat.numpy(), None if start[0] else self._memory, start, deterministic=True
        )
        chosen = torch.as_tensor(action)
        if self.agents:
            chosen = chosen.unflatten(0, observation.shape[:2])
        return self.change(chosen) if self.change else chosen


class Life(NamedTuple):
    """A whole training of B base networks.

    `log_losses` is `[T + 1, B]`; from the step at which a network diverges on it is that of the
    largest loss there is. `held_out` `[B]` is the log loss of held-out samples at the end,
    `accuracy` `[B]` the share of them classified correctly (NaN in regression, 0 of a network
    that diverged), `diverged` `[B]` whether the network did. `actions` is `[T, B, …]`, `rates`
    `[T, B, L]` the learning rate that the drive's coefficient amounts to; both are empty for a
    rule without actions.
    """

    log_losses: Tensor
    held_out: Tensor
    accuracy: Tensor
    diverged: Tensor
    actions: Tensor
    rates: Tensor


@torch.no_grad()
def finish(
    env: WeightSpace,
    state: State,
    log_losses: Sequence[Tensor],
    diverged: Tensor,
    actions: Sequence[Tensor] = (),
    rates: Sequence[Tensor] = (),
) -> Life:
    """The life that ends in a state, with what held-out samples say; `diverged` is `[B]`."""
    tasks = state.tasks
    held_out = env.held_out_loss(state).clamp(TINY, LOSS_LIMIT).log()
    accuracy = torch.full_like(held_out, torch.nan)
    if env.family.kind == "classification":
        chosen = env.network(state.params, tasks.held_out_x).argmax(-1)
        accuracy = (chosen == tasks.held_out_y).to(held_out).mean(-1).masked_fill(diverged, 0.0)
    return Life(
        torch.stack(list(log_losses)),
        torch.where(diverged, math.log(LOSS_LIMIT), held_out),
        accuracy,
        diverged,
        torch.stack(list(actions)) if actions else torch.empty(0),
        torch.stack(list(rates)) if rates else torch.empty(0),
    )


@torch.no_grad()
def follow(
    env: Any, actor: Actor, tasks: Tasks, stream: torch.Generator, inner: WeightSpace | None = None
) -> Life:
    """Let an actor train a network on each task, for a whole episode.

    Args:
        env: `WeightSpace`, or an environment of agents around it, given as `inner`.
        actor: gives the actions.
        tasks: B tasks.
        stream: initial weights and perturbations.
    """
    inner = inner or env
    state, observation = env.reset(tasks, stream)
    losses, actions, rates = [state.log_losses[:, 1]], [], []
    dead = torch.zeros(len(tasks.x), dtype=torch.bool)
    ceiling = math.log(LOSS_LIMIT)
    for _ in range(inner.steps):
        action = actor(observation, state)
        rates.append(drive_rates(inner, state, action))
        state, step = env.step(state, action, stream)
        observation = step.observation
        dead |= step.info["diverged"]
        losses.append(torch.where(dead, ceiling, state.log_losses[:, 1]))
        actions.append(action)
    return finish(inner, state, losses, dead, actions, rates)


def drive_rates(env: WeightSpace, state: State, action: Tensor) -> Tensor:
    """η of W ← W − η · drive that the drive's coefficient stands for, `[B, L]`; mode rule only."""
    layers = env.network.num_layers
    if env.action_mode != "rule" or "drive" not in env.signals:
        return state.scale.new_zeros(len(state.scale), layers)
    c = env.coefficients(action.flatten(1)).unflatten(-1, (layers, -1))
    c = c[:, :, env.signals.index("drive")]
    weights = [env.network.weight(state.signals.drive, layer) for layer in range(layers)]
    size = torch.stack([rms(w) for w in weights], -1)
    return c * state.scale / size.clamp_min(TINY)


def train_policy(
    stage: Stage,
    venv: Callable[[], VecEnv],
    settings: LearnerConfig,
    seed: int,
    *,
    recurrent: bool = False,
    agents: int = 1,
) -> None:
    """Train PPO for `settings.rollouts` rollouts, and leave the policy in the stage.

    A stage that was stopped starts again from its beginning: the same seed gives the same policy.
    """
    if stage.finished:
        return
    env = venv()
    total = env.num_envs * settings.steps * settings.rollouts
    model = make_ppo(env, settings, seed, recurrent=recurrent)
    progress = Progress(stage, total // agents, agents)
    learn_finite(lambda: model.learn(total, callback=progress), model, stage)
    values = {"training_return": progress.last}
    stage.save(total // agents, policy_tensors(model.policy), values, finished=True)


def learn_finite(learn: Callable[[], Any], model: OnPolicyAlgorithm, stage: Stage) -> Any:
    """Train, and give what comes of it; numbers no longer finite stop the run with its step.

    Raises:
        DivergenceError: when the policy's weights are NaN or infinite.
    """
    try:
        found = learn()
    except (ValueError, RuntimeError):  # what torch says to NaN, with and without its checks
        stage.check_finite(model.num_timesteps, policy_size(model))
        raise
    stage.check_finite(model.num_timesteps, policy_size(model))
    return found


def policy_size(model: BaseAlgorithm) -> dict[str, float]:
    """The sum of the sizes of a policy's weights and that of the logarithms of its noise.

    Both must stay finite: noise may neither overflow nor vanish.
    """
    total = sum(float(p.detach().abs().sum()) for p in model.policy.parameters())
    sizes = {"policy weights": total}
    log_std = model.policy.state_dict().get("log_std")  # a choice has none
    if log_std is not None:
        sizes["logarithm of the policy's noise"] = float(log_std.exp().log().sum())
    return sizes


def log_once(run: Run, stage: Stage) -> Log:
    """The run's log, or one that keeps nothing when the stage is finished and so has logged."""
    return keep_nothing if stage.finished else run.log


def keep_nothing(step: int, values: Mapping[str, float]) -> None:
    """A log that keeps nothing."""


def copy_env(env: WeightSpace, **changes: Any) -> WeightSpace:
    """The same environment with some attributes changed, such as `drive` or `steps`.

    Raises:
        ValueError: for an attribute that it does not have.
    """
    changed = copy.copy(env)
    for name, value in changes.items():
        if not hasattr(env, name):
            raise ValueError(f"{name!r} is no attribute of the environment")
        setattr(changed, name, value)
    return changed
