"""N-way tasks of digits: classes and images against the source, labels in every order."""

import itertools

import pytest
import torch

from metarl_lib.datasets import NWayFamily, load_images
from metarl_lib.datasets.families import Family
from metarl_lib.datasets.n_way import CLASSES, class_features

SPLITS = ("train", "test")


def draw(family, batch, split="train", seed=0):
    return family.sample(batch, torch.Generator().manual_seed(seed), split)


def where(x):
    """The digit and the number of the image that each row of features is of."""
    features = class_features(x.shape[-1])
    flat = features.flatten(0, 1)
    found = torch.cdist(x.flatten(0, -2), flat).argmin(-1)
    torch.testing.assert_close(flat[found], x.flatten(0, -2))
    return (found // 500).view(x.shape[:-1]), (found % 500).view(x.shape[:-1])


@pytest.mark.parametrize("split", SPLITS)
def test_tasks_have_their_shapes_and_depend_on_the_seed(split) -> None:
    family = NWayFamily(3, 2, 4, components=6)
    assert isinstance(family, Family)
    assert (family.inputs, family.outputs, family.kind) == (6, 3, "classification")
    tasks, same, other = (draw(family, 5, split, seed) for seed in (1, 1, 2))
    assert tasks.x.shape == (5, 6, 6)
    assert tasks.held_out_x.shape == (5, 12, 6)
    assert tasks.y.tolist() == [[0, 0, 1, 1, 2, 2]] * 5
    assert tasks.held_out_y.tolist() == [[0] * 4 + [1] * 4 + [2] * 4] * 5
    assert tasks.x.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(tasks, same, strict=True))
    assert not torch.equal(tasks.x, other.x)


@pytest.mark.parametrize("split", SPLITS)
def test_a_label_is_one_digit_of_the_split_and_no_image_comes_twice(split) -> None:
    tasks = draw(NWayFamily(3, 2, 4, components=20), 40, split)
    seen = set()
    x = torch.cat([tasks.x, tasks.held_out_x], 1)
    y = torch.cat([tasks.y, tasks.held_out_y], 1)
    digits, images = where(x)
    for labels, digit, image in zip(y.tolist(), digits.tolist(), images.tolist(), strict=True):
        pairs = set(zip(labels, digit, strict=True))
        assert len(pairs) == 3
        assert len({d for _, d in pairs}) == 3
        assert len(set(zip(digit, image, strict=True))) == 18
        seen |= {d for _, d in pairs}
    assert seen == set(CLASSES[split])


def test_no_digit_is_in_both_splits() -> None:
    assert sorted(CLASSES["train"] + CLASSES["test"]) == list(range(10))


def test_every_order_of_digits_is_drawn() -> None:
    tasks = draw(NWayFamily(2, 1, 1, components=20), 400, "test")
    digits, _ = where(tasks.x)
    orders = {tuple(row) for row in digits.tolist()}
    assert orders == set(itertools.permutations(CLASSES["test"], 2))


def test_features_are_the_components_of_the_training_digits() -> None:
    pixels, labels = load_images()
    features = class_features(20)
    train = torch.isin(labels, torch.tensor(CLASSES["train"]))
    centred = (pixels - pixels[train].mean(0)).double()
    _, values, basis = torch.linalg.svd(centred[train], full_matrices=False)
    assert features[:6].square().mean().item() == pytest.approx(1, rel=1e-5)
    scale = (values[:20].square().sum() / (20 * int(train.sum()))).sqrt()
    for digit in (2, 8):
        expected = centred[labels == digit] @ basis[:20].T / scale
        torch.testing.assert_close(
            features[digit].abs().double(), expected.abs(), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ways": 1}, "ways=1: must be a whole number from 2 to 4"),
        ({"ways": 5}, "ways=5: must be a whole number from 2 to 4"),
        ({"shots": 0}, "shots=0"),
        ({"held_out_shots": -1}, "held_out_shots=-1"),
        ({"shots": 300, "held_out_shots": 201}, "shots \\+ held_out_shots=501 .*: ask for fewer$"),
        ({"components": 785}, "components=785: must be from 1 to 784"),
    ],
)
def test_bad_settings_are_one_line(options, says) -> None:
    with pytest.raises(ValueError, match=says) as refusal:
        NWayFamily(**options)
    assert "\n" not in str(refusal.value)


def test_an_unknown_split_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"split='valid' is unknown: choose one of train, test"):
        draw(NWayFamily(components=2), 1, "valid")
