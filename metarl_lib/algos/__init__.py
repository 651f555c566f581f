"""Algorithms that train agents, one file each; they see environments and memories as protocols."""

from metarl_lib.algos.actor_critic import ActorCritic, Agent
from metarl_lib.algos.epg import EPG
from metarl_lib.algos.evolution import EvolutionSettings
from metarl_lib.algos.learners import LifeSettings
from metarl_lib.algos.lives import Lives
from metarl_lib.algos.maml import MAML
from metarl_lib.algos.maml_outer import AfterSteps, EachEpisode, WholeLife
from metarl_lib.algos.maml_policy import MAMLPolicy
from metarl_lib.algos.meta_gradient import MetaGradient
from metarl_lib.algos.outer_loop import OuterLoop
from metarl_lib.algos.pearl import PEARL, PEARLSettings
from metarl_lib.algos.pearl_agent import PEARLAgent
from metarl_lib.algos.ppo import PPO, Settings, Streams
from metarl_lib.algos.reptile import JointTraining, Reptile

__all__ = [
    "EPG",
    "MAML",
    "PEARL",
    "PPO",
    "ActorCritic",
    "AfterSteps",
    "Agent",
    "EachEpisode",
    "EvolutionSettings",
    "JointTraining",
    "LifeSettings",
    "Lives",
    "MAMLPolicy",
    "MetaGradient",
    "OuterLoop",
    "PEARLAgent",
    "PEARLSettings",
    "Reptile",
    "Settings",
    "Streams",
    "WholeLife",
]
