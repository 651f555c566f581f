"""A pool of layers as an environment: an agent puts a network together for a task, layer by layer.

After the thesis of Stachyra (2023), whose own form stands in `layer_pool_thesis`. In this one the
agent sees the few samples that its network will learn from, and nothing else of the task; what may
be chosen is masked; and the network is judged on other samples, after it has learned from these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from metarl_lib.datasets import Family, NWayFamily, SinusoidFamily, Tasks
from metarl_lib.envs.base import Step, check_discrete, one_hot, some_true
from metarl_lib.envs.layer_pool_thesis import ThesisLayerPool
from metarl_lib.envs.option_checks import check_choice, check_positive, check_whole
from metarl_lib.rules import cross_entropy, mse
from metarl_lib.rules.losses import Loss
from metarl_lib.rules.pool import Plan, Pool, adapt, assemble, check_pool, losses, make_pool

VARIANTS = ("few_shot", "thesis")
REWARDS = ("loss", "improvement")
ACTIVATIONS = ("relu", "tanh")
FAMILIES: dict[str, Callable[[int, int], Family]] = {
    "sinusoids": lambda shots, queries: SinusoidFamily(shots, queries),
    "digits": lambda shots, queries: NWayFamily(shots=shots, held_out_shots=queries),
}
LIMIT = 10.0
"""Log losses are cut off at ± this; that of a network that diverged counts as it."""


class PoolState(NamedTuple):
    """The tasks, the action of each stage so far, `[B, S]`, −1 where none was taken, and the
    number of the stage that comes next, `[B]`, S at the end.
    """

    tasks: Tasks
    choices: Tensor
    stage: Tensor


class LayerPool:
    """The batched environment behind `metarl/LayerPool-v0`.

    An episode has these stages, with one action in each; those in brackets are there if asked for:

        [activation]  [rate]  [steps]  input layer  up to D hidden layers  output layer

    Actions are numbered through: I input, M hidden, O output layers, then stopping (leaving the
    other places for hidden layers empty), rates, numbers of steps and activations, as far as there
    are any. `action_masks` says which of them a stage allows; a hidden layer is allowed once. An
    action that is not stands for the next one that is. With the output layer the episode ends:
    the layers are copied, the copy takes n gradient steps of rate α on the task's samples, and L̄,
    its loss on the held-out ones, gives the reward

        −log L̄,    or, as improvement,    log L̄_0 − log L̄

    with L̄_0 that of the network of each kind's first layer, α and n the first there are.

    An observation is the samples, x then y (labels one-hot), flat; the stage, one-hot; the actions
    taken so far; and last, as many numbers as there are actions, the mask.

    Args:
        family: the tasks, a `Family`, or `"sinusoids"` or `"digits"` (three ways).
        shots, queries: for a named family, samples to learn from and held-out ones; of digits,
            of each class.
        counts: I, M and O.
        units: H, of each hidden layer.
        depth: D, at most M.
        rates: α that can be chosen; if it is one, there is nothing to choose.
        steps: n, alike.
        activations: of the hidden units, alike.
        stop: whether networks may have fewer than D hidden layers.
        reward: `"loss"` or `"improvement"`.
        pool: the layers; by default drawn with `pool_seed`. Who trains them sets `env.pool`.

    `info` holds `loss` (L̄; 0 before the end) and `forbidden`, whether the mask said no, `[B]` each.

    Raises:
        ValueError: for an unknown name, a number out of range, or layers that do not fit.
    """

    def __init__(
        self,
        family: Family | str = "sinusoids",
        *,
        shots: int = 10,
        queries: int = 10,
        counts: Sequence[int] = (4, 4, 4),
        units: int = 40,
        depth: int = 1,
        rates: Sequence[float] = (0.01,),
        steps: Sequence[int] = (1,),
        activations: Sequence[str] = ("relu",),
        stop: bool = False,
        reward: str = "loss",
        pool: Pool | None = None,
        pool_seed: int = 0,
    ) -> None:
        if isinstance(family, str):
            check_choice("family", family, tuple(FAMILIES))
            family = FAMILIES[family](shots, queries)
        check_choice("reward", reward, REWARDS)
        if len(counts) != 3:
            raise ValueError(f"counts={tuple(counts)}: give the input, hidden and output layers")
        for count in counts:
            check_whole("counts", count)
        check_whole("units", units)
        check_whole("depth", depth)
        _check_each("rates", rates, check_positive)
        _check_each("steps", steps, check_whole)
        _check_each("activations", activations, lambda n, v: check_choice(n, v, ACTIVATIONS))
        self.family, self.reward, self.depth = family, reward, depth
        self.rates, self.steps, self.activations = tuple(rates), tuple(steps), tuple(activations)
        if pool is None:
            stream = torch.Generator().manual_seed(pool_seed)
            sizes = (family.inputs, units, family.outputs)
            pool = make_pool(sizes, tuple(counts), stream)  # type: ignore[arg-type]
        check_pool(pool)
        self.pool = pool
        ends = pool.input_weight.shape[-1], pool.output_bias.shape[-1]
        if ends != (family.inputs, family.outputs):
            raise ValueError(
                f"the pool's networks have {ends[0]} inputs and {ends[1]} outputs: the tasks have "
                f"{family.inputs} and {family.outputs}"
            )
        if depth > pool.counts[1]:
            raise ValueError(
                f"depth={depth}: must be at most {pool.counts[1]}, the hidden layers of the pool, "
                "because each is allowed once"
            )
        regression = family.kind == "regression"
        self.loss: Loss = mse if regression else cross_entropy
        self._lay_out(stop)
        drawn = family.sample(1, torch.Generator().manual_seed(0))
        self.shape = int(drawn.x.shape[1]), family.inputs, family.outputs
        size = self.shape[0] * sum(self.shape[1:]) + len(self.stages) + 2 * self.num_actions
        self.observation_space = spaces.Box(-math.inf, math.inf, (size,), np.float32)
        self.action_space = spaces.Discrete(self.num_actions)

    def _lay_out(self, stop: bool) -> None:
        """Number the actions and the stages; `_allowed[s]` says what stage s allows."""
        options = {"rates": self.rates, "steps": self.steps, "activations": self.activations}
        sizes = dict(zip(("input", "hidden", "output"), self.pool.counts, strict=True))
        sizes["stop"] = int(stop)
        sizes |= {name: len(values) * (len(values) > 1) for name, values in options.items()}
        self.first, total = {}, 0
        for name, size in sizes.items():
            self.first[name] = total
            total += size
        self.num_actions = total
        chosen = [name for name in ("activations", "rates", "steps") if sizes[name]]
        self.stages = [*chosen, "input", *["hidden"] * self.depth, "output"]
        allowed = torch.zeros(len(self.stages) + 1, total, dtype=torch.bool)
        for row, stage in zip(allowed, self.stages, strict=False):
            row[self.first[stage] : self.first[stage] + sizes[stage]] = True
            if stage == "hidden":
                row[self.first["stop"] : self.first["stop"] + sizes["stop"]] = True
        allowed[-1] = True  # nothing is chosen after the end
        self._allowed, self._stop = allowed, self.first["stop"] if stop else -1

    @property
    def max_steps(self) -> int:
        """S, the number of stages; without stopping, the length of every episode."""
        return len(self.stages)

    def sample_tasks(self, batch: int, generator: torch.Generator, split: str = "train") -> Tasks:
        """Draw tasks of the family."""
        return self.family.sample(batch, generator, split)

    def reset(self, tasks: Tasks, generator: torch.Generator) -> tuple[PoolState, Tensor]:
        """Start with nothing chosen; nothing is drawn."""
        stage = torch.zeros(len(tasks.x), dtype=torch.long, device=tasks.x.device)
        choices = stage.new_full((len(stage), len(self.stages)), -1)
        state = PoolState(tasks, choices, stage)
        return state, self.observe(state)

    def action_masks(self, state: PoolState) -> Tensor:
        """Which actions the stage that comes next allows, `[B, actions]` booleans."""
        allowed = self._allowed.to(state.stage.device)[state.stage]
        inside = torch.arange(self.num_actions, device=allowed.device)
        hidden = (inside >= self.first["hidden"]) & (inside < self.first["output"])
        over = (state.stage == len(self.stages)).unsqueeze(-1)
        return allowed & ~(self._taken(state) & hidden & ~over)

    def step(
        self, state: PoolState, action: Tensor, generator: torch.Generator
    ) -> tuple[PoolState, Step]:
        """Take an action in every row, and judge the networks that are complete."""
        check_discrete(action, len(state.stage), self.action_space)
        masks, action = self.action_masks(state), action.long().unsqueeze(-1)
        forbidden = ~masks.gather(-1, action).squeeze(-1)
        numbers = torch.arange(self.num_actions, device=masks.device)
        ahead = ((numbers - action) % self.num_actions).masked_fill(~masks, self.num_actions)
        chosen = ahead.argmin(-1)
        last = len(self.stages) - 1
        here = one_hot(state.stage, last + 1).bool()
        choices = torch.where(here, chosen.unsqueeze(-1), state.choices)
        after = torch.where(chosen == self._stop, last, state.stage + 1)
        ended = state.stage >= last
        state = PoolState(state.tasks, choices, after.clamp_max(last + 1))
        loss = torch.zeros_like(state.tasks.x[:, 0, 0])
        reward = loss
        if some_true(ended):
            plan = self.plan(state)
            judged = self.judge(state.tasks, plan)
            loss = torch.where(ended, judged, loss)
            value = -log_loss(judged)
            if self.reward == "improvement":
                value = value + log_loss(self.judge(state.tasks, self._first_plan(plan)))
            reward = torch.where(ended, value, reward)
        info = {"loss": loss.clone(), "forbidden": forbidden}
        step = Step(self.observe(state), reward, ended.clone(), torch.zeros_like(ended), info)
        return state, step

    def plan(self, state: PoolState) -> Plan:
        """What was decided; where nothing was, the first there is."""
        start = self.stages.index("input")
        inputs, outputs = state.choices[:, start], state.choices[:, -1] - self.first["output"]
        hidden = state.choices[:, start + 1 : -1] - self.first["hidden"]
        hidden = hidden.where(hidden < self.pool.counts[1], -1).clamp_min(-1)
        layers = [inputs.clamp_min(0)[:, None], hidden, outputs.clamp_min(0)[:, None]]
        like = state.tasks.x
        rate = self._decided(state, "rates", like.new_tensor(self.rates))
        steps = self._decided(state, "steps", state.stage.new_tensor(self.steps))
        tanh = [name == "tanh" for name in self.activations]
        bent = self._decided(state, "activations", torch.tensor(tanh, device=like.device))
        return Plan(torch.cat(layers, -1), rate, steps, bent if any(tanh) else None)

    def _decided(self, state: PoolState, stage: str, values: Tensor) -> Tensor:
        if stage not in self.stages:
            return values[:1].expand(len(state.stage))
        choice = state.choices[:, self.stages.index(stage)] - self.first[stage]
        return values[choice.clamp_min(0)]

    def _first_plan(self, plan: Plan) -> Plan:
        """That of the network without decisions: the first of everything."""
        layers = torch.zeros_like(plan.layers)
        layers[:, 1:-1] = torch.arange(self.depth, device=layers.device)
        tanh = plan.tanh
        if tanh is not None:
            tanh = torch.full_like(tanh, self.activations[0] == "tanh")
        rate = torch.full_like(plan.rate, self.rates[0])
        return Plan(layers, rate, torch.full_like(plan.steps, self.steps[0]), tanh)

    @torch.no_grad()
    def judge(self, tasks: Tasks, plan: Plan, steps: int | None = None) -> Tensor:
        """L̄ of each row's network on held-out samples, `[B]`.

        Args:
            tasks: of the rows.
            plan: of the rows.
            steps: n instead of the plan's.
        """
        if steps is not None:
            plan = plan._replace(steps=torch.full_like(plan.steps, steps))
        most = max(self.steps) if steps is None else steps
        params = assemble(self.pool, plan.layers)
        params = adapt(params, plan, tasks.x, tasks.y, self.loss, most)
        return losses(params, plan, tasks.held_out_x, tasks.held_out_y, self.loss)

    def observe(self, state: PoolState) -> Tensor:
        """What the agent sees, flat, `[B, numbers]`."""
        tasks = state.tasks
        y = tasks.y
        if not y.is_floating_point():
            y = F.one_hot(y.long(), self.shape[2])
        parts = [tasks.x, y, one_hot(state.stage, len(self.stages))]
        parts += [self._taken(state), self.action_masks(state)]
        return torch.cat([part.flatten(1).to(tasks.x) for part in parts], -1)

    def _taken(self, state: PoolState) -> Tensor:
        """The actions that were taken in an episode, `[B, actions]` booleans."""
        numbers = torch.arange(self.num_actions, device=state.choices.device)
        return (state.choices.unsqueeze(-1) == numbers).any(1)


def log_loss(loss: Tensor) -> Tensor:
    """log L within ± 10, of losses of any shape; 10 where L is no number."""
    return loss.clamp_min(1e-30).log().nan_to_num(nan=LIMIT).clamp(-LIMIT, LIMIT)


def _check_each(name: str, values: Sequence[Any], check: Any) -> None:
    if isinstance(values, str) or not len(values) or len(set(values)) < len(values):
        raise ValueError(f"{name}={values!r}: give one or more, each once, such as ({values!r},)")
    for value in values:
        check(name, value)


def make_layer_pool(variant: str = "few_shot", **options: Any) -> LayerPool | ThesisLayerPool:
    """What `gymnasium.make("metarl/LayerPool-v0", variant=…)` makes.

    Args:
        variant: `"few_shot"`, a `LayerPool`, or `"thesis"`, a `ThesisLayerPool`.
        options: theirs.

    Raises:
        ValueError: for another variant.
    """
    check_choice("variant", variant, VARIANTS)
    return ThesisLayerPool(**options) if variant == "thesis" else LayerPool(**options)
