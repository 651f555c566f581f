"""What a policy that sets weights is worth, and what it is held against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from metarl_lib.datasets import Split, Tasks, TeacherFamily, digits
from metarl_lib.datasets.families import check_split
from metarl_lib.envs.weight_space import WeightSpace
from metarl_lib.envs.weight_state import TINY
from metarl_lib.experiments.learners import rebuild
from metarl_lib.rules import cross_entropy, sgd
from metarl_lib.runs import generator

LIFE = 100
"""Steps that the seed's figures show."""

DEFAULT_UNITS = 64
"""Of the two hidden layers that Stable-Baselines3 gives a policy."""


@dataclass(frozen=True)
class OneDataSet:
    """A family with a single task: a training set, and a test set in its place."""

    train: Split
    test: Split
    outputs: int
    kind: ClassVar[str] = "classification"

    @property
    def inputs(self) -> int:
        """R_0."""
        return int(self.train.x.shape[1])

    def sample(self, batch: int, generator: torch.Generator, split: str = "train") -> Tasks:
        """The one task, `batch` times."""
        check_split(split)
        chosen = self.train if split == "train" else self.test
        x, y = (t.unsqueeze(0).expand(batch, *t.shape) for t in (chosen.x, chosen.y))
        return Tasks(x, y, x, y)


def summed_square_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """‖x_i − y_i‖², `[*, N]`, the seed's loss: summed over the outputs, without the half."""
    return (outputs - targets).square().sum(-1)


def scaled_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over 64, `[*, N]`.

    The seed sums eight batch means and divides by 512 samples.
    """
    return cross_entropy(outputs, targets) / 64


def environment(config: Any, variant: str, seed: int) -> WeightSpace:
    """The environment of the seed's code; with a new teacher each episode in `distribution`.

    A linear student for digits; for teachers one with a hidden layer as narrow as the inputs,
    because the code wants all layers to have one shape. Neither has biases. Initial weights
    have the standard deviation of PyTorch's, 1/√(3 · 10).
    """
    common: dict[str, Any] = {
        "action_mode": "set",
        "reward": "loss",
        "steps": config.steps,
        "step_size": config.bound,
        "init_std": 1 / math.sqrt(30),
    }
    if variant == "digits-as-coded":
        data = digits(
            config.samples,
            1,
            config.samples,
            generator=generator(seed, "tasks", 1),
            preprocessing="as_coded",
        )
        family = OneDataSet(data.train, data.test, 10)
        return WeightSpace((10, 10), family, loss=scaled_cross_entropy, **common)
    teachers = TeacherFamily(
        hidden=(config.teacher_hidden,),
        noise=(0.0,),
        num_train=config.samples,
        num_held_out=config.samples,
        bias=True,
    )
    return WeightSpace(
        (10, config.hidden, 10),
        teachers,
        loss=summed_square_error,
        fixed_task=variant != "distribution",
        task_seed=generator(seed, "tasks").initial_seed(),
        **common,
    )


@torch.no_grad()
def measure(
    env: WeightSpace, policy: ActorCriticPolicy, test_tasks: int, seed: int
) -> dict[str, float]:
    """What the policy's weights are worth, and how much they depend on what it sees.

    Metrics: the mean log loss on training tasks and on unseen teachers, of the weights that the
    policy sets when it sees fresh initial weights; the same less the log loss of the zero
    predictor on each task (`train_minus_zero`, `test_minus_zero`); `action_size`, the root mean
    square of these weights; `action_spread`, that of their deviation from their mean over what
    was seen, in units of `action_size`.
    """
    stream = generator(seed, "evaluation")
    numbers = {}
    for split in ("train", "test"):
        if split == "train":
            tasks = env.sample_tasks(test_tasks, stream)
        else:
            tasks = env.family.sample(test_tasks, stream, "test")
        _, seen = env.reset(tasks, stream)
        actions = act(policy, seen)
        loss = env.loss(env.network(env.unflatten(actions), tasks.x), tasks.y).mean(-1)
        zero = env.loss(torch.zeros_like(tasks.y), tasks.y).mean(-1)
        numbers[f"log_{split}_loss"] = float(loss.log().mean())
        numbers[f"{split}_minus_zero"] = float((loss.log() - zero.log()).mean())
    numbers["action_size"] = float(actions.square().mean().sqrt())
    deviation = (actions - actions.mean(0)).square().mean().sqrt()
    numbers["action_spread"] = float(deviation) / max(numbers["action_size"], TINY)
    return numbers


@torch.no_grad()
def life_losses(config: Any, seed: int, tensors: Mapping[str, Tensor]) -> list[dict[str, float]]:
    """Log losses at each of the hundred steps that the seed's figure shows, as coded.

    The training task is the environment's; the test task is a second teacher, as in the code.
    """
    env = environment(config, "as-coded", seed)
    policy = policy_of(env, tensors, "as-coded")
    stream = generator(seed, "evaluation", 1)
    test = seed_task(env, "test")
    state, seen = env.reset(env.sample_tasks(1, stream), stream)
    losses = []
    for _ in range(LIFE):
        state, step = env.step(state, act(policy, seen), stream)
        seen = step.observation
        error = env.loss(env.network([p[0] for p in state.params], test.x), test.y).mean()
        losses.append(
            {
                "log_train_loss": float(state.log_losses[0, 1]),
                "log_test_loss": float(error.log()),
            }
        )
    return losses


def gaps(
    config: Any, seed: int, tensors: Mapping[str, Tensor], best: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """How far the policy as coded ends from the zero predictor and from a trained student.

    `range_in_life` is the largest training loss of the life less the smallest, as logarithms.
    `excess_gap` is what its test loss lies above its training loss beyond the zero predictor's
    own difference: what overfitting would have added.
    """
    losses = life_losses(config, seed, tensors)
    last, curve = losses[-1], [step["log_train_loss"] for step in losses]
    zero, trained = best["zero"], best["trained"]
    numbers = {
        "train_minus_zero": last["log_train_loss"] - zero["log_train_loss"],
        "test_minus_zero": last["log_test_loss"] - zero["log_test_loss"],
        "train_minus_trained": last["log_train_loss"] - trained["log_train_loss"],
    }
    numbers["range_in_life"] = max(curve) - min(curve)
    numbers["excess_gap"] = numbers["test_minus_zero"] - numbers["train_minus_zero"]
    return numbers


@torch.no_grad()
def digits_losses(config: Any, seed: int, tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Log cross-entropy and accuracy of the weights that the digits policy sets."""
    env = environment(config, "digits-as-coded", seed)
    policy = policy_of(env, tensors, "digits-as-coded")
    stream = generator(seed, "evaluation", 2)
    _, seen = env.reset(env.sample_tasks(1, stream), stream)
    params = env.unflatten(act(policy, seen))
    numbers = {}
    for split in ("train", "test"):
        data = seed_task(env, split)
        logits = env.network([p[0] for p in params], data.x)
        numbers[f"log_{split}_loss"] = float(cross_entropy(logits, data.y).mean().log())
        numbers[f"{split}_accuracy"] = float((logits.argmax(-1) == data.y).float().mean())
    return numbers


