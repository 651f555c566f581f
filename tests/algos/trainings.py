"""Trainings on the toy environments, and what one says of them in plain loops."""

import copy
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from toy_envs import Counting

from metarl_lib.algos import PPO, ActorCritic, Settings, Streams
from metarl_lib.algos.ppo import Segment
from metarl_lib.cores import GRU, LSTM, MetODS

CORES = {
    "gru": lambda size: GRU(size, 6),
    "lstm": lambda size: LSTM(size, 5),
    "metods": lambda size: MetODS(size, 5, depth=2),
}
ACTIONS = {
    "choices": spaces.Discrete(3),
    "vectors": spaces.Box(np.array([-0.5, -1.0], np.float32), np.array([1.0, 0.25], np.float32)),
}


@contextmanager
def double() -> Iterator[None]:
    """Numbers are float64 where nobody says otherwise."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def streams(seed: int) -> Streams:
    return Streams(*(torch.Generator().manual_seed(4 * seed + i) for i in range(4)))


def agent(env, core: str, seed: int = 0) -> ActorCritic:
    """An agent whose policy is far from uniform, so that its memory counts."""
    torch.manual_seed(seed)
    size = env.observation_space.shape[0]
    model = ActorCritic(CORES[core](size), env.observation_space, env.action_space)
    with torch.no_grad():
        model.policy_head.weight.mul_(200)
        model.policy_head.bias.normal_()
    return model


class Collected(NamedTuple):
    """A segment, the sum and number of the returns that came with it, and the agent back then."""

    segment: Segment
    finished: Tensor
    model: ActorCritic


class Training(PPO):
    """One that remembers its segments."""

    def __init__(self, *arguments) -> None:
        self.collected: list[Collected] = []
        super().__init__(*arguments)

    def collect(self) -> tuple[Segment, Tensor]:
        model = copy.deepcopy(self.model)
        segment, finished = super().collect()
        self.collected.append(Collected(segment, finished, model))
        return segment, finished


def counting(core: str = "gru", actions: str = "choices", seed: int = 0, **options) -> Training:
    """A training on `Counting`, four rows and five steps unless said otherwise."""
    env = Counting(ACTIONS[actions])
    settings = Settings(**({"rows": 4, "segment": 5, "updates": 6} | options))
    return Training(env, agent(env, core, seed), settings, streams(seed))


def plain_advantages(segment: Segment, discount: float, decay: float) -> list[list[float]]:
    """Σ_k (γλ)^k δ_{t+k}, up to the end of the trial or of the segment, for each t and row."""
    rewards, values, following = (
        column.tolist() for column in (segment.rewards, segment.values, segment.next_values)
    )
    steps, rows = len(rewards), len(rewards[0])
    found = [[0.0] * rows for _ in range(steps)]
    for b in range(rows):
        for t in range(steps):
            for k in range(t, steps):
                delta = rewards[k][b] + discount * following[k][b] - values[k][b]
                found[t][b] += (discount * decay) ** (k - t) * delta
                if segment.ended[k, b]:
                    break
    return found


class Parts(NamedTuple):
    """The parts of the loss on some rows."""

    policy: Tensor
    value: Tensor
    entropy: Tensor
    kl: Tensor


def plain_parts(model: ActorCritic, segment: Segment, rows: list[int], s: Settings) -> Parts:
    """Row by row and step by step from the stored inputs, with the graph that autograd needs."""
    raw = plain_advantages(segment, s.discount, s.gae_lambda)
    every = [number for line in raw for number in line]
    mean, deviation = statistics.mean(every), statistics.stdev(every) + 1e-8
    policy, value, entropy, kl = [], [], [], []
    for b in rows:
        memory = tuple(m[b : b + 1] for m in segment.memory)
        for t in range(s.segment):
            memory = model.initial_state(1) if segment.resets[t, b] else memory
            out = model.step(segment.observations[t, b : b + 1], memory)
            memory = out.state
            log_prob = out.policy.log_prob(segment.actions[t, b : b + 1])[0]
            moved = log_prob - segment.log_probs[t, b]
            advantage = (raw[t][b] - mean) / deviation
            if s.loss == "a2c":
                policy.append(-log_prob * advantage)
            elif advantage > 0:
                policy.append(-advantage * min(moved.exp(), torch.tensor(1 + s.clip)))
            else:
                policy.append(-advantage * max(moved.exp(), torch.tensor(1 - s.clip)))
            target = raw[t][b] + float(segment.values[t, b])
            value.append((out.values[0] - target) ** 2 / 2)
            entropy.append(out.policy.entropy()[0])
            kl.append(moved.exp() - 1 - moved)
    return Parts(*(sum(part) / len(part) for part in (policy, value, entropy, kl)))
