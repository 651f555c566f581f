"""Meta-World's robot, put into any state of any task and stepped from there by its own code.

Needs no torch, so that a process which only steps rows starts fast and stays small.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from metarl_lib.envs.mujoco_package import quiet

Numbers = Float[np.ndarray, "..."]
Physics = Float[np.ndarray, "B 64"]
Half = Float[np.ndarray, "B 18"]
"""What is seen of one moment. An observation shows two of them, then the goal."""

ROOM = 64
"""Numbers that are kept for the physics of a row; robots that need fewer leave the last at 0."""

SECONDS = 0.0125
"""That pass in a step: five of the physics."""


def import_metaworld() -> Any:
    """The package.

    Raises:
        ImportError: where it is not installed; one line that says which extra to install.
    """
    try:
        import metaworld
    except ImportError:
        raise ImportError(
            "manipulation needs Meta-World, which is not installed: "
            "pip install 'metarl_lib[mujoco]'"
        ) from None
    return metaworld


@lru_cache(maxsize=4)
def benchmark_tasks(benchmark: str, seed: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Meta-World's own training and test tasks: 50 for each class, drawn from the seed.

    It takes seconds: Meta-World lets the physics settle for every one that it draws.
    """
    metaworld = import_metaworld()
    suite = metaworld.ML10(seed=seed) if benchmark == "ML10" else metaworld.ML1(benchmark, seed)
    return tuple(suite.train_tasks), tuple(suite.test_tasks)


class Start(NamedTuple):
    """How an episode of a task starts, and what of it stays as it is until the end.

    `physics` is MuJoCo's state, `[64]`; `seen` `[18]`; `observation` `[39]`; `attributes` those
    of Meta-World's object; `bodies` and `sites` where the task has put them in the model.
    """

    physics: np.ndarray
    seen: np.ndarray
    observation: np.ndarray
    attributes: dict[str, Any]
    bodies: np.ndarray
    sites: np.ndarray


class Sawyer:
    """One of Meta-World's environments, which takes up any state of any task of its class.

    Meta-World keeps an episode in three places: in MuJoCo's state (with the solver's warm start
    and the place that the hand is drawn to), in what was seen last, and in what a reset writes
    into the object and into the model. The first two are the state of a row; the third depends
    on the task alone, and is kept. (Rewards of version 1 also leave flags behind, which
    they set anew before they look at them.)

    Args:
        name: of the class, such as `"reach-v3"`.
        reward: the version of its reward, `"v1"` or `"v2"`.
    """

    def __init__(self, name: str, reward: str) -> None:
        import mujoco

        make = import_metaworld().ALL_V3_ENVIRONMENTS[name]
        self.mujoco, self.env = mujoco, make(reward_function_version=reward)
        self.env.touching_object = self._touching
        parts = mujoco.mjtState
        self.parts = int(
            parts.mjSTATE_FULLPHYSICS
            | parts.mjSTATE_WARMSTART
            | parts.mjSTATE_MOCAP_POS
            | parts.mjSTATE_MOCAP_QUAT
        )
        self.size = mujoco.mj_stateSize(self.env.model, self.parts)
        assert self.size <= ROOM
        self.taken: Start | None = None

    def start(self, task: Any) -> Start:
        """Reset to a task of Meta-World's."""
        env, self.taken = self.env, None
        env.set_task(task)
        observation, _ = env.reset()
        attributes = {
            name: value.copy() if isinstance(value, np.ndarray) and not _shown(value) else value
            for name, value in vars(env).items()
        }
        bodies, sites = env.model.body_pos.copy(), env.model.site_pos.copy()
        return Start(self._physics(), env._prev_obs, observation, attributes, bodies, sites)

    def step(
        self, start: Start, physics: Numbers, seen: Numbers, action: Numbers
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, bool]:
        """A step from a state, by Meta-World's own `step`.

        Args:
            start: of the episode.
            physics: `[64]`.
            seen: `[18]`.
            action: `[4]`.

        Returns:
            The new physics and what is seen, the observation `[39]`, the reward and the success.
        """
        env = self.env
        if self.taken is not start:
            vars(env).update(start.attributes)
            env.model.body_pos[:], env.model.site_pos[:] = start.bodies, start.sites
            self.taken = start
        self.mujoco.mj_setState(env.model, env.data, physics[: self.size], self.parts)
        env._prev_obs = seen
        env.curr_path_length = 0  # when an episode ends is not said here
        observation, reward, _, _, info = env.step(action)
        return self._physics(), env._prev_obs, observation, float(reward), bool(info["success"])

    def _physics(self) -> np.ndarray:
        physics = np.zeros(ROOM)
        self.mujoco.mj_getState(self.env.model, self.env.data, physics[: self.size], self.parts)
        return physics

    def _touching(self, thing: int) -> bool:
        """What Meta-World's `touching_object` says; that one takes up to half of a step."""
        data = self.env.data
        geoms, first = data.contact.geom, data.contact.efc_address
        of_thing = (geoms == thing).any(1)
        forces = [
            data.efc_force[first[of_thing & (geoms == data.geom(pad).id).any(1)]].sum()
            for pad in ("leftpad_geom", "rightpad_geom")
        ]
        return bool(forces[0] > 0 and forces[1] > 0)


