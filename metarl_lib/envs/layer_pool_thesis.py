"""A pool of layers as the thesis of Stachyra (2023) has it in its code, errors included.

What is odd here is odd there. The page *A pool of layers* says what and why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.datasets.sinusoids import AMPLITUDES, INPUTS, PHASES
from metarl_lib.datasets.split import check_split
from metarl_lib.envs.adapters import Rows
from metarl_lib.envs.base import BatchedEnv, Step, check_discrete, map_tree, one_hot, where_rows
from metarl_lib.envs.option_checks import check_choice, check_positive, check_whole
from metarl_lib.rules import Network, mse
from metarl_lib.rules.adam import adam
from metarl_lib.rules.network import Params
from metarl_lib.rules.pool import Plan, Pool, outputs

SCALINGS = ("as_coded", "turned", "none")
DEPTH, UNITS, SAMPLES = 3, 40, 100
EPSILON = 1e-8


class ThesisTasks(NamedTuple):
    """Which task, `[B]`, and the pool that the episode starts with, each part with a leading B.

    `low` and `high`, `[B]`, are the smallest and the largest loss of the task met so far.
    """

    number: Tensor
    pool: Pool
    low: Tensor
    high: Tensor


class ThesisState(NamedTuple):
    """A network under construction.

    `layers` `[B, 5]` are the chosen ones in order, each counted among its kind, −1 where there is
    none; at both ends the initial copies then stand, `ends`: W, b of the input and of the output
    layer. `time` counts the steps, errors included; `loss` and `size` are of the last forward
    pass, its mean squared error and its largest |output|; `worst` is the largest loss of the
    episode.
    """

    tasks: ThesisTasks
    layers: Tensor
    ends: Params
    time: Tensor
    loss: Tensor
    size: Tensor
    worst: Tensor


class ThesisLayerPool:
    """The batched environment of `metarl/LayerPool-v0` with `variant="thesis"`.

    Tasks are sinusoids y = a sin(x + p) at the 100 points x = −5 … 5, of which the last is held
    out: the split `"test"`. The pool has 3 hidden layers (40 × 40), an input and an output layer
    for each, the held-out one included: 35 for 7 tasks. Actions number them as the code does:
    hidden layers first, then input and output layers in turn.

    An episode starts with copies of one input and one output layer that have taken `inner_steps`
    steps of Adam on all points. Step 1 must choose an input layer and step 2 an output layer, in
    place of these, and each later one a hidden layer that is not in use. What is not as it must
    be is an error: it earns −1 and adds nothing, but time goes on, so that the first two places
    can never be filled later. With the third hidden layer the episode ends: the network takes
    `inner_steps` steps of Adam on all points, and its layers, as the state's pool holds them, stay
    so. Otherwise the reward is

        −f (L − L_low + ε) / (L_high − L_low + ε),    f = (L_high − L_worst) / L_high

    with L the loss now and L_worst the largest of the episode. So f, meant as a weight of how bad
    the first choices were, is small when they were bad, and less than 0 when they were worse than
    any before: then losses are paid for. (ε = 10⁻⁸.)

    An observation has 44 numbers: a, p, the largest |output|, five indices of hidden layers
    (counted from 1, zeros before them), which of the 35 layers are in use, and L.

    Args:
        tasks: how many there are.
        task: the only one that is drawn from the training tasks; None for any of them.
        inner_steps: of Adam; 0 for none, so that nothing is learned from a task's points.
        rate: of Adam.
        bounds: L_low and L_high of each task, `[tasks, 2]`. Without them they are those of the
            losses met so far, in an episode that was started by itself: in its own steps, and f
            is 1, as in the code's first pass over the tasks.
        scaling: `"as_coded"`; `"turned"`, with f = L_worst / L_high, which is what was meant; or
            `"none"`, with f = 1.
        pool_seed, task_seed: of the draws of the layers (Xavier's) and of the tasks.

    `info` holds `loss` and `error`, whether the step was one.

    Raises:
        ValueError: for an unknown name, or a number out of range.
    """

    def __init__(
        self,
        tasks: int = 7,
        *,
        task: int | None = None,
        inner_steps: int = 30,
        rate: float = 5e-3,
        bounds: Sequence[Sequence[float]] | None = None,
        scaling: str = "as_coded",
        pool_seed: int = 0,
        task_seed: int = 0,
    ) -> None:
        check_whole("tasks", tasks, 2)
        check_whole("inner_steps", inner_steps, 0)
        check_positive("rate", rate)
        check_choice("scaling", scaling, SCALINGS)
        if task is not None and not 0 <= task < tasks - 1:
            raise ValueError(
                f"task={task}: must be from 0 to {tasks - 2}, a training task, or None"
            )
        self.count, self.task, self.scaling = tasks, task, scaling
        self.inner_steps, self.rate = inner_steps, rate
        self.calibrating = bounds is None
        limits = [[math.inf, -math.inf]] * tasks if bounds is None else bounds
        self.bounds = torch.tensor(limits, dtype=torch.float32)
        if self.bounds.shape != (tasks, 2):
            raise ValueError(
                f"bounds have shape {tuple(self.bounds.shape)}: ({tasks}, 2) is wanted, the "
                "smallest and the largest loss of each task"
            )
        self.amplitude, self.phase = _sinusoids(tasks, torch.Generator().manual_seed(task_seed))
        self.x = torch.linspace(*INPUTS, SAMPLES)[:, None]
        self.y = self.amplitude[:, None, None] * torch.sin(self.x + self.phase[:, None, None])
        self.pool, copied = _pool(tasks, torch.Generator().manual_seed(pool_seed))
        # Each episode begins with the same training of the same copies: it is done here, once.
        self.network = Network((1, *[UNITS] * (DEPTH + 1), 1), bias=True)
        short = Network((1, UNITS, 1), bias=True)
        copies = [p.expand(tasks, *p.shape) for p in copied]
        self.copies, self._start = self._trained(short, copies, self.y)
        size = 3 + DEPTH + 2 + self.num_layers + 1
        self.observation_space = spaces.Box(-math.inf, math.inf, (size,), np.float32)
        self.action_space = spaces.Discrete(self.num_layers)

    @property
    def num_layers(self) -> int:
        """Those of the pool, 35 for 7 tasks."""
        return (DEPTH + 2) * self.count

    def sample_tasks(
        self, batch: int, generator: torch.Generator, split: str = "train"
    ) -> ThesisTasks:
        """Draw one of the training tasks for each row, with the pool as it was at first."""
        check_split(split)
        numbers = torch.randint(self.count - 1, (batch,), generator=generator)
        if split == "test":
            numbers = torch.full_like(numbers, self.count - 1)
        elif self.task is not None:
            numbers = torch.full_like(numbers, self.task)
        pool = Pool(*(part.expand(batch, *part.shape) for part in self.pool))
        low, high = self.bounds[numbers].unbind(-1)
        return ThesisTasks(numbers, pool, low, high)

    def reset(self, tasks: ThesisTasks, generator: torch.Generator) -> tuple[ThesisState, Tensor]:
        """Start with the trained copies; nothing is drawn."""
        number = tasks.number
        loss, size = self._start[:, number]
        state = ThesisState(
            tasks,
            torch.full((len(number), DEPTH + 2), -1),
            [p[number] for p in self.copies],
            torch.zeros_like(number),
            loss,
            size,
            torch.full_like(loss, -math.inf),
        )
        return state, self.observe(state)

    @torch.no_grad()
    def step(
        self, state: ThesisState, action: Tensor, generator: torch.Generator
    ) -> tuple[ThesisState, Step]:
        """Add a layer where that is allowed, and look at the loss; nothing is drawn."""
        check_discrete(action, len(state.time), self.action_space)
        time = state.time + 1
        kind, index = self.layer(action.long())
        hidden = state.layers[:, 1:-1]
        count = (hidden >= 0).sum(-1)
        used = (hidden == index.unsqueeze(-1)).any(-1)
        full = count >= DEPTH
        place = torch.where(time == 1, 0, torch.where(time == 2, DEPTH + 1, 1 + count))
        wanted = torch.where(time == 1, 1, torch.where(time == 2, 2, 0))
        error = (kind != wanted) | ((wanted == 0) & (used | full))
        here = one_hot(place, DEPTH + 3)[:, :-1].bool() & ~error.unsqueeze(-1)
        layers = torch.where(here, index.unsqueeze(-1), state.layers)
        state = state._replace(layers=layers, time=time)
        params = self.params(state)
        points = self.x.expand(len(time), *self.x.shape)
        found = outputs(params, _plan(layers), points)
        loss = mse(found, self._targets(state)).mean(-1)
        size = found.abs().amax((1, 2))
        ended = (layers[:, 1:-1] >= 0).all(-1)
        if self.inner_steps and bool(ended.any()):
            trained, last = self._trained(self.network, params, self._targets(state))
            loss, size = torch.where(ended, last, torch.stack([loss, size]))
            state = self._stored(state, trained, ended)
        worst = torch.maximum(state.worst, loss)
        if self.calibrating:
            low, high = state.tasks.low.minimum(loss), state.tasks.high.maximum(loss)
            state = state._replace(tasks=state.tasks._replace(low=low, high=high))
        state = state._replace(loss=loss, size=size, worst=worst)
        reward = torch.where(error, -1.0, self._reward(state))
        info = {"loss": loss.clone(), "error": error}
        never = torch.zeros_like(ended)
        return state, Step(self.observe(state), reward, ended, never, info)

    def _trained(self, network: Network, params: Params, y: Tensor) -> tuple[Params, Tensor]:
        """Networks after their training, the loss and the largest |output| in its last pass."""
        if not self.inner_steps:
            found = network(params, self.x)
            return params, torch.stack([mse(found, y).mean(-1), found.abs().amax((1, 2))])
        params, passed = adam(network, params, self.x, y, self.rate, self.inner_steps)
        return params, passed[-1]

    def _reward(self, state: ThesisState) -> Tensor:
        low, high = state.tasks.low, state.tasks.high
        base = -(state.loss - low + EPSILON) / (high - low + EPSILON)
        if self.calibrating or self.scaling == "none":
            return base
        share = state.worst / high
        return base * (share if self.scaling == "turned" else 1 - share)

    def layer(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Its kind (0 hidden, 1 input, 2 output) and its number among them, `[B]` each."""
        hidden = DEPTH * self.count
        beyond = action - hidden
        kind = torch.where(beyond < 0, 0, 1 + beyond % 2)
        return kind, torch.where(beyond < 0, action, beyond // 2)

    def params(self, state: ThesisState) -> Params:
        """The parameters of each row's network; `outputs` passes empty places by."""
        pool, layers = state.tasks.pool, state.layers
        rows = torch.arange(len(layers))
        found: Params = []
        for place in range(DEPTH + 2):
            kind = 0 if place == 0 else 2 if place == DEPTH + 1 else 1
            for part in (0, 1):
                chosen = pool[2 * kind + part][rows, layers[:, place].clamp_min(0)]
                if kind != 1:
                    copy = state.ends[kind + part]
                    chosen = where_rows(layers[:, place] >= 0, chosen, copy)
                found.append(chosen)
        return found

    def _stored(self, state: ThesisState, trained: Params, ended: Tensor) -> ThesisState:
        """The layers of the networks that are complete, as training left them."""
        rows = torch.arange(len(ended))
        pool = [part.clone() for part in state.tasks.pool]
        ends = list(state.ends)
        for place in range(DEPTH + 2):
            kind = 0 if place == 0 else 2 if place == DEPTH + 1 else 1
            chosen = state.layers[:, place]
            for part in (0, 1):
                new, own = trained[2 * place + part], pool[2 * kind + part]
                at = chosen.clamp_min(0)
                own[rows, at] = where_rows(ended & (chosen >= 0), new, own[rows, at])
                if kind != 1:
                    end = ends[kind + part]
                    ends[kind + part] = where_rows(ended & (chosen < 0), new, end)
        return state._replace(tasks=state.tasks._replace(pool=Pool(*pool)), ends=ends)

    def observe(self, state: ThesisState) -> Tensor:
        """The 44 numbers."""
        number, layers = state.tasks.number, state.layers
        known = [self.amplitude[number], self.phase[number], state.size]
        hidden = layers[:, 1:-1]
        count = (hidden >= 0).sum(-1, keepdim=True)
        places = torch.arange(DEPTH + 2) - (DEPTH + 2) + count  # the last `count` are not empty
        indices = (hidden + 1).gather(-1, places.clamp_min(0)) * (places >= 0)
        used = (hidden.unsqueeze(-1) == torch.arange(DEPTH * self.count)).any(1)
        both = [one_hot(layers[:, end] + 1, self.count + 1)[:, 1:] for end in (0, -1)]
        parts = [torch.stack(known, -1), indices, used, torch.stack(both, -1).flatten(1)]
        return torch.cat([part.float() for part in [*parts, state.loss.unsqueeze(-1)]], -1)

    def _targets(self, state: ThesisState) -> Tensor:
        return self.y[state.tasks.number]


def _plan(layers: Tensor) -> Plan:
    """A plan that is not trained."""
    return Plan(layers, torch.zeros(len(layers)), torch.zeros_like(layers[:, 0]))


def _sinusoids(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Uniform amplitudes and phases."""
    u = torch.rand(2, count, generator=generator)
    low, high = (torch.tensor(pair) for pair in zip(AMPLITUDES, PHASES, strict=True))
    a, p = low[:, None] + (high - low)[:, None] * u
    return a, p


def _pool(tasks: int, generator: torch.Generator) -> tuple[Pool, Params]:
    """Layers with Xavier's uniform weights and PyTorch's uniform biases, and the two to copy."""

    def uniform(bound: float, *shape: int) -> Tensor:
        return bound * (2 * torch.rand(shape, generator=generator) - 1)

    parts = []
    for count, fan_in, fan_out in (
        (tasks, 1, UNITS), (DEPTH * tasks, UNITS, UNITS), (tasks, UNITS, 1),
    ):  # fmt: skip
        parts.append(uniform(math.sqrt(6 / (fan_in + fan_out)), count, fan_out, fan_in))
        parts.append(uniform(1 / math.sqrt(fan_in), count, fan_out))
    pool = Pool(*parts)
    first, last = torch.randint(tasks, (2,), generator=generator).tolist()
    ends = [pool.input_weight[first], pool.input_bias[first]]
    return pool, [*ends, pool.output_weight[last], pool.output_bias[last]]


class CarriedRows(Rows):
    """A row whose pool, and whose bounds of the losses, go on from episode to episode.

    As in the thesis, where the layers are objects that all networks share.
    """

    def __init__(self, env: BatchedEnv) -> None:
        super().__init__(env, 1)
        self.carried: tuple[Pool, Tensor, Tensor] | None = None

    def _fresh(self, count: int) -> tuple[ThesisState, Tensor]:
        if self.state is not None:
            self.carried = self.state.tasks[1:]
        state, observation = super()._fresh(count)
        if self.carried is not None:
            pool, low, high = map_tree(Tensor.clone, self.carried)
            state = state._replace(tasks=ThesisTasks(state.tasks.number, pool, low, high))
        return state, observation
