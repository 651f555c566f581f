"""Does an agent repeat its first action? The usual analysis of the two-step task.

Daw et al. (2011) hold whether an agent *stays* with the action of the round before against that
round's reward and transition. An agent that repeats what paid shows an effect of reward, one that
plans an interaction: after a reward it stays if the transition was common, leaves if it was rare.

That reading holds where one round says nothing about those before it. Where the good place lasts
(`switch` = 0.025), a reward after a common transition, or none after a rare one, comes mostly to an
agent whose action was right and highly valued already: then even a model-free agent shows an
interaction. Akam, Costa & Dayan (2015) found this; whether the action was correct, as a further
predictor, takes most of it out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

STAY_TERMS = ("intercept", "reward", "transition", "interaction", "correct")
"""What the coefficients of `stay_regression` belong to."""

ITERATIONS = 30


class StayProbabilities(NamedTuple):
    """How often agents stayed, and after how many rounds, by `[rewarded, common]`."""

    probability: Tensor
    rounds: Tensor


class LogisticFit(NamedTuple):
    """Coefficients, in log odds, and their standard errors."""

    coefficient: Tensor
    error: Tensor


def stay_probabilities(
    action: Int[Tensor, "T B"], common: Bool[Tensor, "T B"], reward: Float[Tensor, "T B"]
) -> StayProbabilities:
    """Share of rounds with the action of the round before, by what happened in that one.

    Args:
        action: first actions, T ≥ 2 rounds in a row of B agents.
        common: whether the transition was.
        reward: paid if > 0.

    Returns:
        `probability` and `rounds`, `[2, 2]`, double precision: the first index says whether the
        round before was rewarded, the second whether its transition was common. What never
        happened has the probability NaN.
    """
    stay = _stays(action)
    cell = (2 * (reward[:-1] > 0) + 1 * common[:-1]).flatten()
    count = torch.bincount(cell, minlength=4).double()
    stays = torch.bincount(cell, weights=stay, minlength=4)
    return StayProbabilities((stays / count).reshape(2, 2), count.reshape(2, 2))


def stay_regression(
    action: Int[Tensor, "T B"],
    common: Bool[Tensor, "T B"],
    reward: Float[Tensor, "T B"],
    correct: Bool[Tensor, "T B"] | None = None,
) -> LogisticFit:
    """Logistic regression of staying on reward, transition and their interaction, coded ±1.

    Args:
        action, common, reward: as of `stay_probabilities`.
        correct: whether the action was the better one, a further predictor, coded ±1; see above
            what it is good for.

    Returns:
        Coefficients and standard errors in the order of `STAY_TERMS`, 4 or, with `correct`, 5,
        double precision. The errors take rounds for independent, given the predictors.

    Raises:
        ValueError: when the predictors do not vary by themselves or tell staying with certainty.
    """
    stay = _stays(action)
    paid, usual = 2.0 * (reward[:-1] > 0) - 1, 2.0 * common[:-1] - 1
    columns = [torch.ones_like(paid), paid, usual, paid * usual]
    if correct is not None:
        columns.append(2.0 * correct[:-1] - 1)
    return logistic_regression(torch.stack(columns, -1).flatten(0, 1).double(), stay)


def logistic_regression(x: Float[Tensor, "N P"], y: Float[Tensor, " N"]) -> LogisticFit:
    """The largest likelihood of y ~ Bernoulli(σ(x β)), by Newton's method.

    Returns:
        β, and the square roots of the diagonal of the inverse Fisher information.

    Raises:
        ValueError: when β is not unique or not finite.
    """
    if int(torch.linalg.matrix_rank(x.mT @ x)) < x.shape[1]:
        raise ValueError(
            "the predictors do not vary by themselves: take more rounds, in which every "
            "combination of reward and transition (and both correct and wrong actions) occurs"
        )
    beta = x.new_zeros(x.shape[1])
    for _ in range(ITERATIONS):
        p = torch.sigmoid(x @ beta)
        information = (x * (p * (1 - p)).unsqueeze(1)).mT @ x
        factor, failed = torch.linalg.cholesky_ex(information)
        if failed:
            break
        change = torch.cholesky_solve((x.mT @ (y - p)).unsqueeze(1), factor).squeeze(1)
        beta = beta + change
        if float(change.abs().max()) < 1e-9:
            return LogisticFit(beta, torch.cholesky_inverse(factor).diagonal().sqrt())
    raise ValueError(
        "the predictors tell y with certainty in some case, so a coefficient is infinite: take "
        "more rounds or a less certain agent, or look at stay_probabilities"
    )


def _stays(action: Tensor) -> Tensor:
    if len(action) < 2:
        raise ValueError(f"{len(action)} round given: staying needs at least 2 in a row")
    return (action[1:] == action[:-1]).double().flatten()
