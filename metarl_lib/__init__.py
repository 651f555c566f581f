"""metarl_lib: environments, learning rules and memory cores for meta-reinforcement learning."""

from metarl_lib.envs import register

__version__ = "0.1.0"

register()
