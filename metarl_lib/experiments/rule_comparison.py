"""Learned update rules put to the test: where they are tested, beside what, and what they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl_lib.datasets import DigitsFamily, Family, SinusoidFamily, Tasks, TeacherFamily
from metarl_lib.envs.agents import Synapses, one_agent
from metarl_lib.envs.weight_space import WeightSpace
from metarl_lib.envs.weight_state import SIGNALS, State
from metarl_lib.experiments.base import row
from metarl_lib.experiments.comparison import Comparison, area
from metarl_lib.experiments.hand_made import HAND_MADE, train_by_hand
from metarl_lib.experiments.learners import Follow, Life, Log, follow, rebuild
from metarl_lib.runs import Row, generator


@dataclass(frozen=True)
class Learned:
    """One way to learn a rule.

    Attributes:
        drive: the first signal, `"perturbation"` or `"gradient"`.
        signals: those that it may use.
        kind: `"mlp"`, `"recurrent"` or `"synapse"`.
    """

    drive: str = "perturbation"
    signals: tuple[str, ...] = SIGNALS
    kind: str = "mlp"


LEARNED = {
    "rule": Learned(),
    "rule-drive-only": Learned(signals=("drive",)),
    "rule-recurrent": Learned(kind="recurrent"),
    "rule-gradient": Learned(drive="gradient"),
    "synapse": Learned(kind="synapse"),
}
COMPARED = {"rule-gradient": ("sgd", "adam")}
"""Hand-made rules that a learned one is held against, task by task; the others: NP and WP."""

CONDITIONS = (
    "held_out",
    "width_2x",
    "width_4x",
    "tanh",
    "samples_8x",
    "he_init",
    "life_4x",
    "digits",
    "sinusoids",
)
"""The first is what the rules were trained for, on teachers never seen; see `environment`."""

STRIDE = 2
"""Every second step of a life is published."""


def environment(
    config: Any, condition: str = "held_out", learned: Learned | None = None
) -> WeightSpace:
    """The environment of a condition.

    `width_2x`, `width_4x`: wider students of wider teachers. `tanh`: another activation in the
    student. `samples_8x`: more samples. `he_init`: smaller initial weights. `life_4x`: four
    times as many steps. `digits`, `sinusoids`: other tasks; digits with cross-entropy.
    """
    learned = learned or Learned()
    hidden = config.hidden * {"width_2x": 2, "width_4x": 4}.get(condition, 1)
    samples = config.samples * (8 if condition == "samples_8x" else 1)
    family: Family = TeacherFamily(hidden=(hidden,), num_train=samples, num_held_out=samples)
    if condition == "digits":
        family = DigitsFamily(num_train=samples, num_held_out=samples)
    elif condition == "sinusoids":
        family = SinusoidFamily(num_train=samples, num_held_out=samples)
    return WeightSpace(
        (family.inputs, hidden, family.outputs),
        family,
        action_mode="synapse" if learned.kind == "synapse" else "rule",
        drive=learned.drive,
        signals=learned.signals,
        activation="tanh" if condition == "tanh" else "relu",
        output_activation="relu" if isinstance(family, TeacherFamily) else None,
        init_std=None if condition == "he_init" else config.init_std,
        steps=config.steps * (4 if condition == "life_4x" else 1),
        sigma=config.sigma,
    )


def compare(
    config: Any,
    seed: int,
    tensors: Mapping[str, Tensor],
    condition: str,
    plan: Tensor,
    log: Log,
) -> list[Row]:
    """Every learned and every hand-made rule on the same test tasks, from the same weights.

    Metrics beside those of `Comparison`: `area_minus_np`, `held_out_minus_np` and the like are
    differences, task by task. The variant `rule-open-loop` follows the `plan`, `[T, …]`.
    """
    env = environment(config, condition)
    tasks = unseen_tasks(config, seed, condition, env)
    stride = STRIDE * env.steps // config.steps
    kept = Comparison(env, tasks, condition, log, stride)
    lives = kept.lives
    for name, rate in zip(HAND_MADE, tensors[f"search-{condition}.rates"].tolist(), strict=True):
        kept.record(name, train_by_hand(env, name, rate, tasks, unseen_stream(seed, condition)))
        kept.add(name, "rate", rate)
    for name in LEARNED:
        kept.record(name, live(config, seed, tensors, name, condition, tasks))
        for other in COMPARED.get(name, ("np", "wp")):
            kept.add(name, f"area_minus_{other}", area(lives[name]) - area(lives[other]))
            kept.add(name, f"held_out_minus_{other}", lives[name].held_out - lives[other].held_out)
    life = follow(env, OpenLoop(plan, env.steps), tasks, unseen_stream(seed, condition))
    kept.add("rule-open-loop", "area", area(life))
    kept.add_references()
    return kept.rows


def planned(config: Any, seed: int, tensors: Mapping[str, Tensor]) -> Tensor:
    """The learned rule's mean action at each step on training tasks, `[T, …]`."""
    env = environment(config)
    tasks = env.sample_tasks(config.test_tasks, generator(seed, "tuning", 999))
    stream = generator(seed, "tuning", 998)
    life = live(config, seed, tensors, "rule", CONDITIONS[0], tasks, stream=stream)
    return life.actions.mean(1)


