"""Time the MetODS layer, forward and backward, in each of its forms.

The problem: 64 rows, depth 4, linear write, 20 steps from the start of a life, with 100 units,
where memory traffic counts, and with 20, where the number of operations does. The peer is the
naive form, the layer as the paper writes it, run as it stands. The forms must agree before any
of them is timed; then they take turns in one process, and the medians of the CPU time of one
thread are compared, and so is what autograd keeps for the backward pass. Compiled forms need a
C++ compiler (else they are null) and most of a minute each to start for the first time: with
`--quick` there is one of them. Last, the most memory that a scan of 100 steps (25 with
`--quick`) takes, forward and backward, beyond what the process had before, each in a process of
its own.

    python benchmarks/metods_layer.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

# glibc returns large blocks to the system at each free unless it is told not to, and reads
# this when a process starts: so this one starts itself again, unless memory is to be measured.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_THRESHOLD_": str(2**30)}
MEASURES_MEMORY = "--peak" in sys.argv
if (
    __name__ == "__main__"
    and not MEASURES_MEMORY
    and any(os.environ.get(k) != v for k, v in ALLOCATOR.items())
):
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from metarl_lib.cores import Core, MetODS  # noqa: E402

INPUTS, ROWS, DEPTH, STEPS = 20, 64, 4, 20
FORMS = ("naive", "lazy", "replay", "fused")
COMPILED = ("naive+compile", "lazy+compile", "replay+compile")
LONG, QUICK = 100, 25
"""Steps of the scan whose largest memory is measured, and the same with `--quick`."""

MIB = 2**20


def layer(units: int, form: str) -> MetODS:
    """The layer in a form; its parameters are the same in all forms."""
    torch.manual_seed(0)
    name, *compiled = form.split("+")
    return MetODS(INPUTS, units, DEPTH, form=name, compile=bool(compiled))


def can_compile() -> bool:
    """Whether this machine has what the layer's `compile` needs."""
    try:
        layer(1, COMPILED[0])
    except ValueError:
        return False
    return True


def learn(core: Core, xs: Tensor) -> None:
    """One forward and one backward pass through all steps."""
    core.zero_grad()
    ys, state = core.scan(xs, core.initial_state(xs.shape[1]))
    sum(out.square().mean() for out in (ys, *state)).backward()


def check_agreement(cores: dict[str, MetODS], xs: Tensor) -> None:
    """Raise unless all forms find the same gradients, to the precision of float32."""
    for core in cores.values():
        learn(core, xs)
    first, *others = cores.values()
    for other in others:
        for p, q in zip(first.parameters(), other.parameters(), strict=True):
            scale = float(p.grad.abs().max())
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-3 * scale)


def kept_bytes(core: Core, xs: Tensor) -> int:
    """What autograd keeps from the forward pass for the backward pass, parameters left out."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = core.scan(xs, core.initial_state(xs.shape[1]))
    for p in core.parameters():
        kept.pop(p.untyped_storage().data_ptr(), None)
    del outputs  # until here it holds the storages, so that no address was used twice
    return sum(kept.values())


def seconds_per_step(cores: dict[str, MetODS], xs: Tensor, rounds: int) -> dict[str, float]:
    """The median CPU time of each form, the forms taking turns."""
    times: dict[str, list[float]] = {form: [] for form in cores}
    for turn in range(rounds + 2):
        for form, core in cores.items():
            start = time.thread_time()
            learn(core, xs)
            if turn >= 2:  # the first two bring memory in from the system
                times[form].append((time.thread_time() - start) / len(xs))
    return {form: statistics.median(t) for form, t in times.items()}


def measure(units: int, forms: tuple[str, ...], rounds: int) -> dict[str, dict[str, float]]:
    """Print one line per form; how much faster and smaller than the naive form each is."""
    torch.compiler.reset()  # else a second size is compiled for every size, which is slower
    cores = {form: layer(units, form) for form in forms}
    xs = inputs(STEPS)
    check_agreement(cores, xs)
    seconds = seconds_per_step(cores, xs, rounds)
    kept = {form: kept_bytes(core, xs) / STEPS / MIB for form, core in cores.items()}
    found = {}
    for form in forms:
        found[form] = {
            "speed": seconds["naive"] / seconds[form],
            "memory": kept["naive"] / kept[form],
        }
        cells = f"{1e3 * seconds[form]:>10.2f}{found[form]['speed']:>9.2f}{kept[form]:>9.3f}"
        print(f"{units:<7}{form:<16}{cells}{found[form]['memory']:>8.2f}", flush=True)
    return found


def inputs(steps: int) -> Tensor:
    """The same for every form."""
    return torch.randn(steps, ROWS, INPUTS, generator=torch.Generator().manual_seed(0))


def most_memory() -> float:
    """The most memory that this process has had so far, in MiB (as Linux tells it)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status does not say how much memory was used")


