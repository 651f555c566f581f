"""Algorithms that train agents, one file each; they see environments and memories as protocols."""

from metarl_lib.algos.actor_critic import ActorCritic, Agent
from metarl_lib.algos.maml_policy import MAMLPolicy
from metarl_lib.algos.ppo import PPO, Settings, Streams

__all__ = ["PPO", "ActorCritic", "Agent", "MAMLPolicy", "Settings", "Streams"]