def live(
    config: Any,
    seed: int,
    tensors: Mapping[str, Tensor],
    variant: str,
    condition: str,
    tasks: Tasks,
    change: Callable[[Tensor], Tensor] | None = None,
    stream: torch.Generator | None = None,
) -> Life:
    """One learned rule on tasks of a condition, its actions changed if wanted.

    Initial weights and noise come from `stream`, or else from that of the condition's test.
    """
    learned = LEARNED[variant]
    inner = environment(config, condition, learned)
    synapse = learned.kind == "synapse"
    env = Synapses(inner) if synapse else inner
    observation, action = env.observation_space, env.action_space
    if synapse:
        observation, action = one_agent(observation), one_agent(action)
    policy = rebuild(tensors, variant, observation, action, config.units)
    actor = Follow(policy, synapse, change)
    return follow(env, actor, tasks, stream or unseen_stream(seed, condition), inner)


def explain(config: Any, seed: int, tensors: Mapping[str, Tensor], log: Log) -> list[Row]:
    """What the rules do on held-out teachers, and what they lose when a part is taken away.

    Metrics `coefficient_<signal>_<layer>` are c over a life, mean over tasks; `log_rate_<layer>`
    the mean logarithm of the learning rate that the size of the drive's coefficient amounts to.
    Their rows are those of the last step.
    The variants `rule-without-…` have one coefficient set to zero.
    """
    condition = CONDITIONS[0]
    rows: list[Row] = []
    env = environment(config, condition)
    tasks = unseen_tasks(config, seed, condition, env)
    layers = env.network.num_layers
    for variant in ("rule", "rule-drive-only", "rule-gradient"):
        life = live(config, seed, tensors, variant, condition, tasks)
        signals = LEARNED[variant].signals
        c = env.coefficients(life.actions).unflatten(-1, (layers, len(signals))).mean(1)
        rates = life.rates.abs().clamp_min(1e-12).log().mean(1)
        for step in range(env.steps):
            values = {
                f"coefficient_{signal}_{layer}": float(c[step, layer, k])
                for layer in range(layers)
                for k, signal in enumerate(signals)
            }
            values |= {f"log_rate_{layer}": float(rates[step, layer]) for layer in range(layers)}
            if step % STRIDE == 0 or step == env.steps - 1:
                log(step + 1, {f"{variant}/{name}": value for name, value in values.items()})
        rows += [row(variant, name, v, env.steps) for name, v in values.items()]
    for k, signal in enumerate(SIGNALS):
        keep = torch.ones(layers, len(SIGNALS))
        keep[:, k] = 0.0
        life = live(config, seed, tensors, "rule", condition, tasks, lambda a: a * keep.flatten())  # noqa: B023
        rows.append(row(f"rule-without-{signal}", f"area_{condition}", area(life), env.steps))
    return rows


class OpenLoop:
    """An actor that takes the actions `[T, …]` one after the other, whatever it sees.

    In a life of `steps`, another length, the plan is stretched.
    """

    def __init__(self, actions: Tensor, steps: int) -> None:
        self.actions, self.steps = actions, steps

    def __call__(self, observation: Tensor, state: State) -> Tensor:
        """The action of this step, for every row."""
        step = int(state.time[0]) * len(self.actions) // self.steps
        return self.actions[step].expand(len(observation), -1)


def unseen_tasks(config: Any, seed: int, condition: str, env: WeightSpace) -> Tasks:
    """The test tasks of a condition: the same for every rule."""
    place = CONDITIONS.index(condition)
    return env.sample_tasks(config.test_tasks, generator(seed, "evaluation", 2 * place), "test")


def unseen_stream(seed: int, condition: str) -> torch.Generator:
    """Initial weights, then noise: the same for every rule."""
    return generator(seed, "evaluation", 2 * CONDITIONS.index(condition) + 1)
