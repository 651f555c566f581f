"""A toy environment of whole numbers, and the same thing as a plain loop over Python numbers.

An episode has a mark, drawn when it starts (negative for test tasks), and takes 2 + |mark| % 4
steps. A step adds the actions to the totals, and one number that is drawn for each row. The
observation of an agent is (mark, time, its total), the reward mark + time + the weighted totals.
"""

from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.envs.base import Step

MARKS, KICKS = 100, 8


class ToyState(NamedTuple):
    mark: Tensor
    time: Tensor
    totals: Tensor


class Toy:
    """Rows that end at different times; `agents=None` has observations without agents."""

    def __init__(self, agents: int | None = None) -> None:
        shape = () if agents is None else (agents,)
        self.count = agents or 1
        self.single = agents is None
        self.observation_space = spaces.Box(-np.inf, np.inf, (*shape, 3), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (*shape, 1), np.float32)
        self.started: list[int] = []
        self.actions: list[list] = []

    def sample_tasks(self, batch, generator, split="train") -> Tensor:
        self.started.append(batch)
        sign = {"train": 1.0, "test": -1.0}[split]
        return sign * torch.randint(MARKS, (batch,), generator=generator).float()

    def reset(self, tasks, generator):
        time, totals = torch.zeros(len(tasks)), torch.zeros(len(tasks), self.count)
        state = ToyState(tasks, time, totals)
        return state, self.observe(state)

    def observe(self, state) -> Tensor:
        shared = torch.stack([state.mark, state.time], -1).unsqueeze(1)
        seen = torch.cat([shared.expand(-1, self.count, -1), state.totals.unsqueeze(-1)], -1)
        return seen[:, 0] if self.single else seen

    def step(self, state, action, generator):
        self.actions.append(action.tolist())
        kick = torch.randint(KICKS, (len(action), 1), generator=generator)
        totals = state.totals + action.reshape(len(action), self.count) + kick
        state = ToyState(state.mark, state.time + 1, totals)
        length = 2 + state.mark.abs() % 4
        over = state.time >= length
        reward = state.mark + state.time + totals @ torch.arange(1.0, self.count + 1)
        info = {"double": 2 * state.time}
        terminated, truncated = over & (length != 2) & (length != 4), over & (length != 3)
        return state, Step(self.observe(state), reward, terminated, truncated, info)

    def greeting(self, word: str, *, mark: str = "") -> str:
        return word + mark


class Loop:
    """The same, row after row, with the restarts of ended rows in order of their number."""

    def __init__(self, batch: int, seed: int, agents: int = 1, split: str = "train") -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.agents, self.sign = agents, 1 if split == "train" else -1
        self.rows = self._fresh(batch)

    def _fresh(self, count: int) -> list[dict]:
        marks = torch.randint(MARKS, (count,), generator=self.generator).tolist()
        return [{"mark": self.sign * m, "time": 0, "totals": [0.0] * self.agents} for m in marks]

    def seen(self, row: dict) -> list[list[float]]:
        return [[row["mark"], row["time"], total] for total in row["totals"]]

    def observation(self) -> list:
        """Nested lists, `[B, A, 3]`."""
        return [self.seen(row) for row in self.rows]

    def step(self, actions: list[list[float]]) -> dict[str, list]:
        """One action for each agent of each row; what each row says before any restart."""
        kicks = torch.randint(KICKS, (len(self.rows), 1), generator=self.generator).tolist()
        said: dict[str, list] = {"last": [], "reward": [], "terminated": [], "truncated": []}
        for row, own, (kick,) in zip(self.rows, actions, kicks, strict=True):
            row["time"] += 1
            row["totals"] = [t + a + kick for t, a in zip(row["totals"], own, strict=True)]
            weighted = sum((i + 1) * total for i, total in enumerate(row["totals"]))
            said["reward"].append(row["mark"] + row["time"] + weighted)
            length = 2 + abs(row["mark"]) % 4
            over = row["time"] >= length
            said["terminated"].append(over and length in (3, 5))
            said["truncated"].append(over and length in (2, 4, 5))
            said["last"].append(self.seen(row))
        return said

    def restart(self, ended: list[bool]) -> None:
        """Fresh episodes in the ended rows."""
        fresh = iter(self._fresh(sum(ended)) if any(ended) else [])
        self.rows = [next(fresh) if e else r for e, r in zip(ended, self.rows, strict=True)]


def some_actions(step: int, batch: int, agents: int = 1) -> np.ndarray:
    """Actions that differ in every row, agent and step, `[B, A, 1]`; exact in float32."""
    index = np.arange(batch * agents, dtype=np.float32).reshape(batch, agents, 1)
    return (index * 7 + step * 3) % 16 / 16
