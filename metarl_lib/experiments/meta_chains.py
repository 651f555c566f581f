"""Learned discounts and λ on chains, where an oracle knows what should be learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl_lib.algos.meta_td import MetaTD
from metarl_lib.algos.meta_trace import ReturnParameters
from metarl_lib.envs.base import one_hot
from metarl_lib.envs.chain import Chain
from metarl_lib.experiments.base import row
from metarl_lib.oracles.chains import ChainProblem, best, pair, resting_point
from metarl_lib.runs import Row, Stage, generator

START = 0.5
CURVE = 25
"""γ and λ at the start, and points of a curve, with a checkpoint at each."""


class Setup(NamedTuple):
    """A chain, the rate of its values, what is learned beside them, and the first rate of that."""

    env: Chain
    rate: float
    learned: str
    meta_rate: float = 0.05


class Learner(NamedTuple):
    """The decay of the trace (None: exact), and the outer loss."""

    decay: float | None
    outer: str = "full"


CHAINS = {
    "pattern": Setup(Chain("noise", noise=1.7), 0.5, "discount", 0.1),
    "graded": Setup(Chain("noise"), 0.1, "discount"),
    "alias": Setup(Chain("alias", signal=2.0), 0.1, "lambda"),
}
LEARNERS = {
    "mg": Learner(0.0),
    "mg-trace": Learner(0.9),
    "mg-exact": Learner(None),
    "mg-inner": Learner(0.0, "inner"),
}


def problem_of(setup: Setup) -> ChainProblem:
    """The chain as the oracle knows it."""
    means, noise = (part.double() for part in setup.env.rewards())
    return ChainProblem(setup.env.features().double(), means, noise, setup.rate)


def make_learner(setup: Setup, learner: Learner, learners: int) -> MetaTD:
    """Fresh learners on a chain; what is not learned is 1."""
    start = {"discount": 1.0, "lambda_": 1.0}
    start["discount" if setup.learned == "discount" else "lambda_"] = START
    parameters = ReturnParameters((setup.learned,), inputs=setup.env.states, **start)
    features = setup.env.observation_space.shape[0]
    return MetaTD(
        parameters, features, learners, learning_rate=setup.rate, meta_rate=setup.meta_rate,
        decay=learner.decay, outer=learner.outer,
    )  # fmt: skip


def episode(env: Chain, learners: int, stream: torch.Generator) -> tuple[Tensor, ...]:
    """One walk of every learner, as `MetaTD.learn` takes it: `[T, L, …]` each."""
    state, seen = env.reset(env.sample_tasks(learners, stream), stream)
    nothing, steps = torch.zeros(learners, dtype=torch.long), []
    for _ in range(env.states):
        state, step = env.step(state, nothing, stream)
        place = one_hot(step.info["place"], env.states)
        steps.append((seen, step.observation, step.reward, step.terminated, place))
        seen = step.observation
    return tuple(torch.stack(column) for column in zip(*steps, strict=True))


def learn(stage: Stage, config: Any, chain: str, name: str, seed: int) -> None:
    """Learn on a chain to the end of a stage; it logs what is learned, and keeps η."""
    if stage.finished:
        return
    setup, learner = CHAINS[chain], LEARNERS[name]
    made = make_learner(setup, learner, config.chain_learners)
    stream = generator(seed, "environment", 1000 + 10 * list(CHAINS).index(chain))
    if stage.tensors:
        made.restore(stage.tensors)
        stream.set_state(stage.tensors["stream"])
    every = max(1, config.chain_episodes // CURVE)
    for k in range(stage.step, config.chain_episodes):
        for group in made.optimiser.param_groups:  # large steps first, then small ones
            group["lr"] = setup.meta_rate * (1 - k / config.chain_episodes)
        made.learn(*episode(setup.env, config.chain_learners, stream))
        if (k + 1) % every == 0:
            values = {f"eta_{i + 2}": float(v) for i, v in enumerate(numbers(made.eta))}
            stage.check_finite(k + 1, values)
            stage.log(k + 1, values)
            if k + 1 < config.chain_episodes:
                stage.save(k + 1, made.checkpoint() | {"stream": stream.get_state()})
    stage.save(config.chain_episodes, {"eta": made.eta}, finished=True)


def numbers(eta: Tensor) -> Tensor:
    """γ or λ of each state but the first, `[n − 1]`, of η `[n]`."""
    return torch.sigmoid(eta)[1:].double()


def learned_rows(config: Any, tensors: Mapping[str, Tensor]) -> list[Row]:
    """What was learned.

    Metrics: `eta_<i>`, γ or λ on entering state i; `extreme`, how far the worst of them is from
    the end, 0 or 1, of the pattern (1 before a certain reward and 0 before a noisy one; 1 on
    entering a state that looks like others, and 0 on entering others); `value_error`, of the
    values that they lead to.
    """
    rows = []
    for chain in config.chains:
        for name in config.chain_variants:
            found = numbers(tensors[f"{chain}-{name}.eta"])
            rows += _rows(config, chain, name, found)
    return rows


def oracle_rows(config: Any, learned: list[Row]) -> list[Row]:
    """Where each learner should come to rest, the best, and the best that is the same everywhere.

    For each learner also `from_rest`, how far the worst of its numbers is from its place of rest.
    """
    rows = []
    had = {(r["variant"], r["metric"]): r["value"] for r in learned}
    for chain in config.chains:
        setup = CHAINS[chain]
        problem = problem_of(setup)
        for name in config.chain_variants:
            learner = LEARNERS[name]
            rest = resting_point(
                problem, setup.learned, learner.decay, learner.outer, START, config.oracle_steps
            )
            rows += _rows(config, chain, f"{name}-rest", rest)
            own = [had[f"{chain}-{name}", f"eta_{i + 2}"] for i in range(len(rest))]
            distance = (torch.tensor(own).double() - rest).abs().max()
            rows.append(row(f"{chain}-{name}", "from_rest", distance, config.chain_episodes))
        rows += _rows(config, chain, "best", best(problem, setup.learned)[0])
        grid = torch.linspace(0, 1, 101, dtype=torch.float64)
        tries = [u.expand(setup.env.states - 1) for u in grid]
        rows += _rows(config, chain, "uniform", min(tries, key=lambda t: _error(setup, t)))
    return rows


def _rows(config: Any, chain: str, name: str, found: Tensor) -> list[Row]:
    setup = CHAINS[chain]
    ends = (torch.arange(len(found)) % 2 == (1 if setup.learned == "discount" else 0)).double()
    values = {f"eta_{i + 2}": float(v) for i, v in enumerate(found)}
    values["extreme"] = float((found - ends).abs().max())
    values["value_error"] = _error(setup, found)
    return [row(f"{chain}-{name}", m, v, config.chain_episodes) for m, v in values.items()]


def _error(setup: Setup, found: Tensor) -> float:
    return float(problem_of(setup).error(*pair(found, setup.learned)))
