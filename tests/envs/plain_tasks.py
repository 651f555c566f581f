"""Bandit, two-step, Harlow, point robot and trial, one row at a time with Python numbers.

Written from the texts of these environments, not from their code. Each row is told its task and
the very numbers that were drawn for it, and says what a step brings.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Said(NamedTuple):
    observation: list[float]
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, float]


def twin(generator: torch.Generator) -> torch.Generator:
    """A generator that will draw the same."""
    other = torch.Generator()
    other.set_state(generator.get_state())
    return other


class PlainBandit:
    def __init__(self, means: list[float], steps: int, gaussian: bool, show_time: bool) -> None:
        self.means, self.steps, self.gaussian = means, steps, gaussian
        self.show_time, self.pulls = show_time, 0

    def observation(self) -> list[float]:
        return [(self.steps - self.pulls) / self.steps if self.show_time else 0.0]

    def step(self, action: int, chance: float) -> Said:
        self.pulls += 1
        mean = self.means[action]
        reward = mean + chance if self.gaussian else float(chance < mean)
        info = {"regret": max(self.means) - mean}
        return Said(self.observation(), reward, self.pulls >= self.steps, False, info)


class PlainTwoStep:
    """`here` is None at the first stage, else the name of the place of the second stage."""

    def __init__(self, good: int, rounds: int, common: float, reward: float, switch: float) -> None:
        self.good, self.rounds = "AB"[good], rounds
        self.common, self.reward, self.switch = common, reward, switch
        self.here, self.usual, self.finished = None, None, 0

    def observation(self) -> list[float]:
        return [float(self.here is None), float(self.here == "A"), float(self.here == "B")]

    def step(self, action: int, chance: float, turn: float) -> Said:
        good = self.good
        if self.here is None:
            stage, reward = 0, 0.0
            self.usual = chance < self.common
            wanted = "AB"[action]
            self.here = wanted if self.usual else {"A": "B", "B": "A"}[wanted]
        else:
            stage = 1
            pays = self.reward if self.here == self.good else 1 - self.reward
            reward = 1.0 if chance < pays else 0.0
            self.here = None
            self.finished += 1
            if turn < self.switch:
                self.good = {"A": "B", "B": "A"}[self.good]
        info = {"stage": stage, "common": self.usual, "good": "AB".index(good)}
        return Said(self.observation(), reward, self.finished >= self.rounds, False, info)


class PlainHarlow:
    """The line moves past the agent, whose own cell is always the ninth of the seventeen."""

    def __init__(
        self, rewarded: float, other: float, shift: int, presentations: int, max_steps: int
    ) -> None:
        self.rewarded, self.other = rewarded, other
        self.presentations, self.max_steps = presentations, max_steps
        self.line: list[tuple[str, float] | None] = [None] * 17
        self.line[8 + (shift or 1)] = ("mark", 1.0)
        self.chosen, self.time = 0, 0
        self.walked = -(shift or 1)  # from the mark's cell, to the right

    def observation(self) -> list[float]:
        return [cell[1] if cell else 0.0 for cell in self.line[4:-4]]

    def step(self, action: int, coin: int) -> Said:
        presentation, reward, correct = self.chosen, 0.0, False
        if action == 0:  # to the left: everything else moves to the right
            self.line = [self.line[-1], *self.line[:-1]]
            self.walked -= 1
        else:
            self.line = [*self.line[1:], self.line[0]]
            self.walked += 1
        self.time += 1
        found = self.line[8]
        if found:
            kind = found[0]
            self.line = [None] * 17
            if kind == "mark":
                reward = 0.2
                sides = (11, 5) if coin == 1 else (5, 11)
                self.line[sides[0]] = ("rewarded", self.rewarded)
                self.line[sides[1]] = ("other", self.other)
            else:
                correct = kind == "rewarded"
                reward = 1.0 if correct else -1.0
                self.chosen += 1
                right_of_mark = self.walked % 17 == 3
                self.line[5 if right_of_mark else 11] = ("mark", 1.0)
        over = self.chosen >= self.presentations
        late = self.time >= self.max_steps and not over
        info = {"presentation": presentation, "correct": correct}
        return Said(self.observation(), reward, over, late, info)


class PlainPoint:
    def __init__(self, goal: list[float], steps: int, near: float | None) -> None:
        self.goal, self.steps, self.near = goal, steps, near
        self.x, self.y, self.time = 0.0, 0.0, 0

    def observation(self) -> list[float]:
        return [self.x, self.y]

    def step(self, action: list[float]) -> Said:
        dx, dy = (min(max(a, -1.0), 1.0) / 10 for a in action)
        self.x, self.y, self.time = self.x + dx, self.y + dy, self.time + 1
        distance = math.hypot(self.x - self.goal[0], self.y - self.goal[1])
        reward = -distance
        if self.near is not None:
            reward = 1 - distance if distance <= self.near else 0.0
        return Said(
            self.observation(), reward, False, self.time >= self.steps, {"distance": distance}
        )


class PlainTrial:
    """Episodes of one row one after another; `start(*draws)` makes a plain environment."""

    def __init__(
        self,
        start: Callable[..., Any],
        episodes: int,
        encode: Callable[[Any], list[float]],
        first: tuple,
        nothing: int,
        show_reward: bool = True,
    ) -> None:
        self.start, self.episodes, self.encode = start, episodes, encode
        self.inner, self.count, self.show_reward = start(*first), 0, show_reward
        self.first = [*self.inner.observation(), *[0.0] * (nothing + 2)]

    def act(self, action: Any, *draws: Any) -> bool:
        """Step the episode; whether another one has to be started."""
        self.said = self.inner.step(action, *draws)
        self.action = self.encode(action)
        self.done = self.said.terminated or self.said.truncated
        return self.done and self.count + 1 < self.episodes

    def finish(self, draws: tuple | None) -> Said:
        """What the step says, after a start of the next episode if there are draws for it."""
        number, over = self.count, self.done and draws is None
        seen = self.said.observation
        if draws is not None:
            self.inner, self.count = self.start(*draws), self.count + 1
            seen = self.inner.observation()
        shown = self.said.reward if self.show_reward else 0.0
        return Said(
            [*seen, *self.action, shown, float(self.done)],
            self.said.reward,
            over and self.said.terminated,
            over and not self.said.terminated,
            self.said.info | {"inner_episode": number, "inner_done": self.done},
        )


def same(step, rows: list[Said], tolerance: float = 0.0) -> None:
    """What the batched environment says is what the plain rows say."""
    assert step.info.keys() == rows[0].info.keys()
    close(step.observation, [said.observation for said in rows], tolerance)
    close(step.reward, [said.reward for said in rows], tolerance)
    assert step.terminated.tolist() == [said.terminated for said in rows]
    assert step.truncated.tolist() == [said.truncated for said in rows]
    for name, values in step.info.items():
        close(values, [said.info[name] for said in rows], tolerance)


def close(found: Tensor, expected: Any, tolerance: float) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance)
