"""Memory cells: what carries a task inside a lifetime. All obey the laws of `base.Core`."""

from metarl_lib.cores.base import Core, State
from metarl_lib.cores.metods import MetODS
from metarl_lib.cores.plastic import SRWM, Backpropamine
from metarl_lib.cores.recurrent import GRU, LSTM

__all__ = ["GRU", "LSTM", "SRWM", "Backpropamine", "Core", "MetODS", "State"]
