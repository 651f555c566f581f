"""Strategies for Harlow's task that are written by hand: what an agent's return can mean.

A strategy sees what an agent sees: the observation and the reward before it. What it keeps in
mind beside them is a `Memory`; it never looks into the state of the environment. All know the
way: they step towards the nearest thing in sight, which is the fixation mark, or the object
that they have chosen. They differ in how they choose, and so in their mean return:

    never learn < threshold = learn from wins < exact,    1.2 < 3.7 = 3.7 < 6.2.

The two in the middle make different mistakes: the threshold with pairs whose numbers are on one
side of 0.5, the other one in episodes that began with a loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metarl_lib.envs.harlow import CELLS, OFFSET, REACH, Harlow, HarlowTasks

LEFT, RIGHT = REACH - OFFSET, REACH + OFFSET
"""Where the two objects stand in the observation when they have just appeared."""

MIDDLE = 0.5

Seen = Float[Tensor, "B 9"]
Paid = Float[Tensor, " B"]
Chosen = Int[Tensor, " B"]


class Memory(NamedTuple):
    """What a strategy keeps in mind, `[B]` each, −1, 0 or 1.

    `bet` is what the object that was chosen last has (1: it is the larger one, say), `rule`
    what the rewarded object has; 0 while that is not known.
    """

    bet: Tensor
    rule: Tensor


Strategy = Callable[[Tensor, Tensor, Memory, torch.Generator], tuple[Tensor, Memory]]
"""Observation `[B, 9]`, reward before it `[B]`, memory, random stream -> actions, memory."""


def forget(observation: Seen) -> Memory:
    """The memory at the start of an episode."""
    zero = torch.zeros_like(observation[:, 0])
    return Memory(zero, zero)


def exact(
    observation: Seen, reward: Paid, memory: Memory, generator: torch.Generator
) -> tuple[Chosen, Memory]:
    """Remember whether the rewarded object is the larger one: right from the second choice on.

    The mean return is the best there is, n − 1 + 0.2 n.
    """
    left, right = observation[:, LEFT], observation[:, RIGHT]
    return _bet(observation, reward, memory, (left - right).sign(), (right - left).sign())


def threshold(
    observation: Seen, reward: Paid, memory: Memory, generator: torch.Generator
) -> tuple[Chosen, Memory]:
    """Remember whether the rewarded object is above 0.5; no two objects are ever compared.

    That tells the objects apart when they are on different sides of 0.5, which is half of all
    tasks. The mean return is (n − 1) / 2 + 0.2 n.
    """
    left, right = observation[:, LEFT], observation[:, RIGHT]
    return _bet(observation, reward, memory, _above(left), _above(right))


def learn_from_wins(
    observation: Seen, reward: Paid, memory: Memory, generator: torch.Generator
) -> tuple[Chosen, Memory]:
    """Choose the larger object; stay with it if that was rewarded at once, guess for ever if not.

    A win says what to do next, the same again; to use a loss one has to turn the choice round.
    Half of all episodes begin with a loss, so that the mean return is (n − 1) / 2 + 0.2 n.
    """
    left, right = observation[:, LEFT], observation[:, RIGHT]
    paid = (reward.abs() > MIDDLE) & (memory.rule == 0)
    rule = torch.where(paid, reward.sign(), memory.rule)
    appeared = (left > 0) & (right > 0)
    to_right = (rule >= 0) & (right > left)  # after a loss the left one, which is a guess
    action = torch.where(appeared, to_right.long(), _towards_nearest(observation))
    return action, Memory(memory.bet, rule)


def never_learn(
    observation: Seen, reward: Paid, memory: Memory, generator: torch.Generator
) -> tuple[Chosen, Memory]:
    """Choose the left object each time. The mean return is 0.2 n."""
    zero = torch.zeros_like(reward)
    return _bet(observation, reward, memory, zero, zero)


def random_walk(
    observation: Seen, reward: Paid, memory: Memory, generator: torch.Generator
) -> tuple[Chosen, Memory]:
    """Step to either side with probability 1/2."""
    shape, device = reward.shape, reward.device
    return torch.randint(2, shape, generator=generator, device=device), memory


STRATEGIES: dict[str, Strategy] = {
    "exact": exact,
    "threshold": threshold,
    "learn from wins": learn_from_wins,
    "never learn": never_learn,
    "random walk": random_walk,
}


@torch.no_grad()
def play(
    env: Harlow, strategy: Strategy, tasks: HarlowTasks, generator: torch.Generator
) -> Float[Tensor, " B"]:
    """The return of one episode of each task."""
    state, observation = env.reset(tasks, generator)
    memory, reward = forget(observation), torch.zeros_like(observation[:, 0])
    total, alive = reward, torch.ones_like(reward, dtype=torch.bool)
    for _ in range(env.max_steps):
        action, memory = strategy(observation, reward, memory, generator)
        state, (observation, reward, terminated, truncated, _) = env.step(state, action, generator)
        total = torch.where(alive, total + reward, total)
        alive = alive & ~terminated & ~truncated
        if not bool(alive.any()):
            break
    return total


def _bet(
    observation: Seen, reward: Paid, memory: Memory, left: Tensor, right: Tensor
) -> tuple[Chosen, Memory]:
    """Walk on, and where objects have just appeared choose the one that follows the rule.

    Args:
        observation, reward, memory: as for a strategy.
        left, right: what the two objects have, −1 or 1 each. When both follow the rule, or
            neither does, the left one is chosen.
    """
    paid = reward.abs() > MIDDLE  # 1 or −1, an object's; the mark brings 0.2
    rule = torch.where(paid, memory.bet * reward, memory.rule)
    appeared = (observation[:, LEFT] > 0) & (observation[:, RIGHT] > 0)
    to_right = (right == rule) & (left != rule)
    bet = torch.where(to_right, right, left)
    action = torch.where(appeared, to_right.long(), _towards_nearest(observation))
    return action, Memory(torch.where(appeared, bet, memory.bet), rule)


def _above(value: Tensor) -> Tensor:
    """1 where a value exceeds 0.5, else −1."""
    return 2 * (value > MIDDLE).to(value) - 1


def _towards_nearest(observation: Seen) -> Chosen:
    """0 where the nearest thing in sight is to the left, 1 where it is to the right."""
    around = torch.arange(-REACH, REACH + 1, device=observation.device)
    distance = torch.where(observation > 0, around.abs(), CELLS)
    return (distance.argmin(-1) > REACH).long()
