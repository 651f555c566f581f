"""Time PEARL's gradient steps beside those of soft actor-critic in Stable-Baselines3.

The point robot, layers as wide, and as many transitions in a step for all, on one thread. The
peer learns one task: it has no encoder, no context and no z. Ours is timed as PEARL and, with a
belief of no numbers, as soft actor-critic of many tasks. For all the weight of the entropy is
fixed. Sizes are those of the book and, without `--quick`, those of Rakelly et al.

    python benchmarks/pearl.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# glibc returns large blocks to the system at each free unless it is told not to, and reads
# this when a process starts: so this one starts itself again.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_THRESHOLD_": str(2**30)}
if __name__ == "__main__" and any(os.environ.get(k) != v for k, v in ALLOCATOR.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)

import torch  # noqa: E402
from stable_baselines3 import SAC  # noqa: E402

from metarl_lib.algos import PEARL, PEARLAgent, PEARLSettings, Streams  # noqa: E402
from metarl_lib.envs.adapters import SB3VecEnv  # noqa: E402
from metarl_lib.envs.point_robot import PointRobot  # noqa: E402


class Size(NamedTuple):
    """Of a gradient step: layers, tasks, transitions of each, transitions of a context."""

    hidden: tuple[int, ...]
    tasks: int
    batch: int
    context: int


SIZES = {
    "book": Size((64, 64), 16, 32, 100),
    "reference": Size((300, 300, 300), 16, 256, 100),
}
TASKS, TEMPERATURE = 20, 0.01


def ours(size: Size, latent: int) -> PEARL:
    """A training that has lived with every task."""
    env = PointRobot(sparse=True)
    torch.manual_seed(0)
    model = PEARLAgent(
        env.observation_space, env.action_space, latent=latent, hidden=size.hidden,
        encoder_hidden=size.hidden,
    )  # fmt: skip
    settings = PEARLSettings(
        tasks=TASKS, meta_batch=size.tasks, batch=size.batch, context=size.context,
        temperature=TEMPERATURE,
    )  # fmt: skip
    streams = Streams(*(torch.Generator().manual_seed(i) for i in range(4)))
    training = PEARL(env, model, settings, streams)
    training.collect(torch.arange(TASKS), settings.episodes)
    return training


def peer(size: Size) -> SAC:
    """The peer, which has lived as long."""
    env = SB3VecEnv(PointRobot(sparse=True), num_envs=TASKS, seed=0)
    model = SAC(
        "MlpPolicy", env, policy_kwargs={"net_arch": list(size.hidden)}, ent_coef=TEMPERATURE,
        buffer_size=100_000, learning_starts=10**9, device="cpu", seed=0,
    )  # fmt: skip
    model.learn(TASKS * 100)
    return model


def rates(size: Size, steps: int, rounds: int) -> dict[str, float]:
    """Gradient steps per CPU second of all, medians over rounds taken in turn."""
    pearl, sac, theirs = ours(size, 5), ours(size, 0), peer(size)

    def repeat(learn: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: [learn() for _ in range(steps)]

    work: dict[str, Callable[[], Any]] = {
        "PEARL": repeat(pearl.learn),
        "the same without z": repeat(sac.learn),
        "SAC of SB3": lambda: theirs.train(steps, batch_size=size.tasks * size.batch),
    }
    found: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, learn in work.items():
            start = time.process_time()
            learn()
            if turn:  # the first one warms up
                found[name].append(steps / (time.process_time() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the sizes of the book alone")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print("gradient steps per CPU second, one thread")
    print(f"{'sizes':<12}{'rows':>6}{'PEARL':>10}{'without z':>12}{'SB3 SAC':>10}{'ratio':>8}")
    ratios: dict[str, float] = {}
    for name, size in SIZES.items():
        if quick and name != "book":
            continue
        large = name != "book"
        found = rates(size, 5 if large else 40, 3 if quick else 5)
        pearl, plain, theirs = found.values()
        print(
            f"{name:<12}{size.tasks * size.batch:>6}{pearl:>10.1f}{plain:>12.1f}{theirs:>10.1f}"
            f"{pearl / theirs:>8.2f}"
        )
        suffix = "_reference" if large else ""
        ratios[f"gradient_steps_vs_sb3_sac{suffix}"] = round(pearl / theirs, 3)
        ratios[f"without_z_vs_sb3_sac{suffix}"] = round(plain / theirs, 3)
        ratios[f"gradient_steps_per_s{suffix}"] = round(pearl, 1)
    print(json.dumps({"benchmark": "pearl", "ratios": ratios}))


if __name__ == "__main__":
    main()
