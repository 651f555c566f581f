"""Time the inner loop of Evolved Policy Gradients: lives of learners that descend evolved losses.

The setting is that of the published code: 11 observations and 3 actions of an environment that
costs nothing, lives of 8,192 steps, an update after each 64 on the last 512, minibatches of 32,
Adam, observations normalised, networks of 64 and 64 units. Counted are steps of the environment
for a second of CPU time, acting and learning included, on one thread. The peer is what one
writes for a single life with torch.nn, torch.optim and a loop; it is given the same losses. The
published code itself runs on no Python of today. One run of it, with its dependencies replaced
or patched, made 785 steps in a second of CPU time on another day; the target is 8,000.

    python benchmarks/epg.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from typing import Any

# glibc returns large blocks to the system at each free unless it is told not to, and reads
# this when a process starts: so this one starts itself again.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_THRESHOLD_": str(2**30)}
if __name__ == "__main__" and any(os.environ.get(k) != v for k, v in ALLOCATOR.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from gymnasium import spaces  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.utils import vector_to_parameters  # noqa: E402

from metarl_lib.algos import LifeSettings, Lives  # noqa: E402
from metarl_lib.envs.base import Step  # noqa: E402

OBSERVATIONS, ACTIONS, MEMORY = 11, 3, 32
LOSSES = 64
TARGET, PUBLISHED = 8000, 785
EPISODE = 128

State = tuple[Tensor, Tensor]


class Nothing:
    """An environment of random observations, which costs next to nothing."""

    observation_space = spaces.Box(-math.inf, math.inf, (OBSERVATIONS,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)
    max_steps = EPISODE

    def sample_tasks(self, batch: int, generator: torch.Generator, split: str = "train") -> Tensor:
        """There is one task."""
        return torch.zeros(batch)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[State, Tensor]:
        """Start to count."""
        time = torch.zeros_like(tasks, dtype=torch.long)
        return (tasks, time), torch.randn(len(tasks), OBSERVATIONS, generator=generator)

    def step(self, state: State, action: Tensor, generator: torch.Generator) -> tuple[State, Step]:
        """Pay for small actions."""
        tasks, time = state
        seen = torch.randn(len(tasks), OBSERVATIONS, generator=generator)
        ended = time + 1 >= EPISODE
        reward = -action.square().sum(1)
        return (tasks, time + 1), Step(seen, reward, ended, torch.zeros_like(ended), {})


def ours(settings: LifeSettings, losses: int) -> float:
    """Steps for a CPU second of so many losses, a life of each."""
    lives = Lives(Nothing(), settings)
    stream = torch.Generator().manual_seed(0)
    phi = torch.stack([lives.network.initial(stream) for _ in range(losses)])
    start = time.process_time()
    lives.live(phi, 0.0, 1, (0,))
    return losses * settings.steps / (time.process_time() - start)


class PlainLoss(nn.Module):
    """The loss as one writes it for one learner."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(inputs, 16, 6, 5), nn.Conv1d(16, 32, 4, 2)
        self.context = nn.Linear(32, 32)
        self.hidden, self.last = nn.Linear(inputs + 32, 16), nn.Linear(16, 1)

    def forward(self, buffer: Tensor, batch: Tensor) -> Tensor:
        """Of the descriptions of all steps, and of those of a minibatch."""
        x = functional.leaky_relu(self.first(buffer.T[None]), 0.2)
        x = functional.leaky_relu(self.second(x), 0.2).mean(2)
        context = self.context(x).expand(len(batch), -1)
        x = functional.leaky_relu(self.hidden(torch.cat([batch, context], 1)), 0.2)
        return self.last(x).mean()


def plain(settings: LifeSettings) -> float:
    """Steps for a CPU second of one life at a time."""
    s, env, stream = settings, Nothing(), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = Lives(env, s).network
    loss = PlainLoss(network.described).requires_grad_(False)
    vector_to_parameters(network.initial(stream), loss.parameters())
    policy = nn.Sequential(
        nn.Linear(OBSERVATIONS, s.hidden), nn.Tanh(), nn.Linear(s.hidden, s.hidden), nn.Tanh(),
        nn.Linear(s.hidden, ACTIONS),
    )  # fmt: skip
    log_std, memory = nn.Parameter(torch.zeros(ACTIONS)), nn.Parameter(torch.zeros(MEMORY))
    adam = torch.optim.Adam([*policy.parameters(), log_std, memory], lr=s.learner_rate)
    buffer = torch.zeros(s.buffer, network.seen)
    state, seen = env.reset(env.sample_tasks(1, stream), stream)
    moments: Any = torch.zeros(OBSERVATIONS), torch.ones(OBSERVATIONS)

    def described(rows: Tensor, memory: Tensor) -> Tensor:
        constant = torch.cat([log_std, memory]).expand(len(rows), -1)
        return torch.cat([rows, policy(rows[:, :OBSERVATIONS]), constant], 1)

    start = time.process_time()
    for done in range(s.stretch, s.steps + 1, s.stretch):
        rows = []
        for _ in range(s.stretch):
            with torch.no_grad():
                mean = policy((seen - moments[0]) / moments[1])
                action = mean + log_std.exp() * torch.randn(1, ACTIONS, generator=stream)
            state, step = env.step(state, action, stream)
            numbers = step.reward[:, None], step.terminated[:, None].float()
            rows.append(torch.cat([seen, action, *numbers], 1))
            seen = step.observation
            if bool(step.terminated):
                state, seen = env.reset(state[0], stream)
        buffer = torch.cat([buffer[s.stretch :], *rows])
        own = buffer[-done:, :OBSERVATIONS]
        moments = own.mean(0), own.std(0)
        whole = buffer.clone()
        whole[-done:, :OBSERVATIONS] = (own - moments[0]) / moments[1]
        last = whole[-s.stretch :]
        for chosen in torch.randperm(s.stretch, generator=stream).split(s.minibatch):
            remembered = memory.tanh()
            value = loss(described(whole, remembered.detach()), described(last[chosen], remembered))
            adam.zero_grad()
            value.backward()
            adam.step()
    return s.steps / (time.process_time() - start)


def main() -> None:
    """Measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter lives, at most a minute")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    settings = LifeSettings(steps=512 if quick else 8192)
    rounds = 1 if quick else 3
    ours(LifeSettings(steps=64), 4)
    own = max(ours(settings, LOSSES) for _ in range(rounds))
    peer = max(plain(settings) for _ in range(rounds))
    found = {
        f"{LOSSES} lives in a batch": own, "one life, torch.nn": peer,
        "target": TARGET, "published code, once": PUBLISHED,
    }  # fmt: skip
    print("one thread; steps of the environment for a second of CPU time")
    print(f"{'':<24}{'steps/s':>10}{'ours faster':>14}")
    for name, value in found.items():
        print(f"{name:<24}{value:>10,.0f}{own / value:>13.1f}x")
    ratios = {"inner_steps_per_cpu_s": round(own), "vs_one_life": round(own / peer, 2)}
    print(json.dumps({"benchmark": "epg", "ratios": ratios}))


if __name__ == "__main__":
    main()
