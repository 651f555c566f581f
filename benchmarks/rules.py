"""Time full-batch steps of weight and node perturbation, beside the same rules in torch.func.

The problem is the source's: a 10-100-10 network, 512 samples, one one-sided draw a step, one
thread. The peer is what one writes without this library: `functional_call` of an `nn.Module`
under `vmap`, over draws for weight perturbation and over samples for node perturbation. Both
take the same kind of step, in turn, and the medians are compared.

    python benchmarks/rules.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

# glibc returns large blocks to the system at each free unless it is told not to, and reads
# this when a process starts: so this one starts itself again.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_THRESHOLD_": str(2**30)}
if __name__ == "__main__" and any(os.environ.get(k) != v for k, v in ALLOCATOR.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from metarl_lib.datasets import teacher_student  # noqa: E402
from metarl_lib.rules import (  # noqa: E402
    Network,
    half_mse,
    node_perturbation,
    sgd,
    weight_perturbation,
)

WIDTHS = (10, 100, 10)
SIGMA = 1e-3
RATE = 1e-6  # small, so that every step meets the same numbers
TARGETS = {"wp": 12.0, "np": 20.0}  # seconds for 10⁴ steps on one core

Step = Callable[[], None]


def our_step(rule: str, params: list[Tensor], x: Tensor, y: Tensor) -> Step:
    """W ← W − η · estimate, with the library's rule."""
    network = Network(WIDTHS)
    generator = torch.Generator().manual_seed(0)
    arguments = (network, params, x, y, half_mse)

    def step() -> None:
        if rule == "sgd":
            estimate = sgd(*arguments)
        elif rule == "wp":
            estimate = weight_perturbation(*arguments, generator=generator, sigma=SIGMA)
        else:
            estimate = node_perturbation(*arguments, generator=generator, sigma=SIGMA)
        for p, g in zip(params, estimate, strict=True):
            p -= RATE * g

    return step


class Student(nn.Module):
    """The peer's network; `noise` is added to the pre-activations where it is given."""

    def __init__(self, params: list[Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in zip(WIDTHS, WIDTHS[1:], strict=False)
        )
        for layer, p in zip(self.layers, params, strict=True):
            layer.weight.data = p

    def forward(self, x: Tensor, noise: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Outputs, and the inputs of every layer."""
        inputs = []
        for index, layer in enumerate(self.layers):
            inputs.append(x)
            x = layer(x)
            if noise is not None:
                x = x + noise[index]
            if index < len(self.layers) - 1:
                x = torch.relu(x)
        return x, inputs


def peer_step(rule: str, params: list[Tensor], x: Tensor, y: Tensor) -> Step:
    """The same step with torch.func, vmap over draws (WP) or samples (NP); changes `params`."""
    module = Student(params)
    weights = {name: p.detach() for name, p in module.named_parameters()}
    generator = torch.Generator().manual_seed(0)

    def mean_error(candidate: dict[str, Tensor]) -> Tensor:
        outputs, _ = torch.func.functional_call(module, candidate, (x,))
        return 0.5 * (outputs - y).square().mean()

    def sample_error(sample: Tensor, target: Tensor, noise: list[Tensor]) -> Tensor:
        outputs, _ = torch.func.functional_call(module, weights, (sample, noise))
        return 0.5 * (outputs - target).square().mean()

    def sample_trace(sample: Tensor, target: Tensor) -> tuple[Tensor, list[Tensor]]:
        outputs, inputs = torch.func.functional_call(module, weights, (sample,))
        return 0.5 * (outputs - target).square().mean(), inputs

    def weight_step() -> None:
        noise = {k: torch.randn((1, *w.shape), generator=generator) for k, w in weights.items()}
        noisy = {k: weights[k] + SIGMA * n for k, n in noise.items()}
        slope = (torch.func.vmap(mean_error)(noisy) - mean_error(weights)) / SIGMA
        for k, n in noise.items():
            weights[k] -= RATE * torch.einsum("k,kij->ij", slope, n)

    def node_step() -> None:
        noise = [torch.randn(len(x), r, generator=generator) for r in WIDTHS[1:]]
        clean, inputs = torch.func.vmap(sample_trace)(x, y)
        noisy = torch.func.vmap(sample_error)(x, y, [SIGMA * n for n in noise])
        slope = (noisy - clean) / (SIGMA * len(x))
        for k, n, a in zip(weights, noise, inputs, strict=True):
            weights[k] -= RATE * (slope[:, None] * n).mT @ a

    step = {"wp": weight_step, "np": node_step}[rule]
    return torch.no_grad()(step)


def seconds_per_step(steps: list[Step], count: int, repeats: int) -> list[float]:
    """The median time of each step, the contestants taking turns."""
    times: list[list[float]] = [[] for _ in steps]
    for step in steps:
        for _ in range(max(10, count // 5)):
            step()
    for _ in range(repeats):
        for index, step in enumerate(steps):
            start = time.perf_counter()
            for _ in range(count):
                step()
            times[index].append((time.perf_counter() - start) / count)
    return [statistics.median(t) for t in times]


def main() -> None:
    """Measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description="Time perturbation steps on 10-100-10, N = 512.")
    parser.add_argument("--quick", action="store_true", help="at most a minute, less precise")
    quick = parser.parse_args().quick
    count, repeats = (200, 5) if quick else (2000, 9)
    torch.set_num_threads(1)
    data = teacher_student(WIDTHS, generator=torch.Generator().manual_seed(0)).train

    def start() -> list[Tensor]:
        return Network(WIDTHS).init(torch.Generator().manual_seed(1), std=1.0)

    ratios: dict[str, float | None] = {}
    print("seconds per 10⁴ steps, one thread")
    print(f"{'rule':<6}{'ours':>10}{'target':>10}{'torch.func':>12}{'ours faster':>14}")
    for rule in ("sgd", "wp", "np"):
        steps = [our_step(rule, start(), data.x, data.y)]
        if rule != "sgd":
            steps.append(peer_step(rule, start(), data.x, data.y))
        ours, *peer = seconds_per_step(steps, count, repeats)
        target = f"{TARGETS[rule]:.0f}" if rule in TARGETS else ""
        line = f"{rule:<6}{1e4 * ours:>10.2f}{target:>10}"
        ratios[f"{rule}_steps_per_s"] = round(1 / ours, 1)
        if peer:
            ratios[f"{rule}_vs_torch_func"] = round(peer[0] / ours, 2)
            line += f"{1e4 * peer[0]:>12.2f}{peer[0] / ours:>13.2f}x"
        print(line)
    print(json.dumps({"benchmark": "rules", "ratios": ratios}))


if __name__ == "__main__":
    main()
