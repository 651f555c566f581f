"""Exact or near-exact references to hold agents against."""

from metarl_lib.oracles.bandits import (
    best_arm,
    best_arm_total,
    epsilon_greedy,
    gittins,
    greedy,
    optimistic_thompson,
    posterior,
    random_policy,
    random_total,
    simulate,
    thompson,
    ucb,
)
from metarl_lib.oracles.bayes_bandit import bayes_optimal
from metarl_lib.oracles.gittins_index import DiscountedGittins, FiniteHorizonGittins
from metarl_lib.oracles.stay import (
    STAY_TERMS,
    logistic_regression,
    stay_probabilities,
    stay_regression,
)
from metarl_lib.oracles.two_step import BayesFilter, ModelBased, ModelFree, TwoStepTask

__all__ = [
    "STAY_TERMS",
    "BayesFilter",
    "DiscountedGittins",
    "FiniteHorizonGittins",
    "ModelBased",
    "ModelFree",
    "TwoStepTask",
    "bayes_optimal",
    "best_arm",
    "best_arm_total",
    "epsilon_greedy",
    "gittins",
    "greedy",
    "logistic_regression",
    "optimistic_thompson",
    "posterior",
    "random_policy",
    "random_total",
    "simulate",
    "stay_probabilities",
    "stay_regression",
    "thompson",
    "ucb",
]
