"""A policy that takes gradient steps on what it has just lived through: MAML within a life."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import grad, vmap

from metarl_lib.algos.actor_critic import Agent, Outputs
from metarl_lib.algos.linear_baseline import fit
from metarl_lib.algos.losses import gae, policy_gradient_loss
from metarl_lib.cores.base import State, begin, some_reset, where_reset

RATES = ("fixed", "learned")
SURROGATES = ("plain", "ratio")
BASELINES = ("critic", "linear")

Weights = tuple[Tensor, ...]  # matrix and bias of each layer, of one row or with a leading B


class RowSteps(NamedTuple):
    """What a row did in h steps: `[h, I]`, `[h]` or `[h, A]`, and the advantages `[h]`.

    `earlier` is `[h, h]`, where step k belongs to the same episode as step t and is not after it;
    `log_probs`, `[h]`, are those of the actions with the weights that took them, as constants.
    """

    observations: Tensor
    actions: Tensor
    advantages: Tensor
    earlier: Tensor
    log_probs: Tensor


class MAMLPolicy(Agent):
    """Model-agnostic meta-learning (Finn, Abbeel & Levine, 2017) as an agent with a memory.

    The agent is a network of tanh layers without recurrence. Its memory is its weights: θ at
    the start of a life, and after each stretch of h steps

        θ ← θ − α ⊙ ∇L(θ),    L(θ) = − 1/h Σ_t log π_θ(a_t | s_t) Â_t

    with generalised advantages in units of `value_unit`, through which no gradient goes. What
    was done and earned is read from the observations of a `Trial`. So this agent and an
    `ActorCritic` see the same and are trained by the same `PPO`, for which the adapted policy
    is one that depends on the past; autograd makes the derivative with respect to the first θ,
    second derivatives of the policy included. (Finn et al. let the outer gradient see what
    comes after the steps alone. Here what comes before has its share, because it is rewarded,
    too, and because it decides what there is to learn from.)

    That derivative of L's gradient takes the actions for constants, so that of an expectation
    over them it is a biased one. `surrogate="ratio"` puts this right (Foerster et al., 2018, with
    advantages as in Farquhar, Whiteson & Foerster, 2019): with ρ_t = Π_k π_θ(a_k | s_k) / π(a_k |
    s_k) over the steps k ≤ t of an episode, whose denominators are constants,

        L(θ) = − 1/h Σ_t (ρ_t − ρ_{t−1}) Â_t,

    which has the same gradient, and whose second derivative has the right mean, too.

    Args:
        observation_space: of a `Trial`.
        action_space: its actions.
        hidden: units of the layers between input and output. Two of them make the three layers
            of Chalvidal, Serre & VanRullen (2022).
        horizon: h.
        rate: α, or its initial value.
        rates: α is `"fixed"`, or `"learned"`: one positive number per weight, as in Meta-SGD.
        discount: γ of the advantages.
        gae_lambda: λ of the advantages.
        first_order: leaves the derivative of the gradient out.
        surrogate: `"plain"` or `"ratio"`, the loss of the gradient steps.
        baseline: what advantages are compared with, the values of the `"critic"`, which is one
            more output of the network, or those of a `"linear"` function that is fitted to each
            row's stretch alone (see `linear_baseline.fit`).
        standardised: gives the advantages of a stretch, within each row, mean 0 and deviation 1, as
            Finn et al. do, in the place of the unit. So a step follows which of the task's
            actions were better than others, and not how good the task is.
        state_only: shows the network what the environment inside shows, and nothing of the
            previous action, its reward and the boundary: they serve the gradient steps alone.
        log_std: see `Agent`.
        value_unit: see `Agent`.
        normalise: see `Agent`.

    Raises:
        ValueError: as an `Agent` does, or for a choice or a number out of range.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        hidden: Sequence[int] = (64, 64),
        *,
        horizon: int = 50,
        rate: float = 0.1,
        rates: str = "fixed",
        discount: float = 0.95,
        gae_lambda: float = 0.95,
        first_order: bool = False,
        surrogate: str = "plain",
        baseline: str = "critic",
        standardised: bool = False,
        state_only: bool = False,
        log_std: float = 0.0,
        value_unit: float | None = 1.0,
        normalise: bool = False,
    ) -> None:
        super().__init__(
            observation_space, action_space, log_std=log_std, value_unit=value_unit,
            normalise=normalise,
        )  # fmt: skip
        if not isinstance(horizon, int) or horizon < 1:
            raise ValueError(f"horizon={horizon!r}: must be a whole number >= 1")
        if not 0 < rate < math.inf:
            raise ValueError(f"rate={rate}: must be greater than 0 and finite")
        for name, value, choices in (
            ("rates", rates, RATES),
            ("surrogate", surrogate, SURROGATES),
            ("baseline", baseline, BASELINES),
        ):
            if value not in choices:
                raise ValueError(f"{name}={value!r} is unknown: choose one of {', '.join(choices)}")
        self.horizon, self.first_order, self.surrogate = horizon, first_order, surrogate
        self.baseline, self.standardised = baseline, standardised
        self.discount, self.gae_lambda = discount, gae_lambda
        self.read = self.inputs - self.outputs - 2 if state_only else self.inputs
        widths = [self.read, *hidden, self.outputs + 1]
        layers = [nn.Linear(i, o) for i, o in zip(widths[:-1], widths[1:], strict=True)]
        with torch.no_grad():  # actions are nearly uniform, or near zero, at the start
            layers[-1].weight[:-1].mul_(0.01)
            layers[-1].bias.zero_()
        self.weights = nn.ParameterList([p for layer in layers for p in layer.parameters()])
        log_rates = [torch.full_like(p, math.log(rate)) for p in self.weights]
        self.log_rates = nn.ParameterList(log_rates).requires_grad_(rates == "learned")

    def look(self, observations: Float[Tensor, "*B I"]) -> Float[Tensor, "*B R"]:
        """Observations as the network takes them."""
        return super().look(observations)[..., : self.read]

    def initial_state(self, batch: int) -> State:
        """The weights, the observations of the stretch, and the number of the step."""
        weights = [w.expand(batch, *w.shape) for w in self.weights]
        seen = weights[0].new_zeros(batch, self.horizon, self.inputs)
        return (*weights, seen, torch.zeros(batch, dtype=torch.long, device=seen.device))

    def step(self, observation: Float[Tensor, "B I"], state: State) -> Outputs:
        """One step of every row, and before it the gradient step of those that it is due in."""
        return self._outputs(*self._step(observation, state))

    def _step(self, observation: Tensor, state: State) -> tuple[Tensor, State]:
        *weights, seen, time = state
        due = (time > 0) & (time % self.horizon == 0)
        if some_reset(due):
            adapted = self.adapt(tuple(weights), torch.cat([seen, observation[:, None]], 1))
            weights = list(where_reset(due, adapted, tuple(weights)))
        slot = torch.arange(self.horizon, device=time.device) == (time % self.horizon)[:, None]
        seen = torch.where(slot[..., None], observation[:, None], seen)
        found = vmap(network)(tuple(weights), self.look(observation))
        return found, (*weights, seen, time + 1)

    def forward(
        self,
        observations: Float[Tensor, "T B I"],
        state: State,
        resets: Bool[Tensor, "T B"] | None = None,
    ) -> Outputs:
        """T steps of every row; whole stretches at once where all rows begin one together."""
        if resets is not None and bool(resets[0].all()):
            state, resets = self.initial_state(observations.shape[1]), resets.clone()
            resets[0] = False  # that is done
        *weights, seen, time = state
        together = bool((time == time[0]).all()) and int(time[0]) % self.horizon == 0
        if not together or (resets is not None and bool(resets.any())):
            return self._one_by_one(observations, state, resets)
        found, lived_before = [], int(time[0]) > 0
        for k, stretch in enumerate(observations.split(self.horizon)):
            if k > 0 or lived_before:
                lived = torch.cat([seen, stretch[0][:, None]], 1)
                weights = list(self.adapt(tuple(weights), lived))
            found.append(vmap(network, (0, 1), 1)(tuple(weights), self.look(stretch)))
            seen = torch.cat([stretch.transpose(0, 1), seen[:, len(stretch) :]], 1)
        return self._outputs(torch.cat(found), (*weights, seen, time + len(observations)))

    def _one_by_one(self, observations: Tensor, state: State, resets: Tensor | None) -> Outputs:
        """From any memory, with lives that begin anywhere; also the reference of `forward`."""
        initial, found = self.initial_state(observations.shape[1]), []
        for t, observation in enumerate(observations):
            each, state = self._step(observation, begin(t, resets, initial, state))
            found.append(each)
        return self._outputs(torch.stack(found), state)

    def adapt(self, weights: Weights, seen: Float[Tensor, "B h1 I"]) -> Weights:
        """A gradient step in every row, on h steps and what was seen after the last of them."""
        before, after = seen[:, :-1], seen[:, 1:]
        with torch.no_grad():
            rewards, ended = after[..., -2].T, after[..., -1].T > 0
            if self.baseline == "linear":
                looked = self.look(before).transpose(0, 1)
                values, following = fit(looked, rewards, ended, self.discount)
            else:
                known = self.value_unit * vmap(network)(weights, self.look(seen))[..., -1].T
                values, following = known[:-1], known[1:].masked_fill(ended, 0.0)
            advantages = self.in_their_unit(
                gae(rewards, values, following, ended, self.discount, self.gae_lambda)
            )
            actions = after[..., -2 - self.outputs : -2]
            if isinstance(self.action_space, spaces.Discrete):
                actions = actions.argmax(-1)
            lived = RowSteps(
                self.look(before), actions, advantages.T,
                in_episode(ended.T), torch.zeros_like(advantages.T),
            )  # fmt: skip
            lived = lived._replace(log_probs=vmap(self.log_probs)(weights, lived))
        slopes = vmap(grad(self.loss))(weights, lived)
        if self.first_order:
            slopes = tuple(slope.detach() for slope in slopes)
        rates = [log_rate.exp() for log_rate in self.log_rates]
        return tuple(
            w - rate * slope for w, rate, slope in zip(weights, rates, slopes, strict=True)
        )

    def in_their_unit(self, advantages: Float[Tensor, "h B"]) -> Float[Tensor, "h B"]:
        """Advantages as the gradient steps take them."""
        if not self.standardised:
            return advantages / self.value_unit
        spread = advantages.std(0, correction=0) + 1e-8
        return (advantages - advantages.mean(0)) / spread

    def loss(self, weights: Weights, steps: RowSteps) -> Tensor:
        """L(θ) of one row, a scalar."""
        log_probs = self.log_probs(weights, steps)
        if self.surrogate == "plain":
            return policy_gradient_loss(log_probs, steps.advantages)
        change = log_probs - steps.log_probs
        up_to = steps.earlier.to(change) @ change
        return -((up_to.exp() - (up_to - change).exp()) * steps.advantages).mean()

    def log_probs(self, weights: Weights, steps: RowSteps) -> Tensor:
        """log π(a|s) of the steps of one row, `[h]`."""
        policy = self.policy(network(weights, steps.observations)[..., :-1])
        return policy.log_prob(steps.actions)

    def _outputs(self, found: Tensor, state: State) -> Outputs:
        return Outputs(self.policy(found[..., :-1]), self.value_unit * found[..., -1], state)


def in_episode(ended: Bool[Tensor, "B h"]) -> Bool[Tensor, "B h h"]:
    """Whether step k (last) is in the episode of step t and not after it."""
    number = ended.long().cumsum(1) - ended.long()
    return (number[:, :, None] == number[:, None]).tril()


def network(weights: Weights, x: Float[Tensor, "*h I"]) -> Float[Tensor, "*h A1"]:
    """Logits or means, and a value, of one row's weights."""
    for k in range(0, len(weights), 2):
        x = x @ weights[k].mT + weights[k + 1]
        if k + 2 < len(weights):
            x = torch.tanh(x)
    return x
