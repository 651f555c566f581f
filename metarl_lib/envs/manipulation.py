"""A robot arm that learns from rewards alone what to do: Meta-World's ML1 and ML10 (version 3).

Meta-World (Yu et al., 2019; McLean et al., 2025) computes all that is seen and paid for; this
module lets B rows of it be stepped as those of any other environment. Its objects are stateful,
but the state of a row is put into one before each step and taken out after it: MuJoCo's physics
with the solver's warm start, and what was seen last. What else a reset leaves behind depends on
the task alone, and is kept. So one object for each class serves all rows; a state can be kept,
saved and stepped again; equal states and actions give equal steps, to the last bit those of
Meta-World; and the second episode of a task starts without Meta-World's reset, which costs the
physics of a hundred steps.

Meta-World's vector environments (`gymnasium.make_vec`) can do none of this: they step the latest
state alone, and a row has one class, whose tasks it draws by itself. (In 3.1.1,
`"Meta-World/ML1-train"` also has the tasks for tests, and ends episodes at a success.) Its
recurrent wrapper would repeat what `Trial` does: both show the previous action, the previous
reward and whether the step ended an episode. They differ in two things. The wrapper divides the
reward that is seen by 10, unless `normalize_reward_in_recurrent_info=False`. And when the next
episode starts by itself, the wrapper shows zeros, `Trial` the last action and reward of the one
before, and the boundary.

A step takes 0.15 to 0.45 ms of a core, depending on the class. MuJoCo needs a fourth of it,
Meta-World's Python most of the rest, and putting states in and out 0.03 ms. Threads would wait for
each other, hence processes (`workers`) where cores are free.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from metarl_lib.datasets.split import check_split
from metarl_lib.envs.base import Step, check_action
from metarl_lib.envs.option_checks import check_choice, check_whole
from metarl_lib.envs.sawyer import Robots, benchmark_tasks, import_metaworld
from metarl_lib.envs.workers import Workers

LONGEST = 500
"""Steps of an episode of Meta-World's."""

REWARDS = ("v2", "v1")


class ManipulationTasks(NamedTuple):
    """The class, its place in `Manipulation.kinds`, and which of the tasks of that class; `[B]`.

    Those of training come first: with ML1, 0 to 49 are for training and 50 to 99 for tests.
    """

    kind: Tensor
    goal: Tensor


class ManipulationState(NamedTuple):
    """The tasks, the physics `[B, 64]`, what was seen last `[B, 18]`, and the steps made, `[B]`.

    The numbers are in float64.
    """

    tasks: ManipulationTasks
    physics: Tensor
    seen: Tensor
    time: Tensor


