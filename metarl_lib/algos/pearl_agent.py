"""The agent of PEARL, and how it lives: episodes of a task, each with a draw from its belief."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor, nn

from metarl_lib.algos.context_encoder import Belief, ContextEncoder
from metarl_lib.algos.replay import Transitions, subset
from metarl_lib.algos.sac import TanhGaussian, TwinQ
from metarl_lib.envs.base import BoundedEnv, Step, map_tree

WAYS = ("posterior", "mean", "prior")

Lesson = Callable[[Step], Tensor]
"""What is learned from a step in the place of its reward, `[B]`."""


class PEARLAgent(nn.Module):
    """Encoder q(z|c), policy π(a|s, z), twin critic Q(s, a, z) and its slow copy.

    Args:
        observation_space: a flat `Box`.
        action_space: a flat `Box` with finite bounds.
        latent: numbers of z; with 0 this is soft actor-critic, which knows no tasks.
        hidden: units of the layers of policy and critic.
        encoder_hidden: units of the layers of the encoder.
        deterministic: believes in a point, without a variance.

    Raises:
        ValueError: for a space that is not supported, or a number out of range.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        latent: int = 5,
        hidden: Sequence[int] = (64, 64),
        encoder_hidden: Sequence[int] = (64, 64),
        deterministic: bool = False,
    ) -> None:
        super().__init__()
        for name, space in (
            ("observation_space", observation_space),
            ("action_space", action_space),
        ):
            if not isinstance(space, spaces.Box) or len(space.shape) != 1:
                raise ValueError(f"{name}={space}: must be a flat Box; wrap the environment")
        assert isinstance(action_space, spaces.Box)
        if not action_space.is_bounded():
            raise ValueError(
                f"action_space={action_space}: must have finite bounds, because a tanh fills it"
            )
        if type(latent) is not int or latent < 0:
            raise ValueError(f"latent={latent!r}: must be a whole number >= 0")
        assert observation_space.shape is not None
        self.inputs, self.outputs = observation_space.shape[0], action_space.shape[0]
        for name, bound in (("low", action_space.low), ("high", action_space.high)):
            bounds = torch.as_tensor(bound, dtype=torch.get_default_dtype())
            self.register_buffer(name, bounds, persistent=False)
        self.numbers = 2 * self.inputs + self.outputs + 1
        self.encoder = ContextEncoder(self.numbers, latent, encoder_hidden, deterministic)
        self.policy = TanhGaussian(self.inputs + latent, self.outputs, hidden)
        self.critic = TwinQ(self.inputs + self.outputs + latent, hidden)
        self.target = deepcopy(self.critic).requires_grad_(False)

    def act(
        self,
        observation: Float[Tensor, "B S"],
        z: Float[Tensor, "B Z"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B A"]:
        """An action in (−1, 1)^A: drawn, or without a stream the tanh of the policy's mean."""
        x = torch.cat([observation, z], -1)
        if generator is None:
            return torch.tanh(self.policy(x)[0])
        return self.policy.sample(x, generator)[0]

    def unit_to_bounds(self, action: Tensor) -> Tensor:
        """Actions `[*B, A]` from (−1, 1) to the bounds of the action space."""
        return self.low + 0.5 * (action + 1) * (self.high - self.low)


class Episode(NamedTuple):
    """An episode with each of B tasks, `[B, T, …]`, and the belief with which it began."""

    steps: Transitions
    real: Tensor
    info: Any
    belief: Belief
    z: Tensor


class Lived(NamedTuple):
    """K episodes of at most T steps with each of B tasks.

    `steps` and `real` are `[B, K, T, …]`; after an episode's end there is nothing real. `info`
    is what the environment says, and `rewards` its rewards, 0 where nothing is real.
    `beliefs` are those with which the episodes began, `[B, K, Z]` each, and `drawn` the z.
    """

    steps: Transitions
    real: Tensor
    rewards: Tensor
    info: dict[str, Tensor]
    beliefs: Belief
    drawn: Tensor

    @property
    def returns(self) -> Float[Tensor, "B K"]:
        """The sum of the rewards of each episode."""
        return self.rewards.sum(-1)


def _hold(observation: Tensor, action: Tensor) -> Tensor:
    """The same action whatever is seen."""
    return action


def _episode(
    env: BoundedEnv,
    state: Any,
    observation: Tensor,
    act: Callable[[Tensor], Tensor],
    bounds: Callable[[Tensor], Tensor],
    environment: torch.Generator,
    lesson: Lesson | None,
    bootstrap: bool,
) -> tuple[Transitions, Tensor, dict[str, Tensor]]:
    """T steps of every row, which of them are real, and what the environment said."""
    alive = torch.ones(len(observation), dtype=torch.bool, device=observation.device)
    steps, said = [], []
    for t in range(env.max_steps):
        action = act(observation)
        state, step = env.step(state, bounds(action), environment)
        clock = bootstrap and t == env.max_steps - 1
        terminal = torch.zeros_like(alive) if clock else step.terminated
        learned = step.reward if lesson is None else lesson(step)
        steps.append((observation, action, learned, step.observation, terminal, step.reward, alive))
        said.append(step.info)
        alive = alive & ~(step.terminated | step.truncated)
        observation = step.observation
    *parts, real = (torch.stack(column, 1) for column in zip(*steps, strict=True))
    info = {name: torch.stack([i[name] for i in said], 1) for name in said[0]}
    return Transitions(*parts), real, info


@torch.no_grad()
def live(
    env: BoundedEnv,
    model: PEARLAgent,
    tasks: Any,
    episodes: int,
    environment: torch.Generator,
    actions: torch.Generator,
    *,
    prior_episodes: int = 1,
    context: int = 100,
    greedy: bool = False,
    way: str = "posterior",
    lesson: Lesson | None = None,
    bootstrap: bool = True,
    hold: bool = False,
) -> Lived:
    """Live several episodes with each task; what was lived so far is the context of the next.

    Args:
        env: what to live in.
        model: who lives.
        tasks: B tasks.
        episodes: K.
        environment: stream of the environment.
        actions: stream of the draws of z and of actions.
        prior_episodes: in so many of them, the first ones, z is drawn from the prior.
        context: the most transitions of which a belief is made, drawn from all.
        greedy: acts by the policy's mean.
        way: `"posterior"` draws z from q(z|c); `"mean"` takes its mean; `"prior"` forgets
            all, and draws from the prior in every episode.
        lesson: what is learned from in the place of the reward; None for the reward.
        bootstrap: whether an episode that the clock ended counts as going on.
        hold: does not ask the policy in the episodes by the prior; each of them holds one action,
            drawn uniformly.

    Raises:
        ValueError: for another way.
    """
    if way not in WAYS:
        raise ValueError(f"way={way!r} is unknown: choose one of {', '.join(WAYS)}")
    lived: list[Episode] = []
    for k in range(episodes):
        state, observation = env.reset(tasks, environment)
        known = [] if way == "prior" or k < prior_episodes else lived
        rows = observation.new_zeros(len(observation), 0, model.numbers)
        seen = torch.cat([rows, *(episode.steps.context() for episode in known)], 1)
        real = torch.cat([rows[..., 0] > 0, *(episode.real for episode in known)], 1)
        belief = model.encoder(*subset(seen, real, context, actions))
        z = belief.mean if way == "mean" else belief.draw(actions)
        act = partial(model.act, z=z, generator=None if greedy else actions)
        if hold and k < prior_episodes:
            action = rows.new_empty(len(rows), model.outputs).uniform_(-1, 1, generator=actions)
            act = partial(_hold, action=action)
        steps, real, info = _episode(
            env, state, observation, act, model.unit_to_bounds, environment, lesson, bootstrap
        )
        lived.append(Episode(steps, real, info, belief, z))
    info = {name: torch.stack([e.info[name] for e in lived], 1) for name in lived[0].info}
    joined = map_tree(lambda *parts: torch.stack(parts, 1), *(e._replace(info=()) for e in lived))
    rewards = joined.steps.shown.masked_fill(~joined.real, 0.0)
    return Lived(joined.steps, joined.real, rewards, info, joined.belief, joined.z)
