"""`train` against a plain loop, `search` on losses whose best learning rate is known."""

import pytest
import torch

from metarl_lib.experiments.training import (
    measurement_steps,
    search,
    train,
    trained_params,
)
from metarl_lib.runs import DivergenceError


def quadratic(curvature):
    """The gradient of ½ h ‖w‖², with noise from the rule's stream."""

    def estimate(params, stream):
        return [curvature * p + 0.1 * torch.randn(p.shape, generator=stream) for p in params]

    return estimate


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def size(params):
    return {"size": params[0].square().sum()}


def test_train_is_the_plain_loop(run) -> None:
    start = [torch.ones(3, 2), torch.ones(3)]
    trained = train(
        run.stage("a"),
        quadratic(2.0),
        start,
        0.1,
        steps=37,
        generator=seeded(),
        measure=size,
        project=lambda params: [p.clamp(min=-0.5) for p in params],
    )
    expected, stream, sizes = [torch.ones(3, 2), torch.ones(3)], seeded(), {}
    for step in range(38):
        sizes[step] = float(expected[0].square().sum())
        if step < 37:
            gradient = quadratic(2.0)(expected, stream)
            expected = [
                (p - 0.1 * g).clamp(min=-0.5) for p, g in zip(expected, gradient, strict=True)
            ]
    torch.testing.assert_close(trained.params, expected)
    assert trained.last == {"size": pytest.approx(sizes[37])}
    logged = run.metrics()
    assert logged["step"].tolist() == measurement_steps(37)
    assert set(logged["name"]) == {"a/size"}
    assert logged["value"].tolist() == pytest.approx([sizes[s] for s in measurement_steps(37)])
    assert all(torch.equal(p, torch.ones_like(p)) for p in start)


def test_a_finished_stage_returns_at_once(run) -> None:
    arguments = {"steps": 5, "measure": size}
    first = train(
        run.stage("a"), quadratic(1.0), [torch.ones(2)], 0.1, generator=seeded(), **arguments
    )

    def forbidden(params, stream):
        raise AssertionError("a finished stage must not train")

    again = train(run.stage("a"), forbidden, [torch.ones(2)], 0.1, generator=seeded(), **arguments)
    assert torch.equal(first.params[0], again.params[0])
    assert first.last == again.last
    kept = trained_params(run.tensors(), "a")
    assert torch.equal(kept[0], first.params[0])


