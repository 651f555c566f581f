"""Time the ant: steps a second of 64 ants that take random actions, on two cores.

Ours is one `step` of `AntDir`, on two threads. The peers are Gymnasium's `Ant-v5` in its two vector
environments, one process for all ants or one for each, in Stable-Baselines3's processes, and
EnvPool's, on two threads. All read one model file, have no contact forces to see or to pay for,
and no ant's fall ends its episode, so that the work is alike; for the rest they are as they come.

Bare MuJoCo is what nobody should beat: a process for each core, which calls `mj_step` for a whole
frame of one ant after another, each in data of its own. No process waits for the other, no state
is copied, nothing is seen or paid, and nobody holds Python's lock. Both run at once: twice the
speed of one alone would promise what cores that share their memory and their clock cannot do.

The solver's warm start is switched off in all, because ours needs a state without hidden parts.
That helps the peers, too: with random actions the last solution is a bad guess, and bare MuJoCo is
a tenth slower with its warm start; its line in the table says by how much here.

Each runs for a while, in turn, for several rounds; medians of the clock are compared. The machine
should do nothing else: others' work slows ants in one process by another factor than those in 64.

    python benchmarks/locomotion.py [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.vec_env import SubprocVecEnv

from metarl_lib.envs.locomotion import AntDir
from metarl_lib.envs.mujoco_package import import_mujoco
from metarl_lib.envs.physics import ASSETS

ANTS, CORES, FRAME = 64, 2, 5
WARM_UP = 20
"""Steps that do not count; after them all ants lie or stand on the ground."""

OPTIONS = {"contact_cost_weight": 0.0, "terminate_when_unhealthy": False}

Rate = Callable[[float], float]
"""From the seconds it has to the steps a second that it makes."""


def model_file(folder: Path, warm_start: bool = False) -> Path:
    """Gymnasium's ant, its solver's warm start switched off; where EnvPool looks for models."""
    path = folder / "mujoco" / "assets_gym" / f"ant_{warm_start}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (ASSETS / "ant.xml").read_text()
    if not warm_start:
        flag = '<option><flag warmstart="disable"/></option>\n<worldbody>'
        text = text.replace("<worldbody>", flag, 1)
    path.write_text(text)
    return path


def actions() -> Iterator[np.ndarray]:
    """Random ones for all ants, the same for everybody, without end."""
    drawn = np.random.default_rng(0).uniform(-1, 1, (50, ANTS, 8)).astype(np.float32)
    return itertools.cycle(drawn)


def rate_of(step: Callable[[np.ndarray], Any], ants: int = ANTS) -> Rate:
    """The rate of something that steps so many ants when it is given actions for all."""
    turn = actions()
    for _ in range(WARM_UP):
        step(next(turn))

    def rate(seconds: float) -> float:
        start, steps = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < seconds:
            step(next(turn))
            steps += ants
        return steps / spent

    return rate


def ours() -> Rate:
    """All ants of one environment, on as many threads as torch has."""
    env, generator = AntDir(), torch.Generator().manual_seed(0)
    state, _ = env.reset(env.sample_tasks(ANTS, generator), generator)

    def step(action: np.ndarray) -> None:
        nonlocal state
        state, _ = env.step(state, torch.from_numpy(action), generator)

    return rate_of(step)


def vector(mode: str, model: Path, stack: ExitStack) -> Rate:
    """Gymnasium's vector environment, `"sync"` or `"async"`."""
    options = {"xml_file": str(model), "include_cfrc_ext_in_observation": False, **OPTIONS}
    venv = gymnasium.make_vec("Ant-v5", ANTS, vectorization_mode=mode, **options)
    stack.callback(venv.close)
    venv.reset(seed=0)
    return rate_of(venv.step)


def sb3_processes(model: Path, stack: ExitStack) -> Rate:
    """Stable-Baselines3's, a process for each ant."""

    def make() -> gymnasium.Env:
        options = {"xml_file": str(model), "include_cfrc_ext_in_observation": False, **OPTIONS}
        return gymnasium.make("Ant-v5", **options)

    # A fork starts at once; the default would import torch in each of the processes.
    venv = SubprocVecEnv([make] * ANTS, start_method="fork")
    stack.callback(venv.close)
    venv.reset()
    return rate_of(venv.step)


