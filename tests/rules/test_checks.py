"""Bad input to a rule: a ValueError of one line that names the value."""

import pytest
import torch

from metarl_lib.rules import (
    Network,
    backpropagation,
    cross_entropy,
    half_mse,
    node_perturbation,
    sgd,
    weight_perturbation,
)
from metarl_lib.rules.as_published import (
    node_perturbation_as_coded,
    node_perturbation_as_published,
    weight_perturbation_as_published,
)

pytestmark = pytest.mark.usefixtures("unchecked")

GRADIENTS = {"sgd": sgd, "backpropagation": backpropagation}
CORRECT = {"wp": weight_perturbation, "np": node_perturbation}
PUBLISHED_NP = {
    "np-published": node_perturbation_as_published,
    "np-coded": node_perturbation_as_coded,
}
PERTURBATIONS = CORRECT | PUBLISHED_NP | {"wp-published": weight_perturbation_as_published}
RULES = GRADIENTS | PERTURBATIONS


def refused(words, function, *arguments, **options) -> None:
    with pytest.raises(ValueError, match=".*".join(words)) as refusal:
        function(*arguments, **options)
    assert "\n" not in str(refusal.value)


def apply(name, p, **options):
    if name in PERTURBATIONS:
        options.setdefault("generator", torch.Generator())
    return RULES[name](*p, **options)


@pytest.mark.parametrize("widths", [(), (3,), (3, 0), (3, -2, 1), (3, 2.5), ("3", 2)])
def test_widths(widths) -> None:
    refused(["widths=", "positive whole numbers"], Network, widths)


@pytest.mark.parametrize("field", ["activation", "output_activation"])
def test_unknown_activation(field) -> None:
    refused([f"{field}='gelu'", "'relu', 'tanh', None"], Network, (3, 2), **{field: "gelu"})


@pytest.mark.parametrize("name", RULES)
def test_weights_that_do_not_chain(problem, name) -> None:
    p = problem((3, 4, 2))
    wrong = [p.params[0], torch.zeros(2, 5, dtype=torch.float64)]
    refused([r"parameter 1 has shape \(2, 5\)", r"\(2, 4\)"], apply, name, p._replace(params=wrong))


@pytest.mark.parametrize("name", RULES)
def test_missing_weights(problem, name) -> None:
    p = problem((3, 4, 2))
    refused(["1 parameters given, 2 needed"], apply, name, p._replace(params=p.params[:1]))


@pytest.mark.parametrize("name", RULES)
def test_inputs_of_the_wrong_width(problem, name) -> None:
    p = problem((3, 4, 2))
    refused([r"x has shape \(5, 2\)", r"\[samples, 3\]"], apply, name, p._replace(x=p.x[:, :2]))
    refused([r"x has shape \(3,\)", r"\[samples, 3\]"], apply, name, p._replace(x=p.x[0]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["x", "y"])
@pytest.mark.parametrize("name", RULES)
def test_data_that_is_not_finite(problem, name, which, bad) -> None:
    p = problem((3, 4, 2))
    getattr(p, which)[2, 1] = bad
    refused([f"{which} holds 1 NaN or infinite"], apply, name, p)


@pytest.mark.parametrize("sigma", [0, 0.0, -1e-3, float("nan"), float("inf")])
@pytest.mark.parametrize("name", PERTURBATIONS)
def test_sigma(problem, name, sigma) -> None:
    refused([f"sigma={sigma!r}", "positive"], apply, name, problem(), sigma=sigma)


@pytest.mark.parametrize("draws", [0, -1, 1.5])
@pytest.mark.parametrize("name", CORRECT)
def test_draws(problem, name, draws) -> None:
    refused([f"draws={draws!r}", ">= 1"], apply, name, problem(), draws=draws)


@pytest.mark.parametrize("name", PUBLISHED_NP)
def test_published_node_perturbation_has_no_biases(problem, name) -> None:
    refused(["bias=True", "use bias=False"], apply, name, problem(bias=True))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (half_mse, torch.zeros(5, 3)),
        (half_mse, torch.zeros(4, 2)),
        (half_mse, torch.zeros(5)),
        (cross_entropy, torch.zeros(4, dtype=torch.long)),
        (cross_entropy, torch.zeros(5, 3)),
        (cross_entropy, torch.zeros(5)),
    ],
)
def test_targets_of_the_wrong_shape(problem, name, loss, y) -> None:
    p = problem((3, 4, 2))._replace(loss=loss, y=y)
    shape = ", ".join(map(str, y.shape)) + ("," if y.ndim == 1 else "")
    refused([rf"targets have shape \({shape}\)", r"outputs \(.*5, 2\)"], apply, name, p)


@pytest.mark.parametrize(("labels", "named"), [([0, 1, 2], "0 to 2"), ([-1, 0, 1], "-1 to 1")])
def test_labels_out_of_range(labels, named) -> None:
    words = [f"labels from {named}", "between 0 and 1"]
    refused(words, cross_entropy, torch.zeros(3, 2), torch.tensor(labels))


@pytest.mark.parametrize("rule", [sgd, backpropagation])
def test_inputs_with_a_batch_that_the_parameters_lack(rule) -> None:
    network = Network((3, 2))
    x, y = torch.ones(5, 4, 3), torch.zeros(5, 4, 2)
    with pytest.raises(ValueError, match=r"batch dimensions \(5,\), the parameters \(\)"):
        rule(network, network.init(), x, y, half_mse)


@pytest.mark.parametrize("rule", [weight_perturbation, node_perturbation])
@pytest.mark.parametrize("draws", [1, 5])
def test_perturbations_refuse_a_batch_that_the_parameters_lack(rule, draws) -> None:
    network, stream = Network((3, 2)), torch.Generator()
    x, y = torch.ones(5, 4, 3), torch.zeros(5, 4, 2)
    with pytest.raises(ValueError, match="give the parameters the same leading dimensions"):
        rule(network, network.init(), x, y, half_mse, generator=stream, draws=draws)
