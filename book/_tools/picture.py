"""Draw the README's picture, `book/_static/overview.png`, from the published results."""

from __future__ import annotations

from pages import ROOT

from metarl_lib import plots
from metarl_lib.report import load_published


def main() -> None:
    plots.use_style()
    figure, (left, right) = plots.panels(2, height=4.0)
    noise = load_published("perturbation_noise")
    plots.against(left, noise, "cosine_hidden", ("np", "wp", "np-as-coded"), logarithmic=False)
    left.set(xlabel="draws averaged", ylabel="cosine with the gradient", ylim=(-0.1, 1.1))
    digits = load_published("digits")
    variants = ("sgd", "np", "wp", "np-as-coded")
    plots.curves(right, digits, "test_accuracy", variants, factor=100)
    plots.reference(right, digits, "chance", "test_accuracy", factor=100)
    right.set(
        xscale="symlog", xlabel="full-batch steps", ylabel="test accuracy in %", ylim=(0, 100)
    )
    right.set_xlim(1, None)
    plots.legend_below(figure)
    figure.savefig(ROOT / "book" / "_static" / "overview.png")


if __name__ == "__main__":
    main()
