"""One network at a time, sample by sample, in NumPy: the reference of signals and weight space.

Written from the texts of `envs.signals` and `envs.weight_space`, not from their code.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl_lib.datasets import Tasks
from metarl_lib.rules import Network, cross_entropy, half_mse, sgd

PHI = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh, None: lambda z: z}
LOSSES = {"regression": half_mse, "classification": cross_entropy}


class Problem(NamedTuple):
    """B networks with their own samples, double precision."""

    network: Network
    params: list[Tensor]
    x: Tensor
    y: Tensor
    kind: str

    @property
    def loss(self):
        return LOSSES[self.kind]

    def row(self, b: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        return [p[b].numpy() for p in self.params], self.x[b].numpy(), self.y[b].numpy()


def batched_problem(
    widths=(10, 7, 5, 3),
    activation="relu",
    output_activation=None,
    *,
    bias=False,
    kind="regression",
    batch=3,
    samples=6,
    seed=0,
) -> Problem:
    network = Network(widths, activation, output_activation, bias)
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    params = [randn(batch, *shape) / shape[-1] ** 0.5 for shape in network.shapes]
    x = randn(batch, samples, widths[0])
    if kind == "regression":
        y = randn(batch, samples, widths[-1])
    else:
        y = torch.randint(widths[-1], (batch, samples), generator=generator)
    return Problem(network, params, x, y, kind)


def layers(network, params):
    """(W, b) of each layer; b is 0 without biases."""
    if network.bias:
        return list(zip(params[::2], params[1::2], strict=True))
    return [(w, np.zeros(len(w))) for w in params]


def activities(network, params, x, shifts=None):
    """x_0, …, x_L of one sample; `shifts[l]` is added to the pre-activations of layer l."""
    found = [x]
    for index, (weight, bias) in enumerate(layers(network, params)):
        z = weight @ found[-1] + bias
        if shifts is not None:
            z = z + shifts[index]
        last = index == network.num_layers - 1
        found.append(PHI[network.output_activation if last else network.activation](z))
    return found


def sample_error(kind, output, target):
    if kind == "regression":
        return sum((o - t) ** 2 for o, t in zip(output, target, strict=True)) / (2 * len(output))
    return -np.log(np.exp(output[target]) / np.exp(output).sum())


def mean_error(network, params, x, y, kind):
    """E of one network."""
    outputs = [activities(network, params, sample)[-1] for sample in x]
    return np.mean([sample_error(kind, o, t) for o, t in zip(outputs, y, strict=True)])


def mean_outer(network, posts, pres):
    """(1/N) Σ_i post_i pre_iᵀ of each layer, and the mean of post_i for its bias."""
    found = []
    for layer in range(network.num_layers):
        pairs = list(zip(posts, pres, strict=True))
        found.append(sum(np.outer(post[layer], pre[layer]) for post, pre in pairs) / len(pairs))
        if network.bias:
            found.append(sum(post[layer] for post in posts) / len(posts))
    return found


def plain_hebb(network, params, x):
    """(1/N) Σ_i x⁺_i x_iᵀ."""
    traces = [activities(network, params, sample) for sample in x]
    return mean_outer(network, [t[1:] for t in traces], [t[:-1] for t in traces])


def plain_perturbation(network, params, x, y, kind, noise, sigma):
    """(1/(Nσ)) Σ_i (ẽ_i − e_i) ξ_i x_iᵀ; `noise[l]` is `[N, R_{l+1}]`."""
    posts, pres = [], []
    for i in range(len(x)):
        xi = [layer[i] for layer in noise]
        clean = activities(network, params, x[i])
        perturbed = activities(network, params, x[i], [sigma * n for n in xi])
        change = sample_error(kind, perturbed[-1], y[i]) - sample_error(kind, clean[-1], y[i])
        posts.append([change / sigma * n for n in xi])
        pres.append(clean[:-1])
    return mean_outer(network, posts, pres)


def plain_gradient(network, params, x, y, kind):
    """∂E/∂W of one network, by autograd."""
    tensors = [torch.from_numpy(p) for p in params]
    found = sgd(network, tensors, torch.from_numpy(x), torch.from_numpy(y), LOSSES[kind])
    return [g.numpy() for g in found]


def plain_activity(network, params, x):
    """`[L, 2]`: share of active units, log of the root mean square of their activity."""
    traces = [activities(network, params, sample) for sample in x]
    found = []
    for layer in range(1, network.num_layers + 1):
        values = np.array([trace[layer] for trace in traces])
        found.append([(values > 0).mean(), np.log(rms(values))])
    return np.array(found)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def unit(values):
    size = rms(values)
    return values / size if size > 0 else values


class PlainWeightSpace:
    """One base network in the hands of an agent, from its first weights on.

    `drive` is given at every step, so that it can be the gradient or a recorded perturbation.
    """

    def __init__(self, env, params, x, y) -> None:
        self.env, self.network, self.kind = env, env.network, env.family.kind
        self.params, self.x, self.y = params, x, y
        self.rho = [rms(weight) for weight, _ in layers(self.network, params)]
        self.drives: list[list[np.ndarray]] = []
        self.errors = [mean_error(self.network, params, x, y, self.kind)]

    def look(self, drive) -> None:
        """Take in the drive at the present weights."""
        self.drives.append(drive)

    def momentum(self, before=False):
        """Exponential mean of the drives, with all weights summing to one."""
        drives = self.drives[:-1] if before else self.drives
        if not drives:
            return [np.zeros_like(d) for d in self.drives[-1]]
        weights = np.array([0.9**age for age in reversed(range(len(drives)))])
        weights = weights / weights.sum()
        return [
            sum(w * d[k] for w, d in zip(weights, drives, strict=True))
            for k in range(len(drives[0]))
        ]

    def layer_of(self, index):
        return index // 2 if self.network.bias else index

    def signals(self, index):
        """ŝ of one parameter."""
        hebb = plain_hebb(self.network, self.params, self.x)[index]
        decay = self.params[index] / self.rho[self.layer_of(index)]
        return {
            "drive": unit(self.drives[-1][index]),
            "momentum": unit(self.momentum()[index]),
            "hebb": unit(hebb),
            "decay": decay,
        }

    def coefficient(self, a):
        return self.env.step_size * np.sinh(5 * a) / np.sinh(5)

    def step(self, action):
        """The reward; the new weights and error are kept."""
        mode, changed, names = self.env.action_mode, [], self.env.signals
        if mode == "rule":
            for index, old in enumerate(self.params):
                layer, signals = self.layer_of(index), self.signals(index)
                own = action[len(names) * layer : len(names) * (layer + 1)]
                pairs = zip(own, names, strict=True)
                total = sum(self.coefficient(a) * signals[name] for a, name in pairs)
                changed.append(old - self.rho[layer] * total)
        else:
            ends = np.cumsum([old.size for old in self.params])
            for index, old in enumerate(self.params):
                own = action[ends[index] - old.size : ends[index]].reshape(old.shape)
                rho = self.rho[self.layer_of(index)]
                new = {
                    "set": own,
                    "delta": old + self.env.step_size * own,
                    "synapse": old - rho * self.coefficient(own),
                }
                changed.append(new[mode])
        self.params = changed
        self.errors.append(mean_error(self.network, changed, self.x, self.y, self.kind))
        if self.env.reward == "loss":
            return -self.errors[-1]
        return np.log(self.errors[-2]) - np.log(self.errors[-1])

    def shared(self):
        """progress, three improvements, time left."""
        logs = [np.log(self.errors[0])] * 3 + [np.log(e) for e in self.errors]
        steps = [logs[-k - 1] - logs[-k] for k in (1, 2, 3)]
        left = 1 - (len(self.errors) - 1) / self.env.steps
        return [logs[0] - logs[-1], *steps, left]

    def statistics(self):
        activity = plain_activity(self.network, self.params, self.x)
        found = []
        before = layers(self.network, self.momentum(before=True))
        drives = layers(self.network, self.drives[-1])
        for layer, (weight, _) in enumerate(layers(self.network, self.params)):
            drive, momentum = drives[layer][0], before[layer][0]
            ratio = agreement = 0.0
            if len(self.drives) > 1:
                ratio = np.log(rms(momentum) / rms(drive))
                agreement = (drive * momentum).mean() / (rms(drive) * rms(momentum))
            size = np.log(rms(weight) / self.rho[layer])
            found.append([*activity[layer], size, ratio, agreement])
        return found

    def observation(self):
        if self.env.action_mode == "synapse":
            shared, statistics, rows = self.shared(), self.statistics(), []
            for index, param in enumerate(self.params):
                own = [s.ravel() for s in self.signals(index).values()]
                layer = statistics[self.layer_of(index)]
                common = [*layer[3:], shared[0], shared[1], shared[4]]
                rows += [[*(s[k] for s in own), *common] for k in range(param.size)]
            return np.clip(np.array(rows), -10, 10)
        if self.env.observation == "weights":
            return np.concatenate([p.ravel() for p in self.params])
        return np.clip(np.concatenate([self.shared(), np.ravel(self.statistics())]), -10, 10)


def double(tasks: Tasks) -> Tasks:
    """Tasks in double precision; labels stay whole numbers."""
    return Tasks(*(t.double() if t.is_floating_point() else t for t in tasks))
