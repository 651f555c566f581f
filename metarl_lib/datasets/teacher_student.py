"""Teacher and student: regression data made by a random network, the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl_lib.datasets.split import Split, check_count

OUTPUTS = ("relu", "linear")


@dataclass(frozen=True)
class TeacherStudent:
    """Data sets of one teacher.

    Attributes:
        train: training samples.
        test: fresh samples of the same teacher.
        teacher: its weights W*_l, `[R_{l+1}, R_l]` each.
    """

    train: Split
    test: Split
    teacher: list[Tensor]


def teacher_student(
    widths: Sequence[int] = (10, 100, 10),
    num_train: int = 512,
    num_test: int = 512,
    noise: float = 0.01,
    *,
    generator: torch.Generator,
    train_output: str = "relu",
    test_output: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> TeacherStudent:
    """Draw a teacher with N(0, 1) weights and samples y = φ(φ(x W*_hᵀ) W*_yᵀ) + ζ.

    This is the set-up of Cai & Cheng (2022), section 3: x ~ N(0, I), φ the ReLU, and
    ζ ~ N(0, σ_t²). The paper puts a ReLU on the output too; its code does so for the training
    targets of the perturbation rules only, not for their test targets, and for neither with
    SGD. The three cases are `train_output="relu"`, the same with `test_output="linear"`, and
    `train_output="linear"`.

    Args:
        widths: R_0, …, R_L of the teacher.
        num_train: number of training samples, >= 1.
        num_test: number of test samples, >= 1.
        noise: σ_t, the standard deviation of the noise on each target, >= 0.
        generator: the stream that teacher and samples come from.
        train_output: `"relu"` or `"linear"`: what the teacher's last layer does.
        test_output: the same for the test targets; by default what `train_output` says.

    Raises:
        ValueError: for widths, counts, noise or outputs outside what is said above.
    """
    if len(widths) < 2 or any(not isinstance(r, int) or r < 1 for r in widths):
        raise ValueError(
            f"widths={tuple(widths)!r}: a teacher needs at least two positive whole numbers, "
            "such as (10, 100, 10)"
        )
    check_count("num_train", num_train)
    check_count("num_test", num_test)
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise={noise!r}: the standard deviation must be a number >= 0")
    test_output = test_output or train_output
    for name, output in (("train_output", train_output), ("test_output", test_output)):
        if output not in OUTPUTS:
            raise ValueError(f"{name}={output!r} is unknown: choose one of {', '.join(OUTPUTS)}")

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)

    teacher = [
        randn(fan_out, fan_in) for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True)
    ]

    def sample(count: int, output: str) -> Split:
        x = randn(count, widths[0])
        y = x
        for layer, w in enumerate(teacher):
            y = y @ w.mT
            if layer < len(teacher) - 1 or output == "relu":
                y = torch.relu(y)
        return Split(x, y + noise * randn(count, widths[-1]))

    train = sample(num_train, train_output)
    return TeacherStudent(train, sample(num_test, test_output), teacher)
