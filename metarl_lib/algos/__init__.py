"""Algorithms that train agents, one file each; they see environments and memories as protocols."""

from metarl_lib.algos.actor_critic import ActorCritic
from metarl_lib.algos.ppo import PPO, Settings, Streams

__all__ = ["PPO", "ActorCritic", "Settings", "Streams"]
