"""Teachers and sinusoids as families: disjoint splits, moments in closed form, one-line refusals.

What the teachers are is found out from their data alone: a linear output of a teacher with H
hidden units has rank H, and what is beyond the rank is noise.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from metarl_lib.datasets import DigitsFamily, SinusoidFamily, TeacherFamily

SPLITS = ("train", "test")


def draw(family, batch, split="train", seed=0):
    return family.sample(batch, torch.Generator().manual_seed(seed), split)


def together(tasks):
    """Training and held-out samples of each task, NumPy in double precision."""
    x, y = (torch.cat([tasks[i], tasks[i + 2]], 1).double().numpy() for i in (0, 1))
    return x, y


@pytest.mark.parametrize(
    ("family", "ends", "kind"),
    [
        (TeacherFamily(3, 4, (5,), num_train=7, num_held_out=6), (3, 4), "regression"),
        (SinusoidFamily(7, 6), (1, 1), "regression"),
        (DigitsFamily(7, 6, components=3, num_images=64), (3, 10), "classification"),
    ],
    ids=["teacher", "sinusoid", "digits"],
)
@pytest.mark.parametrize("split", SPLITS)
def test_a_family_gives_tasks_of_its_shapes_and_its_seed(family, ends, kind, split) -> None:
    assert (family.inputs, family.outputs) == ends
    assert family.kind == kind
    tasks, same, other = (draw(family, 5, split, seed) for seed in (1, 1, 2))
    for values, again, others, count in zip(tasks, same, other, (7, 7, 6, 6), strict=True):
        assert values.shape[:2] == (5, count)
        assert torch.equal(values, again)
        assert not torch.equal(values, others)
        assert len(values.flatten(1).unique(dim=0)) == 5
    assert tasks.x.shape[2:] == tasks.held_out_x.shape[2:] == ends[:1]
    wanted = ends[1:] if kind == "regression" else ()
    assert tasks.y.shape[2:] == tasks.held_out_y.shape[2:] == wanted
    assert tasks.y.dtype == (torch.float32 if kind == "regression" else torch.int64)
    assert tasks.x.dtype == torch.float32


@pytest.mark.parametrize("family", [TeacherFamily(), SinusoidFamily(), DigitsFamily()])
def test_an_unknown_split_is_one_line(family) -> None:
    with pytest.raises(ValueError, match=r"split='valid' is unknown: .*train, test") as caught:
        draw(family, 2, "valid")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TeacherFamily(inputs=0), "inputs=0"),
        (lambda: TeacherFamily(outputs=-1), "outputs=-1"),
        (lambda: TeacherFamily(hidden=(5, 0)), "hidden=0"),
        pytest.param(
            lambda: TeacherFamily(hidden=()),
            r"hidden=\(\)",
        ),
        (lambda: TeacherFamily(num_train=0), "num_train=0"),
        (lambda: TeacherFamily(num_held_out=0), "num_held_out=0"),
        (lambda: TeacherFamily(noise=(-0.1,)), r"noise=\(-0.1,\)"),
        (lambda: TeacherFamily(noise=(math.nan,)), r"noise=\(nan,\)"),
        (lambda: TeacherFamily(noise=(0.1, math.inf)), r"noise=\(0.1, inf\)"),
        (lambda: TeacherFamily(noise=(0.0, 0.1)), r"noise=\(0.0, 0.1\)"),
        (lambda: TeacherFamily(noise=()), r"noise=\(\)"),
        (lambda: TeacherFamily(noise=(0.1, 0.2, 0.3)), r"noise=\(0.1, 0.2, 0.3\)"),
        (lambda: TeacherFamily(output="tanh"), "output='tanh'.*relu, linear"),
        (lambda: SinusoidFamily(num_train=0), "num_train=0"),
        (lambda: SinusoidFamily(num_held_out=-3), "num_held_out=-3"),
    ],
)
def test_bad_settings_are_one_line(make, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def first_layer(x, y):
    """Of a teacher with one hidden unit: the direction of its first layer, from its data.

    y = v relu(w x) is v w x on the active samples, so that least squares gives v w; v is
    positive where y is.
    """
    active = np.abs(y) > 1e-6
    product, residual, *_ = np.linalg.lstsq(x[active], y[active], rcond=None)
    assert residual < 1e-6
    return product * np.sign(y[active][0])


@pytest.mark.parametrize(("split", "sign"), [("train", 1), ("test", -1)])
def test_the_sign_of_the_first_weight_tells_training_teachers_from_test_ones(split, sign) -> None:
    family = TeacherFamily(3, 1, (1,), (0.0,), 30, 10, output="linear")
    xs, ys = together(draw(family, 60, split))
    found = np.array([first_layer(x, y[:, 0]) for x, y in zip(xs, ys, strict=True)])
    assert (np.sign(found[:, 0]) == sign).all()
    for other in (1, 2):  # the others know no side: 60 coins
        assert 15 < (found[:, other] > 0).sum() < 45


def ranks(ys):
    values = np.linalg.svd(ys, compute_uv=False)
    return (values > 1e-4 * values[:, :1]).sum(-1)


def test_each_task_draws_its_own_number_of_hidden_units() -> None:
    """Without noise a linear output has exactly the rank of its hidden layer."""
    family = TeacherFamily(9, 14, (2, 7), (0.0,), 40, 30, output="linear")
    _, ys = together(draw(family, 400))
    found = ranks(ys)
    assert set(found.tolist()) == {2, 7}
    narrow = (found == 2).sum()
    assert abs(narrow - 200) < 4 * 10  # 400 coins
    # The variance of an output is R_1 R_0 / 2.
    for width in (2, 7):
        squares = np.square(ys[found == width]).mean((1, 2)) / (9 / 2)
        assert abs(squares.mean() - width) < 4 * squares.std() / len(squares) ** 0.5


@pytest.mark.parametrize(("hidden", "rank"), [((3,), 3), ((6,), 6)])
def test_one_number_of_hidden_units_holds_for_all(hidden, rank) -> None:
    family = TeacherFamily(9, 14, hidden, (0.0,), 40, 30, output="linear")
    assert set(ranks(together(draw(family, 50))[1]).tolist()) == {rank}


def noise_levels(noise, batch=300):
    """σ of each task, out of what is beyond the rank of a teacher with one hidden unit."""
    family = TeacherFamily(3, 12, (1,), noise, 150, 50, output="linear")
    values = np.linalg.svd(together(draw(family, batch))[1], compute_uv=False)
    return np.sqrt(np.square(values[:, 1:]).sum(-1) / (199 * 11))


def test_one_noise_level_holds_for_all() -> None:
    assert noise_levels((0.0,)).max() < 1e-5
    error = 0.05 / math.sqrt(2 * 199 * 11)
    found = noise_levels((0.05,))
    assert np.abs(found - 0.05).max() < 5 * error
    assert abs(found.mean() - 0.05) < 4 * error / math.sqrt(300)


@pytest.mark.parametrize("ends", [(0.001, 0.1), (0.1, 0.001)])
def test_each_task_draws_its_noise_from_the_logarithmic_range(ends) -> None:
    found = np.log10(noise_levels(ends))
    error = 1 / math.sqrt(2 * 199 * 11) / math.log(10)
    assert found.min() > -3 - 5 * error
    assert found.max() < -1 + 5 * error
    assert stats.kstest(found, stats.uniform(-3, 2).cdf).pvalue > 1e-3


def test_inputs_are_standard_normal() -> None:
    x, _ = together(draw(TeacherFamily(num_train=100, num_held_out=100), 20))
    assert stats.kstest(x.ravel(), stats.norm.cdf).pvalue > 1e-3


def zero_losses(family, split="train", batch=2000):
    """Half the mean square of the targets of each task: what the answer 0 costs."""
    return 0.5 * np.square(together(draw(family, batch, split))[1]).mean((1, 2))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("output", "expected"), [("relu", 125), ("linear", 250)])
def test_the_answer_zero_costs_what_the_closed_form_says(output, expected, split) -> None:
    """½ · ½ · R_1 R_0 / 2 with a ReLU on the output, twice that without, and in both splits."""
    losses = zero_losses(TeacherFamily(num_train=8, num_held_out=8, output=output), split)
    error = losses.std() / len(losses) ** 0.5
    assert error < 0.015 * expected
    assert abs(losses.mean() - expected) < 4 * error


@pytest.mark.parametrize(("bias", "expected"), [(False, 2.0), (True, 3.5)])
def test_biases_add_their_variance(bias, expected) -> None:
    """Linear: ½ R_1 R_0 / 2, and ½ (R_1 (R_0 + 1) / 2 + 1) with biases."""
    family = TeacherFamily(2, 3, (4,), num_train=4, num_held_out=4, output="linear", bias=bias)
    losses = zero_losses(family, batch=6000)
    error = losses.std() / len(losses) ** 0.5
    assert abs(losses.mean() - expected) < 4 * error
    assert 8 * error < 1.5


def test_a_relu_output_is_never_negative_and_equals_the_linear_one_above_zero() -> None:
    shared = {"inputs": 4, "outputs": 3, "hidden": (6,), "noise": (0.0,), "bias": True}
    relu = draw(TeacherFamily(**shared, output="relu"), 20)
    linear = draw(TeacherFamily(**shared, output="linear"), 20)
    assert bool((linear.y < 0).any())
    assert torch.equal(relu.y, linear.y.clamp_min(0))
    assert torch.equal(relu.held_out_y, linear.held_out_y.clamp_min(0))


@pytest.mark.parametrize(("split", "colour"), [("train", 0), ("test", 1)])
def test_sinusoid_tasks_are_sinusoids_from_the_cells_of_their_split(split, colour) -> None:
    """a sin(x + p) is linear in sin x and cos x, so that least squares gives a and p."""
    xs, ys = together(draw(SinusoidFamily(20, 10), 200, split))
    seen = 0
    for x, y in zip(xs[:, :, 0], ys[:, :, 0], strict=True):
        design = np.stack([np.sin(x), np.cos(x)], -1)
        (along, across), residual, *_ = np.linalg.lstsq(design, y, rcond=None)
        assert residual < 1e-8
        a, p = math.hypot(along, across), math.atan2(across, along)
        cell = np.array([(a - 0.1) / 4.9, p / math.pi]) * 16
        if np.abs(cell - cell.round()).min() > 1e-3:  # rounding could have moved the others
            seen += 1
            assert np.floor(cell).astype(int).sum() % 2 == colour
            assert cell.min() > 0
            assert cell.max() < 16
    assert seen > 180
