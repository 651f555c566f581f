"""What an evolved loss looks at, and where it sends a policy."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metarl_lib.algos.loss_network import CONTEXT, MEMORY, LossNetwork
from metarl_lib.envs.base import BoundedEnv

PARTS = ("observation", "action", "reward", "policy", "memory", "context")


class Push(NamedTuple):
    """What a loss does to the policies of W learners, step by step, `[W, n, …]`.

    `push` is −∂L/∂μ(s_t), where descending the loss moves the action at s_t; `observations`,
    `actions`, `means` and `rewards` are those of the steps.
    """

    push: Tensor
    observations: Tensor
    actions: Tensor
    means: Tensor
    rewards: Tensor


def columns(network: LossNetwork, part: str) -> slice:
    """Where a part of x_t, or the context behind it, stands.

    Raises:
        ValueError: for an unknown part; lists those there are.
    """
    seen, actions = network.observations, network.actions
    widths = {
        "observation": seen, "action": actions, "reward": 1, "ended": 1,
        "policy": 2 * actions, "memory": MEMORY, "context": CONTEXT,
    }  # fmt: skip
    start = 0
    for name, width in widths.items():
        if name == part:
            return slice(start, start + width)
        start += width
    raise ValueError(f"part={part!r} is unknown: choose one of {', '.join(widths)}")


def without(network: LossNetwork, phi: Float[Tensor, " P"], part: str) -> Float[Tensor, " P"]:
    """The loss that does not read a part of x_t, as if it were always 0, or not the context."""
    phi, where, start = phi.clone(), columns(network, part), 0
    for index, shape in enumerate(network.shapes):
        size = torch.Size(shape).numel()
        if index in (0, 6):  # the first convolution, and the hidden layer of the head
            phi[start : start + size].view(shape)[:, where] = 0
        start += size
    return phi


def pushes(
    env: BoundedEnv,
    network: LossNetwork,
    phi: Float[Tensor, " P"],
    tasks: tuple[Tensor, ...],
    steps: int,
    log_std: float,
    generator: torch.Generator,
) -> Push:
    """Let policies without any idea, of mean 0, act, and see where the loss sends them.

    Args:
        env: the environment.
        network: the form of the loss.
        phi: its parameters.
        tasks: W tasks, `[W, …]` each.
        steps: N, of the buffer, all of which are in the minibatch.
        log_std: log σ of the actions.
        generator: of the actions, and of the environment.
    """
    state, seen = env.reset(tasks, generator)
    shape = len(seen), network.actions
    rows = []
    for _ in range(steps):
        action = torch.randn(shape, generator=generator) * torch.tensor(log_std).exp()
        state, step = env.step(state, action, generator)
        ended = step.terminated | step.truncated
        rows.append((seen, action, step.reward, ended.to(seen)))
        seen = step.observation
        if bool(ended.any()):
            state, seen = env.reset(tasks, generator)
    observations, actions, rewards, ends = (
        torch.stack(column, 1) for column in zip(*rows, strict=True)
    )
    described = torch.cat([observations, actions, rewards[..., None], ends[..., None]], -1)
    losses = network.layers(phi[None])
    means = torch.zeros_like(actions).requires_grad_()
    value = network(
        losses, network.prepare(losses, described, steps), means,
        torch.full(shape, log_std), torch.zeros(shape[0], MEMORY), torch.arange(steps),
    )  # fmt: skip
    (slope,) = torch.autograd.grad(value.sum(), means)
    return Push(-slope, observations, actions, means.detach(), rewards)


def cosine(a: Tensor, b: Tensor) -> Float[Tensor, "W n"]:
    """Cosines of vectors `[W, n, A]` in the last dimension."""
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)
