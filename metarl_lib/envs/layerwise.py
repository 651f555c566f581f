"""One agent per layer: each sees its own layer and the one before, all share the reward.

The multi-agent version that Cai & Cheng (2022) sketch (their figure of one agent per layer) and
did not run. `Layerwise` is batched and is what agents are trained on; `parallel_env` is one row
of it as a PettingZoo environment.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import seeding
from pettingzoo import ParallelEnv
from torch import Tensor

from metarl_lib.datasets import Tasks
from metarl_lib.envs.adapters import Rows, draw_seed
from metarl_lib.envs.base import Step, check_action
from metarl_lib.envs.option_checks import check_choice
from metarl_lib.envs.weight_space import WeightSpace
from metarl_lib.envs.weight_state import CLIP, GLOBALS, STATISTICS, State

VIEWS = ("global", "local")
AGENT_MODES = ("rule", "delta", "set")
PLACE = ("depth", "is first", "is last")


class Layerwise:
    """`WeightSpace` seen by L agents; `[B, L, …]` where that has `[B, …]`.

    Agent l sees `STATISTICS` of layer l and of layer l − 1 (zeros for the first layer), its
    place in the network (`PLACE`), and, with `view="global"`, what all layers share: `GLOBALS`.
    Its action are the coefficients of its own layer, one for each signal.

    Args:
        view: `"global"` or `"local"`, which hides the loss, its history and the time.
        options: those of `WeightSpace`; the observation is always `"statistics"`.

    Raises:
        ValueError: for an unknown view, and as `WeightSpace` does.
    """

    def __init__(self, *, view: str = "global", **options: Any) -> None:
        check_choice("view", view, VIEWS)
        check_choice("action_mode", options.get("action_mode", "rule"), AGENT_MODES)
        self.inner = WeightSpace(**{**options, "observation": "statistics"})
        self.view = view
        self.num_agents = self.inner.network.num_layers
        size = 2 * len(STATISTICS) + len(PLACE) + (len(GLOBALS) if view == "global" else 0)
        self.observation_space = spaces.Box(-CLIP, CLIP, (self.num_agents, size), np.float32)
        actions = (self.num_agents, len(self.inner.signals))
        self.action_space = spaces.Box(-1.0, 1.0, actions, np.float32)

    @property
    def max_steps(self) -> int:
        """The length of an episode."""
        return self.inner.max_steps

    def sample_tasks(self, batch: int, generator: torch.Generator, split: str = "train") -> Tasks:
        """Draw tasks."""
        return self.inner.sample_tasks(batch, generator, split)

    def reset(self, tasks: Tasks, generator: torch.Generator) -> tuple[State, Tensor]:
        """Draw initial weights for each task."""
        state, seen = self.inner.reset(tasks, generator)
        return state, self.divide(seen)

    def step(self, state: State, action: Tensor, generator: torch.Generator) -> tuple[State, Step]:
        """Every agent acts on its layer, in every row."""
        check_action(action, len(state.time), self.action_space)
        state, step = self.inner.step(state, action.flatten(1), generator)
        return state, step._replace(observation=self.divide(step.observation))

    def observe(self, state: State) -> Tensor:
        """What each agent sees, `[B, L, size]`."""
        return self.divide(self.inner.observe(state))

    def divide(self, seen: Tensor) -> Tensor:
        """What each agent sees of what a single agent would see, `[B, L, size]`."""
        common, own = seen[:, : len(GLOBALS)], seen[:, len(GLOBALS) :]
        own = own.unflatten(-1, (self.num_agents, len(STATISTICS)))
        batch, layers, _ = own.shape
        before = torch.cat([torch.zeros_like(own[:, :1]), own[:, :-1]], 1)
        index = torch.arange(layers, device=own.device, dtype=own.dtype)
        place = torch.stack([index / max(1, layers - 1), index == 0, index == layers - 1], -1)
        parts = [own, before, place.expand(batch, -1, -1)]
        if self.view == "global":
            parts.append(common.unsqueeze(1).expand(-1, layers, -1))
        return torch.cat(parts, -1)


class LayerAgents(ParallelEnv):
    """PettingZoo's view of one network whose layers are agents `layer_0`, `layer_1`, …

    In mode `"rule"` every agent has the spaces of `Layerwise`. In the modes `"delta"` and
    `"set"` an agent acts on each weight of its layer and sees them too, behind the statistics,
    so that the agents' spaces differ when the layers do.
    """

    def __init__(self, action_mode: str = "rule", view: str = "global", **options: Any) -> None:
        self.metadata = {"name": "layerwise_v0", "render_modes": []}
        self.render_mode = None
        self.batched = Layerwise(view=view, action_mode=action_mode, **options)
        self.whole = action_mode != "rule"
        network = self.batched.inner.network
        self.possible_agents = [f"layer_{layer}" for layer in range(network.num_layers)]
        self.agents: list[str] = []
        self._sizes = [0] * network.num_layers
        for weights, layer in zip(network.shapes, self.batched.inner.layer_of, strict=True):
            self._sizes[layer] += int(np.prod(weights))
        self._spaces = {
            name: self._agent_spaces(layer) for layer, name in enumerate(self.possible_agents)
        }
        self.observation_spaces = {name: pair[0] for name, pair in self._spaces.items()}
        self.action_spaces = {name: pair[1] for name, pair in self._spaces.items()}
        # The batched environment's rows step through the network's whole action.
        self._rows = Rows(_Whole(self.batched) if self.whole else self.batched, 1)

    def observation_space(self, agent: str) -> spaces.Box:
        """What an agent sees."""
        return self._spaces[agent][0]

    def action_space(self, agent: str) -> spaces.Box:
        """What an agent does."""
        return self._spaces[agent][1]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
        """Start an episode of a freshly drawn task."""
        if seed is not None:
            seed = draw_seed(seeding.np_random(seed)[0])
        observation = self._rows.reset(seed)
        self.agents = list(self.possible_agents)
        return self._observations(observation), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, np.ndarray]
    ) -> tuple[dict, dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict]]:
        """Every agent acts at once; all get the same reward.

        Raises:
            ValueError: when an agent's action is missing or has the wrong shape.
            RuntimeError: after the end of an episode.
        """
        if not self.agents:
            raise RuntimeError("step was called after the end of an episode: call reset first")
        parts = []
        for agent in self.possible_agents:
            wanted = self.action_space(agent).shape
            given = np.shape(actions[agent]) if agent in actions else None
            if given != wanted:
                raise ValueError(f"the action of {agent} has shape {given}, {wanted} is wanted")
            parts.append(np.asarray(actions[agent], np.float32))
        joint = np.concatenate(parts) if self.whole else np.stack(parts)
        step = self._rows.step(joint[None])
        everyone = self.agents
        ended = bool(step.terminated[0])
        info = {name: values[0].item() for name, values in step.info.items()}
        if ended:
            self.agents = []
        return (
            self._observations(step.observation),
            {agent: float(step.reward[0]) for agent in everyone},
            dict.fromkeys(everyone, ended),
            {agent: bool(step.truncated[0]) for agent in everyone},
            {agent: dict(info) for agent in everyone},
        )

    def render(self) -> None:
        """There is nothing to draw."""

    def close(self) -> None:
        """Nothing is open."""

    def _agent_spaces(self, layer: int) -> tuple[spaces.Box, spaces.Box]:
        inner = self.batched.inner
        seen = self.batched.observation_space.shape[1]
        if not self.whole:
            return (
                spaces.Box(-CLIP, CLIP, (seen,), np.float32),
                spaces.Box(-1.0, 1.0, (len(inner.signals),), np.float32),
            )
        size = self._sizes[layer]
        low = np.concatenate([np.full(seen, -CLIP), np.full(size, -np.inf)]).astype(np.float32)
        reach = float(inner.action_space.high.flat[0])
        return spaces.Box(low, -low), spaces.Box(-reach, reach, (size,), np.float32)

    def _observations(self, observation: Tensor) -> dict[str, np.ndarray]:
        seen = [row.numpy() for row in observation[0]]
        if self.whole:
            flat = torch.cat([p.flatten(1) for p in self._rows.state.params], -1)[0]
            weights = [part.numpy() for part in flat.split(self._sizes)]
            seen = [np.concatenate(pair) for pair in zip(seen, weights, strict=True)]
        return dict(zip(self.possible_agents, seen, strict=True))


class _Whole:
    """`Layerwise` whose action is one vector for the whole network."""

    def __init__(self, batched: Layerwise) -> None:
        self.batched = batched
        self.observation_space = batched.observation_space
        self.action_space = batched.inner.action_space
        self.sample_tasks, self.reset = batched.sample_tasks, batched.reset

    def step(self, state: State, action: Tensor, generator: torch.Generator) -> tuple[State, Step]:
        state, step = self.batched.inner.step(state, action, generator)
        return state, step._replace(observation=self.batched.divide(step.observation))


def parallel_env(**options: Any) -> LayerAgents:
    """The PettingZoo environment; options as for `LayerAgents` and `WeightSpace`."""
    return LayerAgents(**options)