class Robots:
    """Rows of tasks of several classes. Holds what it has made so far, and no row's state.

    Args:
        tasks: of Meta-World's; a row names its own by the place in this list.
        reward: the version.
    """

    def __init__(self, tasks: Sequence[Any], reward: str) -> None:
        self.tasks, self.reward = tasks, reward
        self.robots: dict[str, Sawyer] = {}
        self.starts: dict[int, Start] = {}

    def start(self, numbers: Integer[np.ndarray, " B"]) -> tuple[Physics, Half, Numbers]:
        """The physics, what is seen and the observations `[B, 39]` at the start of an episode."""
        with quiet():
            starts = [self._start(number) for number in numbers.tolist()]
        physics, seen, observations = zip(*(start[:3] for start in starts), strict=True)
        return np.stack(physics), np.stack(seen), np.stack(observations)

    def goals(self, numbers: Integer[np.ndarray, " B"]) -> tuple[Float[np.ndarray, "B 3"]]:
        """The places that are hidden."""
        starts = [self._start(number) for number in numbers.tolist()]
        return (np.stack([start.attributes["_target_pos"] for start in starts]),)

    def step(
        self,
        numbers: Integer[np.ndarray, " B"],
        physics: Physics,
        seen: Half,
        actions: Float[np.ndarray, "B 4"],
    ) -> tuple[Physics, Half, Numbers, Numbers, Bool[np.ndarray, " B"], Bool[np.ndarray, " B"]]:
        """One step of every row.

        Returns:
            The physics and what is seen after it, the observations `[B, 39]`, the rewards
            `[B]`, and which rows succeed, and which diverged: MuJoCo met a number that is not
            finite or far too large. Such a row stays as it was and is paid nothing.
        """
        rows = []
        for number, before, half, action in zip(
            numbers.tolist(), physics, seen, actions, strict=True
        ):
            start = self._start(number)
            with quiet():  # a warning is seen in what becomes of its row
                row = self._robot(number).step(start, before, half, action)
            late = row[0][0] - before[0] < SECONDS * (1 - 1e-6)  # MuJoCo started anew at time 0
            diverged = bool(late or not np.isfinite(row[0]).all())
            if diverged:
                row = before, half, np.concatenate([half, half, np.zeros(3)]), 0.0, False
            rows.append((*row, diverged))
        after, now, observations, rewards, success, failed = zip(*rows, strict=True)
        flags = np.array(success), np.array(failed)
        return np.stack(after), np.stack(now), np.stack(observations), np.array(rewards), *flags

    def _robot(self, number: int) -> Sawyer:
        name = self.tasks[number].env_name
        if name not in self.robots:
            self.robots[name] = Sawyer(name, self.reward)
        return self.robots[name]

    def _start(self, number: int) -> Start:
        if number not in self.starts:
            self.starts[number] = self._robot(number).start(self.tasks[number])
        return self.starts[number]


def _shown(array: np.ndarray) -> bool:
    """Whether this is a view of MuJoCo's memory, which shows what is now and must go on to."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.base is not None
