"""Ways to live on Meta-World that do not learn, and what trained agents did beside them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from metarl_lib import plots, report
from metarl_lib.envs.base import BoundedEnv
from metarl_lib.envs.manipulation import ManipulationTasks
from metarl_lib.runs import generator

GRIP = torch.tensor([0.0, 0.0, 0.045])
"""From the point between the fingers up to the hand that is seen, in metres."""

# What has to come to a stop, from what is seen.
Place = Callable[[Float[Tensor, "B 39"]], Float[Tensor, "B 3"]]

# An action from what is seen and the next stop.
Act = Callable[[Float[Tensor, "B 39"], Float[Tensor, "B 3"]], Float[Tensor, "B 4"]]

# Rewards, and at which steps the goal was met.
Lived = tuple[Float[Tensor, "T B"], Bool[Tensor, "T B"]]


def fingers(seen: Float[Tensor, "B 39"]) -> Float[Tensor, "B 3"]:
    """Where the point between the fingers is."""
    return seen[:, :3] - GRIP


def puck(seen: Float[Tensor, "B 39"]) -> Float[Tensor, "B 3"]:
    """Where the first thing on the table is."""
    return seen[:, 4:7]


def reach_for(seen: Float[Tensor, "B 39"], stop: Float[Tensor, "B 3"]) -> Float[Tensor, "B 4"]:
    """Draws the fingers straight to a stop, as fast as can be."""
    pull = (25 * (stop - fingers(seen))).clamp(-1, 1)
    return torch.cat([pull, torch.zeros(len(seen), 1)], 1)


def push_to(seen: Float[Tensor, "B 39"], stop: Float[Tensor, "B 3"]) -> Float[Tensor, "B 4"]:
    """Brings the puck to a stop, by Meta-World's script, which takes the stop for the goal."""
    from metaworld.policies import SawyerPushV3Policy

    script = SawyerPushV3Policy()
    told = torch.cat([seen[:, :36], stop], 1).double().numpy()
    with warnings.catch_warnings():  # that it pulls harder than an action can
        warnings.simplefilter("ignore")
        actions = [script.get_action(row) for row in told]
    return torch.tensor(np.stack(actions)).float().clamp(-1, 1)


def at_random(stream: torch.Generator) -> Act:
    """Draws every action, whatever is seen."""
    return lambda seen, stop: 2 * torch.rand(len(seen), 4, generator=stream) - 1


def follow(
    env: BoundedEnv,
    tasks: ManipulationTasks,
    plan: Float[Tensor, "B W 3"],
    act: Act = reach_for,
    where: Place = fingers,
    steps: int | None = None,
    near: float = 0.03,
) -> Lived:
    """One episode, from stop to stop of a plan, whatever is paid.

    Args:
        env: the arms; nothing is drawn.
        tasks: B of them.
        plan: stops of each row, in metres; at the last one it stays.
        act: how to get to a stop.
        where: what has to get there.
        steps: of the episode; None for all.
        near: so near a stop the next one's turn comes, in metres.
    """
    stream = torch.Generator()  # for nothing
    state, seen = env.reset(tasks, stream)
    rows, at = torch.arange(len(plan)), torch.zeros(len(plan), dtype=torch.long)
    rewards, met = [], []
    for _ in range(steps or env.max_steps):
        stop = plan[rows, at]
        state, step = env.step(state, act(seen, stop), stream)
        seen = step.observation
        rewards.append(step.reward)
        met.append(step.info["success"])
        at = (at + ((stop - where(seen)).norm(dim=1) < near)).clamp(max=plan.shape[1] - 1)
    return torch.stack(rewards), torch.stack(met)


def judged(lived: Mapping[str, Lived]) -> pd.DataFrame:
    """Of each way to live the share of episodes with a success at any step, and the return."""
    return pd.DataFrame(
        {
            name: {
                "success": float(met.any(0).float().mean()),
                "return": float(rewards.sum(0).mean()),
            }
            for name, (rewards, met) in lived.items()
        }
    ).T


def judged_text(found: pd.DataFrame) -> pd.DataFrame:
    """What `judged` found, to be read."""
    return pd.DataFrame(
        {
            "success, new tasks": found["success"].map("{:.2f}".format),
            "return": found["return"].map("{:.0f}".format),
        }
    )


def ahead_of(
    published: report.Published,
    env: BoundedEnv,
    stop: Float[Tensor, " 3"],
    act: Act = reach_for,
    where: Place = fingers,
) -> list[str]:
    """The agents that return more, in every seed, than one place does with the goals they met."""
    trials, blind = published.config["test_trials"], {}
    for seed in published.by_seed.columns:
        tasks = env.sample_tasks(trials, generator(seed, "evaluation"), "test")
        rewards, _ = follow(env, tasks, stop.expand(trials, 1, 3), act, where)
        blind[seed] = float(rewards.sum(0).mean())
    returns = published.by_seed.xs("test_return", level="metric")
    return [v for v in published.config["variants"] if (returns.loc[v] > pd.Series(blind)).all()]


def gains(published: report.Published, variant: str) -> pd.Series:
    """What the last episode of a trial returns more than the first, for each seed."""
    last = published.config["episodes"]
    own = published.by_seed.loc[variant]
    return own.loc[f"test_return@{last}"] - own.loc["test_return@1"]


def agents_text(published: report.Published, names: Mapping[str, str]) -> pd.DataFrame:
    """What agents do in tasks that they know and in new ones, to be read."""
    metrics = {"train_success": "success, known tasks", "test_success": "success, new tasks"}
    table = published.table(names, metrics, ".2f")
    table["return, new tasks"] = [published.text(v, "test_return", ".0f") for v in names]
    table["last episode less first"] = [
        report.interval_text(gains(published, v), "+.0f") for v in names
    ]
    return table


def trial_figure(
    published: report.Published, variants: Sequence[str], blind: pd.DataFrame | None
) -> Figure:
    """Return and success of agents, episode by episode, beside ways that do not learn.

    Args:
        published: the experiment.
        variants: its agents.
        blind: what `judged` found of `told`, `one place` and `sweep`; None without Meta-World.
    """
    figure, (left, right) = plots.panels(2, height=3.9)
    episodes = range(1, published.config["episodes"] + 1)
    for ax, metric in ((left, "return"), (right, "success")):
        for v in variants:
            look = plots.LOOKS[v]
            y = [published.row(v, f"test_{metric}@{k}")["mean"] for k in episodes]
            ax.plot(episodes, y, look.line, color=look.colour, marker=look.marker, label=look.label)
        if blind is not None:
            for name, line in (("told", "--"), ("one place", "-."), ("sweep", ":")):
                height = blind.loc[name, metric]
                ax.axhline(height, color=plots.BLACK, linestyle=line, linewidth=1, label=name)
        ax.set(xlabel="episode of a trial")
    left.set(ylabel="return of an episode")
    right.set(ylabel="share of successes", ylim=(0, 1.02))
    plots.legend_below(figure, columns=4)
    return figure
