"""The outer loops of MAML for policies: what counts, and what it is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl_lib.algos.linear_baseline import fit
from metarl_lib.algos.losses import gae, standardise
from metarl_lib.algos.maml_policy import MAMLPolicy
from metarl_lib.algos.ppo import PPO, Segment, Settings, Streams
from metarl_lib.envs.base import BatchedEnv


class WholeLife(PPO):
    """PPO that judges all actions of a `MAMLPolicy`'s life, against the baseline of its steps.

    Where that is the linear one, a row's own rewards and nothing else decide what its actions
    are compared with. Credit crosses the ends of episodes, up to the end of the life: so an action
    is paid for what is earned with what it found out.

    Args:
        env: see `PPO`.
        model: see `PPO`.
        settings: see `PPO`; a segment is a whole trial.
        streams: see `PPO`.

    Raises:
        ValueError: where segments are no whole trials.
    """

    first = 0
    model: MAMLPolicy

    def __init__(
        self, env: BatchedEnv, model: MAMLPolicy, settings: Settings, streams: Streams
    ) -> None:
        if not settings.whole_trials:
            raise ValueError("whole_trials=False: must be True, so that a segment is a whole life")
        super().__init__(env, model, settings, streams)

    def judge(self, segment: Segment) -> tuple[Tensor, Tensor]:
        """Advantages of the actions from number `first` on, 0 before it; returns: `[T, B]` each."""
        s = self.settings
        seen, rewards = segment.observations, segment.rewards
        ended, following = self.ends(segment)
        advantages = gae(rewards, segment.values, following, ended, s.discount, s.gae_lambda)
        returns = advantages + segment.values
        counted, late = advantages.new_zeros(advantages.shape), slice(self.first, None)
        if self.model.baseline == "linear":
            own = fit(self.model.look(seen[late]), rewards[late], ended[late], s.discount)
            judged = gae(rewards[late], *own, ended[late], s.discount, s.gae_lambda)
        else:
            judged = advantages[late]
        counted[late] = standardise(judged)
        return counted, returns

    def ends(self, segment: Segment) -> tuple[Tensor, Tensor]:
        """Where credit ends, and the value of what follows each action: `[T, B]` each."""
        return segment.ended, segment.next_values


class EachEpisode(WholeLife):
    """PPO that judges each action of a `MAMLPolicy`'s life by the rest of its own episode.

    A reward after an episode's end says nothing about an action before it, unless something was
    learned in between.

    Args:
        env: a `Trial`, whose observations say where an episode has begun; see `PPO`.
        model: see `PPO`.
        settings: see `PPO`; a segment is a whole trial.
        streams: see `PPO`.

    Raises:
        ValueError: where segments are no whole trials.
    """

    def ends(self, segment: Segment) -> tuple[Tensor, Tensor]:
        """The ends of episodes, as the next observation tells them; nothing follows these.

        `[T, B]` each, as in `WholeLife`.
        """
        told = segment.observations[1:, :, -1] > 0
        over = torch.cat([told, segment.ended[-1:]]) | segment.ended
        return over, segment.next_values.masked_fill(over, 0.0)


class AfterSteps(EachEpisode):
    """PPO that judges a `MAMLPolicy` by the actions after its last gradient step alone.

    This is the objective of Finn, Abbeel & Levine (2017): the actions before are data to learn
    from, and neither what they earn nor what they do to later returns has a share in the policy's
    loss. So its gradient is that through the steps, with the first part of the derivative of what
    was sampled where the surrogate of the steps is plain, and with both where it is a ratio. A
    critic learns from all rewards.

    Args:
        env: see `PPO`.
        model: see `PPO`.
        settings: see `PPO`; a segment is a whole trial.
        streams: see `PPO`.

    Raises:
        ValueError: where segments are no whole trials, or too short for a gradient step.
    """

    def __init__(
        self, env: BatchedEnv, model: MAMLPolicy, settings: Settings, streams: Streams
    ) -> None:
        if settings.segment <= model.horizon:
            raise ValueError(
                f"segment={settings.segment}: must be longer than the {model.horizon} steps "
                "that the first gradient step learns from"
            )
        self.first = (settings.segment - 1) // model.horizon * model.horizon
        super().__init__(env, model, settings, streams)
