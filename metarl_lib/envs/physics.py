"""Rigid bodies by MuJoCo, many rows at once: native threads step all of them for a whole frame."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metarl_lib.envs.mujoco_package import import_mujoco, quiet
from metarl_lib.envs.robot_picture import Limbs

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


class Physics:
    """A robot of Gymnasium's, in B rows, each with a state that says everything about it.

    A state is MuJoCo's full physics in float64: time, q positions and v velocities. The
    solver's warm start, which would be a hidden part of it, is switched off. So equal states
    and torques give equal steps, in any order and on any number of threads.

    Args:
        robot: a model among Gymnasium's assets, such as `"ant"` or `"half_cheetah"`.
        frame_skip: steps of the physics in a step of an environment.

    Raises:
        ImportError: without MuJoCo.
    """

    def __init__(self, robot: str, frame_skip: int = 5) -> None:
        mujoco = import_mujoco()
        self.robot, self.frame_skip = robot, frame_skip
        self.model = mujoco.MjModel.from_xml_path(str(ASSETS / f"{robot}.xml"))
        self.model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_WARMSTART)
        self.size = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self.num_positions, self.num_velocities = self.model.nq, self.model.nv
        self.num_actuators = self.model.nu
        self.seconds = frame_skip * float(self.model.opt.timestep)
        """That pass in a step of the environment."""
        self.rest = torch.tensor(self.model.qpos0)
        """The positions of the model at rest, `[q]`."""

    @cached_property
    def _pool(self) -> tuple[Any, list[Any]]:
        """The threads, as many as torch uses, and the room that each of them works in."""
        mujoco = import_mujoco()
        from mujoco.rollout import Rollout

        threads = torch.get_num_threads()
        return Rollout(nthread=threads), [mujoco.MjData(self.model) for _ in range(threads)]

    def start(
        self, positions: Float[Tensor, "B q"], velocities: Float[Tensor, "B v"]
    ) -> Float[Tensor, "B n"]:
        """States from which an episode starts.

        The clock does not start at 0: MuJoCo sets it back to 0 in a row that diverges, and so
        the time of such a row is always too early.
        """
        states = torch.zeros(len(positions), self.size, dtype=torch.float64)
        states[:, 0] = self.seconds
        self.positions(states).copy_(positions)
        self.velocities(states).copy_(velocities)
        return states

    def positions(self, states: Float[Tensor, "B n"]) -> Float[Tensor, "B q"]:
        """The part of the states that says where everything is."""
        return states[:, 1 : 1 + self.num_positions]

    def velocities(self, states: Float[Tensor, "B n"]) -> Float[Tensor, "B v"]:
        """The part of the states that says how everything moves."""
        first = 1 + self.num_positions
        return states[:, first : first + self.num_velocities]

    def limbs(self, positions: Float[Tensor, " q"]) -> Limbs:
        """Where the capsules and balls are of which a robot with these positions is made."""
        mujoco = import_mujoco()
        data, model = mujoco.MjData(self.model), self.model
        data.qpos[:] = positions.numpy()
        mujoco.mj_kinematics(model, data)
        round_ = (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_SPHERE)
        bodies = np.isin(model.geom_type, [int(kind) for kind in round_])
        capsule = model.geom_type[bodies] == int(mujoco.mjtGeom.mjGEOM_CAPSULE)
        half = np.where(capsule, model.geom_size[bodies, 1], 0.0)
        axis = data.geom_xmat[bodies].reshape(-1, 3, 3)[:, :, 2] * half[:, None]
        middle = data.geom_xpos[bodies]
        ends = np.stack([middle - axis, middle + axis], 1)
        return Limbs(ends, model.geom_size[bodies, 0].copy())

    def advance(
        self, states: Float[Tensor, "B n"], torques: Float[Tensor, "B u"]
    ) -> tuple[Float[Tensor, "B n"], Bool[Tensor, " B"]]:
        """The states after one step of every row, and which rows diverged.

        A row diverges when MuJoCo meets a number that is not finite or far too large, and so
        stops it, or when the step ends with one; its state is then the one before the step.
        """
        pool, rooms = self._pool
        control = torques.double()[:, None].expand(-1, self.frame_skip, -1).contiguous()
        frames = np.empty((len(states), self.frame_skip, self.size))
        # Four shares a thread: fewer may differ in length, and more cost time to hand over.
        chunk = max(1, len(states) // (4 * len(rooms)))
        with quiet():
            pool.rollout(
                self.model, rooms, states.numpy(), control.numpy(), state=frames, chunk_size=chunk
            )
        after = torch.from_numpy(frames[:, -1].copy())
        late = after[:, 0] - states[:, 0] < self.seconds * (1 - 1e-6)
        # MuJoCo itself looks at the numbers only when the next step begins.
        diverged = late | ~(after.abs() <= import_mujoco().mjMAXVAL).all(1)
        return torch.where(diverged[:, None], states, after), diverged
