"""Time meta-iterations of MAML on sinusoids, beside the same in other libraries.

One meta-iteration is all that training repeats: 25 tasks of 10 samples to learn from and 10 to be
judged by, one inner step of a 1-40-40-1 network with biases, the second-order gradient, and a
step of Adam. All find the same gradient before any is timed; then they take turns in one process,
and the medians of the CPU time on one thread are compared. Drawing the tasks is included, from the
same blocks of 50 meta-iterations for all but JAX, which draws inside its loop. The peers:

- hand-batched: what one writes in PyTorch for speed, weights with a leading dimension for tasks,
  and autograd for both gradients;
- torch.func: `vmap` of `grad`, which is the reference in this library;
- torchopt and higher, each as in its own example of MAML: a module, and a loop over tasks;
- JAX: the whole loop compiled, `vmap` of `grad` within `lax.scan`.

A peer that is not installed is null (`pip install -e .[bench]` installs them). So are the compiled
formulas where there is no C++ compiler; they take half a minute to start.

    python benchmarks/maml.py [--quick]
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator

# glibc returns large blocks to the system at each free unless it is told not to, and reads this
# when a process starts: so this one starts itself again. JAX reads its own settings then, too.
SETTINGS = {
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
if __name__ == "__main__" and any(os.environ.get(k) != v for k, v in SETTINGS.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | SETTINGS)

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from metarl_lib.algos import MAML, OuterLoop  # noqa: E402
from metarl_lib.algos.maml import COMPILERS  # noqa: E402
from metarl_lib.algos.outer_loop import BLOCK  # noqa: E402
from metarl_lib.datasets import SinusoidFamily, Tasks  # noqa: E402
from metarl_lib.rules import Network  # noqa: E402

NETWORK = Network((1, 40, 40, 1), bias=True)
TASKS, SAMPLES, RATE, ADAM = 25, 10, 0.01, 1e-3
FAMILY = SinusoidFamily(SAMPLES, SAMPLES)
NAMES = ("ours", "ours, compiled", "hand-batched", "torch.func", "torchopt", "higher", "JAX scan")


class Contestant:
    """A way to train.

    Args:
        gradient: the meta-gradient of given parameters on given tasks, as plain tensors.
        advance: makes some meta-iterations.
        share: how many of them a turn is made of, against ours.
    """

    def __init__(
        self,
        gradient: Callable[[list[Tensor], Tasks], list[Tensor]],
        advance: Callable[[int], object],
        share: float = 1.0,
    ) -> None:
        self.gradient, self.advance, self.share = gradient, advance, share


def initial() -> list[Tensor]:
    """The same parameters for all."""
    return NETWORK.init(torch.Generator().manual_seed(0))


def batches(count: int, stream: torch.Generator) -> Iterator[Tasks]:
    """The tasks of some meta-iterations, drawn in blocks."""
    for first in range(0, count, BLOCK):
        drawn = FAMILY.sample(min(BLOCK, count - first) * TASKS, stream)
        for tasks in zip(*(part.split(TASKS) for part in drawn), strict=True):
            yield Tasks(*tasks)


def ours(share: float = 1.0, **options: object) -> Contestant:
    """MAML in a form of this library."""
    learner = MAML(NETWORK, rate=RATE, **options)
    stream = torch.Generator().manual_seed(1)
    loop = OuterLoop(
        learner, FAMILY, initial(), stream, iterations=1, batch=TASKS,
        learning_rate=ADAM, learning_rate_end=ADAM,
    )  # fmt: skip

    @torch.no_grad()
    def gradient(params: list[Tensor], tasks: Tasks) -> list[Tensor]:
        return learner.meta_gradient(params, tasks)[1]

    return Contestant(gradient, loop.advance, share)


def by_backward(
    params: list[Tensor], backward: Callable[[Tasks], None], share: float
) -> Contestant:
    """A peer whose `backward` leaves the gradients of its own `params` in them."""
    adam, stream = torch.optim.Adam(params, ADAM), torch.Generator().manual_seed(1)

    def advance(count: int) -> None:
        for tasks in batches(count, stream):
            adam.zero_grad()
            backward(tasks)
            adam.step()

    def gradient(values: list[Tensor], tasks: Tasks) -> list[Tensor]:
        before = [p.detach().clone() for p in params]
        with torch.no_grad():
            for p, value in zip(params, values, strict=True):
                p.copy_(value)
        adam.zero_grad()
        backward(tasks)
        found = [p.grad.clone() for p in params]
        with torch.no_grad():
            for p, value in zip(params, before, strict=True):
                p.copy_(value)
        return found

    return Contestant(gradient, advance, share)


def hand_batched() -> Contestant:
    """One set of weights per task, batched matrix products, autograd twice."""
    params = [p.requires_grad_() for p in initial()]

    def loss(weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        for layer in range(3):
            x = torch.baddbmm(weights[2 * layer + 1].unsqueeze(1), x, weights[2 * layer].mT)
            if layer < 2:
                x = torch.relu(x)
        return (x - y).square().mean((1, 2))

    def backward(tasks: Tasks) -> None:
        weights = [p.expand(TASKS, *p.shape) for p in params]
        inner = loss(weights, tasks.x, tasks.y).sum()
        slopes = torch.autograd.grad(inner, weights, create_graph=True)
        weights = [w - RATE * g for w, g in zip(weights, slopes, strict=True)]
        loss(weights, tasks.held_out_x, tasks.held_out_y).mean().backward()

    return by_backward(params, backward, 0.5)


def module() -> nn.Module:
    """The network as a module."""
    layers = [nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)]
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for p, value in zip(net.parameters(), initial(), strict=True):
            p.copy_(value)
    return net


def with_torchopt() -> Contestant:
    """As in torchopt's example `few-shot/maml_omniglot.py`."""
    torchopt, net = importlib.import_module("torchopt"), module()
    inner = torchopt.MetaSGD(net, lr=RATE)

    def backward(tasks: Tasks) -> None:
        start = torchopt.extract_state_dict(net, by="reference")
        steps = torchopt.extract_state_dict(inner, by="reference")
        total = 0.0
        for x, y, held_out_x, held_out_y in zip(*tasks, strict=True):
            inner.step((net(x) - y).square().mean())
            total = total + (net(held_out_x) - held_out_y).square().mean() / TASKS
            torchopt.recover_state_dict(net, start)
            torchopt.recover_state_dict(inner, steps)
        total.backward()

    return by_backward(list(net.parameters()), backward, 0.02)


