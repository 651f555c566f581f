"""MAML's gradients against finite differences of plain loops, and of both forms with each other."""

import itertools
import os
import shutil
from dataclasses import replace
from functools import partial

import jaxtyping
import plain_maml as plain
import pytest
import torch
from plain_maml import LOSSES, finite_differences, problem, stream

from metarl_lib.algos import MAML
from metarl_lib.datasets import Tasks
from metarl_lib.rules import Network, mse

FORMS = ("by_hand", "vmap")
RATE = 0.05
SMALL = Network((2, 3, 2), "tanh", bias=True)


def learner(network=SMALL, loss="mse", steps=1, form="by_hand", **options) -> MAML:
    return MAML(network, LOSSES[loss], steps, RATE, form=form, **options)


def assert_equal(found, expected, tolerance=1e-10) -> None:
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rates", ["fixed", "learned"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_the_meta_gradient_is_the_finite_difference(form, rates, loss, steps) -> None:
    meta, tasks = problem(SMALL, loss, tasks=2, learned=rates == "learned")
    found, slopes = learner(loss=loss, steps=steps, form=form, rates=rates).meta_gradient(
        meta, tasks
    )

    def score(values):
        return plain.meta_loss(SMALL, loss, values, RATE, tasks, steps)

    assert float(found) == pytest.approx(float(score(meta).detach()), rel=1e-12)
    expected = finite_differences(score, meta)
    assert max(float(g.abs().max()) for g in expected) > 1e-2
    assert [g.shape for g in slopes] == [p.shape for p in meta]
    assert_equal(slopes, expected, 1e-7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rates", ["fixed", "learned"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(
    ("network", "loss", "steps"),
    [
        (Network((2, 4, 3), "relu", bias=True), "mse", 1),
        (Network((2, 4, 3), "relu", bias=True), "mse", 3),
        (Network((2, 4, 3, 2), "tanh", "tanh", bias=True), "half_mse", 4),
        (Network((2, 4, 3), "relu"), "cross_entropy", 2),
        (Network((3, 4), None, "tanh"), "half_mse", 2),
        (Network((2, 3, 2), None, "relu", bias=True), "mse", 10),
    ],
)
def test_the_meta_gradient_is_autograds_of_the_plain_loops(
    form, rates, first_order, network, loss, steps
) -> None:
    meta, tasks = problem(network, loss, learned=rates == "learned")
    leaves = [p.clone().requires_grad_() for p in meta]
    expected = plain.meta_loss(network, loss, leaves, RATE, tasks, steps, first_order)
    maml = learner(network, loss, steps, form, rates=rates, first_order=first_order)
    found, slopes = maml.meta_gradient(meta, tasks)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
    assert_equal(slopes, torch.autograd.grad(expected, leaves))


def test_the_first_order_gradient_is_that_at_the_end_of_the_steps() -> None:
    meta, tasks = problem(SMALL, "mse", tasks=1)
    x, y, held_out_x, held_out_y = (part[0] for part in tasks)
    end = plain.adapted(SMALL, "mse", meta, [RATE] * 4, x, y, 3)
    end = [p.detach() for p in end]

    def at_the_end(params):
        return plain.task_loss(SMALL, "mse", params, held_out_x, held_out_y)

    expected = finite_differences(at_the_end, end)
    for form in FORMS:
        maml = learner(steps=3, form=form, first_order=True)
        assert_equal(maml.meta_gradient(meta, tasks)[1], expected, 1e-7)
        second = learner(steps=3, form=form).meta_gradient(meta, tasks)[1]
        assert max(float((a - b).abs().max()) for a, b in zip(second, expected, strict=True)) > 1e-2


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("output", ["relu", "tanh", None])
@pytest.mark.parametrize("activation", ["relu", "tanh", None])
@pytest.mark.parametrize("widths", [(3, 2), (3, 6, 5, 2), (1, 4, 2)])
def test_the_form_by_hand_is_the_reference(widths, activation, output, bias, loss) -> None:
    network = Network(widths, activation, output, bias)
    for steps, first_order, rates in itertools.product(
        (1, 2, 5), (False, True), ("fixed", "learned")
    ):
        meta, tasks = problem(network, loss, learned=rates == "learned", seed=steps)
        options = {"rates": rates, "first_order": first_order}
        by_hand, reference = (
            learner(network, loss, steps, form, **options).meta_gradient(meta, tasks)
            for form in FORMS
        )
        torch.testing.assert_close(by_hand[0], reference[0], rtol=1e-10, atol=1e-10)
        assert_equal(by_hand[1], reference[1])


