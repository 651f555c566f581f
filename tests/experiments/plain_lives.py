"""Base networks one at a time, written out: what the tests of weight experiments compare with."""

import math

import numpy as np
import torch
from torch import Tensor

from metarl_lib.datasets import TeacherFamily
from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.envs.weight_space import WeightSpace
from metarl_lib.experiments.learners import LearnerConfig, policy_tensors
from metarl_lib.experiments.weight_readings import environment
from metarl_lib.experiments.weight_space import make

CEILING = math.log(1e6)
SMALL = LearnerConfig(
    steps=6, rows=4, rollouts=3, epochs=2, minibatches=2, units=8, ppo_rate=3e-3, discount=0.9,
    gae_lambda=0.8, log_std=-0.5,
)  # fmt: skip
PHI = {"relu": torch.relu, "tanh": torch.tanh, None: lambda z: z}


def seeded(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Labels:
    """A family with whole-number labels, without the images of the digits."""

    inputs, outputs, kind = 3, 4, "classification"

    def sample(self, batch, generator, split="train"):
        tasks = TeacherFamily(3, 4, (6,), num_train=8, num_held_out=6).sample(
            batch, generator, split
        )
        return tasks._replace(y=tasks.y.argmax(-1), held_out_y=tasks.held_out_y.argmax(-1))


def small_options(**options) -> dict:
    """Of a network with five hidden units, eight samples and a life of six steps."""
    family = options.pop("family", None)
    if family is None:
        family = TeacherFamily(3, 2, (4,), num_train=8, num_held_out=6)
    common = {"steps": 6, "init_std": 0.7}
    widths = (family.inputs, 5, family.outputs)
    return {"widths": widths, "family": family} | common | options


def small_space(**options) -> WeightSpace:
    return WeightSpace(**small_options(**options))


def double(tasks):
    """Tasks in double precision; labels stay whole numbers."""
    return type(tasks)(*(t.double() if t.is_floating_point() else t for t in tasks))


def outputs(network, params, x, shifts=None) -> Tensor:
    """Of one network without biases; `shifts[l]` is added to the pre-activations of layer l."""
    for layer, weight in enumerate(params):
        x = x @ weight.T
        if shifts is not None:
            x = x + shifts[layer]
        last = layer == len(params) - 1
        x = PHI[network.output_activation if last else network.activation](x)
    return x


def errors(network, params, x, y, shifts=None) -> Tensor:
    """e_i of each sample: half the mean square, or minus the log probability of the label."""
    out = outputs(network, params, x, shifts)
    if y.is_floating_point():
        return (out - y).square().sum(-1) / (2 * out.shape[-1])
    chosen = torch.stack([row[label] for row, label in zip(out, y, strict=True)])
    return out.exp().sum(-1).log() - chosen


def networks(params) -> list[list[Tensor]]:
    """The parameters `[B, …]` of a batch, network by network."""
    return [[p[b].clone() for p in params] for b in range(len(params[0]))]


def log_losses(network, params, tasks) -> Tensor:
    """log E of every network of a batch, `[B]`."""
    each = zip(networks(params), tasks.x, tasks.y, strict=True)
    return torch.stack([errors(network, own, x, y).mean().log() for own, x, y in each])


def step_by_step(env, choose, tasks, stream):
    """A life by hand: log losses `[T + 1, B]`, actions, the last state. Nobody diverges."""
    state, observation = env.reset(tasks, stream)
    inner = getattr(env, "inner", env)
    logs, actions = [log_losses(inner.network, state.params, tasks)], []
    for time in range(inner.steps):
        actions.append(choose(observation, time))
        state, step = env.step(state, actions[-1], stream)
        assert not step.info["diverged"].any()
        observation = step.observation
        logs.append(log_losses(inner.network, state.params, tasks))
    return torch.stack(logs), torch.stack(actions), state


def opinionated(policy, seed=0):
    """A policy whose actions depend strongly on what it sees; a fresh one hardly acts at all."""
    stream = seeded(seed)
    with torch.no_grad():
        for name in ("weight", "bias"):
            head = getattr(policy.action_net, name)
            head.copy_(0.5 * torch.randn(head.shape, generator=stream))
    return policy


def setter(config, variant, root, seed=0):
    """A policy that sets weights, never trained but acting with vigour."""
    env = SB3VecEnv(environment(config, variant, root), 1)
    return opinionated(make(env, config, seed, n_steps=4, batch_size=4).policy, seed)


def tensors_of(**policies) -> dict:
    """Tensors as a run holds them; an underscore stands for a hyphen in a variant's name."""
    return {
        f"{name.replace('_', '-')}.{key}": t
        for name, policy in policies.items()
        for key, t in policy_tensors(policy).items()
    }


def perceptron(tensors, observation, bound=1.0) -> Tensor:
    """What a policy of Stable-Baselines3 with two hidden layers does, its tensors by name."""
    x = observation
    for layer in (0, 2):
        net = f"mlp_extractor.policy_net.{layer}"
        x = torch.tanh(x @ tensors[f"{net}.weight"].T + tensors[f"{net}.bias"])
    x = x @ tensors["action_net.weight"].T + tensors["action_net.bias"]
    return x.clamp(-bound, bound)


def rows_of(rows) -> dict:
    """Values by variant and metric; each pair is there once."""
    found = {(row["variant"], row["metric"]): row["value"] for row in rows}
    assert len(found) == len(rows)
    return found


def square_error(params, x, y) -> float:
    """Mean over samples of ‖W_1 relu(W_0 x) − y‖², in NumPy."""
    rows = zip(x.numpy(), y.numpy(), strict=True)
    first, second = (p.numpy() for p in params)
    return float(np.mean([((second @ np.maximum(first @ a, 0) - b) ** 2).sum() for a, b in rows]))


def split(weights, shapes=((4, 10), (10, 4))):
    sizes = [a * b for a, b in shapes]
    return [part.reshape(shape) for part, shape in zip(weights.split(sizes), shapes, strict=True)]
