"""Masks for sb3-contrib's MaskablePPO: those of each row, in rows and alone."""

import gymnasium
import numpy as np
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from sb3_contrib.common.wrappers import ActionMasker

from metarl_lib.envs.layer_pool import LayerPool
from metarl_lib.envs.masks import MaskedVecEnv, masks_of

SMALL = {"units": 4, "shots": 3, "queries": 3, "depth": 2, "stop": True}


def test_every_row_has_its_own_mask() -> None:
    env = LayerPool(**SMALL)
    venv = MaskedVecEnv(env, 5, seed=1)
    venv.reset()
    assert is_masking_supported(venv)
    actions = np.random.default_rng(0)
    seen = set()
    for _ in range(12):
        masks = get_action_masks(venv)
        assert np.array_equal(masks, env.action_masks(venv.rows.state).numpy())
        seen |= {tuple(mask) for mask in masks.tolist()}
        assert np.array_equal(venv.env_method("action_masks", indices=[3])[0], masks[3])
        venv.step(np.array([actions.choice(np.flatnonzero(mask)) for mask in masks]))
    assert len(seen) > 3
    assert venv.env_method("plan", venv.rows.state)[0].layers.shape == (5, 4)


def test_maskable_ppo_learns_and_does_nothing_that_is_forbidden() -> None:
    env, forbidden, steps = LayerPool(**SMALL), 0, 0
    original = env.step

    def watched(state, action, generator):
        nonlocal forbidden, steps
        after, step = original(state, action, generator)
        forbidden, steps = forbidden + int(step.info["forbidden"].sum()), steps + len(action)
        return after, step

    env.step = watched
    learner = MaskablePPO(
        "MlpPolicy", MaskedVecEnv(env, 6), n_steps=8, batch_size=16, n_epochs=2, seed=0,
        device="cpu",
    )  # fmt: skip
    learner.learn(96)
    assert (forbidden, steps) == (0, 96)


def test_a_single_environment_has_a_mask_too() -> None:
    env = ActionMasker(gymnasium.make("metarl/LayerPool-v0", **SMALL), masks_of)
    env.reset(seed=0)
    assert is_masking_supported(env)
    assert get_action_masks(env).tolist() == [True] * 4 + [False] * 9
    env.step(2)
    assert get_action_masks(env).tolist() == [False] * 4 + [True] * 4 + [False] * 4 + [True]
    env.step(4)
    masks = torch.tensor(get_action_masks(env))
    assert masks.nonzero().flatten().tolist() == [5, 6, 7, 12]
