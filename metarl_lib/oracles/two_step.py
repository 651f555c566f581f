"""The two-step task and what a model-free, a model-based and a perfect agent make of it.

A round is one action a, which leads to the place a of the second stage with a common transition,
else to the other place, and one reward. One of the two places is good: it pays 1 with a high
probability, the other with a low one, and now and then the two switch. After a reward that followed
a *rare* transition, who plans with the transitions changes to the other action, and who merely
repeats what paid does not: so the task of Daw et al. (2011), in the form of Wang et al. (2018),
tells them apart. (What is a round here is a trial there.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metarl_lib.oracles.checks import check_count, check_range

Memory = Float[Tensor, "B m"]
Bits = Int[Tensor, " B"]
Rewards = Float[Tensor, " B"]
Belief = TypeVar("Belief", np.ndarray, Tensor)

BELIEFS = 2_001
"""Points of the grid on which the value of a belief is computed."""


class Record(NamedTuple):
    """What happened, `[T, B]` each.

    `action` and `place` are 0 or 1, `common` says whether the transition was, `reward` is 0 or 1,
    `good` the better place of the round.
    """

    action: Tensor
    place: Tensor
    common: Tensor
    reward: Tensor
    good: Tensor


@runtime_checkable
class Agent(Protocol):
    """B agents at once, which remember m numbers each."""

    def begin(self, batch: int) -> Memory:
        """What they remember before the first round."""

    def probability(self, memory: Memory) -> Float[Tensor, " B"]:
        """How likely each is to take action 1."""

    def learn(self, memory: Memory, action: Bits, place: Bits, reward: Rewards) -> Memory:
        """What they remember after a round."""


@dataclass(frozen=True)
class TwoStepTask:
    """The task.

    Args:
        common: c, the probability of the common transition, from ½ to 1.
        reward: r, the probability that the good place pays, from ½ to 1; the other's is 1 − r.
        switch: h, the probability that the other place is good in the next round, from 0 to 1.
    """

    common: float = 0.8
    reward: float = 0.9
    switch: float = 0.025

    def __post_init__(self) -> None:
        check_range("common", self.common, 0.5, 1.0)
        check_range("reward", self.reward, 0.5, 1.0)
        check_range("switch", self.switch, 0.0, 1.0)

    def draw_good(
        self, rounds: int, batch: int, generator: torch.Generator
    ) -> Int[Tensor, "rounds batch"]:
        """Which place is good in each round: a chain that no action can influence."""
        check_count("rounds", rounds)
        check_count("batch", batch)
        draw = torch.rand(rounds, batch, generator=generator, device=generator.device)
        flips = draw < self.switch
        flips[0] = draw[0] < 0.5
        return flips.long().cumsum(0) % 2

    @torch.no_grad()
    def play(
        self,
        agent: Agent,
        good: Int[Tensor, "rounds batch"],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> Record:
        """B agents, each through the rounds of its column of `good`; they remember in `dtype`."""
        rounds, batch = good.shape
        memory = agent.begin(batch).to(good.device, dtype)
        steps = []
        for t in range(rounds):
            act, move, pay = torch.rand(
                3, batch, generator=generator, dtype=dtype, device=good.device
            )
            action = (act < agent.probability(memory)).long()
            common = move < self.common
            place = torch.where(common, action, 1 - action)
            chance = torch.full_like(pay, self.reward).where(place == good[t], 1 - self.reward)
            reward = (pay < chance).to(dtype)
            memory = agent.learn(memory, action, place, reward)
            steps.append(Record(action, place, common, reward, good[t]))
        return Record(*(torch.stack(field) for field in zip(*steps, strict=True)))

    def simulate(
        self,
        agent: Agent,
        rounds: int,
        batch: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> Record:
        """B agents, each in a task of its own, through T rounds; they remember in `dtype`."""
        return self.play(agent, self.draw_good(rounds, batch, generator), generator, dtype)

    def informed_reward(self) -> float:
        """Expected reward of a round for who knows which place is good, c r + (1 − c)(1 − r).

        Whoever acts at random has ½, whatever the probabilities are.
        """
        return self.common * self.reward + (1 - self.common) * (1 - self.reward)

    def optimal_reward(self, rounds: int) -> float:
        """Expected reward of a round, on average over T rounds, of the best agent there can be.

        What a round tells about the good place does not depend on the action: a reward at
        place 0 weighs as much as none at place 1. So the `BayesFilter`, which maximises the
        next reward, is optimal, and its value is that of a chain of beliefs, here solved
        backwards on a grid of beliefs with linear interpolation (error below 1e-8).
        """
        check_count("rounds", rounds)
        belief = np.linspace(0, 1, BELIEFS)  # that place 1 is good
        right = np.maximum(belief, 1 - belief)
        now = right * self.informed_reward() + (1 - right) * (1 - self.informed_reward())
        seen = self.reward * belief + (1 - self.reward) * (1 - belief)  # evidence for it
        total = np.zeros(BELIEFS)
        for _ in range(rounds):
            future = np.zeros(BELIEFS)
            for chance, fits in ((seen, self.reward), (1 - seen, 1 - self.reward)):
                after = np.divide(fits * belief, chance, out=belief.copy(), where=chance > 0)
                future += chance * np.interp(_switched(after, self.switch), belief, total)
            total = now + future
        return float(np.interp(0.5, belief, total)) / rounds


@dataclass(frozen=True)
class ModelFree:
    """SARSA(λ): values of actions from what followed them, softmax; transitions are not used.

    After action a, place s and reward r, with the errors δ₁ = V(s) − Q(a) and δ₂ = r − V(s),

        Q(a) ← Q(a) + α (δ₁ + λ δ₂),    V(s) ← V(s) + α δ₂.

    All values start at ½.

    Args:
        rate: α, the learning rate, from 0 to 1.
        slope: β, the inverse temperature: P(action 1) = 1 / (1 + exp(β (Q(0) − Q(1)))).
        trace: λ, from 0 to 1; with 1 the action learns from the reward alone.
    """

    rate: float = 0.3
    slope: float = 5.0
    trace: float = 1.0

    def __post_init__(self) -> None:
        _check_learner(self.rate, self.slope)
        check_range("trace", self.trace, 0.0, 1.0)

    def begin(self, batch: int) -> Memory:
        """Q(0), Q(1), V(0), V(1)."""
        return torch.full((batch, 4), 0.5)

    def probability(self, memory: Memory) -> Float[Tensor, " B"]:
        """Of action 1."""
        return torch.sigmoid(self.slope * (memory[:, 1] - memory[:, 0]))

    def learn(self, memory: Memory, action: Bits, place: Bits, reward: Rewards) -> Memory:
        """One step of SARSA(λ)."""
        value = _pick(memory[:, 2:], place)
        first, second = value - _pick(memory[:, :2], action), reward - value
        q = _add(memory[:, :2], action, self.rate * (first + self.trace * second))
        return torch.cat([q, _add(memory[:, 2:], place, self.rate * second)], 1)


@dataclass(frozen=True)
class ModelBased:
    """Values of second-stage places, learned; values of actions, planned; softmax.

    V(s) ← V(s) + α (r − V(s)) from ½ on, and Q(a) = c V(a) + (1 − c) V(1 − a).

    Args:
        common: c, the probability of the common transition, from ½ to 1, which it knows.
        rate: α, the learning rate, from 0 to 1.
        slope: β, the inverse temperature, as of `ModelFree`.
    """

    common: float = 0.8
    rate: float = 0.3
    slope: float = 5.0

    def __post_init__(self) -> None:
        check_range("common", self.common, 0.5, 1.0)
        _check_learner(self.rate, self.slope)

    def begin(self, batch: int) -> Memory:
        """V(0), V(1)."""
        return torch.full((batch, 2), 0.5)

    def probability(self, memory: Memory) -> Float[Tensor, " B"]:
        """Of action 1; Q(1) − Q(0) = (2c − 1)(V(1) − V(0))."""
        return torch.sigmoid(self.slope * (2 * self.common - 1) * (memory[:, 1] - memory[:, 0]))

    def learn(self, memory: Memory, action: Bits, place: Bits, reward: Rewards) -> Memory:
        """One step of the delta rule."""
        return _add(memory, place, self.rate * (reward - _pick(memory, place)))


@dataclass(frozen=True)
class BayesFilter:
    """The best agent there can be: it infers which place is good and takes the better action.

    Its belief b that place 1 is good starts at ½. A reward at place 1, or none at place 0, is
    evidence for place 1 that is right with probability r, and the places may switch after it:

        b ← b r / (b r + (1 − b)(1 − r)),    b ← b + h (1 − 2b).

    Args:
        task: its probabilities c, r and h (`switch`), which the agent knows.
    """

    task: TwoStepTask

    def begin(self, batch: int) -> Memory:
        """b."""
        return torch.full((batch, 1), 0.5)

    def probability(self, memory: Memory) -> Float[Tensor, " B"]:
        """Of action 1: 1 if b > ½, ½ if b = ½."""
        ahead = memory[:, 0] - 0.5
        return torch.heaviside(ahead, ahead.new_tensor(0.5))

    def learn(self, memory: Memory, action: Bits, place: Bits, reward: Rewards) -> Memory:
        """Bayes' rule, then the chance of a switch."""
        belief = memory[:, 0]
        for_one = (reward == 1) == (place == 1)
        fits = torch.full_like(belief, self.task.reward).where(for_one, 1 - self.task.reward)
        one, zero = belief * fits, (1 - belief) * (1 - fits)
        return _switched(one / (one + zero), self.task.switch).unsqueeze(1)


def _switched(belief: Belief, switch: float) -> Belief:
    """What a belief becomes when the places may have switched."""
    return belief + switch * (1 - 2 * belief)


def _check_learner(rate: float, slope: float) -> None:
    check_range("rate", rate, 0.0, 1.0)
    check_range("slope", slope, 0.0, math.inf)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index.unsqueeze(1)).squeeze(1)


def _add(values: Tensor, index: Tensor, change: Tensor) -> Tensor:
    return values.scatter_add(1, index.unsqueeze(1), change.unsqueeze(1))
