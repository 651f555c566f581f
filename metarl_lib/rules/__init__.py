"""Learning rules: estimators of the loss gradient, all with one signature."""

from metarl_lib.rules.gradient import backpropagation, sgd
from metarl_lib.rules.losses import cross_entropy, half_mse, mse
from metarl_lib.rules.network import Network
from metarl_lib.rules.perturbation import forward_passes, node_perturbation, weight_perturbation

__all__ = [
    "Network",
    "backpropagation",
    "cross_entropy",
    "forward_passes",
    "half_mse",
    "mse",
    "node_perturbation",
    "sgd",
    "weight_perturbation",
]
