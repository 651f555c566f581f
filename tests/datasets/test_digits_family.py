"""Digits in other guises: orthogonal turns, permutations of one parity, images of one half."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from metarl_lib.datasets import DigitsFamily, families
from metarl_lib.datasets.families import permutations, turn

SPLITS = ("train", "test")


def draw(batch=4, split="train", seed=0, **options):
    family = DigitsFamily(**{"num_train": 40, "num_held_out": 24, "num_images": 64} | options)
    return family.sample(batch, torch.Generator().manual_seed(seed), split)


def joined(tasks):
    return torch.cat([tasks.x, tasks.held_out_x], 1), torch.cat([tasks.y, tasks.held_out_y], 1)


def parity(permutation):
    """0 for an even permutation: n less the number of its cycles, modulo 2."""
    left, cycles = set(range(len(permutation))), 0
    while left:
        place = next(iter(left))
        while place in left:
            left.remove(place)
            place = permutation[place]
        cycles += 1
    return (len(permutation) - cycles) % 2


def test_the_reference_knows_parity() -> None:
    assert [parity(p) for p in ([0, 1, 2], [1, 0, 2], [1, 2, 0], [3, 2, 1, 0])] == [0, 1, 0, 0]


@pytest.mark.parametrize("even", [True, False])
def test_permutations_have_one_parity_and_are_equally_likely(even) -> None:
    found = permutations(6000, 4, torch.Generator().manual_seed(0), even=even).tolist()
    counts = Counter(map(tuple, found))
    assert {parity(p) for p in counts} == {0 if even else 1}
    assert all(sorted(p) == [0, 1, 2, 3] for p in counts)
    assert len(counts) == 12
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize(("split", "wanted"), [("train", 0), ("test", 1)])
def test_training_tasks_permute_evenly_and_test_tasks_oddly(split, wanted) -> None:
    options = {"batch": 30, "split": split, "rotation": "none"}
    x, y = joined(draw(**options))
    plain_x, plain_y = joined(draw(**options, permute=False))
    assert torch.equal(x, plain_x)
    seen = set()
    for given, true in zip(y, plain_y, strict=True):
        pairs = set(zip(true.tolist(), given.tolist(), strict=True))
        permutation = [new for _, new in sorted(pairs)]
        assert sorted(permutation) == list(range(10))  # one new label for each, all labels seen
        assert parity(permutation) == wanted
        seen.add(tuple(permutation))
    assert len(seen) == 30


def rows(x):
    return {tuple(row) for row in x.flatten(0, -2).tolist()}


def test_training_and_test_tasks_share_no_image() -> None:
    halves = [rows(joined(draw(1, split, rotation="none"))[0]) for split in SPLITS]
    assert len(halves[0]) == len(halves[1]) == 64
    assert not halves[0] & halves[1]


@pytest.mark.parametrize("split", SPLITS)
def test_tasks_of_a_split_share_images_but_no_task_holds_one_twice(split) -> None:
    options = {"split": split, "rotation": "none", "num_train": 30, "num_held_out": 20}
    tasks = draw(20, **options)
    assert len(rows(torch.cat([tasks.x, tasks.held_out_x], 1))) == 64
    for x, held_out in zip(tasks.x, tasks.held_out_x, strict=True):
        assert len(rows(x[None])) == 30
        assert len(rows(held_out[None])) == 20
        assert not rows(x[None]) & rows(held_out[None])


def test_features_tell_the_labels_and_both_halves_have_one_projection() -> None:
    """A linear classifier that is fitted on a training task reads a test task, unpermuted."""
    options = {"rotation": "none", "permute": False, "num_images": 500}
    options |= {"num_train": 400, "num_held_out": 100}
    (x, y), (test_x, test_y) = (joined(draw(1, split, **options)) for split in SPLITS)
    ones = torch.nn.functional.one_hot(y[0], 10).float().numpy()
    design = [np.concatenate([part[0].numpy(), np.ones((500, 1))], 1) for part in (x, test_x)]
    weights = np.linalg.lstsq(design[0], ones, rcond=None)[0]
    accuracy = ((design[1] @ weights).argmax(1) == test_y[0].numpy()).mean()
    assert accuracy > 0.55  # chance is 0.1
    assert float(x.square().mean()) == pytest.approx(1, rel=1e-4)


def turned_by(split="train", batch=4, components=10):
    """The matrix that turned each task's components, by least squares, and the residual."""
    options = {"batch": batch, "split": split, "components": components, "permute": False}
    (plain, y), (turned, same_y) = (
        joined(draw(**options, rotation=rotation)) for rotation in ("none", "pca")
    )
    assert torch.equal(y, same_y)
    plain, turned = plain.double(), turned.double()
    q = torch.linalg.lstsq(plain, turned).solution
    torch.testing.assert_close(plain @ q, turned, rtol=0, atol=1e-5)
    return q, plain, turned


