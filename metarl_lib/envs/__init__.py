"""Environments, batched in torch, and what shows them to Gymnasium, SB3 and PettingZoo."""

import gymnasium

IDS = {"metarl/WeightSpace-v0": "metarl_lib.envs.weight_space:WeightSpace"}
"""Gymnasium id -> where the batched environment behind it stands."""


def register() -> None:
    """Tell Gymnasium about every environment; importing `metarl_lib` does it."""
    for name, place in IDS.items():
        gymnasium.register(
            name,
            entry_point="metarl_lib.envs.adapters:make_single",
            vector_entry_point="metarl_lib.envs.adapters:make_vector",
            kwargs={"batched": place},
        )
