"""Every figure of the book, in one style: colour-blind safe, each line told apart twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from metarl_lib.report import Published

# Okabe & Ito's palette, which stays distinct for colour-blind readers.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY, BLACK = "#CC79A7", "#56B4E9", "#5A5A5A", "#000000"


@dataclass(frozen=True)
class Look:
    """How one variant is drawn, the same on every page."""

    label: str
    colour: str
    line: str = "-"
    marker: str = "o"


LOOKS = {
    "sgd": Look("SGD", BLUE, "-", "o"),
    "wp": Look("weight perturbation", ORANGE, "-", "s"),
    "np": Look("node perturbation", GREEN, "-", "^"),
    "wp-short-search": Look("WP, rate of a short search", RED, "--", "D"),
    "sgd-as-coded": Look("SGD, as coded", BLUE, "--", "o"),
    "wp-as-coded": Look("WP, as coded", ORANGE, "--", "s"),
    "np-as-coded": Look("NP, as coded", GREEN, "--", "^"),
    "sgd-theory": Look("SGD, theory", BLUE, ":"),
    "wp-theory": Look("WP, theory", ORANGE, ":"),
    "np-theory": Look("NP, theory", GREEN, ":"),
    "wp-standardised": Look("WP, standardised weights", ORANGE, "--", "s"),
    "np-standardised": Look("NP, standardised weights", GREEN, "--", "^"),
    "zero": Look("zero predictor", GREY, ":"),
    "constant": Look("best constant", GREY, "-."),
    "mismatch-floor": Look("floor of mismatched targets", RED, ":"),
    "chance": Look("chance", GREY, ":"),
    "logistic": Look("logistic regression", PURPLE, "-."),
    "svm": Look("support vector machine", RED, "-."),
    "linear": Look("best linear map", PURPLE, "-."),
    "trained": Look("trained with gradients", GREEN, "--"),
    "as-coded": Look("meta-RL, as coded", RED, "-", "o"),
    "one-task": Look("one task", BLUE, "-", "o"),
    "more-trajectories": Look("one task, more trajectories", SKY, "--", "s"),
    "distribution": Look("distribution of tasks", ORANGE, "-.", "^"),
    "adam": Look("Adam", SKY, "--", "v"),
    "np-adam": Look("Adam on NP", SKY, "--", "v"),
    "np-normalised": Look("NP, normalised steps", PURPLE, ":", "P"),
    "sgd-normalised": Look("SGD, normalised steps", PURPLE, ":", "P"),
    "np-recipe": Look("NP, recipe by hand", PURPLE, "-.", "p"),
    "sgd-recipe": Look("SGD, recipe by hand", PURPLE, "-.", "p"),
    "rule": Look("learned rule", RED, "-", "D"),
    "rule-drive-only": Look("learned rule, drive only", BLUE, "-", "o"),
    "rule-recurrent": Look("learned rule, recurrent", BLACK, "-", "X"),
    "rule-gradient": Look("learned rule, gradient", RED, "--", "D"),
    "synapse": Look("synaptic rule", GREY, "-", "*"),
    "single": Look("single agent", BLACK, "-", "o"),
    "shared": Look("shared policy", BLUE, "-", "s"),
    "independent": Look("independent policies", RED, "-", "^"),
    "shared-local": Look("shared, local view", SKY, "--", "D"),
    "independent-local": Look("independent, local view", PURPLE, "--", "v"),
    "gru": Look("GRU", BLUE, "-", "o"),
    "lstm": Look("LSTM", ORANGE, "-", "s"),
    "recurrent-ppo": Look("RecurrentPPO", GREEN, "--", "^"),
    "gittins": Look("Gittins index", BLACK, "-", "D"),
    "ucb": Look("upper confidence bounds", GREEN, "-.", "^"),
    "thompson": Look("Thompson sampling", PURPLE, "--", "v"),
    "optimistic-thompson": Look("optimistic Thompson", PURPLE, ":", "P"),
    "epsilon-greedy": Look("ε-greedy", SKY, "--", "p"),
    "greedy": Look("greedy", RED, ":", "X"),
    "random": Look("random", GREY, ":"),
    "optimal": Look("best possible", BLACK, "--"),
    "informed": Look("told the good place", GREY, "-."),
    "model-free": Look("model-free", BLUE, "-", "o"),
    "model-based": Look("model-based", GREEN, "-", "^"),
    "bayes": Look("exact filter", BLACK, "-", "D"),
    "lstm-a2c": Look("trained LSTM", RED, "-", "s"),
    "never-learn": Look("never learn", GREY, ":"),
    "threshold": Look("threshold", PURPLE, "-."),
    "learn-from-wins": Look("learn from wins", SKY, "--"),
    "exact": Look("exact", BLACK, "--"),
    "metods-linear-S4": Look("MetODS, S = 4", RED, "-", "D"),
    "metods-linear-S1": Look("MetODS, S = 1", ORANGE, "--", "s"),
    "metods-bounded-S4": Look("MetODS, S = 4, bounded", SKY, "-.", "X"),
    "metods-linear-S4-no-alpha": Look("MetODS, no α", PURPLE, "-.", "^"),
    "metods-vanilla-S4": Look("MetODS, vanilla write", BLACK, ":", "v"),
    "gru-matched": Look("GRU, as many parameters", BLUE, "--", "P"),
    "gru-state-matched": Look("GRU, as much memory", SKY, "-.", "X"),
    "backpropamine": Look("Backpropamine", GREEN, "-", "p"),
    "metods-linear-S2": Look("MetODS, S = 2", ORANGE, "-.", "o"),
    "metods-vanilla-S2": Look("MetODS, vanilla write, S = 2", BLACK, "-.", "<"),
    "metods-mlp-S4": Look("MetODS, MLP write", GREEN, "--", ">"),
    "metods-linear-S1-wide": Look("MetODS, S = 1, wider", ORANGE, ":", "*"),
    "metods-linear-S4-state-matched": Look("MetODS, memory as the GRU's", PURPLE, "--", "h"),
    "metods-linear-S4-no-encoder": Look("MetODS, no encoder", GREY, ":", "D"),
    "srwm": Look("SRWM", SKY, ":", "H"),
    "maml": Look("MAML", PURPLE, "-", "d"),
    "maml-rates": Look("MAML, learned rates", PURPLE, ":", "d"),
    "shortest-path": Look("knowing the way", BLACK, "--"),
    "still": Look("not moving", GREY, "-."),
    "told": Look("told the goal", BLACK, "--", "o"),
    "search": Look("search, with memory", GREY, "-."),
    "search-anew": Look("search, no memory", GREY, "--"),
    "pearl": Look("PEARL", RED, "-", "D"),
    "pearl-point": Look("PEARL, a point for a belief", ORANGE, "--", "s"),
    "gru-long": Look("GRU, more steps", SKY, "-.", "^"),
    "exact-posterior": Look("exact posterior sampling", PURPLE, "--", "v"),
    "maml-ratio": Look("MAML, ratio surrogate", RED, "--", "s"),
    "first-order": Look("MAML, first order", ORANGE, "-.", "^"),
    "maml-life": Look("MAML, whole life", BLUE, ":", "o"),
    "joint": Look("joint training", GREY, "--", "X"),
    "maml-critic": Look("MAML, shared critic", SKY, "-.", "v"),
}
LOOKS |= {f"{name}-dense": LOOKS[name] for name in ("pearl", "told", "gru", "shortest-path")}
LOOKS |= {
    f"{name}-visible": look
    for name, look in LOOKS.items()
    if name.startswith(("metods", "gru", "maml", "search"))
}
"""Agents that see the target look like those that do not: they never share a panel."""
LOOKS |= {
    "thesis-recurrent-ppo": Look("RecurrentPPO", BLUE, "-", "o"),
    "thesis-turned": Look("RecurrentPPO, sign turned", GREEN, "--", "^"),
    "thesis-fast": Look("RecurrentPPO, rate 0.01", SKY, "-.", "v"),
    "thesis-ppo": Look("PPO", ORANGE, "-", "s"),
    "thesis-ppo-fast": Look("PPO, rate 0.01", RED, "-.", "D"),
    "thesis": Look("as shown", BLUE, "-", "o"),
    "thesis-untrained": Look("untrained policy", ORANGE, "--", "s"),
    "thesis-no-leak": Look("no training in the episode", GREEN, "-", "^"),
    "thesis-untrained-no-leak": Look("untrained, no training", PURPLE, "--", "v"),
    "thesis-fresh-pool": Look("fresh pool", SKY, "-.", "D"),
    "thesis-scratch": Look("from scratch", GREY, ":", "P"),
    "random-trained-k10": Look("trained with random routes", ORANGE, "--", "s"),
    "fixed-k10": Look("one route", GREEN, "-.", "^"),
    "blind-k10": Look("blind router", PURPLE, ":", "v"),
    "routed-reptile-k10": Look("learned routes, Reptile", SKY, "-.", "<"),
    "maml-wide-k10": Look("MAML, as wide as the pool", PURPLE, "-.", "p"),
    "maml-digits": Look("MAML", PURPLE, "-", "d"),
    "fixed-digits": Look("one route", GREEN, "-.", "^"),
    "joint-digits": Look("joint training", GREY, "--", "X"),
}
LOOKS |= {
    "first-order-k10": Look("MAML, first order", ORANGE, "--", "s"),
    "large-rate-k10": Look("MAML, larger rate", RED, "-.", "^"),
    "five-steps-k10": Look("MAML, five steps", BLACK, ":", "v"),
    "reptile-k10": Look("Reptile", GREEN, "-.", "P"),
    "joint-k10": Look("joint training", GREY, "--", "X"),
}
for _shots in ("k5", "k10"):
    LOOKS |= {
        _shots: Look("MAML", PURPLE, "-", "d"),
        f"meta-sgd-{_shots}": Look("Meta-SGD", BLUE, "-", "o"),
        f"maml-{_shots}": Look("MAML", PURPLE, "-", "d"),
    }
for _tasks in ("k5", "k10", "digits"):
    LOOKS |= {
        f"routed-{_tasks}": Look("learned routes", RED, "-", "o"),
        f"random-{_tasks}": Look("random routes, same pool", SKY, ":", "X"),
        f"one-path-{_tasks}": Look("best single route, same pool", SKY, "--", "h"),
        f"support-best-{_tasks}": Look("best route on what is shown", BLACK, "-.", "<"),
        f"oracle-{_tasks}": Look("best route, known to nobody", BLACK, ":", "D"),
        f"scratch-{_tasks}": Look("from scratch", GREY, "-.", "P"),
    }
for _task in ("laps", "cartpole", "acrobot", "catch", "dodge"):
    LOOKS |= {
        f"{_task}-mg": Look("γ learned", RED, "-", "D"),
        f"{_task}-mg-both": Look("γ and λ learned", PURPLE, "--", "s"),
        f"{_task}-mg-trace": Look("γ learned, trace μ = 0.9", BLUE, "-.", "^"),
        f"{_task}-mg-no-context": Look("γ learned, values not told", ORANGE, "-.", "v"),
        f"{_task}-mg-inner": Look("γ learned, inner critic", BLACK, ":", "X"),
        f"{_task}-fixed-0.5": Look("γ = 0.5", SKY, ":", "o"),
        f"{_task}-fixed-0.8": Look("γ = 0.8", SKY, "--", "o"),
        f"{_task}-fixed-0.9": Look("γ = 0.9", GREEN, ":", "o"),
        f"{_task}-fixed-0.97": Look("γ = 0.97", GREEN, "--", "o"),
        f"{_task}-fixed-0.99": Look("γ = 0.99", GREY, "--", "o"),
    }
for _chain in ("pattern", "graded", "alias"):
    LOOKS |= {
        f"{_chain}-mg": Look("learned, last update alone", RED, "-", "D"),
        f"{_chain}-mg-exact": Look("learned, exact trace", BLUE, "--", "s"),
        f"{_chain}-mg-inner": Look("learned, inner values", ORANGE, ":", "X"),
        f"{_chain}-best": Look("best possible", BLACK, "-"),
        f"{_chain}-uniform": Look("best, same everywhere", GREY, "--"),
    }
LOOKS |= {
    "epg": Look("evolved loss", RED, "-", "D"),
    "ppo": Look("PPO from scratch", BLUE, "--", "s"),
    "rl2-gru": Look("RL²", GREEN, "-.", "^"),
    "actor-critic": Look("actor-critic from scratch", GREY, ":", "X"),
    "meta-gradient": Look("meta-gradients from scratch", ORANGE, "-.", "v"),
} | {f"epg-{family}": Look("evolution", PURPLE) for family in ("point", "pendulum", "cheetah")}


def use_style() -> None:
    """Set matplotlib's defaults for the book."""
    plt.rcParams.update(
        {
            "figure.dpi": 120,
            "savefig.dpi": 120,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.titlesize": 10.5,
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "legend.fontsize": 8.5,
            "legend.handlelength": 2.8,
            "lines.linewidth": 1.8,
            "lines.markersize": 4.5,
        }
    )


