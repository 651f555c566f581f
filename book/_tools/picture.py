"""Draw the picture of the landing page, `book/_static/overview.png`, from published results.

A phone shows it at a third of its size, so its words are large and stand beside what they name.
"""

from __future__ import annotations

from hashlib import sha256

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from pages import ROOT

from metarl_lib import plots
from metarl_lib.report import Published, load_published, results_folder

PICTURE = ROOT / "book" / "_static" / "overview.png"
SHOWN = ("perturbation_noise", "update_rule", "harlow", "maze_long")

LOSSES = {
    "wp": "noise on the weights",
    "np": "noise on the units",
    "np-recipe": "noise on the units, recipe",
    "rule": "learned rule",
}
GRADIENT = {
    "sgd": "gradient descent",
    "sgd-recipe": "gradient descent, recipe",
    "rule-gradient": "learned rule",
}
HARLOW = {
    "MetODS": ("metods-linear-S4",),
    "LSTM": ("lstm",),
    "GRU": ("gru", "gru-matched"),
}
MAZE = {
    "random": "random walk",
    "metods-linear-S4": "trained MetODS",
    "gru": "trained GRU",
    "search": "search written by hand",
    "shortest-path": "knows the way",
}
SMALL = 11


def bars(ax: Axes, published: Published, metric: str, groups: dict[str, dict[str, str]]) -> None:
    """A bar for the mean of each variant, with its 95 % interval, and its name above it."""
    place, start = 0.0, float(ax.get_xlim()[0])
    lines = []
    for heading, names in groups.items():
        if heading:
            lines.append((place, heading, "italic"))
            place += 0.95
        for variant, name in names.items():
            row, look = published.row(variant, metric), plots.LOOKS.get(variant)
            colour = look.colour if look else plots.GREY
            lines.append((place, name, "normal"))
            ax.barh(place + 0.6, row["mean"], color=colour, height=0.5)
            ax.plot([row["low"], row["high"]], [place + 0.6] * 2, color=plots.BLACK, linewidth=1)
            ax.vlines(0, place + 0.3, place + 0.9, color=plots.BLACK, linewidth=0.8)
            place += 1.45
    for height, words, style in lines:
        ax.text(start, height, words, fontsize=SMALL, style=style, va="center")
    ax.set(ylim=(place - 0.4, -0.6), yticks=[])
    ax.spines["left"].set_visible(False)
    ax.grid(False)


def noise(ax: Axes) -> None:
    """How an averaged estimate turns to the gradient."""
    published = load_published("perturbation_noise")
    plots.against(ax, published, "cosine_hidden", ("np", "wp", "np-as-coded"), logarithmic=False)
    ax.set(xlabel="estimates averaged", ylabel="cosine with the gradient,\nhidden layer")
    ax.set(ylim=(-0.27, 1.1), title="Does noise find the gradient?")
    ax.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
    ax.text(4, 0.55, "noise on\nthe units", fontsize=SMALL, va="center")
    ax.text(420, 0.56, "noise on\nthe weights", fontsize=SMALL, ha="right", va="center")
    words = "noise on the units,\nin the published code"
    ax.text(5200, -0.16, words, fontsize=SMALL, ha="right", va="center")


def harlow(ax: Axes) -> None:
    """Each seed's share of right choices as a thin line, and how many seeds take which rung."""
    published = load_published("harlow")
    choices = range(1, 7)
    ax.plot(choices, [50] + 5 * [100], ":", color=plots.BLACK)
    count = {"high": [], "low": []}
    for shift, (name, variants) in zip((-0.06, 0.0, 0.06), HARLOW.items(), strict=True):
        look = plots.LOOKS[variants[0]]
        lives = [
            [100 * row.loc[f"correct_{k}", seed] for k in choices]
            for row in (published.by_seed.loc[v].dropna(axis=1) for v in variants)
            for seed in row
        ]
        for shares in lives:
            places = [k + shift for k in choices]
            ax.plot(places, shares, marker=look.marker, ms=3, color=look.colour, linewidth=0.9)
        high = sum(shares[1] > 87.5 for shares in lives)
        for rung, seeds in (("high", high), ("low", len(lives) - high)):
            if seeds:
                count[rung].append(f"{name}: {seeds} of {len(lives)} seeds")
    ax.text(3, 96.5, "\n".join(count["high"]), fontsize=SMALL, va="top")
    ax.text(3, 71.5, "\n".join(count["low"]), fontsize=SMALL, va="top")
    ax.text(1.5, 101.3, "best possible", fontsize=SMALL, va="bottom")
    ax.set(xlabel="choice between the same objects", ylabel="right choices in %")
    ax.set(ylim=(45, 106), xticks=list(choices), title="Is one reward enough?")


def fingerprint() -> str:
    """Of all published numbers of what is shown; the picture carries it."""
    folders = (results_folder() / name for name in SHOWN)
    return sha256(b"".join((f / "seeds.csv").read_bytes() for f in folders)).hexdigest()


def main() -> None:
    plots.use_style()
    plt.rcParams.update({"font.size": 12, "axes.titlesize": 13})
    figure, axes = plt.subplots(2, 2, figsize=(7.6, 8.4))
    noise(axes[0, 0])

    rules = load_published("update_rule")
    axes[0, 1].set_xlim(-1.5, 3.8)
    groups = {"who compares losses only": LOSSES, "who is told the gradient": GRADIENT}
    bars(axes[0, 1], rules, "log_loss_held_out", groups)
    axes[0, 1].set(xlabel="log loss of new networks\n(less is better)")
    axes[0, 1].set_title("Can a rule be learned?")

    harlow(axes[1, 0])

    axes[1, 1].set_xlim(0, 165)
    bars(axes[1, 1], load_published("maze_long"), "return", {"": MAZE})
    axes[1, 1].set(xlabel="reward earned in a new maze", title="What is left to learn?")
    figure.savefig(PICTURE, metadata={"Description": fingerprint()})


if __name__ == "__main__":
    main()