@pytest.mark.parametrize("split", SPLITS)
def test_the_components_are_turned_by_an_orthogonal_matrix(split) -> None:
    q, plain, turned = turned_by(split)
    torch.testing.assert_close(turned @ turned.mT, plain @ plain.mT, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        q @ q.mT, torch.eye(10).double().expand(4, 10, 10), atol=1e-5, rtol=0
    )
    assert float((q[0] - q[1]).norm()) > 1
    assert float((turned - plain).norm(dim=-1).mean()) > 1


def test_the_turns_are_uniform_over_all_orthogonal_matrices() -> None:
    """Haar measure: entries have mean 0 and mean square 1/n, half of the determinants are −1."""
    q, *_ = turned_by(batch=1000, components=3)
    for power, expected in ((1, 0), (2, 1 / 3)):
        values = q.pow(power)
        error = values.std(0) / 1000**0.5
        assert ((values.mean(0) - expected).abs() < 4.5 * error).all()
    determinants = torch.linalg.det(q)
    assert abs(int((determinants > 0).sum()) - 500) < 4 * 16


def test_a_quarter_turn_is_exact_and_no_turn_changes_nothing() -> None:
    images = 255 * torch.rand(4, 3, 784, generator=torch.Generator().manual_seed(0))
    angles = torch.tensor([0.0, math.pi / 2, math.pi, -math.pi / 2])
    found = turn(images, angles).unflatten(-1, (28, 28))
    square = images.unflatten(-1, (28, 28))
    expected = torch.stack([torch.rot90(square[k], k, (-2, -1)) for k in range(4)])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)
    assert not torch.allclose(found, square, atol=10)


def test_any_turn_is_bilinear_interpolation() -> None:
    images = torch.rand(3, 2, 784, generator=torch.Generator().manual_seed(0))
    degrees = [10.0, 137.0, -70.0]
    found = turn(images, torch.tensor([math.radians(d) for d in degrees])).unflatten(-1, (28, 28))
    for task, degree in enumerate(degrees):
        expected = ndimage.rotate(
            images[task].view(2, 28, 28).double().numpy(),
            degree, axes=(1, 2), reshape=False, order=1, mode="grid-constant",
        )  # fmt: skip
        np.testing.assert_allclose(found[task].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("num_images", [64, 800])
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_that_are_not_turned_have_the_features_of_the_pca(
    split, num_images, monkeypatch
) -> None:
    options = {"split": split, "num_images": num_images, "permute": False}
    plain_x, plain_y = joined(draw(**options, rotation="none"))
    monkeypatch.setattr(families, "turn", lambda images, angles: turn(images, 0 * angles))
    x, y = joined(draw(**options, rotation="pixel"))
    assert torch.equal(y, plain_y)
    torch.testing.assert_close(x, plain_x, rtol=0, atol=1e-3)


def test_each_task_turns_its_images_by_one_angle_from_the_whole_circle(monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(
        families, "turn", lambda images, angles: drawn.append(angles) or turn(images, angles)
    )
    x, _ = joined(draw(400, rotation="pixel", num_train=1, num_held_out=1))
    plain, _ = joined(draw(400, rotation="none", num_train=1, num_held_out=1))
    angles = torch.cat(drawn)
    assert angles.shape == (400,)
    assert stats.kstest(angles.numpy(), stats.uniform(0, 2 * math.pi).cdf).pvalue > 1e-3
    # Little is changed by a small turn, much by a large one.
    change = (x - plain).norm(dim=-1).mean(-1)
    assert float(change[angles < 0.1].mean()) < 0.3 * float(change[angles > 0.5].mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 0}, "num_train=0"),
        ({"num_held_out": -1}, "num_held_out=-1"),
        ({"num_train": 50}, r"num_train \+ num_held_out=74 is more than the 64.*: ask for fewer$"),
        ({"rotation": "shear"}, "rotation='shear' is unknown: .*pca, pixel, none"),
        ({"num_images": 3000}, "num_images=3000 is more than the 2499 .*: ask for fewer$"),
        ({"components": 65}, "components=65"),
        ({"components": 0}, "components=0"),
    ],
)
def test_bad_settings_are_one_line(options, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        draw(**options)
    assert "\n" not in str(caught.value)
