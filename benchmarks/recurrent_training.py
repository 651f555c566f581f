"""Time recurrent training on a bandit: our PPO beside RecurrentPPO of sb3-contrib.

The same task, rows, LSTM units, epochs and batch for all. RecurrentPPO is timed three ways: on
Gymnasium environments in Stable-Baselines3's own `DummyVecEnv`, which is how it comes; on our
batched environment; and there with one LSTM for policy and value, as ours has, in place of one
for each. Two questions: steps learned from per CPU second, and CPU seconds until a trial earns
95 % of what the best agent earns. For the second both learn in two stages, from trials of ten
pulls first. The peer stops after twelve times our time; the ratio is then a lower bound, and the
output says so.

    python benchmarks/recurrent_training.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import replace

# glibc returns large blocks to the system at each free unless it is told not to, and reads
# this when a process starts: so this one starts itself again.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_THRESHOLD_": str(2**30)}
if __name__ == "__main__" and any(os.environ.get(k) != v for k, v in ALLOCATOR.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)

import gymnasium  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from sb3_contrib import RecurrentPPO  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv  # noqa: E402

from metarl_lib.algos import PPO, ActorCritic, Settings, Streams  # noqa: E402
from metarl_lib.cores import LSTM  # noqa: E402
from metarl_lib.envs.bandit import Bandit  # noqa: E402
from metarl_lib.envs.trial import Trial  # noqa: E402
from metarl_lib.experiments.sb3_recurrent import make_recurrent_ppo  # noqa: E402
from metarl_lib.oracles import FiniteHorizonGittins, bayes_optimal, gittins, simulate  # noqa: E402

ARMS, ROWS, UNITS, EPOCHS = 5, 128, 48, 4
MORE = 8  # epochs, and minibatches, where the goal counts and not the steps
SHORT, WARM_UP = 10, 60  # pulls of the trials of the first stage, and its updates
UNIT = 10.0  # in which our values count; the peers' networks for policy and value are apart
PATIENCE = 12  # the peer has so many times the CPU seconds that ours took
SETTINGS = Settings(
    rows=ROWS, epochs=EPOCHS, learning_rate=3e-3, learning_rate_end=3e-3, discount=1.0,
    gae_lambda=0.95, entropy=0.02, entropy_end=0.02, max_grad_norm=1.0, whole_trials=True,
)  # fmt: skip
PEERS = {
    "as it comes": {"own_env": True},
    "on our environment": {},
    "the same, one LSTM": {"one_lstm": True},
}


class PlainBandit(gymnasium.Env):
    """The bandit of `Trial(Bandit(5, pulls))` as a Gymnasium environment in NumPy."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (ARMS + 3,), np.float32)
    action_space = gymnasium.spaces.Discrete(ARMS)

    def __init__(self, pulls: int) -> None:
        self.pulls = pulls

    def reset(self, *, seed=None, options=None):  # type: ignore[no-untyped-def]
        """A new bandit."""
        super().reset(seed=seed)
        self.means, self.time = self.np_random.random(ARMS), 0
        return np.zeros(ARMS + 3, np.float32), {}

    def step(self, action):  # type: ignore[no-untyped-def]
        """One pull; the last one ends the trial."""
        reward = float(self.np_random.random() < self.means[action])
        self.time += 1
        ended = self.time == self.pulls
        seen = np.zeros(ARMS + 3, np.float32)
        seen[1 + action], seen[-2], seen[-1] = 1, reward, ended
        return seen, reward, ended, False, {}


def settings(pulls: int, minibatches: int) -> Settings:
    """Of a training on whole trials; where the goal counts, with equally many pulls a segment."""
    if minibatches == 1:
        return replace(SETTINGS, segment=pulls)
    rows = ROWS * 100 // pulls
    return replace(SETTINGS, rows=rows, segment=pulls, minibatches=minibatches, epochs=MORE)


def ours(pulls: int, minibatches: int, start: PPO | None = None, unit: float = 1.0) -> PPO:
    """Our trainer; `start` is one whose agent goes on."""
    env = Trial(Bandit(ARMS, pulls))
    torch.manual_seed(0)
    core = LSTM(env.observation_space.shape[0], UNITS)
    model = ActorCritic(core, env.observation_space, env.action_space, value_unit=unit)
    if start is not None:
        model.load_state_dict(start.model.state_dict())
    streams = Streams(*(torch.Generator().manual_seed(i) for i in range(4)))
    return PPO(env, model, settings(pulls, minibatches), streams)


