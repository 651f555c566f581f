"""Masks of choices as sb3-contrib's MaskablePPO asks for them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from metarl_lib.envs.adapters import SB3VecEnv, SingleEnv

METHOD = "action_masks"


class MaskedVecEnv(SB3VecEnv):
    """An `SB3VecEnv` whose environment has `action_masks(state)`, such as `LayerPool`.

    MaskablePPO calls `env_method("action_masks")` before each step, and gets a mask for each row.
    """

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the environment; `action_masks` gives each row its own."""
        if method_name == METHOD:
            masks = self.rows.env.action_masks(self.rows.state).numpy()  # type: ignore[attr-defined]
            return [masks[row] for row in self._get_indices(indices)]
        return super().env_method(method_name, *method_args, indices=indices, **method_kwargs)


def masks_of(env: gymnasium.Env) -> np.ndarray:
    """The mask of an environment that `gymnasium.make` made, for sb3-contrib's `ActionMasker`.

    `[actions]` booleans, true where an action is allowed.
    """
    single = env.unwrapped
    assert isinstance(single, SingleEnv)
    masks: np.ndarray = single.rows.env.action_masks(single.rows.state)[0].numpy()  # type: ignore[attr-defined]
    return masks
