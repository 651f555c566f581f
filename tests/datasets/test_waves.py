"""Waves against their formulas; their amplitudes and phases are those of the sinusoids."""

import math

import pytest
from streams import stream

from metarl_lib.datasets import Family
from metarl_lib.datasets.sinusoids import sinusoid_tasks
from metarl_lib.datasets.waves import SHAPES, WaveFamily


def value(shape: str, t: float) -> float:
    """One period from −1 to 1, in Python numbers."""
    if shape == "sine":
        return math.sin(t)
    if shape == "square":
        return 1.0 if math.sin(t) > 0 else -1.0
    turns = t / (2 * math.pi)
    return 2 * (turns - math.floor(turns)) - 1


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_sample_is_on_the_wave_of_its_task(shape, split) -> None:
    family = WaveFamily(shape, 7, 5)
    assert isinstance(family, Family)
    tasks = family.sample(6, stream(1), split)
    a, p = sinusoid_tasks(6, generator=stream(1), split=split)
    for x, y in ((tasks.x, tasks.y), (tasks.held_out_x, tasks.held_out_y)):
        assert bool((x.abs() <= 5).all())
        for row in range(6):
            for t, found in zip(x[row].flatten().tolist(), y[row].flatten().tolist(), strict=True):
                expected = float(a[row]) * value(shape, t + float(p[row]))
                assert found == pytest.approx(expected, abs=2e-5)
    assert (tasks.x.shape, tasks.held_out_y.shape) == ((6, 7, 1), (6, 5, 1))
    assert len(tasks.x.unique()) == 42


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": "triangle"}, "shape='triangle' is unknown: choose one of sine, square"),
        ({"num_train": 0}, "num_train=0"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        WaveFamily(**options)
    assert "\n" not in str(refusal.value)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split='valid' is unknown"):
        WaveFamily().sample(2, stream(), "valid")