def peer(
    pulls: int,
    minibatches: int,
    start: RecurrentPPO | None = None,
    *,
    own_env: bool = False,
    one_lstm: bool = False,
) -> RecurrentPPO:
    """The peer with the same settings."""
    env: Trial | VecEnv = Trial(Bandit(ARMS, pulls))
    if own_env:
        env = DummyVecEnv([lambda: PlainBandit(pulls)] * settings(pulls, minibatches).rows)
    policy = {"shared_lstm": True, "enable_critic_lstm": False} if one_lstm else {}
    model = make_recurrent_ppo(env, settings(pulls, minibatches), UNITS, 0, **policy)
    if start is not None:
        model.policy.load_state_dict(start.policy.state_dict())
    return model


class Watch(BaseCallback):
    """Stops when a rollout's mean return reaches a goal, or at a CPU time."""

    def __init__(self, goal: float, deadline: float) -> None:
        super().__init__()
        self.goal, self.deadline = goal, deadline
        self.reached = False

    def _on_step(self) -> bool:
        return not self.reached and time.process_time() < self.deadline

    def _on_rollout_end(self) -> None:
        rewards = self.model.rollout_buffer.rewards  # type: ignore[attr-defined]
        mean = float(rewards.sum(0).mean())
        self.reached = mean >= self.goal


def throughput(pulls: int, rounds: int) -> dict[str, float]:
    """Steps per CPU second of all, full batch, medians over rounds taken in turn."""
    trainer = ours(pulls, 1)
    peers = {name: peer(pulls, 1, **how) for name, how in PEERS.items()}
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


def our_time_to(goal: float, pulls: int, warm_up: int) -> float:
    """CPU seconds of ours until a segment's mean return reaches the goal."""
    start = time.process_time()
    short = ours(SHORT, MORE, unit=UNIT)
    for _ in range(warm_up):
        short.update()
    trainer = ours(pulls, MORE, short, unit=UNIT)
    while trainer.update()["return"] < goal:
        pass
    return time.process_time() - start


def peers_time_to(goal: float, pulls: int, warm_up: int, limit: float) -> tuple[float, bool]:
    """The same of the peer as it comes, or the limit, and whether it got there."""
    start = time.process_time()
    short = peer(SHORT, MORE, own_env=True)
    watch = Watch(np.inf, start + limit)
    short.learn(warm_up * ROWS * 100, callback=watch)
    trainer = peer(pulls, MORE, short, own_env=True)
    watch = Watch(goal, start + limit)
    trainer.learn(10**9, callback=watch)
    return time.process_time() - start, watch.reached


def best(pulls: int) -> float:
    """The exact optimum where it can be computed, else what the Gittins index earns."""
    if pulls <= 10:
        return bayes_optimal(ARMS, pulls)
    stream = torch.Generator().manual_seed(0)
    policy = gittins(FiniteHorizonGittins(pulls))
    return float(
        simulate(policy, torch.rand(20_000, ARMS, generator=stream), pulls, stream).sum(0).mean()
    )


def main() -> None:
    """Print the tables, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter trials, about a minute")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    pulls, warm_up, patience = (SHORT, 0, 2) if quick else (100, WARM_UP, PATIENCE)
    rates = throughput(pulls, 2 if quick else 5)
    print(f"steps per CPU second, {ROWS} rows, LSTM of {UNITS}, {EPOCHS} epochs, {pulls} pulls")
    print(f"{'trainer':<36}{'steps/s':>10}{'ours is':>10}")
    for name, rate in rates.items():
        label = name if name == "ours" else f"RecurrentPPO, {name}"
        print(f"{label:<36}{rate:>10.0f}{rates['ours'] / rate:>9.1f}x")
    goal = 0.95 * best(pulls)
    mine = our_time_to(goal, pulls, warm_up)
    theirs, reached = peers_time_to(goal, pulls, warm_up, patience * mine)
    bound = "" if reached else "more than "
    print(f"\nCPU seconds to a return of {goal:.2f}, {ARMS} arms, {pulls} pulls")
    print(f"ours {mine:.1f}, RecurrentPPO {bound}{theirs:.1f}, ratio {bound}{theirs / mine:.1f}")
    ratios: dict[str, float | bool] = {
        f"throughput_vs_sb3_{key}": round(rates["ours"] / rates[name], 2)
        for key, name in zip(("recurrent", "on_our_environment", "one_lstm"), PEERS, strict=True)
    }
    ratios["time_to_95_vs_sb3_recurrent"] = round(theirs / mine, 2)
    ratios["time_to_95_is_lower_bound"] = not reached
    print(json.dumps({"benchmark": "recurrent_training", "ratios": ratios}))


if __name__ == "__main__":
    main()
