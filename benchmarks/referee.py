"""Hold our PPO against that of Stable-Baselines3, on a pole that is to be balanced.

Two tasks: CartPole, and the same with positions alone, which takes a memory. Three learners on
the same batched environment: ours with a GRU, PPO of Stable-Baselines3 with networks that have
no memory, and RecurrentPPO of sb3-contrib with LSTMs. All have two layers of 64 units beside
the memory of 64, ours before it and the peers, as they come, behind it; and the same rows,
steps, passes, minibatches, discounts and learning rates. What a step pays is 1/100, so that
values are about 1: ours shares one memory between policy and value, and there a loss in squares
of hundreds would drown the policy's. The peers have a network for each.

Two numbers for each training, both as steps balanced: the mean over 100 fresh episodes with the
most likely actions at the end, and the mean return during training (its learning curve's height).

    python benchmarks/referee.py [--quick] [--write]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from torch import nn

from metarl_lib.algos import PPO, ActorCritic, Settings, Streams
from metarl_lib.cores import GRU
from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.experiments.sb3_recurrent import Returns
from metarl_lib.report import mean_interval
from metarl_lib.runs import generator, provenance, write_json

TESTS = Path(__file__).resolve().parents[1] / "tests" / "algos"
sys.path.insert(0, str(TESTS))

from toy_envs import CartPole  # noqa: E402

RECORD = TESTS / "referee.json"
REWARD = 0.01
TASKS = {"cartpole": False, "positions": True}
LEARNERS = ("ours", "sb3", "sb3_recurrent")


@dataclass(frozen=True)
class Budget:
    """What every learner is given."""

    updates: int = 48
    rows: int = 16
    segment: int = 128
    epochs: int = 5
    minibatches: int = 4
    learning_rate: float = 1e-3
    discount: float = 0.99
    gae_lambda: float = 0.95
    units: int = 64
    episodes: int = 100

    @property
    def steps(self) -> int:
        """Environment steps of a training."""
        return self.updates * self.rows * self.segment


def train_ours(task: str, seed: int, budget: Budget) -> tuple[Any, list[float]]:
    """Our agent, and the mean return of the episodes that ended in each segment."""
    env = CartPole(positions_only=TASKS[task], reward=REWARD)
    settings = Settings(
        rows=budget.rows,
        segment=budget.segment,
        updates=budget.updates,
        epochs=budget.epochs,
        minibatches=budget.minibatches,
        learning_rate=budget.learning_rate,
        discount=budget.discount,
        gae_lambda=budget.gae_lambda,
        entropy=0.0,
        value_weight=1.0,  # times half the mean square, so that it is the peers' 0.5
        bootstrap=True,
    )
    torch.manual_seed(generator(seed, "init").initial_seed())
    units, size = budget.units, env.observation_space.shape[0]
    encoder = nn.Sequential(nn.Linear(size, units), nn.Tanh(), nn.Linear(units, units), nn.Tanh())
    core = GRU(units, units)
    model = ActorCritic(core, env.observation_space, env.action_space, encoder=encoder)
    streams = Streams(*(generator(seed, name) for name in Streams._fields))
    learner = PPO(env, model, settings, streams)
    return model, [learner.update()["return"] for _ in range(budget.updates)]


class Curve(BaseCallback):
    """The mean return of the episodes that ended in each segment."""

    def __init__(self) -> None:
        super().__init__()
        self.returns, self.means = Returns(), []

    def _on_step(self) -> bool:
        self.returns.add(self.locals["rewards"], self.locals["dones"])
        return True

    def _on_rollout_end(self) -> None:
        mean = self.returns.take()
        self.means.append(float("nan") if mean is None else mean)


def train_peer(learner: str, task: str, seed: int, budget: Budget) -> tuple[Any, list[float]]:
    """The same of a peer; the learning rate falls linearly to 0 as ours does."""
    env = CartPole(positions_only=TASKS[task], reward=REWARD)
    common = {
        "n_steps": budget.segment,
        "batch_size": budget.rows * budget.segment // budget.minibatches,
        "n_epochs": budget.epochs,
        "learning_rate": lambda left: left * budget.learning_rate,
        "gamma": budget.discount,
        "gae_lambda": budget.gae_lambda,
        "seed": seed,
        "device": "cpu",
    }
    venv = SB3VecEnv(env, budget.rows, seed=seed)
    if learner == "sb3":
        model = SB3PPO("MlpPolicy", venv, **common)  # two networks of two layers of 64
    else:
        sizes = {"lstm_hidden_size": budget.units}
        model = RecurrentPPO("MlpLstmPolicy", venv, policy_kwargs=sizes, **common)
    curve = Curve()
    model.learn(budget.steps, callback=curve)
    return model, curve.means


def measure(learner: str, task: str, seed: int, budget: Budget) -> dict[str, Any]:
    """One training and its two numbers."""
    start = time.process_time()
    if learner == "ours":
        model, curve = train_ours(task, seed, budget)
    else:
        model, curve = train_peer(learner, task, seed, budget)
    seconds = time.process_time() - start
    return {
        "task": task,
        "learner": learner,
        "seed": seed,
        "final": final_steps(model, task, seed, budget.episodes),
        "curve": float(np.nanmean(curve)) / REWARD,
        "seconds": round(seconds, 1),
    }


def final_steps(model: Any, task: str, seed: int, episodes: int) -> float:
    """Mean steps of fresh episodes with the most likely actions."""
    env = CartPole(positions_only=TASKS[task])
    venv = SB3VecEnv(env, 50, seed=10_000 + seed)
    return float(evaluate_policy(model, venv, episodes, warn=False)[0])


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and 95 % interval over seeds of both numbers, for each task and learner."""
    found = []
    for task in TASKS:
        for learner in LEARNERS:
            own = [r for r in rows if (r["task"], r["learner"]) == (task, learner)]
            row: dict[str, Any] = {"task": task, "learner": learner, "seeds": len(own)}
            for name in ("final", "curve"):
                values = mean_interval([r[name] for r in own])
                row[name] = dict(zip(("mean", "low", "high"), map(float, values), strict=True))
            row["seconds"] = float(np.median([r["seconds"] for r in own]))
            found.append(row)
    return found


