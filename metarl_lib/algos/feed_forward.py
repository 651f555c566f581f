"""An agent without memory, which may be told what its values are supposed to mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from metarl_lib.algos.actor_critic import Agent, Outputs, Policy
from metarl_lib.algos.checkpoints import own_tensors
from metarl_lib.cores.base import State

Params = Mapping[str, Tensor]


class FeedForward(Agent):
    """Policy and value of what is seen now, by two networks of tanh layers.

    With `context`, both are conditional (Xu et al. 2018, section 1.3): they see [s; e_η] with
    e_η = W_η η, where W_η is learned with the networks and η is held fixed. So the values need
    not be learned anew whenever γ or λ moves.

    Args:
        observation_space: a flat `Box`.
        action_space: see `Agent`.
        hidden: units of the layers between input and output.
        context: how many numbers η has; 0 for none.
        embedding: numbers in e_η.
        log_std: see `Agent`.
        value_unit: see `Agent`.

    Raises:
        ValueError: for another space, or no hidden layer.
    """

    eta: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        hidden: Sequence[int] = (64, 64),
        context: int = 0,
        embedding: int = 16,
        log_std: float = 0.0,
        value_unit: float = 1.0,
    ) -> None:
        super().__init__(observation_space, action_space, log_std=log_std, value_unit=value_unit)
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden={tuple(hidden)}: must be one or more whole numbers >= 1")
        self.embedding = nn.Linear(context, embedding, bias=False) if context else None
        size = self.inputs + embedding * bool(context)
        self.policy_net = layers(size, hidden, self.outputs)
        self.value_net = layers(size, hidden, 1)
        self.register_buffer("eta", torch.zeros(context), persistent=False)
        with torch.no_grad():  # actions are nearly uniform, or near zero, at the start
            cast(nn.Linear, self.policy_net[-1]).weight.mul_(0.01)
            if self.embedding is not None:  # what is told does not drown what is seen
                self.embedding.weight.mul_(0.1)

    def initial_state(self, batch: int) -> State:
        """There is no memory."""
        return ()

    def forward(
        self,
        observations: Float[Tensor, "T B I"],
        state: State,
        resets: Bool[Tensor, "T B"] | None = None,
    ) -> Outputs:
        """T steps of every row."""
        params = dict(self.named_parameters())
        return Outputs(self.act(params, observations), self.judge(params, observations), ())

    def step(self, observation: Float[Tensor, "B I"], state: State) -> Outputs:
        """One step of every row."""
        params = dict(self.named_parameters())
        return Outputs(self.act(params, observation), self.judge(params, observation), ())

    def act(self, params: Params, observations: Float[Tensor, "*B I"]) -> Policy:
        """The policy with these parameters in place of the agent's own."""
        found = self._read("policy_net", params, observations)
        return self.policy(found, log_std=params.get("log_std"))

    def judge(self, params: Params, observations: Float[Tensor, "*B I"]) -> Float[Tensor, "*B"]:
        """The values with these parameters in place of the agent's own."""
        return self.value_unit * self._read("value_net", params, observations).squeeze(-1)

    def _read(self, net: str, params: Params, observations: Tensor) -> Tensor:
        x = self.look(observations)
        if self.embedding is not None:
            told = params["embedding.weight"] @ self.eta
            x = torch.cat([x, told.expand(*x.shape[:-1], -1)], -1)
        return functional_call(getattr(self, net), own_tensors(params, net), (x,))


def layers(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Linear layers with tanh between them; weights orthogonal with gain √2, biases 0."""
    sizes, found = [inputs, *hidden, outputs], []
    for size, following in zip(sizes[:-1], sizes[1:], strict=True):
        linear = nn.Linear(size, following)
        nn.init.orthogonal_(linear.weight, 2**0.5)
        nn.init.zeros_(linear.bias)
        found += [linear, nn.Tanh()]
    return nn.Sequential(*found[:-1])
