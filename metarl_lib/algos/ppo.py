"""PPO and A2C through time: memory is trained from stored inputs, never from stored states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl_lib.algos.actor_critic import Agent, draw
from metarl_lib.algos.checkpoints import (
    copies,
    optimiser_tensors,
    own_tensors,
    restore_optimiser,
    restore_streams,
    restored_tree,
    stream_tensors,
    tree_tensors,
    with_prefix,
)
from metarl_lib.algos.losses import gae, policy_gradient_loss, ppo_loss, standardise, value_loss
from metarl_lib.algos.options import (
    check_choice,
    check_not_negative,
    check_positive,
    check_share,
    check_whole,
    option,
)
from metarl_lib.cores.base import State, some_reset, where_reset
from metarl_lib.envs.base import BatchedEnv, where_rows

OPTIMISERS = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}


@dataclass(frozen=True)
class Settings:
    """How an agent is trained.

    Raises:
        ValueError: for a number out of its range, or rows that minibatches do not divide.
    """

    rows: int = option(64, "environments side by side")
    segment: int = option(100, "steps of every row between two updates")
    updates: int = option(500, "segments that are collected and learned from")
    loss: str = option("ppo", "ppo (clipped, several epochs) or a2c (one policy gradient)")
    epochs: int = option(4, "passes over a segment")
    minibatches: int = option(1, "parts of the rows in a pass, one gradient step each")
    optimiser: str = option("adam", "adam or rmsprop")
    learning_rate: float = option(1e-3, "learning rate at the start")
    learning_rate_end: float = option(0.0, "learning rate at the end, approached linearly")
    discount: float = option(0.99, "discount of future rewards")
    gae_lambda: float = option(0.95, "decay of the advantage estimate")
    clip: float = option(0.2, "how far the probability ratio counts")
    entropy: float = option(0.01, "weight of the policy's entropy at the start")
    entropy_end: float = option(0.0, "weight of the entropy at the end, approached linearly")
    value_weight: float = option(0.5, "weight of the value loss")
    max_grad_norm: float = option(0.5, "gradients are scaled to this norm where larger")
    whole_trials: bool = option(False, "start a new trial in every row with each segment")
    bootstrap: bool = option(False, "whether a trial that was cut off counts as going on")

    def __post_init__(self) -> None:
        check_whole(self, "rows", "segment", "updates", "epochs", "minibatches")
        check_positive(self, "max_grad_norm")
        rates = ("learning_rate", "learning_rate_end", "entropy", "entropy_end")
        check_not_negative(self, *rates, "clip", "value_weight")
        check_share(self, "discount", "gae_lambda")
        if self.rows % self.minibatches:
            raise ValueError(
                f"minibatches={self.minibatches}: must divide the {self.rows} rows, because a "
                "minibatch is whole rows"
            )
        check_choice(self, "loss", ("ppo", "a2c"))
        check_choice(self, "optimiser", tuple(OPTIMISERS))


class Streams(NamedTuple):
    """The random streams of a training, all on the device of the agent."""

    tasks: torch.Generator
    environment: torch.Generator
    actions: torch.Generator
    minibatches: torch.Generator


class Segment(NamedTuple):
    """What T steps of B rows left: all `[T, B, …]`, and the memory before the first step.

    `resets` says where a row's memory was made new before the step, `next_values` what the
    critic says of the state after it (0 after the end of a trial), `ended` where a trial ended.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    values: Tensor
    next_values: Tensor
    ended: Tensor
    resets: Tensor
    memory: State