def with_higher() -> Contestant:
    """As in higher's example `maml-omniglot.py`."""
    higher, net = importlib.import_module("higher"), module()
    inner = torch.optim.SGD(net.parameters(), lr=RATE)

    def backward(tasks: Tasks) -> None:
        for x, y, held_out_x, held_out_y in zip(*tasks, strict=True):
            with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (fast, steps):
                steps.step((fast(x) - y).square().mean())
                ((fast(held_out_x) - held_out_y).square().mean() / TASKS).backward()

    return by_backward(list(net.parameters()), backward, 0.02)


def with_jax(length: int) -> Contestant:
    """Sampling, gradients and Adam in one compiled loop over `length` meta-iterations."""
    jax = importlib.import_module("jax")
    jnp, random, lax = jax.numpy, jax.random, jax.lax

    def loss(params, x, y):
        for layer in range(3):
            x = x @ params[2 * layer].T + params[2 * layer + 1]
            if layer < 2:
                x = jax.nn.relu(x)
        return ((x - y) ** 2).mean()

    def after_a_step(params, x, y, held_out_x, held_out_y):
        slopes = jax.grad(loss)(params, x, y)
        adapted = [w - RATE * g for w, g in zip(params, slopes, strict=True)]
        return loss(adapted, held_out_x, held_out_y)

    def meta_loss(params, tasks):
        return jax.vmap(after_a_step, (None, 0, 0, 0, 0))(params, *tasks).mean()

    def draw(key):
        keys = random.split(key, 3)
        a = random.uniform(keys[0], (TASKS, 1, 1), minval=0.1, maxval=5.0)
        p = random.uniform(keys[1], (TASKS, 1, 1), maxval=jnp.pi)
        x = random.uniform(keys[2], (TASKS, 2 * SAMPLES, 1), minval=-5.0, maxval=5.0)
        y = a * jnp.sin(x + p)
        return x[:, :SAMPLES], y[:, :SAMPLES], x[:, SAMPLES:], y[:, SAMPLES:]

    def step(carry, key):
        params, first, second, done = carry
        slopes = jax.grad(meta_loss)(params, draw(key))
        done = done + 1
        first = [0.9 * m + 0.1 * g for m, g in zip(first, slopes, strict=True)]
        second = [0.999 * v + 0.001 * g * g for v, g in zip(second, slopes, strict=True)]
        scale = ADAM / (1 - 0.9**done), 1 / (1 - 0.999**done)
        params = [
            w - scale[0] * m / (jnp.sqrt(scale[1] * v) + 1e-8)
            for w, m, v in zip(params, first, second, strict=True)
        ]
        return (params, first, second, done), 0.0

    @jax.jit
    def scan(carry, key):
        return lax.scan(step, carry, random.split(key, length))[0]

    params = [jnp.asarray(p.numpy()) for p in initial()]
    zeros = [jnp.zeros_like(p) for p in params]
    now = {"carry": (params, zeros, zeros, jnp.array(0.0)), "key": random.PRNGKey(0)}

    def advance(count: int) -> None:
        assert count == length  # what was compiled
        now["key"], key = random.split(now["key"])
        now["carry"] = jax.block_until_ready(scan(now["carry"], key))

    def gradient(params: list[Tensor], tasks: Tasks) -> list[Tensor]:
        values, data = ([jnp.asarray(t.numpy()) for t in part] for part in (params, tasks))
        slopes = jax.grad(meta_loss)(values, tuple(data))
        return [torch.tensor(g.tolist()) for g in slopes]

    return Contestant(gradient, advance)