@pytest.mark.parametrize("stop", [3, 21, 36])
def test_an_interrupted_stage_continues_bit_for_bit(run, stop) -> None:
    def interrupted(params, stream, calls=iter(range(10_000))):  # noqa: B008
        if next(calls) == stop:
            raise KeyboardInterrupt
        return quadratic(2.0)(params, stream)

    options = {"steps": 37, "measure": size}
    whole = train(
        run.stage("whole"), quadratic(2.0), [torch.ones(3)], 0.1, generator=seeded(), **options
    )
    with pytest.raises(KeyboardInterrupt):
        train(run.stage("cut"), interrupted, [torch.ones(3)], 0.1, generator=seeded(), **options)
    resumed = type(run).resume(run.folder, run.experiment, run.config)
    stage = resumed.stage("cut")
    assert stage.step == 5 * (stop // 5)  # eight checkpoints in 37 steps: one every five
    cut = train(stage, quadratic(2.0), [torch.ones(3)], 0.1, generator=seeded(), **options)
    assert torch.equal(cut.params[0], whole.params[0])
    assert cut.last == whole.last
    logged = resumed.metrics()
    curves = [logged[logged["name"] == f"{name}/size"] for name in ("whole", "cut")]
    assert curves[0]["step"].tolist() == curves[1]["step"].tolist()
    assert curves[0]["value"].tolist() == curves[1]["value"].tolist()


def test_divergence_names_the_step_and_the_checkpoint(run) -> None:
    """w ← −9w leaves float32 at step 41; it is measured at 40 and 42."""
    with pytest.raises(DivergenceError, match=r"loss = (inf|nan)") as failure:
        train(
            run.stage("wild"),
            lambda params, stream: [p.clone() for p in params],
            [torch.ones(1)],
            10.0,
            steps=80,
            generator=seeded(),
            measure=lambda params: {"loss": params[0]},
        )
    message = str(failure.value)
    assert "wild diverged at step 42" in message
    assert "ckpt-wild-40.safetensors (step 40)" in message
    assert "\n" not in message
    kept = trained_params(run.tensors(), "wild")[0]
    assert float(kept) == pytest.approx(9.0**40, rel=1e-4)


def test_divergence_between_measurements_is_found_at_the_checkpoint(run) -> None:
    """The first checkpoint in 100 steps is at 13, where nothing is measured."""
    with pytest.raises(DivergenceError, match=r"at step 13: weights = nan.*none yet") as failure:
        train(
            run.stage("wild"),
            lambda params, stream: [torch.full_like(p, torch.nan) for p in params],
            [torch.ones(1)],
            1.0,
            steps=100,
            generator=seeded(),
            measure=lambda params: {"loss": torch.tensor(0.0)},
        )
    assert "\n" not in str(failure.value)
    assert not list(run.folder.glob("ckpt-*"))


@pytest.mark.parametrize(("curvature", "best"), [(1.0, 1.0), (10.0, 0.1), (100.0, 0.01)])
def test_search_finds_the_newton_step(run, curvature, best) -> None:
    """On ½ h w² the learning rate 1/h reaches the solution in one step; 0.03/h is slow."""
    rates = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    found = search(
        run.stage("search"),
        lambda params, stream: [curvature * p for p in params],
        [torch.ones(4)],
        rates,
        steps=8,
        generator=seeded(),
        score=lambda params: params[0].square().sum(-1),
    )
    assert found == best
    assert run.stage("search").finished
    assert run.stage("search").values["best"] == best


def test_search_trains_every_rate_from_the_same_start(run) -> None:
    """The scores are those of training with each rate alone, averaged over the last quarter."""
    rates, seen = (0.1, 0.5), []

    def estimate(params, stream):
        seen.append(params[0].clone())
        return [2.0 * p for p in params]

    def score(params):
        return params[0].square().sum(-1)

    search(
        run.stage("s"), estimate, [torch.full((3,), 2.0)], rates, steps=4,
        generator=seeded(), score=score,
    )  # fmt: skip
    for step, batch in enumerate(seen):
        for rate, w in zip(rates, batch, strict=True):
            torch.testing.assert_close(w, torch.full((3,), 2.0 * (1 - 2 * rate) ** step))
    values = run.stage("s").values
    alone = [12 * (1 - 2 * 0.1) ** (2 * step) for step in (3, 4)]
    assert alone[1] < values["score at 0.1"] < alone[0]
    assert values["score at 0.5"] == pytest.approx(0, abs=1e-12)


def test_search_ignores_diverged_rates_and_refuses_when_all_do(run) -> None:
    def estimate(params, stream):
        return [torch.exp(p.abs()) * p for p in params]

    def score(params):
        return params[0].square().sum(-1)

    options = {"steps": 20, "generator": seeded(), "score": score}
    assert search(run.stage("some"), estimate, [torch.ones(1)], (0.1, 100.0), **options) == 0.1
    assert "score at 100" not in run.stage("some").values
    with pytest.raises(
        DivergenceError, match=r"learning_rates=\(100.0, 1000.0\).*smaller"
    ) as refusal:
        search(run.stage("none"), estimate, [torch.ones(1)], (100.0, 1000.0), **options)
    assert "\n" not in str(refusal.value)
    assert not run.stage("none").finished


@pytest.mark.parametrize("steps", [1, 3, 40, 60, 10_000])
def test_measurement_steps(steps) -> None:
    found = measurement_steps(steps)
    assert found[0] == 0
    assert found[-1] == steps
    assert found == sorted(set(found))
    assert len(found) <= 41 + 8
    even = {round(k * steps / 40) for k in range(41)}
    assert even | {s for s in (1, 2, 5, 10, 20, 50, 100) if s <= steps} | {0} == set(found)


def test_trained_params_come_back_in_order() -> None:
    tensors = {f"a.{i}": torch.tensor(float(i)) for i in (10, 2, 0, 1)}
    tensors |= {"a-search.0": torch.tensor(-1.0), "ab.0": torch.tensor(-2.0)}
    assert [float(t) for t in trained_params(tensors, "a")] == [0, 1, 2, 10]
