"""The evolution strategy: its estimate, its variance, ranks, schedules, resuming, and workers."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from metarl_lib.algos import EPG, EvolutionSettings, LifeSettings, Lives
from metarl_lib.algos import epg as module
from metarl_lib.algos.evolution import (
    antithetic,
    rate_of_loss,
    shaped,
    slope,
    weight_of_ppo,
)
from metarl_lib.envs.point_robot import PointRobot

ROOT = Path(__file__).resolve().parents[2]
LIFE = LifeSettings(steps=24, stretch=12, buffer=24, minibatch=12, hidden=4, test_episodes=1)
SETTINGS = EvolutionSettings(
    generations=8, losses=6, learners=2, sigma=0.1, loss_rate=0.02, block=2, annealed=0.25
)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(seed: int = 0, **options) -> EPG:
    return EPG(Lives(PointRobot(steps=6), LIFE), replace(SETTINGS, **options), seed)


def quadratic(x: torch.Tensor) -> torch.Tensor:
    """F(x) = b · x − ½ x · H x with H = diag(1, 2, …), for vectors `[V, P]`."""
    size = x.shape[-1]
    h = torch.arange(1, size + 1, dtype=x.dtype)
    return x.sum(-1) - 0.5 * (h * x**2).sum(-1)


def test_the_estimate_is_the_sum_over_noise() -> None:
    noise, fitness = torch.randn(6, 4, generator=stream()), torch.randn(6, generator=stream(1))
    plain = sum(f * e for f, e in zip(fitness.tolist(), noise.numpy(), strict=True)) / (6 * 0.3)
    assert torch.allclose(slope(noise, fitness, 0.3), torch.tensor(plain), atol=1e-6)


@pytest.mark.parametrize("pairs", [True, False])
def test_its_mean_is_the_gradient_and_its_variance_the_exact_one(pairs) -> None:
    """Of a quadratic at φ, with g its gradient, F its value and H its negative curvature.

    Antithetic pairs: F(φ + σε) − F(φ − σε) = 2σ g·ε, so the estimate of one pair is (g·ε) ε,
    of variance (P + 1) |g|². Single noise adds the even part, u = F − ½ σ² ε·Hε, with
    E[u² |ε|²]/σ², where E[|ε|²] = P, E[|ε|² ε·Hε] = (P + 2) tr H, and E[|ε|² (ε·Hε)²] =
    (P + 4)(tr² H + 2 tr H²).
    """
    size, sigma, draws = 5, 0.3, 400_000
    phi = torch.linspace(-0.5, 0.7, size, dtype=torch.float64)
    h = torch.arange(1, size + 1, dtype=torch.float64)
    gradient, value = 1 - h * phi, float(quadratic(phi))
    noise = torch.randn(draws, size, generator=stream(2), dtype=torch.float64)
    if pairs:
        both = torch.stack([noise, -noise], 1)
        found = torch.stack([slope(n, quadratic(phi + sigma * n), sigma) for n in both[:50]])
        odd = quadratic(phi + sigma * noise) - quadratic(phi - sigma * noise)
        estimates = odd[:, None] * noise / (2 * sigma)
        assert torch.allclose(found, estimates[:50])
    else:
        estimates = quadratic(phi + sigma * noise)[:, None] * noise / sigma
    mean, variance = estimates.mean(0), estimates.var(0).sum()
    exact = (size + 1) * gradient.square().sum()
    if not pairs:
        trace, squares = h.sum(), h.square().sum()
        even = (
            size * value**2
            - value * sigma**2 * (size + 2) * trace
            + sigma**4 / 4 * (size + 4) * (trace**2 + 2 * squares)
        )
        exact = exact + even / sigma**2
    assert float(variance) == pytest.approx(float(exact), rel=0.02)
    error = (estimates.var(0) / draws).sqrt()
    assert bool(((mean - gradient).abs() < 4 * error).all())


def test_antithetic_noise_comes_in_pairs_of_normal_numbers() -> None:
    noise = antithetic(3000, 4, stream())
    assert torch.equal(noise[:3000], -noise[3000:])
    assert stats.kstest(noise[:3000].flatten(), "norm").pvalue > 1e-3


def test_ranks_are_those_of_scipy() -> None:
    fitness = torch.tensor([3.0, -1.0, 3.0, 10.0, 0.0])
    expected = (stats.rankdata(fitness) - 1) / 4 - 0.5
    assert torch.allclose(shaped(fitness).double(), torch.tensor(expected))
    assert torch.equal(shaped(fitness), shaped(fitness.exp() * 5))
    assert torch.equal(shaped(torch.ones(4)), torch.zeros(4))


def test_schedules() -> None:
    s = EvolutionSettings(generations=80, annealed=0.125, loss_rate=1e-2, loss_rate_end=1e-3)
    assert [weight_of_ppo(k, s) for k in (0, 5, 10, 11, 79)] == [1.0, 0.5, 0.0, 0.0, 0.0]
    assert weight_of_ppo(0, replace(s, annealed=0.0)) == 0
    rates = [rate_of_loss(k, s) for k in (0, 20, 40, 79)]
    assert rates == pytest.approx([1e-2, 5.5e-3, 1e-3, 1e-3])


def test_a_generation_is_the_published_step_on_what_the_lives_earn() -> None:
    """φ after two generations, from the fitness of each loss living alone, in NumPy."""
    epg = make()
    phi = epg.phi.detach().double().numpy().copy()
    second = np.zeros_like(phi)
    for k in range(2):
        noise = antithetic(3, len(phi), epg._generator(module.NOISE, k)).numpy()
        alpha = 1 - k / 2
        fitness = [
            float(
                epg.lives.live(
                    torch.tensor(phi + 0.1 * e, dtype=torch.float32)[None], alpha, 2,
                    (0, module.LIVES, k),
                ).fitness.mean()
            )
            for e in noise
        ]  # fmt: skip
        ranks = (stats.rankdata(fitness) - 1) / 5 - 0.5
        gradient = ranks @ noise / 6 - 1e-3 * phi
        second = 0.999 * second + 0.001 * gradient**2
        rate = 0.02 + k / 4 * (1e-3 - 0.02)
        phi += rate * gradient / (np.sqrt(second / (1 - 0.999 ** (k + 1))) + 1e-8)
        told = epg.update()
        assert told["alpha"] == alpha
        assert told["fitness"] == pytest.approx(np.mean(fitness), abs=1e-4)
        assert told["spread"] == pytest.approx(np.std(fitness, ddof=1), abs=1e-4)
        assert np.abs(epg.phi.detach().numpy() - phi).max() < 1e-4


def test_while_ppo_has_all_the_weight_losses_make_no_difference() -> None:
    """All fitnesses are equal, so only the decay is left of the gradient."""
    epg = make(annealed=1.0)
    before = epg.phi.detach().clone()
    told = epg.update()
    assert told["spread"] < 1e-6
    moved = epg.phi.detach() - before
    shrinks = before.abs() > 1e-6
    assert bool((moved[shrinks].sign() == -before[shrinks].sign()).all())


@pytest.mark.parametrize("after", [0, 2])
def test_a_restored_evolution_goes_on_bit_for_bit(after) -> None:
    whole, part = make(), make()
    for _ in range(after):
        part.update()
    again = make(seed=0)
    again.restore(part.checkpoint())
    for _ in range(3):
        whole.update()
    for _ in range(3 - after):
        again.update()
    assert torch.equal(whole.phi, again.phi)
    assert not torch.equal(whole.phi, make(seed=1).phi)


def test_blocks_change_nothing_but_rounding() -> None:
    phis = make().phi.detach() + 0.1 * antithetic(3, len(make().phi), stream())
    whole = make(block=6).fitness(phis, 0.0)
    for block in (1, 4):
        assert torch.allclose(make(block=block).fitness(phis, 0.0), whole, atol=1e-4)
    assert float(whole.std(0).min()) > 1e-3


def test_it_climbs_what_it_can_only_evaluate() -> None:
    """A peak at 0.3 in every direction, in place of lives: φ comes nearer in every twenty steps."""

    def peak(function, calls):
        return [-(block - 0.3).square().sum(1, keepdim=True) for _, block, *_ in calls]

    s = replace(SETTINGS, losses=64, generations=60, decay=0.0, loss_rate_end=0.02)
    epg = EPG(Lives(PointRobot(steps=6), LIFE), s, 0, map=peak)
    distance = [float((epg.phi.detach() - 0.3).norm())]
    for _ in range(3):
        for _ in range(20):
            epg.update()
        distance.append(float((epg.phi.detach() - 0.3).norm()))
    assert distance == sorted(distance, reverse=True)
    assert distance[-1] < 0.95 * distance[0]


RAY_SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
import ray
from test_evolution import make
from metarl_lib.algos import epg as module
found = []
for cpus in (1, 2):
    ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False,
             object_store_memory=100 * 2**20)
    assert module.in_ray_cluster()
    epg = make()
    assert epg.map is module.on_ray
    epg.update(); epg.update()
    found.append(epg.phi.detach())
    ray.shutdown()
torch.save(found, {out!r})
"""


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="the extra ray is missing: pip install 'metarl_lib[ray]'",
)
@pytest.mark.xdist_group("ray")
def test_any_number_of_ray_workers_gives_the_same_loss(tmp_path) -> None:
    here = make()
    assert here.map is module.one_by_one
    here.update()
    here.update()
    out = tmp_path / "found.pt"
    subprocess.run(
        [sys.executable, "-c", RAY_SCRIPT.format(tests=str(Path(__file__).parent), out=str(out))],
        check=True,
        timeout=600,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
           "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found = torch.load(out, weights_only=True)
    assert len(found) == 2
    assert all(torch.equal(phi, here.phi.detach()) for phi in found)


def test_blocks_are_sent_to_ray_in_order(monkeypatch) -> None:
    """A stand-in for Ray, which computes the last call first, gives the same as no Ray."""

    class Fake:
        @staticmethod
        def is_initialized():
            return True

        @staticmethod
        def remote(num_cpus):
            assert num_cpus == 1

            def wrap(function):
                class Work:
                    @staticmethod
                    def remote(*arguments):
                        return lambda: function(*arguments)

                return Work

            return wrap

        @staticmethod
        def get(promises):
            found = [promise() for promise in reversed(promises)]
            return found[::-1]

    monkeypatch.setitem(sys.modules, "ray", Fake)
    there = make()
    assert there.map is module.on_ray
    there.update()
    monkeypatch.delitem(sys.modules, "ray")
    here = make()
    assert here.map is module.one_by_one
    here.update()
    assert torch.equal(here.phi, there.phi)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"generations": 0}, "generations=0: must be a whole number >= 1"),
        ({"losses": 5}, "losses=5: must be even"),
        ({"sigma": 0.0}, r"sigma=0\.0: must be greater than 0"),
        ({"decay": -1.0}, r"decay=-1\.0: must be 0 or more"),
        ({"annealed": 1.5}, r"annealed=1\.5: must lie between 0 and 1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        replace(SETTINGS, **options)
    assert "\n" not in str(refusal.value)