def references(config: Any, seed: int) -> dict[str, dict[str, float]]:
    """Log losses of predictors that need no policy, on the seed's task and its second teacher.

    Zero; the best constant; the best affine map; and the same student trained by Adam with
    gradients, from random weights.
    """
    env = environment(config, "as-coded", seed)
    train, test = seed_task(env, "train"), seed_task(env, "test")

    def affine(x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones(len(x), 1)], 1).double()

    # In double, so that equal data give equal numbers after rounding, wherever they lie in memory.
    linear = torch.linalg.lstsq(affine(train.x), train.y.double()).solution
    params = env.network.init(generator(seed, "init", 9), std=env.init_std)
    optimiser = torch.optim.Adam(params, lr=1e-2)
    for _ in range(config.reference_steps):
        for p, g in zip(params, sgd(env.network, params, train.x, train.y, env.loss), strict=True):
            p.grad = g
        optimiser.step()
    predictors = {
        "zero": lambda x: torch.zeros(len(x), train.y.shape[1]),
        "constant": lambda x: train.y.mean(0).expand(len(x), -1),
        "linear": lambda x: affine(x) @ linear,
        "trained": lambda x: env.network(params, x),
    }
    return {
        name: {
            f"log_{split}_loss": float(env.loss(predict(data.x), data.y).mean().log().float())
            for split, data in (("train", train), ("test", test))
        }
        for name, predict in predictors.items()
    }


def seed_task(env: WeightSpace, split: str) -> Split:
    """The environment's one training task, or the second teacher that the seed tests on."""
    tasks = env.sample_tasks(1, torch.Generator(), split)
    return Split(tasks.x[0], tasks.y[0])


def policy_of(env: WeightSpace, tensors: Mapping[str, Tensor], prefix: str) -> ActorCriticPolicy:
    """The policy, with the default layers of Stable-Baselines3, whose tensors have this prefix."""
    return rebuild(tensors, prefix, env.observation_space, env.action_space, DEFAULT_UNITS)


def act(policy: ActorCriticPolicy, seen: Tensor) -> Tensor:
    """The policy's actions without noise, `[B, …]`, of observations `[B, …]`."""
    return torch.as_tensor(policy.predict(seen.numpy(), deterministic=True)[0])
