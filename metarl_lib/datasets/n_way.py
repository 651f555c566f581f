"""N-way tasks: tell N digits apart from a few images of each, among digits never seen before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from metarl_lib.datasets.digits import load_images
from metarl_lib.datasets.families import NUM_PIXELS, Tasks
from metarl_lib.datasets.split import check_count, check_split

CLASSES = {"train": (0, 1, 2, 3, 4, 5), "test": (6, 7, 8, 9)}
"""The digits that tasks of a split consist of."""

PER_CLASS = 500
"""Images of each digit."""


@dataclass(frozen=True)
class NWayFamily:
    """Each task draws N digits, gives them the labels 0 … N − 1 in any order, and K images each.

    Args:
        ways: N, from 2 to 4, the number of digits that no training task holds.
        shots: K, images of each digit to learn from.
        held_out_shots: other images of each digit, held out.
        components: R_0, the number of principal components that an image is given by.

    Training tasks consist of the digits 0 to 5, test tasks of 6 to 9. The components are those
    of the training digits.

    Raises:
        ValueError: for a number out of range, or more images of a digit than there are.
    """

    ways: int = 3
    shots: int = 1
    held_out_shots: int = 5
    components: int = 30
    kind: ClassVar[str] = "classification"

    def __post_init__(self) -> None:
        most = min(map(len, CLASSES.values()))
        if not isinstance(self.ways, int) or not 2 <= self.ways <= most:
            raise ValueError(f"ways={self.ways!r}: must be a whole number from 2 to {most}")
        for name in ("shots", "held_out_shots"):
            check_count(name, getattr(self, name))
        check_count("shots + held_out_shots", self.shots + self.held_out_shots, PER_CLASS)
        if not isinstance(self.components, int) or not 1 <= self.components <= NUM_PIXELS:
            raise ValueError(f"components={self.components!r}: must be from 1 to {NUM_PIXELS}")

    @property
    def inputs(self) -> int:
        """R_0, the number of components."""
        return self.components

    @property
    def outputs(self) -> int:
        """N."""
        return self.ways

    def sample(self, batch: int, generator: torch.Generator, split: str = "train") -> Tasks:
        """Draw the digits of each task, then images of each digit."""
        check_split(split)
        features = class_features(self.components)[list(CLASSES[split])]
        keys = torch.rand(batch, len(features), generator=generator)
        chosen = keys.topk(self.ways).indices
        images = torch.rand(batch, self.ways, PER_CLASS, generator=generator)
        images = images.topk(self.shots + self.held_out_shots).indices
        x = features[chosen.unsqueeze(-1), images]
        y = torch.arange(self.ways).unsqueeze(-1).expand(x.shape[:3])
        k = self.shots
        parts = (x[:, :, :k], y[:, :, :k], x[:, :, k:], y[:, :, k:])
        return Tasks(*(part.flatten(1, 2) for part in parts))


@cache
def class_features(components: int) -> Tensor:
    """The principal components of all images by digit, `[10, 500, components]`.

    They are fitted on the training digits, whose features have mean square 1.
    """
    pixels, labels = load_images()
    by_class = torch.stack([pixels[labels == digit] for digit in range(10)]).double()
    train = by_class[list(CLASSES["train"])].flatten(0, 1)
    pca = PCA(n_components=components, svd_solver="full").fit(train.numpy())
    features = torch.from_numpy(pca.transform(by_class.flatten(0, 1).numpy()))
    features = features.view(10, PER_CLASS, components)
    return (features / features[list(CLASSES["train"])].square().mean().sqrt()).float()
