"""Time the environment of base networks: updates per second in mode rule, beside a plain loop.

The problem: 256 networks 10-100-10, 512 samples each, full batch, one noisy forward pass beside
the clean one. The peer steps the same environment one network at a time, which is what an
environment of a single network under a vector wrapper costs without its processes.

    python benchmarks/weight_space.py [--quick]
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

import torch  # noqa: E402

from metarl_lib.envs.base import map_tree  # noqa: E402
from metarl_lib.envs.weight_space import WeightSpace  # noqa: E402

NETWORKS = 256
TARGET = 4_000  # updates a second on two cores


def measure(networks: int, rounds: int, drive: str) -> dict[str, float]:
    """Updates per second of the batch and of the loop, medians over rounds taken in turn."""
    env = WeightSpace((10, 100, 10), drive=drive)
    stream = torch.Generator().manual_seed(0)
    state, _ = env.reset(env.sample_tasks(networks, stream), stream)
    action = torch.zeros(networks, *env.action_space.shape)
    some = max(1, networks // 16)
    singles = [map_tree(lambda t, i=i: t[i : i + 1], state) for i in range(some)]
    env.step(state, action, stream)
    batch, loop = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        env.step(state, action, stream)
        batch.append(networks / (time.perf_counter() - start))
        start = time.perf_counter()
        for single in singles:
            env.step(single, action[:1], stream)
        loop.append(some / (time.perf_counter() - start))
    return {"batch": statistics.median(batch), "loop": statistics.median(loop)}


def main() -> None:
    """Print the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under a minute")
    quick = parser.parse_args().quick
    rounds = 9 if quick else 41
    # Two threads that others keep from running wait for each other, a hundred times as long.
    torch.set_num_threads(1 if quick else min(2, os.cpu_count() or 1))
    threads = torch.get_num_threads()
    print(f"updates per second, {NETWORKS} networks 10-100-10, threads: {threads}")
    print(f"{'drive':<14}{'batched':>10}{'one by one':>12}{'ratio':>8}")
    ratios = {}
    for drive in ("perturbation", "gradient"):
        rates = measure(NETWORKS, rounds, drive)
        ratio = rates["batch"] / rates["loop"]
        print(f"{drive:<14}{rates['batch']:>10.0f}{rates['loop']:>12.0f}{ratio:>8.2f}")
        ratios[f"{drive}_updates_per_s"] = round(rates["batch"], 1)
        ratios[f"{drive}_vs_one_by_one"] = round(ratio, 3)
    ratios["of_target"] = round(ratios["perturbation_updates_per_s"] / TARGET, 3)
    print(json.dumps({"benchmark": "weight_space", "ratios": ratios}))


if __name__ == "__main__":
    main()
