"""A batched environment as Gymnasium and Stable-Baselines3 know environments.

None of them loops over rows to step: one call of the batched environment steps them all.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from metarl_lib.envs.base import BatchedEnv, DrawnEnv, Step, replace_rows
from metarl_lib.envs.trial import Trial

RENDER_FPS = 8


class Rows:
    """B running rows of a batched environment: its state, its stream, and fresh starts.

    Actions and observations are `[B, …]`.

    Args:
        env: the environment.
        batch: B, the number of rows.
        split: which tasks a fresh start draws, `"train"` or `"test"`.
        render_mode: None, or `"rgb_array"` for environments that can be drawn.

    Raises:
        ValueError: for another mode, or where there is nothing to draw.
    """

    def __init__(
        self, env: BatchedEnv, batch: int, split: str = "train", render_mode: str | None = None
    ) -> None:
        inner = self._inner = env.env if isinstance(env, Trial) else env
        self.render_modes = ["rgb_array"] if isinstance(inner, DrawnEnv) else []
        if render_mode is not None and render_mode not in self.render_modes:
            name, choices = type(inner).__name__, [*self.render_modes, "None"]
            raise ValueError(
                f"render_mode={render_mode!r} is unknown to {name}: choose {' or '.join(choices)}"
            )
        self.env, self.batch, self.split = env, batch, split
        self.generator = torch.Generator()
        self.generator.seed()
        self.state: Any = None

    def reset(self, seed: int | None = None) -> Tensor:
        """Start every row anew; the first observations."""
        if seed is not None:
            self.generator.manual_seed(seed)
        self.state, observation = self._fresh(self.batch)
        return observation

    def step(self, action: np.ndarray) -> Step:
        """Step every row; rows that end stay ended until `restart`.

        Raises:
            RuntimeError: before the first `reset`.
        """
        if self.state is None:
            raise RuntimeError("step was called before reset: call reset first")
        self.state, step = self.env.step(self.state, torch.as_tensor(action), self.generator)
        return step

    def restart(self, ended: Tensor, observation: Tensor) -> Tensor:
        """Start the rows that ended, `[B]` booleans, anew; the observations with those replaced."""
        if not bool(ended.any()):
            return observation
        fresh, first = self._fresh(int(ended.sum()))
        self.state = replace_rows(self.state, ended, fresh)
        return replace_rows(observation, ended, first)

    def frames(self) -> list[np.ndarray]:
        """A picture of every row, `[height, width, 3]` each.

        Raises:
            RuntimeError: before the first `reset`.
        """
        if self.state is None:
            raise RuntimeError("render was called before reset: call reset first")
        env, state = self.env, self.state
        if isinstance(env, Trial):
            env, state = env.env, state.inner
        assert isinstance(env, DrawnEnv)
        return [env.render(state, row) for row in range(self.batch)]

    def close(self) -> None:
        """End what the environment keeps open: processes, or emulators."""
        if hasattr(self._inner, "close"):
            self._inner.close()

    def _fresh(self, count: int) -> tuple[Any, Tensor]:
        tasks = self.env.sample_tasks(count, self.generator, self.split)
        return self.env.reset(tasks, self.generator)


class SingleEnv(gymnasium.Env):
    """One row as a Gymnasium environment: actions and observations are `[…]`, without a B.

    A picture is `[height, width, 3]`, whole numbers from 0 to 255.
    """

    def __init__(
        self, env: BatchedEnv, split: str = "train", render_mode: str | None = None
    ) -> None:
        self.rows, self.render_mode = Rows(env, 1, split, render_mode), render_mode
        self.metadata = {"render_modes": self.rows.render_modes, "render_fps": RENDER_FPS}
        self.observation_space, self.action_space = env.observation_space, env.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode of a freshly drawn task."""
        super().reset(seed=seed)
        observation = self.rows.reset(draw_seed(self.np_random) if seed is not None else None)
        return observation[0].numpy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one action."""
        step = self.rows.step(np.asarray(action)[None])
        info = {name: values[0].item() for name, values in step.info.items()}
        return (
            step.observation[0].numpy(),
            float(step.reward[0]),
            bool(step.terminated[0]),
            bool(step.truncated[0]),
            info,
        )

    def render(self) -> np.ndarray | None:
        """The row as a picture, with `render_mode="rgb_array"`; else None."""
        return self.rows.frames()[0] if self.render_mode else None

    def close(self) -> None:
        """End what the environment keeps open."""
        self.rows.close()


class VectorEnv(gymnasium.vector.VectorEnv):
    """B rows as a Gymnasium vector environment that restarts a row in the step that ends it.

    Actions and observations are `[B, …]`, rewards and ends `[B]`.
    """

    def __init__(
        self,
        env: BatchedEnv,
        num_envs: int,
        split: str = "train",
        render_mode: str | None = None,
    ) -> None:
        self.rows, self.render_mode = Rows(env, num_envs, split, render_mode), render_mode
        self.metadata = {
            "render_modes": self.rows.render_modes,
            "render_fps": RENDER_FPS,
            "autoreset_mode": AutoresetMode.SAME_STEP,
        }
        self.num_envs = num_envs
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start every row anew."""
        super().reset(seed=seed)
        observation = self.rows.reset(draw_seed(self.np_random) if seed is not None else None)
        return observation.numpy(), {}

    def step(
        self, actions: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every row; the last observation of an ended one is in `info["final_obs"]`."""
        step = self.rows.step(np.asarray(actions))
        ended = step.terminated | step.truncated
        info: dict[str, Any] = {name: values.numpy() for name, values in step.info.items()}
        if bool(ended.any()):
            last = np.empty(self.num_envs, dtype=object)
            for row in ended.nonzero().flatten().tolist():
                last[row] = step.observation[row].numpy()
            info["final_info"] = dict(info)
            info |= {"final_obs": last, "_final_obs": ended.numpy(), "_final_info": ended.numpy()}
        return (
            self.rows.restart(ended, step.observation).numpy(),
            step.reward.double().numpy(),
            step.terminated.numpy(),
            step.truncated.numpy(),
            info,
        )

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Every row as a picture, with `render_mode="rgb_array"`; else None."""
        return tuple(self.rows.frames()) if self.render_mode else None

    def close_extras(self, **options: Any) -> None:
        """End what the environment keeps open; `close` calls it, once."""
        self.rows.close()


class SB3VecEnv(VecEnv):
    """B rows as a Stable-Baselines3 vector environment.

    Actions and observations are `[B, …]`, rewards and ends `[B]`.

    Args:
        env: the environment.
        num_envs: B.
        seed: of the rows' stream, which goes on when the environment is reset.
        split: which tasks are drawn.
        render_mode: None, or `"rgb_array"` for environments that can be drawn.
    """

    def __init__(
        self,
        env: BatchedEnv,
        num_envs: int,
        *,
        seed: int = 0,
        split: str = "train",
        render_mode: str | None = None,
    ) -> None:
        self.rows = Rows(env, num_envs, split, render_mode)
        self.rows.generator.manual_seed(seed)
        self._actions: np.ndarray | None = None
        self.render_mode = render_mode
        super().__init__(num_envs, env.observation_space, env.action_space)

    def reset(self) -> np.ndarray:
        """Start every row anew."""
        seed = self._seeds[0]
        self._reset_seeds()
        return self.rows.reset(seed).numpy()

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step every row; an ended one starts anew and leaves its last observation in `infos`."""
        assert self._actions is not None
        step = self.rows.step(self._actions)
        ended = step.terminated | step.truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in ended.nonzero().flatten().tolist():
            infos[row] = {name: values[row].item() for name, values in step.info.items()}
            infos[row]["terminal_observation"] = step.observation[row].numpy()
            infos[row]["TimeLimit.truncated"] = bool(step.truncated[row] & ~step.terminated[row])
        observation = self.rows.restart(ended, step.observation)
        return observation.numpy(), step.reward.numpy(), ended.numpy(), infos

    def close(self) -> None:
        """End what the environment keeps open."""
        self.rows.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the environment, once for each row that is asked for."""
        value = getattr(self if attr_name == "render_mode" else self.rows.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: the rows share one environment.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(
            f"{attr_name}={value!r} cannot be set: the rows share one environment; make a new one"
        )

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the environment, once for each row that is asked for."""
        method = getattr(self.rows.env, method_name)
        return [method(*method_args, **method_kwargs) for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No row is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Every row as a picture, with `render_mode="rgb_array"`."""
        return self.rows.frames() if self.render_mode else [None] * self.num_envs


def draw_seed(stream: np.random.Generator) -> int:
    """A seed for a torch generator out of a NumPy stream."""
    return int(stream.integers(2**63 - 1))


def make_single(
    batched: str,
    split: str = "train",
    episodes: int | None = None,
    render_mode: str | None = None,
    **options: Any,
) -> SingleEnv:
    """What `gymnasium.make` calls.

    Args:
        batched: where the batched environment stands, as `module:class`.
        split: which tasks are drawn.
        episodes: of one task, in a `Trial`; without it, the environment as it is.
        render_mode: None, or `"rgb_array"` for environments that can be drawn.
        options: of the batched environment.
    """
    return SingleEnv(_make(batched, episodes, options), split, render_mode)


def make_vector(
    batched: str,
    num_envs: int = 1,
    split: str = "train",
    episodes: int | None = None,
    render_mode: str | None = None,
    **options: Any,
) -> VectorEnv:
    """What `gymnasium.make_vec` calls; the arguments are those of `make_single`."""
    return VectorEnv(_make(batched, episodes, options), num_envs, split, render_mode)


def _make(place: str, episodes: int | None, options: dict[str, Any]) -> Any:
    module, name = place.split(":")
    env = getattr(importlib.import_module(module), name)(**options)
    return env if episodes is None else Trial(env, episodes)
