"""The teacher's data against the teacher itself, computed in NumPy."""

import numpy as np
import pytest
import torch

from metarl_lib.datasets import Split, teacher_student


def draw(seed=0, **options):
    return teacher_student(generator=torch.Generator().manual_seed(seed), **options)


def teachers_output(data, x, relu):
    hidden = np.maximum(x.numpy() @ data.teacher[0].numpy().T, 0)
    output = hidden @ data.teacher[1].numpy().T
    return np.maximum(output, 0) if relu else output


def test_shapes_and_defaults() -> None:
    data = draw(num_test=100)
    assert data.train.x.shape == data.train.y.shape == (512, 10)
    assert data.test.x.shape == data.test.y.shape == (100, 10)
    assert [w.shape for w in data.teacher] == [(100, 10), (10, 100)]
    assert len(data.test) == 100
    assert data.train.x.dtype == torch.float32
    assert draw(dtype=torch.float64).train.y.dtype == torch.float64


@pytest.mark.parametrize(
    ("train", "test", "test_is_relu"),
    [
        ("relu", None, True),
        ("relu", "relu", True),
        ("relu", "linear", False),
        ("linear", None, False),
        ("linear", "relu", True),
    ],
)
def test_without_noise_the_targets_are_the_teachers(train, test, test_is_relu) -> None:
    data = draw(noise=0.0, train_output=train, test_output=test, dtype=torch.float64)
    for split, relu in ((data.train, train == "relu"), (data.test, test_is_relu)):
        np.testing.assert_allclose(split.y, teachers_output(data, split.x, relu), atol=1e-12)
        assert bool((split.y < 0).any()) is not relu


def test_noise_has_its_standard_deviation() -> None:
    data = draw(noise=0.5, num_train=2000, dtype=torch.float64)
    noise = data.train.y.numpy() - teachers_output(data, data.train.x, True)
    assert noise.std() == pytest.approx(0.5, rel=0.03)
    assert abs(noise.mean()) < 4 * 0.5 / 20_000**0.5


def test_inputs_and_teacher_are_standard_normal() -> None:
    data = draw(num_train=4000)
    for numbers in (data.train.x, data.teacher[0], data.teacher[1]):
        count = numbers.numel()
        assert abs(float(numbers.mean())) < 4 / count**0.5
        assert abs(float(numbers.std()) - 1) < 4 / (2 * count) ** 0.5


def test_the_seed_decides() -> None:
    one, same, other = draw(1), draw(1), draw(2)
    assert torch.equal(one.train.y, same.train.y)
    assert torch.equal(one.test.x, same.test.x)
    assert not torch.equal(one.train.x, other.train.x)
    assert not torch.equal(one.train.x, one.test.x)


def test_matched_and_mismatched_targets_share_all_but_the_last_relu() -> None:
    """The output's nonlinearity takes no random numbers, so the two data sets can be compared."""
    matched, mismatched = draw(noise=0.0), draw(noise=0.0, test_output="linear")
    assert torch.equal(matched.train.y, mismatched.train.y)
    assert torch.equal(matched.test.x, mismatched.test.x)
    assert torch.equal(matched.test.y, mismatched.test.y.clamp(min=0))


def test_any_depth() -> None:
    data = draw(widths=(3, 4, 5, 2), noise=0.0)
    y = data.train.x
    for weight in data.teacher:
        y = (y @ weight.T).clamp(min=0)
    torch.testing.assert_close(data.train.y, y)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": (10,)}, r"widths=\(10,\).*at least two"),
        ({"widths": (10, 0, 1)}, r"widths=\(10, 0, 1\).*positive"),
        ({"num_train": 0}, "num_train=0.*>= 1"),
        ({"num_test": -3}, "num_test=-3.*>= 1"),
        ({"noise": -0.1}, "noise=-0.1.*>= 0"),
        ({"noise": float("nan")}, "noise=nan.*>= 0"),
        ({"train_output": "tanh"}, "train_output='tanh'.*relu, linear"),
        ({"test_output": "tanh"}, "test_output='tanh'.*relu, linear"),
    ],
)
def test_refusals(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        draw(**options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.tensor([[1.0], [float("nan")]]), torch.zeros(2, 1), "x holds 1 NaN or infinite"),
        (torch.zeros(2, 1), torch.tensor([[1.0], [float("inf")]]), "y holds 1 NaN or infinite"),
        (torch.zeros(2, 1), torch.zeros(3, 1), "x holds 2 samples and y 3"),
    ],
)
def test_a_split_refuses(x, y, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        Split(x, y)
    assert "\n" not in str(refusal.value)
