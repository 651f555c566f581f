"""Draw the picture of the landing page, `book/_static/overview.png`, from published results."""

from __future__ import annotations

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from pages import ROOT

from metarl_lib import plots
from metarl_lib.report import Published, load_published

RULES = ("wp", "np", "np-recipe", "rule", "sgd", "rule-gradient")
HARLOW = ("metods-linear-S4", "gru", "gru-matched")
MAZE = ("random", "metods-linear-S4", "gru", "search", "shortest-path")
NAMES = {"random": "random walk", "search": "search by hand", "shortest-path": "knows the way"}


def bars(ax: Axes, published: Published, metric: str, variants: tuple[str, ...]) -> None:
    """A bar for the mean of each variant, with its 95 % interval, from top to bottom."""
    rows = [published.row(variant, metric) for variant in variants]
    for place, (variant, row) in enumerate(zip(variants, rows, strict=True)):
        look = plots.LOOKS.get(variant)
        ax.barh(place, row["mean"], color=look.colour if look else plots.GREY, height=0.65)
        ax.plot([row["low"], row["high"]], [place, place], color=plots.BLACK, linewidth=1)
    labels = [NAMES.get(v) or plots.LOOKS[v].label for v in variants]
    ax.set_yticks(range(len(variants)), labels, fontsize=8)
    ax.invert_yaxis()
    ax.grid(False, axis="y")


def main() -> None:
    plots.use_style()
    figure, axes = plt.subplots(2, 2, figsize=(9.0, 6.4))
    (angle, learned), (harlow, maze) = axes

    noise = load_published("perturbation_noise")
    plots.against(angle, noise, "cosine_hidden", ("np", "wp", "np-as-coded"), logarithmic=False)
    angle.set(xlabel="draws averaged", ylabel="cosine with the gradient", ylim=(-0.1, 1.1))
    angle.set_title("Does noise find the gradient?")
    angle.legend(fontsize=7)

    bars(learned, load_published("update_rule"), "log_loss_held_out", RULES)
    learned.axvline(0, color=plots.BLACK, linewidth=0.8)
    learned.set(xlabel="log loss on networks never met")
    learned.set_title("Can a rule be learned?")

    trials = load_published("harlow")
    places = range(1, 7)
    for variant in HARLOW:
        look = plots.LOOKS[variant]
        shares = [100 * trials.row(variant, f"correct_{k}")["mean"] for k in places]
        harlow.plot(
            places, shares, look.line, marker=look.marker, color=look.colour, label=look.label
        )
    harlow.plot(places, [50] + 5 * [100], ":", color=plots.BLACK, label="best possible")
    harlow.set(xlabel="presentation of the same two values", ylabel="right choices in %")
    harlow.set(ylim=(45, 103), title="Is one reward enough?")
    harlow.legend(fontsize=7)

    bars(maze, load_published("maze_long"), "return", MAZE)
    maze.set(xlabel="return of a life in a maze never met", title="What is left to learn?")
    figure.savefig(ROOT / "book" / "_static" / "overview.png")


if __name__ == "__main__":
    main()
