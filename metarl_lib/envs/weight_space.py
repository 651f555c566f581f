"""Weights as an environment: the state is a base network, an action changes its weights.

The environment of Cai & Cheng (2022), section 4, and what it has to become to be worth learning
in. One step of an episode is one update of the base network; one episode is its whole training.

Action modes (ΔW_l is the change of layer l, ρ_l the root mean square of its initial weights):

    set      W = a                        the seed's: the action is the weights
    delta    ΔW = step_size · a
    rule     ΔW_l = −ρ_l Σ_k c(a_lk) ŝ_lk    one coefficient for each local signal of a layer
    synapse  ΔW_lij = −ρ_l c(a_lij)          one action a synapse, each seeing its own signals

where ŝ is a signal divided by its root mean square over the parameter (the weights or the biases of
a layer), the signals are drive, momentum (the drive's running mean), hebb and the parameter itself
(decay, divided by ρ), and
c(a) = step_size · sinh(5a) / sinh(5) spans two decades on both sides of 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.datasets import DigitsFamily, Family, SinusoidFamily, Tasks, TeacherFamily
from metarl_lib.envs.base import Step, check_action, map_tree
from metarl_lib.envs.option_checks import check_choice, check_positive, check_whole
from metarl_lib.envs.signals import DRIVES, Signals, blocks, local_signals
from metarl_lib.envs.weight_checks import check_fit, check_signals
from metarl_lib.envs.weight_state import (
    CLIP,
    GLOBALS,
    LOCALS,
    SIGNALS,
    STATISTICS,
    TINY,
    State,
    global_numbers,
    layer_statistics,
    next_momentum,
    rms,
    unit_signals,
)
from metarl_lib.rules import Network, cross_entropy, half_mse
from metarl_lib.rules.losses import Loss
from metarl_lib.rules.network import Params, like

MODES = ("set", "delta", "rule", "synapse")
OBSERVATIONS = ("weights", "statistics")
REWARDS = ("loss", "improvement")
FAMILIES = {"teacher_student": TeacherFamily, "digits": DigitsFamily, "sinusoids": SinusoidFamily}
STEP_SIZES = {"set": 3.0, "delta": 0.1, "rule": 0.3, "synapse": 0.3}

SHARPNESS = 5.0
LOSS_LIMIT = 1e6
PENALTY = 10.0


class WeightSpace:
    """The batched environment behind `metarl/WeightSpace-v0`.

    Args:
        widths: R_0, …, R_L of the base network.
        family: the tasks, a `Family`, or the name of one with its default sizes:
            `"teacher_student"`, `"digits"` or `"sinusoids"`.
        action_mode: `"set"`, `"delta"`, `"rule"` or `"synapse"`; see the module's text.
        observation: `"weights"` (all of them, the default of set and delta) or `"statistics"`
            (`GLOBALS`, then `STATISTICS` of each layer, the default of rule). In mode synapse
            each synapse sees `LOCALS`, `[P, 9]`.
        reward: `"improvement"`, log E before less log E after, clipped to ±10, or `"loss"`, −E
            (the seed's).
        steps: T, the length of an episode. Its end is part of the task: `terminated`.
        drive: the first signal, `"perturbation"` or `"gradient"`; see `envs.signals`.
        signals: those of `SIGNALS` that mode rule may use.
        activation, output_activation, bias: of the base network; see `Network`.
        init_std: standard deviation of its initial weights; He's by default.
        fixed_task: every episode has the one task that `task_seed` draws (the seed's way); the
            split `"test"` has another one, drawn by `task_seed` + 1.
        sigma: σ of the perturbation.
        step_size: what the largest action does; by default 3 (set), 0.1 (delta), 0.3.
        loss: one value per sample; by default that of the family.

    A network whose loss is no longer finite, or above 10⁶, has *diverged*: its episode ends,
    `info["diverged"]` is true, the reward is −10 (improvement) or −10⁶ (loss), and the state
    keeps the weights that it had before.

    Raises:
        ValueError: for an unknown name, a number out of range, or a family whose inputs and
            outputs are not those of the network.
    """

    def __init__(
        self,
        widths: Sequence[int] = (10, 100, 10),
        family: Family | str = "teacher_student",
        *,
        action_mode: str = "rule",
        observation: str | None = None,
        reward: str = "improvement",
        steps: int = 100,
        drive: str = "perturbation",
        signals: Sequence[str] = SIGNALS,
        activation: str | None = "relu",
        output_activation: str | None = None,
        bias: bool = False,
        init_std: float | None = None,
        fixed_task: bool = False,
        task_seed: int = 0,
        sigma: float = 1e-3,
        step_size: float | None = None,
        loss: Loss | None = None,
    ) -> None:
        check_choice("action_mode", action_mode, MODES)
        check_choice("observation", observation, (None, *OBSERVATIONS))
        check_choice("reward", reward, REWARDS)
        check_choice("drive", drive, DRIVES)
        if isinstance(family, str):
            if family not in FAMILIES:
                raise ValueError(
                    f"family={family!r} is unknown: choose one of {', '.join(FAMILIES)}, "
                    "or give a Family"
                )
            self.family: Family = FAMILIES[family]()
        else:
            self.family = family
        step_size = STEP_SIZES[action_mode] if step_size is None else step_size
        check_whole("steps", steps)
        if init_std is not None and not 0 <= init_std < math.inf:
            raise ValueError(f"init_std={init_std!r}: must be a number >= 0")
        check_positive("sigma", sigma)
        check_positive("step_size", step_size)
        check_signals(signals)
        if action_mode == "synapse" and observation == "weights":
            raise ValueError(
                "observation='weights' does not go with action_mode='synapse', in which each "
                "synapse sees its own signals: leave it out"
            )
        self.signals = tuple(signals)
        self.network = Network(tuple(widths), activation, output_activation, bias)
        check_fit(self.network, self.family)
        self.action_mode, self.reward, self.drive = action_mode, reward, drive
        whole = action_mode in ("set", "delta")
        self.observation = observation or ("weights" if whole else "statistics")
        self.steps, self.sigma, self.step_size = steps, sigma, step_size
        self.init_std = init_std
        self.fixed_task, self.task_seed = fixed_task, task_seed
        default: Loss = half_mse if self.family.kind == "regression" else cross_entropy
        self.loss = loss or default
        self.layer_of = [i // 2 if bias else i for i in range(len(self.network.shapes))]
        self.needs_signals = not whole or self.observation == "statistics"
        self.observation_space, self.action_space = self._spaces()

    def _spaces(self) -> tuple[spaces.Box, spaces.Box]:
        layers, weights = self.network.num_layers, self.network.num_weights
        shape: tuple[int, ...]
        if self.action_mode == "synapse":
            shape = (weights, len(LOCALS))
        elif self.observation == "weights":
            shape = (weights,)
        else:
            shape = (len(GLOBALS) + layers * len(STATISTICS),)
        bound = math.inf if self.observation == "weights" else CLIP
        observation = spaces.Box(-bound, bound, shape, np.float32)
        size = layers * len(self.signals) if self.action_mode == "rule" else weights
        reach = self.step_size if self.action_mode == "set" else 1.0
        return observation, spaces.Box(-reach, reach, (size,), np.float32)

    @property
    def max_steps(self) -> int:
        """T; an episode is shorter where its network diverges."""
        return self.steps

    def sample_tasks(self, batch: int, generator: torch.Generator, split: str = "train") -> Tasks:
        """Draw tasks; with `fixed_task`, the same one for all rows and episodes."""
        if not self.fixed_task:
            return self.family.sample(batch, generator, split)
        stream = torch.Generator().manual_seed(self.task_seed + (split == "test"))
        one = self.family.sample(1, stream, split)
        tasks: Tasks = map_tree(lambda t: t.expand(batch, *t.shape[1:]), one)
        return tasks

    def reset(self, tasks: Tasks, generator: torch.Generator) -> tuple[State, Tensor]:
        """Draw initial weights for each task."""
        batch = len(tasks.x)
        params: Params = []
        for shape in self.network.shapes:
            std = self.init_std if self.init_std is not None else math.sqrt(2 / shape[-1])
            draw = torch.randn(
                batch, *shape, generator=generator, dtype=tasks.x.dtype, device=tasks.x.device
            )
            params.append(std * draw if len(shape) == 2 else torch.zeros_like(draw))
        return self.start(tasks, params, generator)

    def start(
        self, tasks: Tasks, params: Params, generator: torch.Generator
    ) -> tuple[State, Tensor]:
        """Start an episode of each task from given weights, `[B, …]` each."""
        signals = self._look(tasks, params, generator)
        log_loss = signals.error.clamp_min(TINY).log()
        weights = [self.network.weight(params, layer) for layer in range(self.network.num_layers)]
        scale = torch.stack([rms(w) for w in weights], -1)
        momentum = [torch.zeros_like(d) for d in signals.drive]
        history = log_loss.unsqueeze(-1).repeat(1, 5)
        time = torch.zeros_like(log_loss, dtype=torch.long)
        state = State(tasks, params, signals, momentum, history, scale, time)
        return state, self.observe(state)

    @torch.no_grad()
    def step(self, state: State, action: Tensor, generator: torch.Generator) -> tuple[State, Step]:
        """Change the weights of every network, and look at the losses."""
        check_action(action, len(state.time), self.action_space)
        momentum = next_momentum(state)
        params = self._updated(state, action.to(state.log_losses), momentum)
        signals = self._look(state.tasks, params, generator)
        diverged = ~(signals.error <= LOSS_LIMIT)  # true for NaN too
        if bool(diverged.any()):
            params, signals, momentum = map_tree(
                lambda old, new: torch.where(like(diverged, new), old, new),
                (state.params, state.signals, state.momentum),
                (params, signals, momentum),
            )
        log_loss = signals.error.clamp_min(TINY).log()
        if self.reward == "loss":
            reward = torch.where(diverged, -LOSS_LIMIT, -signals.error)
        else:
            improvement = (state.log_losses[:, 1] - log_loss).clamp(-PENALTY, PENALTY)
            reward = torch.where(diverged, -PENALTY, improvement)
        log_losses = torch.cat(
            [state.log_losses[:, :1], log_loss.unsqueeze(-1), state.log_losses[:, 1:4]], -1
        )
        state = state._replace(
            params=params,
            signals=signals,
            momentum=momentum,
            log_losses=log_losses,
            time=state.time + 1,
        )
        ended = diverged | (state.time >= self.steps)
        info = {"loss": signals.error.clone(), "diverged": diverged}
        never = torch.zeros_like(ended)
        return state, Step(self.observe(state), reward, ended, never, info)

    def observe(self, state: State) -> Tensor:
        """What the agent sees of each network."""
        if self.action_mode == "synapse":
            return self._synapses(state)
        if self.observation == "weights":
            return torch.cat([p.flatten(1) for p in state.params], -1)
        return torch.cat([self.globals(state), self.statistics(state).flatten(1)], -1)

    def globals(self, state: State) -> Tensor:
        """`GLOBALS` of each network, `[B, 5]`."""
        return global_numbers(state, self.steps)

    def statistics(self, state: State) -> Tensor:
        """`STATISTICS` of each layer, `[B, L, 5]`."""
        return layer_statistics(self.network, state)

    def coefficients(self, action: Tensor) -> Tensor:
        """c(a): the relative step that an action stands for; odd, and c(1) = `step_size`."""
        a = action.clamp(-1, 1)
        return self.step_size * torch.sinh(SHARPNESS * a) / math.sinh(SHARPNESS)

    def action_of(self, coefficient: float) -> float:
        """The action a with c(a) = `coefficient`."""
        return math.asinh(coefficient / self.step_size * math.sinh(SHARPNESS)) / SHARPNESS

    def held_out_loss(self, state: State) -> Tensor:
        """E of each network on its task's held-out samples, `[B]`."""
        tasks = state.tasks
        return self._error(tasks.held_out_x, tasks.held_out_y, state.params)

    def _look(self, tasks: Tasks, params: Params, generator: torch.Generator) -> Signals:
        if self.needs_signals:
            return local_signals(
                self.network, params, tasks.x, tasks.y, self.loss,
                drive=self.drive, sigma=self.sigma, generator=generator,
            )  # fmt: skip
        error = self._error(tasks.x, tasks.y, params)
        return Signals(error, [], [], error.new_zeros(len(error), 0))

    @torch.no_grad()
    def _error(self, x: Tensor, y: Tensor, params: Params) -> Tensor:
        errors = [
            self.loss(self.network([p[rows] for p in params], x[rows]), y[rows]).mean(-1)
            for rows in blocks(self.network, x)
        ]
        return torch.cat(errors)

    def _updated(self, state: State, action: Tensor, momentum: Params) -> Params:
        if self.action_mode in ("set", "delta"):
            given = self.unflatten(action)
            if self.action_mode == "set":
                return [g.clone() for g in given]
            return [p + self.step_size * g for p, g in zip(state.params, given, strict=True)]
        coefficients = self.coefficients(action)
        if self.action_mode == "synapse":
            return [
                p - like(state.scale[:, layer], p) * c
                for p, c, layer in zip(
                    state.params, self.unflatten(coefficients), self.layer_of, strict=True
                )
            ]
        coefficients = coefficients.unflatten(-1, (self.network.num_layers, len(self.signals)))
        params = []
        for index, layer in enumerate(self.layer_of):
            unit = unit_signals(state, momentum, index, layer)
            change = torch.zeros_like(state.params[index])
            for k, name in enumerate(self.signals):
                change = change + like(coefficients[:, layer, k], change) * unit[name]
            params.append(state.params[index] - like(state.scale[:, layer], change) * change)
        return params

    def _synapses(self, state: State) -> Tensor:
        momentum = next_momentum(state)
        shared = self.globals(state)[:, [0, 1, 4]]
        layers = self.statistics(state)[:, :, 3:]
        parts = []
        for index, layer in enumerate(self.layer_of):
            unit = unit_signals(state, momentum, index, layer)
            own = [unit[name].flatten(1) for name in SIGNALS]
            common = torch.cat([layers[:, layer], shared], -1)
            common = common.unsqueeze(1).expand(-1, own[0].shape[1], -1)
            parts.append(torch.cat([torch.stack(own, -1), common], -1))
        return torch.cat(parts, 1).clamp(-CLIP, CLIP)

    def unflatten(self, vector: Tensor) -> Params:
        """The parameters `[B, …]` out of vectors `[B, P]`, in the network's order."""
        sizes = [math.prod(shape) for shape in self.network.shapes]
        return [
            part.unflatten(-1, shape)
            for part, shape in zip(vector.split(sizes, -1), self.network.shapes, strict=True)
        ]