def contestants(count: int) -> dict[str, Contestant]:
    """All that this machine has, by name; `count` meta-iterations are a turn of ours."""
    found = {"ours": ours()}
    if any(map(shutil.which, COMPILERS)):
        found["ours, compiled"] = ours(compile=True)
    found |= {"hand-batched": hand_batched(), "torch.func": ours(0.25, form="vmap")}
    peers: dict[str, tuple[str, Callable[[], Contestant]]] = {
        "torchopt": ("torchopt", with_torchopt),
        "higher": ("higher", with_higher),
        "JAX scan": ("jax", lambda: with_jax(count)),
    }
    for name, (package, make) in peers.items():
        if importlib.util.find_spec(package) is not None:
            found[name] = make()
    return found


def check_agreement(found: dict[str, Contestant]) -> None:
    """Raise unless all find the same meta-gradient, to the precision of float32."""
    tasks = FAMILY.sample(TASKS, torch.Generator().manual_seed(2))
    slopes = {name: each.gradient(initial(), tasks) for name, each in found.items()}
    expected = slopes["torch.func"]
    for name, own in slopes.items():
        for a, b in zip(own, expected, strict=True):
            scale = float(b.abs().max())
            torch.testing.assert_close(
                a, b, rtol=1e-3, atol=1e-3 * scale, msg=f"{name} is not close to torch.func"
            )


def rates(found: dict[str, Contestant], count: int, rounds: int) -> dict[str, float]:
    """Meta-iterations per second of CPU time: the median over rounds, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(rounds + 1):
        for name, each in found.items():
            own = max(1, round(count * each.share))
            start = time.process_time()
            each.advance(own)
            if turn:  # the first compiles, and brings memory in from the system
                times[name].append((time.process_time() - start) / own)
    return {name: 1 / statistics.median(t) for name, t in times.items()}


def main() -> None:
    """Measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="at most a minute, less precise")
    quick = parser.parse_args().quick
    count, rounds = (100, 5) if quick else (400, 15)
    torch.set_num_threads(1)
    found = contestants(count)
    check_agreement(found)
    rate = rates(found, count, rounds)
    print("MAML on sinusoids, K = 10, 25 tasks, one inner step; one thread")
    print(f"{'':<16}{'per CPU second':>15}{'ours is':>10}{'compiled':>10}")
    for name in NAMES:
        line = f"{name:<16}"
        if name not in rate:
            print(f"{line}{'not installed':>15}")
            continue
        line += f"{rate[name]:>15.1f}{rate['ours'] / rate[name]:>9.2f}x"
        if "ours, compiled" in rate:
            line += f"{rate['ours, compiled'] / rate[name]:>9.2f}x"
        print(line)
    ratios: dict[str, float | None] = {}
    keys = {"hand-batched": "vs_hand_batched", "torch.func": "vs_torch_func"}
    keys |= {"torchopt": "vs_torchopt", "higher": "vs_higher", "JAX scan": "of_jax_scan"}
    for form, prefix in (("ours", ""), ("ours, compiled", "compiled_")):
        for name, key in keys.items():
            both = form in rate and name in rate
            ratios[prefix + key] = round(rate[form] / rate[name], 2) if both else None
    print(json.dumps({"benchmark": "maml", "ratios": ratios}))


if __name__ == "__main__":
    main()
