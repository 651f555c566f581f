"""PEARL: off-policy meta-learning with a belief about the task (Rakelly et al., 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

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
from metarl_lib.algos.context_encoder import Belief, kl_to_prior
from metarl_lib.algos.options import (
    check_not_negative,
    check_positive,
    check_share,
    check_whole,
    option,
)
from metarl_lib.algos.pearl_agent import Lesson, Lived, PEARLAgent, live
from metarl_lib.algos.ppo import Streams
from metarl_lib.algos.replay import Contexts, Replay, Transitions
from metarl_lib.algos.sac import bellman_loss, policy_loss, polyak, soft_target
from metarl_lib.envs.base import BoundedEnv, map_tree


@dataclass(frozen=True)
class PEARLSettings:
    """How PEARL is trained.

    Raises:
        ValueError: for a number out of its range, or sizes that do not fit.
    """

    tasks: int = option(80, "tasks to train on")
    iterations: int = option(100, "times that is lived and learned")
    collected: int = option(10, "tasks that are lived with in an iteration")
    prior_episodes: int = option(1, "episodes with each of them with z from the prior")
    posterior_episodes: int = option(4, "episodes after these, with z from the posterior")
    gradient_steps: int = option(200, "gradient steps of an iteration")
    meta_batch: int = option(16, "tasks in a gradient step")
    batch: int = option(64, "transitions of each of them, from all its past")
    context: int = option(100, "most transitions of a context, from its latest episodes")
    capacity: int = option(5000, "transitions of a task that are kept")
    learning_rate: float = option(1e-3, "learning rate of all networks at the start")
    learning_rate_end: float = option(0.0, "learning rate at the end, approached linearly")
    discount: float = option(0.9, "discount of future rewards")
    temperature: float = option(0.01, "reward that a nat of the policy's entropy is worth")
    kl_weight: float = option(0.1, "weight of the divergence of belief from prior")
    polyak: float = option(0.005, "share of the critic that its slow copy takes over in a step")
    hold: bool = option(False, "whether episodes by the prior hold one random action each")
    bootstrap: bool = option(True, "whether an episode that the clock ended counts as going on")

    def __post_init__(self) -> None:
        check_whole(
            self, "tasks", "iterations", "collected", "gradient_steps", "meta_batch",
            "batch", "context", "capacity", "prior_episodes",
        )  # fmt: skip
        check_whole(self, "posterior_episodes", least=0)
        check_positive(self, "learning_rate", "polyak")
        check_not_negative(self, "temperature", "kl_weight")
        check_not_negative(self, "learning_rate_end")
        check_share(self, "discount", "polyak")
        if self.collected > self.tasks:
            raise ValueError(f"collected={self.collected}: must be at most the {self.tasks} tasks")

    @property
    def episodes(self) -> int:
        """Episodes with a task, one after the other."""
        return self.prior_episodes + self.posterior_episodes

    def environment_steps(self, length: int) -> int:
        """Environment steps of a training, where no episode ends before `length` steps."""
        return (self.tasks + self.iterations * self.collected) * self.episodes * length


class PEARL:
    """An agent in training on N tasks of a batched environment.

    An `iteration` lives a sequence of episodes with each of a few tasks, the first ones with z
    from the prior and then with z from the posterior, as a test does, and takes gradient steps.
    (Before the first one each task is lived with by the prior.) A step draws M tasks; for each
    of them a context, from its latest sequence, and transitions from all of its past. With z
    drawn from q(z|c),

        critic and encoder:  ½ Σ_j mean (Q_j(s, a, z) − y)² + β mean KL(q(z|c) ‖ N(0, 1))
        policy:              mean α log π(a|s, z) − min_j Q_j(s, a, z),   z held fixed

    and y as in `soft_target`, held fixed. So the encoder hears of the critic and the prior
    alone. There is no third network for V(s, z), as Rakelly et al. have it: one draw of a' in y
    estimates the same without a bias, as Haarnoja et al. (2018) found in their later version,
    and as Stable-Baselines3 does it.

    Args:
        env: what to learn.
        model: the agent.
        settings: how.
        streams: every random draw comes from these; that of the tasks makes the N tasks.
        lesson: what is learned from in the place of the reward (the belief is still made of
            rewards), None for the reward.

    `seconds` says how long was spent living and in gradient steps; `steps` counts those of the
    environment, `learned` those of the gradient.
    """

    def __init__(
        self,
        env: BoundedEnv,
        model: PEARLAgent,
        settings: PEARLSettings,
        streams: Streams,
        lesson: Lesson | None = None,
    ) -> None:
        self.env, self.model, self.settings, self.streams = env, model, settings, streams
        self.lesson = lesson
        s, device = settings, model.low.device
        self.tasks = env.sample_tasks(s.tasks, streams.tasks)
        self.replay = Replay(s.tasks, s.capacity, model.inputs, model.outputs, device)
        self.contexts = Contexts(s.tasks, s.episodes, env.max_steps, model.numbers, device)
        self.believers = [*model.critic.parameters(), *model.encoder.parameters()]
        self.actors = list(model.policy.parameters())
        fused = device.type in ("cpu", "cuda")
        self.optimisers = {
            name: torch.optim.Adam(parameters, lr=s.learning_rate, fused=fused)
            for name, parameters in (("critic", self.believers), ("policy", self.actors))
        }
        self.done = self.steps = self.learned = 0
        self.seconds = {"living": 0.0, "learning": 0.0}

    def iteration(self) -> dict[str, float]:
        """Live and learn.

        Returns:
            `return` of the last episode with a task, and `return_prior` of the first, means
            over the tasks that were lived with; the means of what `learn` says.
        """
        s, start = self.settings, perf_counter()
        if self.done == 0:
            everyone = torch.arange(s.tasks, device=self.model.low.device)
            self.collect(everyone, s.episodes)
        order = torch.randperm(
            s.tasks, generator=self.streams.minibatches, device=self.streams.minibatches.device
        )
        lived = self.collect(order[: s.collected], s.prior_episodes)
        returns = lived.returns.mean(0)
        middle = perf_counter()
        progress = min(1.0, self.done / s.iterations)
        rate = s.learning_rate + progress * (s.learning_rate_end - s.learning_rate)
        for optimiser in self.optimisers.values():
            optimiser.param_groups[0]["lr"] = rate
        totals: dict[str, Tensor] = {}
        for _ in range(s.gradient_steps):
            for name, value in self.learn().items():
                totals[name] = totals.get(name, 0.0) + value
        self.done += 1
        self.seconds["living"] += middle - start
        self.seconds["learning"] += perf_counter() - middle
        numbers = {name: float(total) / s.gradient_steps for name, total in totals.items()}
        return numbers | {"return": float(returns[-1]), "return_prior": float(returns[0])}

    def collect(self, which: Tensor, prior_episodes: int) -> Lived:
        """Live with some of the tasks, whose numbers are `which` `[n]`, each once, and keep it."""
        s = self.settings
        lived = live(
            self.env, self.model, map_tree(lambda t: t[which], self.tasks), s.episodes,
            self.streams.environment, self.streams.actions, prior_episodes=prior_episodes,
            context=s.context, lesson=self.lesson, bootstrap=s.bootstrap, hold=s.hold,
        )  # fmt: skip
        flat = Transitions(*(part.flatten(1, 2) for part in lived.steps))
        self.replay.add(which, flat, lived.real.flatten(1))
        self.contexts.put(which, lived.steps.context(), lived.real)
        self.steps += int(lived.real.sum())
        return lived

    def learn(self) -> dict[str, Tensor]:
        """A gradient step of critic and encoder, then one of the policy.

        Returns:
            `critic_loss`, the squared errors alone; `kl`, in nats; `policy_loss`; `entropy`
            of the policy, estimated, in nats.
        """
        s, stream = self.settings, self.streams.minibatches
        tasks = torch.randint(s.tasks, (s.meta_batch,), generator=stream, device=stream.device)
        batch = self.replay.draw(tasks, s.batch, stream)
        belief = self.model.encoder(*self.contexts.draw(tasks, s.context, stream))
        z = belief.draw(stream).unsqueeze(1).expand(-1, s.batch, -1)
        bellman, kl = self.critic_losses(batch, belief, z)
        self._step("critic", self.believers, bellman + s.kl_weight * kl)
        loss, entropy = self.policy_losses(batch.observation, z.detach())
        self._step("policy", self.actors, loss)
        polyak(self.model.target.parameters(), self.model.critic.parameters(), s.polyak)
        self.learned += 1
        return {
            "critic_loss": bellman.detach(), "kl": kl.detach(), "policy_loss": loss.detach(),
            "entropy": entropy,
        }  # fmt: skip

    def critic_losses(self, batch: Transitions, belief: Belief, z: Tensor) -> tuple[Tensor, Tensor]:
        """The squared error of Q, for `[M, b]` transitions, and the mean KL of the M beliefs."""
        s, model = self.settings, self.model
        with torch.no_grad():
            x = torch.cat([batch.following, z], -1)
            action, log_prob = model.policy.sample(x, self.streams.minibatches)
            following = model.target(torch.cat([batch.following, action, z], -1))
            y = soft_target(
                batch.reward, batch.terminal, following, log_prob, s.discount, s.temperature
            )
        values = model.critic(torch.cat([batch.observation, batch.action, z], -1))
        point = model.encoder.deterministic
        kl = z.new_zeros(()) if point else kl_to_prior(belief).mean()
        return bellman_loss(values, y), kl

    def policy_losses(self, observation: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's loss for `[M, b]` states, with z held fixed, and its entropy, scalars."""
        model = self.model
        x = torch.cat([observation, z], -1)
        action, log_prob = model.policy.sample(x, self.streams.minibatches)
        values = model.critic(torch.cat([observation, action, z], -1))
        loss = policy_loss(values, log_prob, self.settings.temperature)
        return loss, -log_prob.detach().mean()

    def _step(self, name: str, parameters: Sequence[Tensor], loss: Tensor) -> None:
        """A step of one optimiser; no other parameter gets a gradient."""
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = slope
        self.optimisers[name].step()

    def checkpoint(self) -> dict[str, Tensor]:
        """All that the training needs to go on, bit for bit; the replay is most of it."""
        kept = with_prefix("model", self.model.state_dict())
        for part, optimiser in self.optimisers.items():
            kept |= with_prefix(f"optimiser.{part}", optimiser_tensors(optimiser))
        kept |= with_prefix("stream", stream_tensors(self.streams._asdict()))
        kept |= with_prefix("lived", self._lived()) | with_prefix("task", tree_tensors(self.tasks))
        return copies(kept | {"counts": torch.tensor([self.done, self.steps, self.learned])})

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint of an equal training."""
        self.model.load_state_dict(own_tensors(kept, "model"))
        for part, optimiser in self.optimisers.items():
            restore_optimiser(optimiser, own_tensors(kept, f"optimiser.{part}"))
        restore_streams(self.streams._asdict(), own_tensors(kept, "stream"))
        for name, tensor in self._lived().items():
            tensor.copy_(kept[f"lived.{name}"])
        self.tasks = restored_tree(self.tasks, own_tensors(kept, "task"))
        self.done, self.steps, self.learned = kept["counts"].tolist()

    def _lived(self) -> dict[str, Tensor]:
        replay, contexts = self.replay, self.contexts
        return {
            "replay": replay.rows, "count": replay.count, "context": contexts.rows,
            "real": contexts.real,
        }  # fmt: skip