class Manipulation:
    """A batched environment of Meta-World's tasks: a robot arm and things on a table.

    A task is a class (reach for a place, push a puck, open a door …), a first place of the thing
    and a goal. With ML1 all tasks are of one class; 50 are for training and 50 others for tests.
    With ML10 there are 50 of each class; 10 classes are for training and 5 others for tests. They
    are Meta-World's own, which it draws from the seed in two (ML1) to ten seconds (ML10).

    The robot sees 39 numbers, in torch's default dtype: the place of the hand (in metres), how
    far the gripper is open (0 to 1), and places and orientations (quaternions) of up to two
    things; all this again as it was one step before; and three zeros in place of the goal. So the
    goal is hidden, but not the thing's first place, which tells tasks of training apart. An
    action, four numbers from −1 to 1, draws the hand along x, y and z, by at most 1 cm each, and
    closes (above 0) or opens the gripper.

    Rewards of version 2 lie between 0 and 10. Those of version 1, which are older, have a scale
    of their own in each class, up to thousands. Published agents were trained on either.
    Rewards are never normalised.

    An episode is cut off after its steps (`truncated`), and goes on after a success.
    `info["success"]`, `[B]`, says where the goal is met after this step; Meta-World counts an
    episode in which that is so at any step. `info["diverged"]` says where the physics failed:
    such a row stays as it was, is paid nothing and is `terminated`. (Meta-World would go on from
    the model's pose at rest.)

    Args:
        benchmark: `"ML10"`, or one of its 15 classes, such as `"reach-v3"`, `"push-v3"` or
            `"pick-place-v3"`, for ML1.
        steps: of an episode, up to 500.
        reward: the version of the reward, `"v2"` or `"v1"`.
        seed: of the tasks.
        workers: processes that share the rows; with 1, all are stepped in this one.

    Attributes:
        kinds: the names of the classes, those of training first.

    Raises:
        ImportError: without Meta-World; says which extra to install.
        ValueError: for an unknown name, or numbers out of range.
    """

    def __init__(
        self,
        benchmark: str = "reach-v3",
        steps: int = LONGEST,
        reward: str = "v2",
        seed: int = 0,
        workers: int = 1,
    ) -> None:
        suite = import_metaworld().env_dict.ML10_V3
        check_choice("benchmark", benchmark, ("ML10", *suite["train"], *suite["test"]))
        check_choice("reward", reward, REWARDS)
        for name, number, least in (
            ("steps", steps, 1),
            ("seed", seed, 0),
            ("workers", workers, 1),
        ):
            check_whole(name, number, least)
        if steps > LONGEST:
            raise ValueError(f"steps={steps}: must be at most {LONGEST}, as in Meta-World")
        self.benchmark, self.steps, self.reward, self.seed = benchmark, steps, reward, seed
        self.observation_space = spaces.Box(-math.inf, math.inf, (39,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        train, test = benchmark_tasks(benchmark, seed)
        names = [task.env_name for task in (*train, *test)]
        self.kinds = tuple(dict.fromkeys(names))
        self._counts = torch.tensor([names.count(kind) for kind in self.kinds])
        self._firsts = torch.tensor([names.index(kind) for kind in self.kinds])
        self._numbers = {"train": (0, len(train)), "test": (len(train), len(names))}
        self._workers = Workers(Robots((*train, *test), reward), workers)

    @property
    def max_steps(self) -> int:
        """The length of every episode."""
        return self.steps

    def sample_tasks(
        self, batch: int, generator: torch.Generator, split: str = "train"
    ) -> ManipulationTasks:
        """Draw tasks of a split; all are equally likely, and may be drawn again."""
        check_split(split)
        number = torch.randint(*self._numbers[split], (batch,), generator=generator)
        kind = torch.searchsorted(self._firsts, number, right=True) - 1
        return ManipulationTasks(kind, number - self._firsts[kind])

    def reset(
        self, tasks: ManipulationTasks, generator: torch.Generator
    ) -> tuple[ManipulationState, Tensor]:
        """Start an episode of each task; nothing is drawn.

        Raises:
            ValueError: for tasks that the benchmark does not have.
        """
        physics, seen, observation = self._call("start", self._places(tasks))
        time = torch.zeros(len(physics), dtype=torch.long)
        state = ManipulationState(tasks, physics, seen, time)
        return state, observation.to(torch.get_default_dtype())

    def step(
        self, state: ManipulationState, action: Tensor, generator: torch.Generator
    ) -> tuple[ManipulationState, Step]:
        """Move the arm in every row; nothing is drawn.

        Actions outside their space count as the nearest ones inside.
        """
        check_action(action, len(state.time), self.action_space)
        number = self._places(state.tasks)
        given = action.detach().float().clamp(-1, 1)
        physics, seen, observation, reward, success, diverged = self._call(
            "step", number, state.physics, state.seen, given
        )
        state = ManipulationState(state.tasks, physics, seen, state.time + 1)
        cut_off = (state.time >= self.steps) & ~diverged
        dtype, info = torch.get_default_dtype(), {"success": success, "diverged": diverged.clone()}
        return state, Step(observation.to(dtype), reward.to(dtype), diverged, cut_off, info)

    def goals(self, tasks: ManipulationTasks) -> Float[Tensor, "B 3"]:
        """The places that the tasks are about, in metres, which no observation shows."""
        return self._call("goals", self._places(tasks))[0]

    def close(self) -> None:
        """End the processes, if there are any; a later step starts new ones."""
        self._workers.close()

    def _call(self, method: str, *tensors: Tensor) -> list[Tensor]:
        arrays = self._workers.call(method, *(tensor.numpy() for tensor in tensors))
        return [torch.from_numpy(array) for array in arrays]

    def _places(self, tasks: ManipulationTasks) -> Tensor:
        """The place of each task in Meta-World's lists, those of training first."""
        kind, goal = tasks
        known = (kind >= 0) & (kind < len(self.kinds))
        known &= (goal >= 0) & (goal < self._counts[kind.clamp(0, len(self.kinds) - 1)])
        if not bool(known.all()):
            row = int((~known).nonzero()[0])
            pair: Any = int(kind[row]), int(goal[row])
            raise ValueError(
                f"task (kind, goal)={pair} is unknown: {self.benchmark} has the kinds 0 to "
                f"{len(self.kinds) - 1}, each with the goals 0 to {int(self._counts[0]) - 1}"
            )
        return self._firsts[kind] + goal