def envpool(model: Path, stack: ExitStack) -> Rate | None:
    """EnvPool's, on its own threads; None where it is not installed."""
    try:
        import envpool
    except ImportError:
        return None
    venv = envpool.make_gymnasium(
        "Ant-v5", num_envs=ANTS, num_threads=CORES, use_contact_force=False,
        post_constraint=False, base_path=str(model.parents[2]), xml_file=model.name, **OPTIONS,
    )  # fmt: skip
    stack.callback(venv.close)
    venv.reset()
    return rate_of(venv.step)


def walk(model: Path, part: slice, pipe: Connection) -> None:
    """A process of bare MuJoCo: it is told seconds, and says its rate, until it is told 0."""
    mujoco = import_mujoco()
    body = mujoco.MjModel.from_xml_path(str(model))
    rng = np.random.default_rng(part.start)
    ants = [mujoco.MjData(body) for _ in range(ANTS)[part]]
    for data in ants:  # as an episode starts
        data.qpos += rng.uniform(-0.1, 0.1, body.nq)
        data.qvel += 0.1 * rng.standard_normal(body.nv)

    def step(action: np.ndarray) -> None:
        for data, torque in zip(ants, action[part], strict=True):
            data.ctrl[:] = torque
            mujoco.mj_step(body, data, nstep=FRAME)

    rate = rate_of(step, len(ants))
    while seconds := pipe.recv():
        pipe.send(rate(seconds))


def bare(model: Path, stack: ExitStack) -> Rate:
    """MuJoCo's `mj_step` in processes that do not wait for each other."""
    fork, pipes = multiprocessing.get_context("fork"), []
    for first in range(CORES):
        here, there = fork.Pipe()
        process = fork.Process(target=walk, args=(model, slice(first, ANTS, CORES), there))
        process.start()
        there.close()  # else nobody would notice that a process has died
        stack.callback(process.join)
        stack.callback(here.send, 0)  # first this, then the line above
        pipes.append(here)

    def rate(seconds: float) -> float:
        for pipe in pipes:
            pipe.send(seconds)
        return sum(pipe.recv() for pipe in pipes)

    return rate


def contestants(folder: Path, stack: ExitStack) -> dict[str, Rate | None]:
    """All of them, ready to run. Those that fork come first, while there are no threads yet."""
    cold, warm = model_file(folder), model_file(folder, warm_start=True)
    return {
        "async_vector": vector("async", cold, stack),
        "sb3_subproc": sb3_processes(cold, stack),
        "bare_mj_step": bare(cold, stack),
        "bare_with_warm_start": bare(warm, stack),
        "sync_vector": vector("sync", cold, stack),
        "envpool": envpool(cold, stack),
        "ours": ours(),
    }


def take_turns(rates: dict[str, Rate | None], rounds: int, seconds: float) -> dict[str, Any]:
    """The median rate of each, None for what is not there."""
    found: dict[str, list[float]] = {name: [] for name, rate in rates.items() if rate}
    for _ in range(rounds):
        for name, values in found.items():
            values.append(rates[name](seconds))
    return {name: statistics.median(found[name]) if rate else None for name, rate in rates.items()}


def main() -> None:
    """Measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    quick = parser.parse_args().quick
    try:
        import_mujoco()
    except ImportError as missing:
        print(missing, file=sys.stderr)
        sys.exit(2)
    if hasattr(os, "sched_setaffinity"):  # two cores also where there are more
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    torch.set_num_threads(CORES)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        rates = contestants(Path(folder), stack)
        found = take_turns(rates, *((5, 0.5) if quick else (15, 2.0)))
    own = found["ours"]
    print(f"{ANTS} ants, random actions, on {CORES} cores; a step is {FRAME} of the physics")
    print(f"{'':<24}{'steps/s':>14}{'ours is':>10}")
    for name, value in found.items():
        cells = f"{value:>14,.0f}{own / value:>9.2f}x" if value else f"{'not installed':>14}"
        print(f"{name.replace('_', ' '):<24}{cells}")
    peers = ("sync_vector", "async_vector", "sb3_subproc", "envpool")
    ratios = {f"vs_{name}": found[name] and own / found[name] for name in peers}
    ratios["of_bare_mj_step"] = own / found["bare_mj_step"]
    ratios["warm_start_of_bare"] = found["bare_with_warm_start"] / found["bare_mj_step"]
    if ratios["of_bare_mj_step"] > 1.05:
        print("ours cannot beat bare MuJoCo: others used the cores meanwhile", file=sys.stderr)
    rounded = {name: value and round(value, 2) for name, value in ratios.items()}
    print(json.dumps({"benchmark": "locomotion", "ratios": rounded}))


if __name__ == "__main__":
    main()
