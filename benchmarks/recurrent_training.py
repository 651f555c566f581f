"""Time recurrent training on a bandit: our PPO beside RecurrentPPO of sb3-contrib.

The same environment, rows, LSTM units, epochs and batch for both. RecurrentPPO is timed as it
comes, with an LSTM for the policy and one for the value function, and with one for both, as ours
has. Two questions: steps learned from per CPU second, and CPU seconds until a trial earns 95 % of
what the best agent earns. A run that does not get there within its limit counts with the limit,
so that the ratio is then a lower bound, and says so.

    python benchmarks/recurrent_training.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time

# glibc returns large blocks to the system at each free unless it is told not to, and reads
# this when a process starts: so this one starts itself again.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_THRESHOLD_": str(2**30)}
if __name__ == "__main__" and any(os.environ.get(k) != v for k, v in ALLOCATOR.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sb3_contrib import RecurrentPPO  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402

from metarl_lib.algos import PPO, ActorCritic, Settings, Streams  # noqa: E402
from metarl_lib.cores import LSTM  # noqa: E402
from metarl_lib.envs.adapters import SB3VecEnv  # noqa: E402
from metarl_lib.envs.bandit import Bandit  # noqa: E402
from metarl_lib.envs.trial import Trial  # noqa: E402
from metarl_lib.oracles import FiniteHorizonGittins, bayes_optimal, gittins, simulate  # noqa: E402

ROWS, UNITS, EPOCHS = 128, 48, 4
SETTINGS = Settings(
    rows=ROWS, epochs=EPOCHS, minibatches=4, learning_rate=2e-3, learning_rate_end=2e-3,
    gae_lambda=0.3, entropy=0.01, value_weight=0.01, max_grad_norm=1.0, whole_trials=True,
)  # fmt: skip


def ours(env: Trial, pulls: int, minibatches: int) -> PPO:
    """Our trainer on whole trials."""
    settings = Settings(**{**SETTINGS.__dict__, "segment": pulls, "minibatches": minibatches})
    torch.manual_seed(0)
    core = LSTM(env.observation_space.shape[0], UNITS)
    model = ActorCritic(core, env.observation_space, env.action_space)
    streams = Streams(*(torch.Generator().manual_seed(i) for i in range(4)))
    return PPO(env, model, settings, streams)


def peer(env: Trial, pulls: int, minibatches: int, *, one_lstm: bool) -> RecurrentPPO:
    """The peer with the same settings."""
    policy = {"net_arch": [], "lstm_hidden_size": UNITS}
    if one_lstm:
        policy |= {"shared_lstm": True, "enable_critic_lstm": False}
    s = SETTINGS
    return RecurrentPPO(
        "MlpLstmPolicy", SB3VecEnv(env, ROWS, seed=0), n_steps=pulls,
        batch_size=ROWS * pulls // minibatches, n_epochs=EPOCHS, learning_rate=s.learning_rate,
        gamma=s.discount, gae_lambda=s.gae_lambda, clip_range=s.clip, ent_coef=s.entropy,
        vf_coef=s.value_weight, max_grad_norm=s.max_grad_norm, policy_kwargs=policy, seed=0,
        device="cpu",
    )  # fmt: skip


class Watch(BaseCallback):
    """Notes the CPU time and the mean return of each rollout; stops at a goal or a limit."""

    def __init__(self, goal: float, limit: float) -> None:
        super().__init__()
        self.goal, self.limit = goal, limit
        self.start = self.seconds = time.process_time()
        self.reached = False

    def _on_step(self) -> bool:
        self.seconds = time.process_time() - self.start
        return not self.reached and self.seconds < self.limit

    def _on_rollout_end(self) -> None:
        mean = float(np.sum(self.model.rollout_buffer.rewards) / ROWS)  # type: ignore[attr-defined]
        self.reached = mean >= self.goal


def throughput(pulls: int, rounds: int) -> dict[str, float]:
    """Steps per CPU second of the three, full batch, medians over rounds taken in turn."""
    env = Trial(Bandit(5, pulls))
    trainer = ours(env, pulls, 1)
    peers = {name: peer(env, pulls, 1, one_lstm=name == "one LSTM") for name in PEERS}
    rates: dict[str, list[float]] = {name: [] for name in ("ours", *PEERS)}
    trainer.update()
    for _ in range(rounds):
        start = time.process_time()
        trainer.update()
        rates["ours"].append(ROWS * pulls / (time.process_time() - start))
        for name, model in peers.items():
            start = time.process_time()
            model.learn(ROWS * pulls, reset_num_timesteps=False)
            rates[name].append(ROWS * pulls / (time.process_time() - start))
    return {name: statistics.median(found) for name, found in rates.items()}


PEERS = ("two LSTMs", "one LSTM")


def time_to_goal(arms: int, pulls: int, limit: float) -> tuple[float, float, float, bool]:
    """CPU seconds of ours and of the peer until 95 % of the optimum, the goal, and whether the
    peer got there.
    """
    env, goal = Trial(Bandit(arms, pulls)), 0.95 * best(arms, pulls)
    trainer, start, mean = ours(env, pulls, 4), time.process_time(), 0.0
    seconds = 0.0
    while mean < goal and seconds < limit:
        mean = trainer.update()["return"]
        seconds = time.process_time() - start
    if mean < goal:
        raise SystemExit(f"ours did not reach {goal:.2f} within {limit:.0f} s")
    watch = Watch(goal, limit)
    peer(env, pulls, 4, one_lstm=False).learn(10**9, callback=watch)
    return seconds, watch.seconds, goal, watch.reached


def best(arms: int, pulls: int) -> float:
    """The exact optimum where it can be computed, else what the Gittins index earns."""
    if pulls <= 10:
        return bayes_optimal(arms, pulls)
    stream = torch.Generator().manual_seed(0)
    policy = gittins(FiniteHorizonGittins(pulls))
    return float(
        simulate(policy, torch.rand(20_000, arms, generator=stream), pulls, stream).sum(0).mean()
    )


def main() -> None:
    """Print the tables, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller bandit, under a minute")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    pulls = 20 if quick else 100
    rates = throughput(pulls, 2 if quick else 5)
    print(f"steps per CPU second, {ROWS} rows, LSTM of {UNITS}, {EPOCHS} epochs, {pulls} pulls")
    print(f"{'trainer':<28}{'steps/s':>10}{'ours is':>10}")
    ratios: dict[str, float | bool] = {}
    for name, rate in rates.items():
        print(f"{name if name == 'ours' else f'RecurrentPPO, {name}':<28}{rate:>10.0f}"
              f"{rates['ours'] / rate:>9.1f}x")  # fmt: skip
    ratios["throughput_vs_sb3_recurrent"] = round(rates["ours"] / rates["two LSTMs"], 2)
    ratios["throughput_vs_sb3_one_lstm"] = round(rates["ours"] / rates["one LSTM"], 2)
    arms, pulls, limit = (2, 10, 25.0) if quick else (5, 100, 3600.0)
    mine, theirs, goal, reached = time_to_goal(arms, pulls, limit)
    bound = "" if reached else "more than "
    print(f"\nCPU seconds to a return of {goal:.2f}, k={arms}, n={pulls}")
    print(f"ours {mine:.1f}, RecurrentPPO {bound}{theirs:.1f}, ratio {bound}{theirs / mine:.1f}")
    ratios["time_to_95_vs_sb3_recurrent"] = round(theirs / mine, 2)
    ratios["time_to_95_is_lower_bound"] = not reached
    print(json.dumps({"benchmark": "recurrent_training", "ratios": ratios}))


if __name__ == "__main__":
    main()
