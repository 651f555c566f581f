"""Environments, batched in torch, and what shows them to Gymnasium, SB3 and PettingZoo."""

import gymnasium

IDS = {
    "metarl/Bandit-v0": "metarl_lib.envs.bandit:Bandit",
    "metarl/TwoStep-v0": "metarl_lib.envs.two_step:TwoStep",
    "metarl/Harlow-v0": "metarl_lib.envs.harlow:Harlow",
    "metarl/Maze-v0": "metarl_lib.envs.maze:Maze",
    "metarl/PointRobot-v0": "metarl_lib.envs.point_robot:PointRobot",
    "metarl/Pendulum-v0": "metarl_lib.envs.pendulum:Pendulum",
    "metarl/AntDir-v0": "metarl_lib.envs.locomotion:AntDir",
    "metarl/CheetahDir-v0": "metarl_lib.envs.locomotion:CheetahDir",
    "metarl/CheetahVel-v0": "metarl_lib.envs.locomotion:CheetahVel",
    "metarl/Chain-v0": "metarl_lib.envs.chain:Chain",
    "metarl/Laps-v0": "metarl_lib.envs.laps:Laps",
    "metarl/CartPole-v0": "metarl_lib.envs.classic_control:CartPole",
    "metarl/Acrobot-v0": "metarl_lib.envs.classic_control:Acrobot",
    "metarl/Catch-v0": "metarl_lib.envs.grid_games:Catch",
    "metarl/Dodge-v0": "metarl_lib.envs.grid_games:Dodge",
    "metarl/WeightSpace-v0": "metarl_lib.envs.weight_space:WeightSpace",
    "metarl/LayerPool-v0": "metarl_lib.envs.layer_pool:make_layer_pool",
}
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
