"""An agent with a memory: encoder, core, and the heads of policy and value."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from metarl_lib.algos.normalisation import RunningMoments
from metarl_lib.cores.base import Core, State, where_reset

Policy = Categorical | Independent

FORBIDDEN = -1e8
"""The logit of a choice that is not there, as in sb3-contrib: its probability is exactly 0."""


class Outputs(NamedTuple):
    """What the agent says of T steps: its policy over actions, the values `[T, B]`, its memory."""

    policy: Policy
    values: Tensor
    state: State


class Agent(nn.Module):
    """What every agent with a memory is: it says of each step a policy and a value.

    Args:
        observation_space: a flat `Box`.
        action_space: `Discrete` (softmax), or a flat `Box` (normal, with a standard deviation
            for each dimension that does not depend on the state), to whose bounds actions are
            clipped.
        log_std: logarithm of the initial standard deviation of continuous actions.
        value_unit: what values count in. With about the size of a return, the value loss, in
            squares of it, is about 1 and does not drown the policy's, with which it shares the
            memory. None for the root mean square of the returns seen so far.
        normalise: whether observations are taken in standard deviations from the mean, both
            of all those seen so far.
        masked: whether the last numbers of an observation, one for each choice, say which
            choices there are: those with a number > 0. The others are never made.

    Raises:
        ValueError: for a space that is not supported, or a unit <= 0.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        log_std: float = 0.0,
        value_unit: float | None = 1.0,
        normalise: bool = False,
        masked: bool = False,
    ) -> None:
        super().__init__()
        if value_unit is not None and not 0 < value_unit < math.inf:
            raise ValueError(f"value_unit={value_unit}: must be greater than 0 and finite, or None")
        if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
            raise ValueError(
                f"observation_space={observation_space}: must be a flat Box; wrap the environment"
            )
        self.inputs = int(observation_space.shape[0])
        self.action_space = action_space
        self.seen = RunningMoments(self.inputs) if normalise else None
        self.earned = RunningMoments(1) if value_unit is None else None
        self.value_unit: float | Tensor
        if value_unit is None:
            self.register_buffer("value_unit", torch.ones(()))
        else:
            self.value_unit = value_unit
        if isinstance(action_space, spaces.Discrete):
            self.outputs = int(action_space.n)
        elif isinstance(action_space, spaces.Box) and len(action_space.shape) == 1:
            self.outputs = action_space.shape[0]
            self.log_std = nn.Parameter(torch.full((self.outputs,), float(log_std)))
            for name, bound in (("low", action_space.low), ("high", action_space.high)):
                bounds = torch.as_tensor(bound, dtype=torch.get_default_dtype())
                self.register_buffer(name, bounds, persistent=False)
        else:
            raise ValueError(f"action_space={action_space}: must be Discrete or a flat Box")
        if masked and not isinstance(action_space, spaces.Discrete):
            raise ValueError(
                f"masked=True and action_space={action_space}: only choices are masked"
            )
        if masked and self.inputs < self.outputs:
            raise ValueError(
                f"masked=True: an observation has {self.inputs} numbers, and a mask {self.outputs}"
            )
        self.masked = masked

    def look(self, observations: Float[Tensor, "*B I"]) -> Float[Tensor, "*B I"]:
        """Observations as the networks take them."""
        return observations if self.seen is None else self.seen(observations)

    def take_in(self, observations: Float[Tensor, "*B I"], returns: Float[Tensor, "*B"]) -> None:
        """Learn the size of what is seen and earned; training does it after each segment."""
        if self.seen is not None:
            self.seen.see(observations)
        if self.earned is not None:
            assert isinstance(self.value_unit, Tensor)
            self.earned.see(returns.unsqueeze(-1))
            self.value_unit.copy_(self.earned.size[0])

    def initial_state(self, batch: int) -> State:
        """The memory at the start of a life."""
        raise NotImplementedError

    def forward(
        self,
        observations: Float[Tensor, "T B I"],
        state: State,
        resets: Bool[Tensor, "T B"] | None = None,
    ) -> Outputs:
        """T steps of every row, through time; see `Core.scan`."""
        raise NotImplementedError

    def step(self, observation: Float[Tensor, "B I"], state: State) -> Outputs:
        """One step of every row."""
        raise NotImplementedError

    def clip(self, action: Tensor) -> Tensor:
        """What the environment is given: actions `[*B, A]`, clipped to the bounds of their space.

        Choices `[*B]` stay as they are.
        """
        if not isinstance(self.action_space, spaces.Box):
            return action
        return action.clamp(self.low, self.high)

    def policy(
        self, found: Tensor, observations: Tensor | None = None, log_std: Tensor | None = None
    ) -> Policy:
        """The policy over actions of which a network has found logits, or means.

        Args:
            found: `[*B, A]`, one number for each choice, or each dimension of an action.
            observations: what the agent saw, `[*B, I]`, where they hold a mask.
            log_std: in the place of the agent's own, where actions are continuous.
        """
        if isinstance(self.action_space, spaces.Discrete):
            if self.masked and observations is not None:
                allowed = observations[..., -self.outputs :] > 0
                found = found.masked_fill(~allowed, FORBIDDEN)
            return Categorical(logits=found, validate_args=False)
        spread = (self.log_std if log_std is None else log_std).exp().expand_as(found)
        normal = Normal(found, spread, validate_args=False)
        return Independent(normal, 1, validate_args=False)

    @torch.no_grad()
    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Act as a recurrent policy of Stable-Baselines3 does.

        Args:
            observation: `[I]` of one row, or `[B, I]`.
            state: what the call before returned; None at the start.
            episode_start: `[B]`, true where memory starts anew.
            deterministic: take the most likely action instead of drawing one, which uses
                torch's global stream.

        Returns:
            The action, `[B, …]` or of one row, and the memory.
        """
        weight = next(self.parameters())
        seen = torch.as_tensor(np.asarray(observation), dtype=weight.dtype, device=weight.device)
        single = seen.ndim == 1
        seen = seen[None] if single else seen
        memory = self.initial_state(len(seen))
        if state is not None:
            carried = tuple(torch.as_tensor(s, device=weight.device) for s in state)
            begins = np.zeros(len(seen), bool) if episode_start is None else episode_start
            reset = torch.as_tensor(np.atleast_1d(begins), dtype=torch.bool, device=weight.device)
            memory = where_reset(reset, memory, carried)
        policy, _, memory = self.step(seen, memory)
        action = self.clip(policy.mode if deterministic else policy.sample())
        chosen = action.cpu().numpy()
        return (chosen.squeeze(0) if single else chosen), tuple(s.cpu().numpy() for s in memory)


class ActorCritic(Agent):
    """Policy and value function on one core.

    The observation, flat, goes through the core, as it is or through an encoder in front of it;
    two linear heads read what the core gives.

    Args:
        core: a memory cell whose input size is that of the observation, or of the encoder.
        observation_space: see `Agent`, as for the other arguments that are not named here.
        encoder: from observations to the core's input; None to pass them on.

    Raises:
        ValueError: as an `Agent` does, or for sizes that do not fit.
    """

    def __init__(
        self,
        core: Core,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        encoder: nn.Module | None = None,
        log_std: float = 0.0,
        value_unit: float | None = 1.0,
        normalise: bool = False,
        masked: bool = False,
    ) -> None:
        super().__init__(
            observation_space, action_space, log_std=log_std, value_unit=value_unit,
            normalise=normalise, masked=masked,
        )  # fmt: skip
        if encoder is None and core.input_size != self.inputs:
            raise ValueError(
                f"the core takes {core.input_size} numbers and an observation has "
                f"{self.inputs}: make the core with that input size"
            )
        self.core = core
        self.encoder = nn.Identity() if encoder is None else encoder
        self.policy_head = nn.Linear(core.num_units, self.outputs)
        self.value_head = nn.Linear(core.num_units, 1)
        with torch.no_grad():  # actions are nearly uniform, or near zero, at the start
            self.policy_head.weight.mul_(0.01)
            self.policy_head.bias.zero_()
            self.value_head.bias.zero_()

    def initial_state(self, batch: int) -> State:
        """The core's memory at the start of a life."""
        return self.core.initial_state(batch)

    def forward(
        self,
        observations: Float[Tensor, "T B I"],
        state: State,
        resets: Bool[Tensor, "T B"] | None = None,
    ) -> Outputs:
        """T steps of every row, through time; see `Core.scan`."""
        ys, state = self.core.scan(self.encoder(self.look(observations)), state, resets)
        return Outputs(*self._read(ys, observations), state)

    def step(self, observation: Float[Tensor, "B I"], state: State) -> Outputs:
        """One step of every row."""
        y, state = self.core.step(self.encoder(self.look(observation)), state)
        return Outputs(*self._read(y, observation), state)

    def _read(self, ys: Tensor, observations: Tensor) -> tuple[Policy, Tensor]:
        values = self.value_unit * self.value_head(ys).squeeze(-1)
        return self.policy(self.policy_head(ys), observations), values


def draw(policy: Policy, generator: torch.Generator) -> Tensor:
    """Actions of a policy, `[*B, A]`, or choices `[*B]`, every draw from the given stream."""
    if isinstance(policy, Categorical):  # the first of exponential clocks with these rates rings
        clocks = torch.empty_like(policy.probs).exponential_(generator=generator)
        return (policy.probs / clocks).argmax(-1)
    noise = torch.empty_like(policy.mean).normal_(generator=generator)
    return policy.mean + policy.stddev * noise
