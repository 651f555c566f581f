"""Time the maze: steps of the environment alone, and steps that a MetODS agent learns from.

The environment takes random actions in 1,024 mazes side by side. The peer is MetaMaze of gymnax,
compiled by JAX, with as many rows; its maze is one for all rows, so that it has less to look up.
It is not in the extra `bench`, because it asks for an older Gymnasium than ours, which it does
well without: `pip install --no-deps gymnax && pip install flax six`.
Training is that of the book: PPO on whole trials with a MetODS layer of 64 units and depth 2,
four passes over each segment, and, as actor-critics do, a single one. Seconds of the clock, with
two threads, and with one where it is `--quick`.

    python benchmarks/maze.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

# glibc returns large blocks to the system at each free unless it is told not to, and reads
# this when a process starts: so this one starts itself again.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_THRESHOLD_": str(2**30)}
if __name__ == "__main__" and any(os.environ.get(k) != v for k, v in ALLOCATOR.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)

import torch  # noqa: E402

from metarl_lib.algos import PPO, ActorCritic, Settings, Streams  # noqa: E402
from metarl_lib.cores import MetODS  # noqa: E402
from metarl_lib.envs.maze import Maze  # noqa: E402
from metarl_lib.envs.trial import Trial  # noqa: E402

ROWS = 1024
UNITS, DEPTH, TRIALS = 64, 2, 128
THREADS = 2


def stream(seed: int) -> torch.Generator:
    """A stream of random numbers."""
    return torch.Generator().manual_seed(seed)


def rate(work: Callable[[], Any], steps: int, rounds: int) -> float:
    """Steps a second, by the fastest of some rounds, after one that does not count."""
    work()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return steps / best


def environment(steps: int = 200, rounds: int = 5) -> float:
    """Steps a second of random walks."""
    env, generator = Maze(), stream(0)
    tasks = env.sample_tasks(ROWS, generator)

    def walk() -> None:
        state, _ = env.reset(tasks, generator)
        for _ in range(steps):
            action = torch.randint(4, (ROWS,), generator=generator)
            state, _ = env.step(state, action, generator)

    return rate(walk, ROWS * steps, rounds)


def gymnax_environment(steps: int = 200, rounds: int = 5) -> float | None:
    """The same of the peer; None where it is not installed."""
    try:
        import gymnax
        import jax
    except ImportError:
        return None
    env, parameters = gymnax.make("MetaMaze-misc")

    def step(state: Any, key: Any) -> tuple[Any, Any]:
        of_action, of_env = jax.random.split(key)
        action = jax.random.randint(of_action, (ROWS,), 0, env.num_actions)
        keys = jax.random.split(of_env, ROWS)
        _, state, reward, *_ = jax.vmap(env.step, (0, 0, 0, None))(keys, state, action, parameters)
        return state, reward.sum()

    keys = jax.random.split(jax.random.PRNGKey(0), ROWS)
    _, first = jax.vmap(env.reset, (0, None))(keys, parameters)
    roll = jax.jit(lambda key: jax.lax.scan(step, first, jax.random.split(key, steps))[1])
    return rate(lambda: jax.block_until_ready(roll(jax.random.PRNGKey(1))), ROWS * steps, rounds)


def training(epochs: int, rounds: int) -> float:
    """Environment steps a second that an agent collects and learns from."""
    env = Trial(Maze())
    torch.manual_seed(0)
    core = MetODS(env.observation_space.shape[0], UNITS, DEPTH, compile=True)
    model = ActorCritic(core, env.observation_space, env.action_space, value_unit=10.0)
    settings = Settings(
        rows=TRIALS, segment=100, updates=1000, epochs=epochs, minibatches=4 if epochs > 1 else 1,
        whole_trials=True,
    )  # fmt: skip
    ppo = PPO(env, model, settings, Streams(*map(stream, range(4))))
    return rate(ppo.update, TRIALS * settings.segment, rounds)


def main() -> None:
    """Measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, one thread")
    quick = parser.parse_args().quick
    threads = 1 if quick else THREADS
    torch.set_num_threads(threads)
    rounds = 1 if quick else 5
    found = {
        f"environment, {ROWS} rows": environment(rounds=rounds),
        "the same, gymnax": gymnax_environment(rounds=rounds),
        "training, four passes": training(4, rounds),
        "training, one pass": training(1, rounds),
    }
    print(f"threads: {threads}")
    print(f"{'':<28}{'steps/s':>12}")
    for name, value in found.items():
        print(f"{name:<28}" + (f"{value:>12,.0f}" if value else f"{'not installed':>12}"))
    own, peer, four, one = found.values()
    ratios = {
        "env_steps_per_s": round(own or 0),
        "env_vs_gymnax": round((own or 0) / peer, 2) if peer else None,
        "train_steps_per_s": round(four or 0),
        "train_steps_per_s_one_pass": round(one or 0),
    }
    print(json.dumps({"benchmark": "maze", "ratios": ratios}))


if __name__ == "__main__":
    main()
