"""The stability search on quadratics, whose limit is known: SGD on ½ h w² survives η < 2/h."""

import pytest
import torch

from metarl_lib.experiments.stability import run_lives, stable_rate

SEARCH = {"steps": 200, "make_stream": torch.Generator}


def gradient(curvature):
    return lambda params, stream: [curvature * p for p in params]


def loss(params):
    return 0.5 * params[0].square().sum(-1)


def lives(count=5):
    return [torch.arange(1.0, count + 1, dtype=torch.float64).reshape(-1, 1)]


@pytest.mark.parametrize("curvature", [0.01, 1.0, 30.0])
def test_sgd_survives_up_to_two_over_the_curvature(curvature) -> None:
    found = stable_rate(gradient(curvature), lives(), loss, **SEARCH, rounds=30)
    assert found == pytest.approx(2 / curvature, rel=1e-6)


def test_the_sharpest_direction_decides() -> None:
    curvatures = torch.tensor([0.1, 1.0, 8.0], dtype=torch.float64)
    start = [torch.ones(3, 3, dtype=torch.float64)]
    found = stable_rate(gradient(curvatures), start, loss, **SEARCH, rounds=30)
    assert found == pytest.approx(2 / 8, rel=0.01)


def test_each_round_halves_the_interval_on_a_logarithmic_scale() -> None:
    found = stable_rate(gradient(1.0), lives(), loss, **SEARCH, low=1e-2, high=1e2, rounds=3)
    # 2 lies in [1, 100], then [1, 10], then [1, 3.16]
    assert found == pytest.approx(10**0.25)


def test_the_median_life_counts() -> None:
    """Two of five lives have a third of the curvature, then three of five."""
    for gentle, limit in ((2, 2.0), (3, 6.0)):
        curvature = torch.ones(5, 1, dtype=torch.float64)
        curvature[:gentle] = 1 / 3
        found = stable_rate(gradient(curvature), lives(), loss, **SEARCH, rounds=30)
        assert found == pytest.approx(limit, rel=1e-6)


def test_nan_counts_as_growth() -> None:
    def estimate(params, stream):
        return [torch.where(p.abs() > 100, torch.nan, p) for p in params]

    found = stable_rate(estimate, lives(), loss, **SEARCH, rounds=20)
    assert found == pytest.approx(2, rel=1e-3)


def test_every_rate_meets_the_same_noise() -> None:
    drawn = []

    def estimate(params, stream):
        drawn.append(float(torch.randn((), generator=stream)))
        return [p.clone() for p in params]

    def make_stream():
        return torch.Generator().manual_seed(7)

    stable_rate(estimate, lives(), loss, steps=3, make_stream=make_stream, rounds=4)
    assert len(drawn) == 3 * (2 + 4)
    assert len(set(drawn)) == 3
    assert drawn[:3] == drawn[-3:]


@pytest.mark.parametrize(
    ("bounds", "words"),
    [({"low": 5.0}, "low=5: already diverges"), ({"high": 1.0}, "high=1: still stable")],
)
def test_bounds_that_do_not_enclose_the_limit(bounds, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        stable_rate(gradient(1.0), lives(), loss, **SEARCH, **bounds)
    assert "\n" not in str(refusal.value)


def test_run_lives_projects_after_each_step() -> None:
    found = run_lives(
        gradient(1.0), lives(2), 0.5, 3, torch.Generator(), lambda params: [p + 1 for p in params]
    )
    expected = []
    for w in (1.0, 2.0):
        for _ in range(3):
            w = 0.5 * w + 1
        expected.append([w])
    assert found[0].tolist() == expected