def added_memory(core: Core, steps: int) -> float:
    """MiB by which one forward and backward pass raises the most that this process ever had."""
    learn(core, inputs(2))  # what is loaded at first use
    before = most_memory()
    learn(core, inputs(steps))
    return most_memory() - before


def peak(units: int, form: str, steps: int) -> float:
    """The same of a long scan, in a process of its own, in MiB."""
    command = [
        sys.executable,
        __file__,
        "--peak",
        form,
        "--units",
        str(units),
        "--steps",
        str(steps),
    ]
    env = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    return float(done.stdout)


def fastest(found: dict[str, dict[str, float]]) -> float | None:
    """How much faster than the naive form the fastest compiled one is, if there is one."""
    return max((found[form]["speed"] for form in COMPILED if form in found), default=None)


def main() -> None:
    """Measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one compiled form, fewer rounds")
    parser.add_argument("--peak", choices=FORMS, help="only print the memory of a form, in MiB")
    parser.add_argument("--units", type=int, default=100, help="of the layer with --peak")
    parser.add_argument("--steps", type=int, default=LONG, help="of the scan with --peak")
    options = parser.parse_args()
    quick = options.quick
    torch.set_num_threads(1)
    if options.peak:
        print(added_memory(layer(options.units, options.peak), options.steps))
        return
    rounds = 5 if quick else 15
    few = COMPILED[1:2] if quick else COMPILED
    more = () if quick else COMPILED
    if not can_compile():
        few = more = ()
    print(f"forward and backward, {ROWS} rows, depth {DEPTH}; per time step, one thread")
    print(f"{'units':<7}{'form':<16}{'CPU ms':>10}{'faster':>9}{'MiB kept':>9}{'less':>8}")
    large = measure(100, FORMS + few, rounds)
    small = measure(20, FORMS + more, rounds)
    long = QUICK if quick else LONG
    peaks = {form: peak(100, form, long) for form in FORMS}
    print(
        f"most memory of {long} steps, MiB: " + ", ".join(f"{f} {p:.0f}" for f, p in peaks.items())
    )
    if not quick:
        larger = (f"{form} {peak(200, form, long):.0f}" for form in ("replay", "fused"))
        print("the same with 200 units: " + ", ".join(larger))
    ratios = {
        "lazy_vs_naive": large["lazy"]["speed"],
        "lazy_vs_naive_20": small["lazy"]["speed"],
        "compiled_vs_naive": fastest(large),
        "compiled_vs_naive_20": fastest(small),
        "replay_vs_naive": large["replay"]["speed"],
        "replay_vs_naive_20": small["replay"]["speed"],
        "fused_vs_naive": large["fused"]["speed"],
        "fused_vs_naive_20": small["fused"]["speed"],
        "memory_naive_vs_lazy": large["lazy"]["memory"],
        "memory_naive_vs_scan": peaks["naive"] / peaks["replay"],
        "memory_naive_vs_fused": peaks["naive"] / peaks["fused"],
    }
    rounded = {name: value and round(value, 2) for name, value in ratios.items()}
    print(json.dumps({"benchmark": "metods_layer", "ratios": rounded}))


if __name__ == "__main__":
    main()