def panels(count: int, height: float = 3.4, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the page's text with `count` panels side by side."""
    figure, axes = plt.subplots(1, count, figsize=(7.2, height), sharey=share_y, squeeze=False)
    return figure, list(axes[0])


def legend_below(figure: Figure, columns: int = 3) -> None:
    """One legend under all panels, each label once: narrow screens keep the panels large."""
    entries: dict[str, Artist] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def curves(
    ax: Axes,
    results: Published,
    metric: str,
    variants: Sequence[str],
    *,
    cost: dict[str, float] | None = None,
    factor: float = 1.0,
    bands: bool = True,
) -> None:
    """Mean learning curves with their 95 % intervals over seeds.

    Args:
        ax: where to draw.
        results: published or live results.
        metric: a metric of `results.curves`.
        variants: which to draw, in this order.
        cost: multiplies the steps of each variant, such as forward passes a step.
        factor: multiplies the values, such as 100 for per cent.
        bands: draws the intervals; of very few seeds they are so wide that they hide the curves.

    Raises:
        KeyError: when a variant has no curve of the metric.
    """
    for variant in variants:
        rows = results.curves.query("variant == @variant and metric == @metric")
        if rows.empty:
            raise KeyError(f"{results.name} has no curve of {metric} for {variant}")
        look = LOOKS[variant]
        x = rows["step"] * (cost[variant] if cost else 1)
        ax.plot(x, rows["mean"] * factor, look.line, color=look.colour, label=look.label)
        if bands and (rows["seeds"] > 1).any():
            low, high = rows["low"] * factor, rows["high"] * factor
            ax.fill_between(x, low, high, color=look.colour, alpha=0.18, linewidth=0)


def against(
    ax: Axes, results: Published, metric: str, variants: Sequence[str], *, logarithmic: bool = True
) -> None:
    """Numbers published as `metric@x` against x: measurements as points, theory as lines.

    Raises:
        KeyError: when a variant has no such numbers.
    """
    for variant in variants:
        rows = results.against(metric).query("variant == @variant")
        if rows.empty:
            raise KeyError(f"{results.name} has no {metric}@… for {variant}")
        look = LOOKS[variant]
        if variant.endswith("-theory"):
            ax.plot(rows["x"], rows["mean"], look.line, color=look.colour, label=look.label)
            continue
        error = np.stack([rows["mean"] - rows["low"], rows["high"] - rows["mean"]])
        ax.errorbar(
            rows["x"],
            rows["mean"],
            yerr=error,
            marker=look.marker,
            linestyle="none" if f"{variant}-theory" in variants else look.line,
            color=look.colour,
            label=look.label,
            capsize=2,
        )
    ax.set_xscale("log")
    places = sorted(set(results.against(metric)["x"]))
    if len(places) <= 6 and places[0] >= 1:
        ax.set_xticks(places, [f"{x:g}" for x in places])
        ax.xaxis.set_minor_locator(NullLocator())
    if logarithmic:
        ax.set_yscale("log")


def reference(ax: Axes, results: Published, variant: str, metric: str, factor: float = 1.0) -> None:
    """A horizontal line at the mean of a reference, such as chance or an oracle."""
    look = LOOKS[variant]
    value = results.row(variant, metric)["mean"] * factor
    ax.axhline(value, color=look.colour, linestyle=look.line, linewidth=1.3, label=look.label)


def published_marks(ax: Axes, steps: Sequence[float], values: dict[str, Sequence[float]]) -> None:
    """Numbers read off a figure of a source document, as open marks."""
    for variant, numbers in values.items():
        look = LOOKS[variant]
        ax.plot(
            steps,
            numbers,
            linestyle="none",
            marker=look.marker,
            markerfacecolor="none",
            color=look.colour,
            label=f"{look.label}, read off the paper",
        )
