"""metarl_lib: environments, learning rules and memory cores for meta-reinforcement learning."""

__version__ = "0.1.0"