@pytest.mark.parametrize("form", FORMS)
def test_probabilities_do_as_labels_do(form) -> None:
    meta, tasks = problem(SMALL, "cross_entropy")
    one_hot = [torch.nn.functional.one_hot(y, 2).double() for y in (tasks.y, tasks.held_out_y)]
    soft = tasks._replace(y=one_hot[0], held_out_y=one_hot[1])
    maml = learner(loss="cross_entropy", steps=2, form=form)
    assert_equal(maml.meta_gradient(meta, tasks)[1], maml.meta_gradient(meta, soft)[1], 1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_the_mean_over_tasks_that_know_nothing_of_each_other(form) -> None:
    meta, tasks = problem(SMALL, "mse", tasks=4, learned=True)
    maml = learner(steps=3, form=form, rates="learned")
    found, slopes = maml.meta_gradient(meta, tasks)
    alone = [maml.meta_gradient(meta, Tasks(*(p[i : i + 1] for p in tasks))) for i in range(4)]
    torch.testing.assert_close(found, torch.stack([each for each, _ in alone]).mean())
    means = [torch.stack(column).mean(0) for column in zip(*(g for _, g in alone), strict=True)]
    assert_equal(slopes, means, 1e-12)


def test_the_path_is_plain_gradient_descent_of_each_task() -> None:
    for rates, loss in (("fixed", "mse"), ("learned", "mse"), ("fixed", "cross_entropy")):
        meta, tasks = problem(SMALL, loss, tasks=3, learned=rates == "learned")
        maml, alphas = learner(loss=loss, rates=rates), meta[4:] or [RATE] * 4
        for steps, theta in zip(range(4), maml.path(meta, tasks.x, tasks.y), strict=False):
            assert_equal(maml.adapt(meta, tasks.x, tasks.y, steps), theta, 0)
            for i, (x, y) in enumerate(zip(tasks.x, tasks.y, strict=True)):
                expected = plain.adapted(SMALL, loss, meta[:4], alphas, x, y, steps)
                assert_equal([p[i] for p in theta], [p.detach() for p in expected], 1e-12)
    assert_equal(replace(maml, inner_steps=3).adapt(meta, tasks.x, tasks.y), theta, 0)


def test_a_task_that_changes_leaves_the_others_as_they_were() -> None:
    meta, tasks = problem(SMALL, "mse", tasks=3)
    other = tasks.x.clone()
    other[1] += 1
    before, after = (learner(steps=2).adapt(meta, x, tasks.y) for x in (tasks.x, other))
    for b, a in zip(before, after, strict=True):
        assert torch.equal(b[[0, 2]], a[[0, 2]])
        assert not torch.equal(b[1], a[1])


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_after_the_steps_is_that_of_the_adapted_weights(form) -> None:
    meta, tasks = problem(SMALL, "mse")
    maml = learner(steps=2, form=form)
    theta = maml.adapt(meta, tasks.x, tasks.y)
    after = mse(SMALL(theta, tasks.held_out_x), tasks.held_out_y).mean()
    torch.testing.assert_close(maml.meta_gradient(meta, tasks)[0], after, rtol=1e-12, atol=1e-12)


def test_any_loss_will_do_for_the_reference() -> None:
    def fourth(outputs, targets):
        return (outputs - targets).square().square().mean(-1)

    meta, tasks = problem(SMALL, "mse", tasks=2)
    maml = MAML(SMALL, fourth, 2, 0.01, form="vmap")

    def score(values):
        total = 0.0
        for x, y, held_out_x, held_out_y in zip(*tasks, strict=True):
            theta = [p.clone().requires_grad_() for p in values]
            for _ in range(2):
                error = fourth(plain.forward(SMALL, theta, x), y).mean()
                slopes = torch.autograd.grad(error, theta, create_graph=True)
                theta = [p - 0.01 * g for p, g in zip(theta, slopes, strict=True)]
            total = total + fourth(plain.forward(SMALL, theta, held_out_x), held_out_y).mean() / 2
        return total

    assert_equal(maml.meta_gradient(meta, tasks)[1], finite_differences(score, meta), 1e-6)
    theta = maml.adapt(meta, tasks.x, tasks.y, 1)
    slopes = torch.autograd.grad(
        fourth(SMALL([p.requires_grad_() for p in meta], tasks.x[0]), tasks.y[0]).mean(), meta
    )
    assert_equal([p[0] for p in theta], [p - 0.01 * g for p, g in zip(meta, slopes, strict=True)])


@pytest.mark.parametrize("form", FORMS)
def test_the_arguments_stay_as_they_were(form) -> None:
    meta, tasks = problem(SMALL, "mse", learned=True)
    before = [p.clone() for p in (*meta, *tasks)]
    maml = learner(steps=2, form=form, rates="learned")
    slopes = maml.meta_gradient(meta, tasks)[1]
    maml.adapt(meta, tasks.x, tasks.y)
    assert_equal([*meta, *tasks], before, 0)
    assert not any(p.requires_grad for p in (*meta, *slopes))


def test_meta_parameters_start_as_the_network_and_the_rates_as_the_rate() -> None:
    for rates, count in (("fixed", 4), ("learned", 8)):
        maml = learner(rates=rates)
        meta = maml.init(stream(3))
        assert len(meta) == count
        assert_equal(meta[:4], SMALL.init(stream(3)), 0)
        assert all(bool((a == torch.tensor(RATE)).all()) for a in meta[4:])
        params, alphas = maml.split(meta)
        assert len(params) == 4
        assert alphas == RATE if rates == "fixed" else len(alphas) == 4


def test_compiled_formulas_are_one_graph_of_the_same_numbers(monkeypatch) -> None:
    """Traced as for a compiler, without one."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its checks are no graph
    monkeypatch.setattr(shutil, "which", lambda name: name)
    real = torch.compile

    def trace(function, *, dynamic, options):
        assert options == {"cpp_wrapper": True}
        return real(function, backend="aot_eager", fullgraph=True, dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", trace)
    for loss, rates in (("mse", "fixed"), ("cross_entropy", "learned")):
        meta, tasks = problem(SMALL, loss, learned=rates == "learned")
        options = {"rates": rates}
        with torch.no_grad():
            compiled = learner(loss=loss, compile=True, **options).meta_gradient(meta, tasks)
        eager = learner(loss=loss, **options).meta_gradient(meta, tasks)
        torch.testing.assert_close(compiled[0], eager[0], rtol=1e-12, atol=1e-12)
        assert_equal(compiled[1], eager[1], 1e-12)


@pytest.mark.skipif(
    "METARL_TEST_COMPILE" not in os.environ,
    reason="a minute of CPU time: set "
    "METARL_TEST_COMPILE=1 to run it; benchmarks/maml.py checks the same at each full run",
)
def test_compiled_code_finds_the_same_numbers(unchecked) -> None:
    meta, tasks = problem(SMALL, "mse")
    with torch.no_grad():
        compiled = learner(steps=2, compile=True).meta_gradient(meta, tasks)
    assert_equal(compiled[1], learner(steps=2).meta_gradient(meta, tasks)[1], 1e-9)


def unknown(outputs, targets):
    return (outputs - targets).sum(-1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"inner_steps": 0}, "inner_steps=0: must be a whole number >= 1"),
        ({"inner_steps": 1.5}, "inner_steps=1.5: must be a whole number >= 1"),
        ({"rate": 0.0}, "rate=0.0: must be greater than 0 and finite"),
        ({"rate": float("inf")}, "rate=inf: must be greater than 0 and finite"),
        ({"rates": "some"}, "rates='some' is unknown: choose one of fixed, learned"),
        ({"form": "fast"}, "form='fast' is unknown: choose one of by_hand, vmap"),
        (
            {"form": "vmap", "compile": True},
            "compile=True and form='vmap': only \"by_hand\" is compiled",
        ),
    ],
)
def test_a_bad_option_is_refused_in_one_line(options, says, unchecked) -> None:
    with pytest.raises(ValueError) as refusal:
        MAML(SMALL, **options)
    assert str(refusal.value) == says


def test_a_loss_without_formulas_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r'half_mse, cross_entropy, mse, or form="vmap"$') as said:
        MAML(SMALL, unknown)
    assert "\n" not in str(said.value)
    MAML(SMALL, unknown, form="vmap")


def test_compiling_without_a_compiler_is_refused_in_one_line(monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        ValueError, match=r"^compile=True needs a C\+\+ compiler .*leave compile out$"
    ):
        MAML(SMALL, compile=True)


@pytest.mark.parametrize(
    ("loss", "change", "says"),
    [
        ("mse", {"x": (3, 4, 1)}, r"x has shape \(3, 4, 1\): the network reads .*samples, 2\]"),
        ("mse", {"x": (4, 2)}, r"x has shape \(4, 2\)"),
        ("mse", {"held_out_x": (3, 5, 3)}, r"x has shape \(3, 5, 3\)"),
        ("mse", {"y": (3, 4, 1)}, r"y has shape \(3, 4, 1\): the network gives \(3, 4, 2\)"),
        ("mse", {"held_out_y": (3, 4, 2)}, r"y has shape \(3, 4, 2\): .*\(3, 5, 2\)"),
        ("cross_entropy", {"y": (3, 5)}, r"y has shape \(3, 5\): labels must be \(3, 4\)"),
    ],
)
def test_samples_that_do_not_fit_are_refused_in_one_line(loss, change, says, unchecked) -> None:
    meta, tasks = problem(SMALL, loss)
    ((name, shape),) = change.items()
    values = torch.zeros(shape, dtype=getattr(tasks, name).dtype)
    for form in FORMS:
        with pytest.raises(ValueError, match=says) as refusal:
            learner(loss=loss, form=form).meta_gradient(meta, tasks._replace(**{name: values}))
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("place", "value"), [("y", 2), ("held_out_y", -1)])
def test_labels_out_of_range_are_refused_in_one_line(place, value) -> None:
    meta, tasks = problem(SMALL, "cross_entropy")
    labels = getattr(tasks, place).clone()
    labels[1, 2] = value
    with pytest.raises(ValueError, match="must lie between 0 and 1, one for each output"):
        learner(loss="cross_entropy").meta_gradient(meta, tasks._replace(**{place: labels}))


def test_numbers_that_are_none_are_refused_when_weights_adapt() -> None:
    meta, tasks = problem(SMALL, "mse")
    tasks.x[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="x holds 1 NaN or infinite values"):
        learner().adapt(meta, tasks.x, tasks.y)
    assert partial(learner().adapt, meta, tasks.x, tasks.y, 0)()