def ratios(table: list[dict[str, Any]]) -> dict[str, float]:
    """Ours by each peer's, on each task, of both numbers."""
    means = {(r["task"], r["learner"], n): r[n]["mean"] for r in table for n in ("final", "curve")}
    return {
        f"{task}_{name}_vs_{peer}": round(means[task, "ours", name] / means[task, peer, name], 3)
        for task in TASKS
        for peer in LEARNERS[1:]
        for name in ("final", "curve")
    }


def main() -> None:
    """Print the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short training each")
    parser.add_argument("--write", action="store_true", help=f"record the table in {RECORD.name}")
    chosen = parser.parse_args()
    if chosen.quick and chosen.write:
        parser.error("--write records the full run only: leave --quick out")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*not wrapped with a ``Monitor``.*")
    budget, seeds = (Budget(updates=3, episodes=50), 1) if chosen.quick else (Budget(), 5)
    record = provenance("referee", budget, "full", 0)
    rows = []
    for seed in range(seeds):
        for task in TASKS:
            for learner in LEARNERS:
                rows.append(measure(learner, task, seed, budget))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    table = summary(rows)
    print(f"steps balanced, at most 500; {seeds} seeds of {budget.steps} steps, one thread")
    print(f"{'task':<12}{'learner':<15}{'final':>24}{'curve':>24}{'seconds':>10}")
    for row in table:
        texts = [
            f"{row[n]['mean']:.1f} [{row[n]['low']:.1f},{row[n]['high']:.1f}]"
            for n in ("final", "curve")
        ]
        print(f"{row['task']:<12}{row['learner']:<15}{texts[0]:>24}{texts[1]:>24}", end="")
        print(f"{row['seconds']:>10.1f}")
    if chosen.write:
        kept = ("commit", "diff_hash", "python", "versions", "hardware", "start")
        origin = {"command": "python benchmarks/referee.py --write"}
        origin |= {key: record[key] for key in kept}
        write_json(RECORD, {"provenance": origin, "budget": asdict(budget), "table": table})
    print(json.dumps({"benchmark": "referee", "ratios": ratios(table)}))


if __name__ == "__main__":
    main()
