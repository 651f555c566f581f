"""Meta-gradient reinforcement learning: an actor-critic that learns its own γ and λ online."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad

from metarl_lib.algos.actor_critic import draw
from metarl_lib.algos.checkpoints import (
    copies,
    optimiser_tensors,
    own_tensors,
    restore_optimiser,
    restore_streams,
    restored_tree,
    stream_tensors,
    tree_tensors,
    with_prefix,
)
from metarl_lib.algos.feed_forward import FeedForward, layers
from metarl_lib.algos.lambda_returns import lambda_returns
from metarl_lib.algos.meta_settings import LEARNED, MetaSettings
from metarl_lib.algos.meta_trace import (
    ReturnParameters,
    Theta,
    advance,
    through_trace,
    zero_trace,
)
from metarl_lib.algos.ppo import Streams
from metarl_lib.cores.base import some_reset
from metarl_lib.envs.base import BatchedEnv, where_rows

SQUARE = "square."
RHO, EPSILON = 0.99, 1e-5
"""Decay of the mean square gradient of RMSProp, and what is added to its root."""


class Experience(NamedTuple):
    """T steps of B rows, `[T, B, …]`; `next_observations` are those before any reset."""

    observations: Tensor
    next_observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    ended: Tensor


class MetaGradient:
    """An actor-critic whose return is learned with it (Xu, van Hasselt & Silver 2018).

    After each segment τ the agent takes a step on

        L(θ) = mean_t [ −log π(a_t|s_t) (g_t − V(s_t)) + c (g_t − V(s_t))² / 2 − b H(π(s_t)) ],

    where g is the λ-return of η = {γ, λ} with bootstrapped values, and both targets and advantages
    are held fixed; that step is f(τ, θ, η). The next segment τ', which the new agent θ' has
    made and nobody has learned from, tells how good the step was, by a policy loss
    with fixed γ̄ and λ̄:

        J̄(τ', θ') = − mean_t log π_θ'(a_t|s_t) (ḡ_t − V̄(s_t)),
        η ← η − β (∂J̄/∂θ') z,

    by Adam on the logits, with z ≈ dθ'/dη (see `meta_trace.advance`). V̄ is a critic of its own,
    which learns the values of γ̄; with `outer_critic="inner"` V takes its place, whose values are
    those of γ: a flaw, kept to be looked at (Bonnet et al. 2022).

    Args:
        env: what to learn; an episode that ends starts a new task.
        model: the agent; with a context if the number of its context is that of η.
        settings: how.
        streams: every random draw comes from these; none is made of `minibatches`.

    Raises:
        ValueError: for an agent whose context does not fit η.
    """

    def __init__(
        self, env: BatchedEnv, model: FeedForward, settings: MetaSettings, streams: Streams
    ) -> None:
        self.env, self.model, self.settings, self.streams = env, model, settings, streams
        self.parameters = ReturnParameters(
            LEARNED[settings.learned], settings.discount, settings.gae_lambda
        )
        context = len(model.eta)
        if context and context != self.parameters.size:
            raise ValueError(
                f"the agent is told {context} numbers and learned={settings.learned!r} are "
                f"{self.parameters.size}: make it with that context"
            )
        self.eta = self.parameters.initial()
        self.theta: Theta = {n: p.detach().clone() for n, p in model.named_parameters()}
        if settings.optimiser == "rmsprop":
            self.theta |= {SQUARE + n: torch.zeros_like(p) for n, p in self.theta.items()}
        self.trace = zero_trace(self.theta, self.eta)
        self.optimiser = torch.optim.Adam([self.eta], lr=settings.meta_rate)
        self.critic = layers(model.inputs, _hidden(model), 1)
        self.critic.load_state_dict(  # the same start as the agent's, without what it is told
            {n: p[:, : model.inputs] if n == "0.weight" else p
             for n, p in model.value_net.state_dict().items()}
        )  # fmt: skip
        self.critic_optimiser = torch.optim.RMSprop(
            self.critic.parameters(), lr=settings.learning_rate, alpha=RHO, eps=EPSILON
        )
        self.done = 0
        self._tell()
        self.env_state, self.observation = self._fresh()
        self.returns = torch.zeros(settings.rows, device=self.observation.device)

    @property
    def learns(self) -> bool:
        """Whether there is anything in η."""
        return self.parameters.size > 0

    @property
    def returns_of(self) -> tuple[float, float]:
        """γ and λ as they are now."""
        gamma, lambda_ = self.parameters.at(self.eta)
        return float(gamma), float(lambda_)

    def update(self) -> dict[str, float]:
        """Collect a segment, judge the last update by it, and learn from it.

        Returns:
            `return`: mean return of the episodes that ended in the segment, NaN if none did;
            `reward`, the mean of a step; `discount` and `lambda` after the update; `entropy`;
            `value_loss` in squares of the agent's `value_unit`; `meta_gradient`, its size.
        """
        experience, finished = self.collect()
        size = 0.0
        if self.learns:
            found = self.meta_gradient(experience)
            size = float(found.norm())
            self.eta.grad = found
            self.optimiser.step()
            self._tell()
            if self.settings.outer_critic == "own":
                self.teach_critic(experience)
        numbers = self.learn(experience)
        self.done += 1
        numbers["return"] = float(finished[0] / finished[1])
        numbers["reward"] = float(experience.rewards.mean())
        numbers["discount"], numbers["lambda"] = self.returns_of
        return numbers | {"meta_gradient": size}

    def learn(self, experience: Experience) -> dict[str, float]:
        """One update of the agent, and of the trace."""

        def update(theta: Theta, eta: Tensor) -> Theta:
            return self.step(theta, eta, experience)

        if self.learns:
            self.theta, self.trace = advance(
                update, self.theta, self.eta, self.trace, self.settings.decay
            )
        else:
            self.theta = update(self.theta, self.eta)
        with torch.no_grad():
            out = self.model(experience.observations, ())
            target, _ = self.targets(dict(self.model.named_parameters()), self.eta, experience)
            error = (target - out.values) / self.model.value_unit
            numbers = {
                "entropy": float(out.policy.entropy().mean()),
                "value_loss": float(0.5 * error.square().mean()),
            }
            self.model.load_state_dict(self.weights(self.theta), strict=False)
        return numbers

    def weights(self, theta: Theta) -> Theta:
        """The agent's parameters in θ, without what RMSProp keeps."""
        return {name: t for name, t in theta.items() if not name.startswith(SQUARE)}

    def step(self, theta: Theta, eta: Tensor, experience: Experience) -> Theta:
        """θ + f(τ, θ, η), with η `[k]`: one step of RMSProp, or of gradient descent, on L."""
        s, weights = self.settings, self.weights(theta)
        targets, values = self.targets(weights, eta, experience)
        advantages = (targets - values) / self.model.value_unit

        def loss(params: Theta) -> Tensor:
            policy = self.model.act(params, experience.observations)
            error = targets - self.model.judge(params, experience.observations)
            gain = policy.log_prob(experience.actions) * advantages
            square = 0.5 * (error / self.model.value_unit).square()
            return (s.value_weight * square - gain - s.entropy * policy.entropy()).mean()

        gradient = grad(loss)(weights)
        norm = torch.stack([g.square().sum() for g in gradient.values()]).sum().add(1e-20).sqrt()
        scale = (s.max_grad_norm / norm).clamp(max=1.0)
        new: Theta = {}
        for name, g in gradient.items():
            g = scale * g
            if s.optimiser == "rmsprop":
                square = RHO * theta[SQUARE + name] + (1 - RHO) * g.square()
                new[SQUARE + name] = square
                g = g / ((square + 1e-20).sqrt() + EPSILON)
            new[name] = weights[name] - s.learning_rate * g
        return new

    def targets(self, params: Theta, eta: Tensor, experience: Experience) -> tuple[Tensor, Tensor]:
        """g_η and V of every step, `[T, B]` each."""
        gamma, lambda_ = self.parameters.at(eta)
        values = self.model.judge(params, experience.observations)
        following = self.model.judge(params, experience.next_observations)
        following = following * ~experience.terminated
        return _returns(experience, following, gamma, lambda_), values

    def outer_targets(self, experience: Experience) -> tuple[Tensor, Tensor]:
        """ḡ and V̄ of every step, `[T, B]` each; no gradient goes through them."""
        s, params = self.settings, self.weights(self.theta)
        with torch.no_grad():
            if s.outer_critic == "own":
                unit = self.model.value_unit
                values, following = (
                    unit * self.critic(self.model.look(seen)).squeeze(-1)
                    for seen in (experience.observations, experience.next_observations)
                )
            else:
                values = self.model.judge(params, experience.observations)
                following = self.model.judge(params, experience.next_observations)
            following = following * ~experience.terminated
            fixed = (torch.as_tensor(v).to(values) for v in (s.outer_discount, s.outer_lambda))
            return _returns(experience, following, *fixed), values

    def outer_loss(self, params: Theta, experience: Experience) -> Tensor:
        """J̄ of an agent with these parameters, a scalar."""
        targets, values = self.outer_targets(experience)
        log_probs = self.model.act(params, experience.observations).log_prob(experience.actions)
        return -(log_probs * (targets - values) / self.model.value_unit).mean()

    def meta_gradient(self, experience: Experience) -> Tensor:
        """dJ̄/dη through the trace, `[k]`."""
        slope = grad(lambda params: self.outer_loss(params, experience))(self.weights(self.theta))
        return through_trace(slope, self.trace, self.eta).detach()

    def teach_critic(self, experience: Experience) -> None:
        """One step of V̄ towards ḡ."""
        targets, _ = self.outer_targets(experience)
        values = self.critic(self.model.look(experience.observations)).squeeze(-1)
        loss = 0.5 * (values - targets / self.model.value_unit).square().mean()
        self.critic_optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.critic.parameters(), self.settings.max_grad_norm)
        self.critic_optimiser.step()

    @torch.no_grad()
    def collect(self) -> tuple[Experience, Tensor]:
        """T steps of every row, and `[2]`: sum and number of the returns of ended episodes."""
        steps: list[tuple[Tensor, ...]] = []
        finished = torch.zeros(2, device=self.returns.device)
        for _ in range(self.settings.segment):
            seen = self.observation
            action = draw(self.model.step(seen, ()).policy, self.streams.actions)
            self.env_state, step = self.env.step(
                self.env_state, self.model.clip(action), self.streams.environment
            )
            self.observation, ended = step.observation, step.terminated | step.truncated
            steps.append((seen, step.observation, action, step.reward, step.terminated, ended))
            self.returns += step.reward
            if some_reset(ended):
                finished += torch.stack([(self.returns * ended).sum(), ended.sum()])
                self.returns = self.returns.masked_fill(ended, 0.0)
                fresh = self._fresh()
                self.env_state, self.observation = where_rows(
                    ended, fresh, (self.env_state, self.observation)
                )
        return Experience(*(torch.stack(c) for c in zip(*steps, strict=True))), finished

    def _tell(self) -> None:
        """Tell the agent what its values are now supposed to mean."""
        if len(self.model.eta):
            self.model.eta.copy_(self.eta)

    def _fresh(self) -> tuple[Any, Tensor]:
        tasks = self.env.sample_tasks(self.settings.rows, self.streams.tasks)
        return self.env.reset(tasks, self.streams.environment)

    def checkpoint(self) -> dict[str, Tensor]:
        """All that the training needs to go on, bit for bit."""
        kept = with_prefix("theta", self.theta) | with_prefix("trace", self.trace)
        kept |= with_prefix("critic", self.critic.state_dict())
        kept |= with_prefix("meta", optimiser_tensors(self.optimiser))
        kept |= with_prefix("teacher", optimiser_tensors(self.critic_optimiser))
        kept |= with_prefix("stream", stream_tensors(self.streams._asdict()))
        kept |= with_prefix("rows", tree_tensors(self._rows()))
        return copies(kept | {"eta": self.eta, "done": torch.tensor(self.done)})

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint of an equal training."""
        self.theta = {n: kept[f"theta.{n}"].clone() for n in self.theta}
        self.trace = {n: kept[f"trace.{n}"].clone() for n in self.trace}
        self.critic.load_state_dict(own_tensors(kept, "critic"))
        self.eta.copy_(kept["eta"])
        restore_optimiser(self.optimiser, own_tensors(kept, "meta"))
        restore_optimiser(self.critic_optimiser, own_tensors(kept, "teacher"))
        restore_streams(self.streams._asdict(), own_tensors(kept, "stream"))
        restored = restored_tree(self._rows(), own_tensors(kept, "rows"))
        self.env_state, self.observation, self.returns = restored
        self.done = int(kept["done"])
        self.model.load_state_dict(self.weights(self.theta), strict=False)
        self._tell()

    def _rows(self) -> tuple[Any, ...]:
        return self.env_state, self.observation, self.returns


def _returns(experience: Experience, following: Tensor, gamma: Tensor, lambda_: Tensor) -> Tensor:
    return lambda_returns(experience.rewards, following, experience.ended, gamma, lambda_)


def _hidden(model: FeedForward) -> list[int]:
    """Units of the layers between the input and the output of its value network."""
    weights = [p for name, p in model.value_net.named_parameters() if name.endswith("weight")]
    return [len(w) for w in weights[:-1]]