class PPO:
    """An agent in training on a batched environment.

    Each `update` collects a segment with the memory carried on from the one before, then passes
    over it `epochs` times. A pass runs the core through the whole segment again, from the one
    memory per row that is kept, so that no stored state is ever stale; gradients reach back to
    the segment's start. Minibatches are rows.

    Args:
        env: what to learn; one row is one trial, after which the row starts a new task.
        model: the agent.
        settings: how.
        streams: every random draw comes from these.

    `seconds` says how long was spent in the environment, in inference and in updates.
    """

    def __init__(self, env: BatchedEnv, model: Agent, settings: Settings, streams: Streams) -> None:
        self.env, self.model, self.settings, self.streams = env, model, settings, streams
        self.optimiser = OPTIMISERS[settings.optimiser](
            model.parameters(), lr=settings.learning_rate, eps=1e-5
        )
        self.done = 0
        self.seconds = dict.fromkeys(("environment", "inference", "update"), 0.0)
        self._start()

    def _start(self) -> None:
        rows = self.settings.rows
        tasks = self.env.sample_tasks(rows, self.streams.tasks)
        self.env_state, self.observation = self.env.reset(tasks, self.streams.environment)
        self.begins = torch.ones(rows, dtype=torch.bool, device=self.observation.device)
        self.returns = torch.zeros(rows, device=self.observation.device)
        self.memory: State = tuple(s.detach() for s in self.model.initial_state(rows))

    def update(self) -> dict[str, float]:
        """Collect a segment and learn from it.

        Returns:
            `return`: mean return of the trials that ended in the segment, NaN if none did;
            `reward`: mean reward of a step; the losses (that of the values in squares of the
            agent's `value_unit`), `entropy`, and `kl`, how far the policy moved (mean of
            ρ − 1 − log ρ).
        """
        progress = min(1.0, self.done / self.settings.updates)
        segment, finished = self.collect()
        with self._timed("update"):
            numbers = self.learn(segment, progress)
        self.done += 1
        numbers["return"] = float(finished[0] / finished[1])
        numbers["reward"] = float(segment.rewards.mean())
        return numbers

    @torch.no_grad()
    def collect(self) -> tuple[Segment, Tensor]:
        """T steps of every row, and `[2]`: sum and number of the returns of trials that ended."""
        s, model = self.settings, self.model
        if s.whole_trials and self.done:
            self._start()
        initial, start = model.initial_state(s.rows), self.memory
        steps: list[tuple[Tensor, ...]] = []
        finished = torch.zeros(2, device=self.returns.device)
        for _ in range(s.segment):
            resets, seen = self.begins, self.observation
            with self._timed("inference"):
                memory = where_reset(resets, initial, self.memory)
                policy, values, self.memory = model.step(seen, memory)
                action = draw(policy, self.streams.actions)
            with self._timed("environment"):
                self.env_state, step = self.env.step(
                    self.env_state, model.clip(action), self.streams.environment
                )
            self.observation, ended = step.observation, step.terminated | step.truncated
            last = torch.zeros_like(values)
            if s.bootstrap and some_reset(step.truncated):
                cut_off = model.step(self.observation, self.memory).values
                last = torch.where(step.truncated & ~step.terminated, cut_off, last)
            steps.append(
                (seen, action, policy.log_prob(action), step.reward, values, last, ended, resets)
            )
            self.returns += step.reward
            self._restart(ended, finished)
        after = model.step(self.observation, where_reset(self.begins, initial, self.memory)).values
        seen, action, log_probs, rewards, values, last, ended, resets = (
            torch.stack(column) for column in zip(*steps, strict=True)
        )
        following = torch.cat([values[1:], after[None]])
        next_values = torch.where(ended, last, following)
        segment = Segment(
            seen, action, log_probs, rewards, values, next_values, ended, resets, start
        )
        return segment, finished

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[name] += perf_counter() - start

    def _restart(self, ended: Tensor, finished: Tensor) -> None:
        """Start new trials in the rows that ended, and add up their returns."""
        self.begins = ended
        if not some_reset(ended):
            return
        finished += torch.stack([(self.returns * ended).sum(), ended.sum()])
        self.returns = self.returns.masked_fill(ended, 0.0)
        tasks = self.env.sample_tasks(self.settings.rows, self.streams.tasks)
        state, observation = self.env.reset(tasks, self.streams.environment)
        self.env_state = where_rows(ended, state, self.env_state)
        self.observation = where_rows(ended, observation, self.observation)

    def learn(self, segment: Segment, progress: float = 0.0) -> dict[str, float]:
        """Pass over a segment; `progress` in [0, 1] moves the learning rate and the entropy."""
        s = self.settings
        rate = s.learning_rate + progress * (s.learning_rate_end - s.learning_rate)
        entropy_weight = s.entropy + progress * (s.entropy_end - s.entropy)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        advantages, returns = self.judge(segment)
        unit = self.model.value_unit
        totals: dict[str, Tensor] = {}
        passes = s.epochs if s.loss == "ppo" else 1
        for _ in range(passes):
            order = torch.randperm(
                s.rows, generator=self.streams.minibatches, device=self.streams.minibatches.device
            )
            for rows in order.chunk(s.minibatches):
                out = self.model(
                    segment.observations[:, rows],
                    tuple(m[rows] for m in segment.memory),
                    segment.resets[:, rows],
                )
                new, old = out.policy.log_prob(segment.actions[:, rows]), segment.log_probs[:, rows]
                advantage = advantages[:, rows]
                if s.loss == "ppo":
                    policy_loss = ppo_loss(new, old, advantage, s.clip)
                else:
                    policy_loss = policy_gradient_loss(new, advantage)
                values_loss = value_loss(out.values / unit, returns[:, rows] / unit)
                entropy = out.policy.entropy().mean()
                loss = policy_loss + s.value_weight * values_loss - entropy_weight * entropy
                self.optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), s.max_grad_norm)
                self.optimiser.step()
                with torch.no_grad():
                    kl = ((new - old).expm1() - (new - old)).mean()
                found = {
                    "policy_loss": policy_loss,
                    "value_loss": values_loss,
                    "entropy": entropy,
                    "kl": kl,
                }
                for name, value in found.items():
                    totals[name] = totals.get(name, 0.0) + value.detach()
        self.model.take_in(segment.observations, returns)
        return {name: float(total) / (passes * s.minibatches) for name, total in totals.items()}

    def judge(self, segment: Segment) -> tuple[Tensor, Tensor]:
        """How good each action was, standardised, and what its value should be: `[T, B]` each."""
        s = self.settings
        advantages = gae(
            segment.rewards, segment.values, segment.next_values, segment.ended, s.discount,
            s.gae_lambda,
        )  # fmt: skip
        return standardise(advantages), advantages + segment.values

    def checkpoint(self) -> dict[str, Tensor]:
        """All that the training needs to go on, bit for bit."""
        kept = with_prefix("model", self.model.state_dict())
        kept |= with_prefix("optimiser", optimiser_tensors(self.optimiser))
        kept |= with_prefix("stream", stream_tensors(self.streams._asdict()))
        kept |= with_prefix("rows", tree_tensors(self._rows()))
        return copies(kept | {"done": torch.tensor(self.done)})

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint of an equal training."""
        self.model.load_state_dict(own_tensors(kept, "model"))
        restore_optimiser(self.optimiser, own_tensors(kept, "optimiser"))
        restore_streams(self.streams._asdict(), own_tensors(kept, "stream"))
        restored = restored_tree(self._rows(), own_tensors(kept, "rows"))
        self.env_state, self.observation, self.begins, self.returns, self.memory = restored
        self.done = int(kept["done"])

    def _rows(self) -> tuple[Any, ...]:
        return self.env_state, self.observation, self.begins, self.returns, self.memory
