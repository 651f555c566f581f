"""Pools in training: a meta-iteration against its parts, routes that are learned, and resuming."""

import pytest
import torch
from streams import stream

from metarl_lib.algos import Settings, Streams
from metarl_lib.algos.write_back import write_back
from metarl_lib.datasets import Tasks
from metarl_lib.envs.base import map_tree
from metarl_lib.envs.layer_pool import LayerPool
from metarl_lib.experiments.pool_readings import all_paths, choose, exhaust, same_pool
from metarl_lib.experiments.pool_training import (
    PoolTraining,
    Watched,
    first_layers,
    make_router,
    plan_of,
    random_layers,
    train_pool,
)
from metarl_lib.rules.pool import Pool
from metarl_lib.runs import DivergenceError

pytestmark = pytest.mark.usefixtures("fast")

SMALL = {"units": 5, "shots": 4, "queries": 6, "counts": (2, 3, 2)}


def streams(seed: int = 0) -> Streams:
    return Streams(*(stream(10 * seed + k) for k in range(4)))


def settings(**options) -> Settings:
    common = {"rows": 6, "segment": 3, "updates": 8, "epochs": 2, "whole_trials": True}
    return Settings(**(common | options))


def training(routes="learned", way="maml", seed=0, env=None, **options) -> PoolTraining:
    env = env or LayerPool(**SMALL, rates=(0.05,))
    torch.manual_seed(seed)
    router = make_router(env, 8) if routes == "learned" else None
    return PoolTraining(
        env, settings(**options), streams(seed), routes=routes, way=way, rate=0.02, router=router
    )


@pytest.mark.parametrize("way", ["maml", "reptile"])
@pytest.mark.parametrize("routes", ["random", "fixed"])
def test_a_meta_iteration_is_a_step_of_adam_on_what_is_written_back(routes, way) -> None:
    learner = training(routes, way)
    pool = Pool(*(part.clone().requires_grad_() for part in learner.env.pool))
    adam, own, longest = torch.optim.Adam(list(pool), lr=0.02), streams(), 0.0
    for done in range(3):
        tasks = learner.env.sample_tasks(6, own.tasks)
        layers = (
            random_layers(learner.env, 6, own.actions)
            if routes == "random"
            else torch.zeros(6, 3).long()
        )
        detached = Pool(*(part.detach() for part in pool))
        found, slopes = write_back(
            detached, plan_of(learner.env, layers), tasks, learner.env.loss, 1, way
        )
        numbers = learner.update()
        assert numbers["loss"] == pytest.approx(float(found.mean()), rel=1e-5)
        adam.param_groups[0]["lr"] = 0.02 * (1 - done / 8)
        for part, slope in zip(pool, slopes, strict=True):
            part.grad = slope
        size = sum(float(slope.square().sum()) for slope in slopes) ** 0.5
        longest = max(longest, size)
        for part in pool:
            part.grad *= min(1.0, 10.0 / (size + 1e-6))
        adam.step()
        for part, wanted in zip(learner.env.pool, pool, strict=True):
            torch.testing.assert_close(part, wanted.detach())
    assert longest > 10, "the cut counts"


def test_what_the_router_chose_is_what_the_pool_learns_from() -> None:
    """All that ended in a meta-iteration, with the tasks they were for, stops included."""
    env = LayerPool(**SMALL, stop=True, depth=2, rates=(0.01, 0.1), steps=(1, 2))
    watched, generator, expected = Watched(env), stream(), []
    state, _ = watched.reset(watched.sample_tasks(6, generator), generator)
    for _ in range(2 * watched.max_steps):
        action = torch.randint(env.num_actions, (6,), generator=generator)
        state, step = watched.step(state, action, generator)
        for row in step.terminated.nonzero().flatten().tolist():
            plan = env.plan(state)
            expected.append((state.tasks.x[row], plan.layers[row], plan.rate[row], plan.steps[row]))
        fresh, _ = env.reset(env.sample_tasks(6, generator), generator)
        keep = step.terminated
        state = map_tree(
            lambda new, old, keep=keep: torch.where(
                keep.reshape(-1, *(1,) * (old.ndim - 1)), new, old
            ),
            fresh,
            state,
        )
    tasks, plan = watched.take()
    assert len(expected) == len(tasks.x) > 6
    for row, (x, layers, rate, steps) in enumerate(expected):
        assert torch.equal(tasks.x[row], x)
        assert torch.equal(plan.layers[row], layers)
        assert (plan.rate[row], plan.steps[row]) == (rate, steps)
    assert watched.ended == []


def test_random_paths_are_uniform_over_all_that_the_mask_allows() -> None:
    env = LayerPool(**SMALL, depth=2)
    paths = all_paths(env)
    assert len(paths) == 2 * 6 * 2
    assert len(paths.unique(dim=0)) == 24
    drawn = random_layers(env, 24_000, stream())
    shares = [(drawn == path).all(-1).float().mean().item() for path in paths]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) == pytest.approx(1 / 24, rel=0.15)
    assert max(shares) == pytest.approx(1 / 24, rel=0.15)
    assert first_layers(env, 2).tolist() == [[0, 0, 1, 0]] * 2


def test_every_path_is_tried_and_the_best_one_taken() -> None:
    env, generator = LayerPool(**SMALL), stream(3)
    tasks = env.sample_tasks(5, generator)
    tried = exhaust(env, tasks)
    for number, path in enumerate(tried.paths):
        plan = plan_of(env, path.expand(5, -1))
        torch.testing.assert_close(tried.query[number], env.judge(tasks, plan))
        seen = Tasks(tasks.x, tasks.y, tasks.x, tasks.y)
        torch.testing.assert_close(tried.support[number], env.judge(seen, plan))
    tuning = env.sample_tasks(7, generator)
    plans = same_pool(env, tasks, tuning, generator)
    best = {name: env.judge(tasks, plan) for name, plan in plans.items()}
    assert torch.equal(best["oracle"], tried.query.min(0).values)
    for row in range(5):
        own = tried.support[:, row].argmin()
        assert plans["support-best"].layers[row].tolist() == tried.paths[own].tolist()
    single = exhaust(env, tuning).query.mean(1).argmin()
    assert plans["one-path"].layers.tolist() == [tried.paths[single].tolist()] * 5


class Signs:
    """y = ±1 for every x: two kinds of task, which no layer can serve both."""

    inputs, outputs, kind = 1, 1, "regression"

    def sample(self, batch, generator, split="train"):
        sign = 2.0 * torch.randint(2, (batch, 1, 1), generator=generator) - 1
        x = torch.rand(batch, 4, 1, generator=generator)
        return Tasks(x, sign.expand(-1, 4, 1), x, sign.expand(-1, 4, 1))


def test_a_router_learns_to_send_two_kinds_of_task_two_ways() -> None:
    """With a pool of two fixed output layers, one for each kind; random paths are right half the
    time.
    """
    env = LayerPool(Signs(), units=1, counts=(1, 1, 2), rates=(1e-9,))
    one, zero = torch.ones, torch.zeros
    env.pool = Pool(
        one(1, 1, 1), one(1, 1), one(1, 1, 1), one(1, 1),
        zero(2, 1, 1), torch.tensor([[1.0], [-1.0]]),
    )  # fmt: skip
    learner = training(env=env, rows=32, updates=60, learning_rate=1e-2, discount=1.0, entropy=0.01)
    for part in learner.optimiser.param_groups:
        part["lr"] = learner.rate = 0.0
    for _ in range(60):
        learner.update()
    tasks = env.sample_tasks(200, stream(5), "test")
    assert learner.agent is not None
    plan = choose(env, learner.agent.model, tasks)
    wanted = (tasks.y[:, 0, 0] < 0).long()
    assert float((plan.layers[:, -1] == wanted).float().mean()) > 0.98
    blind = make_router(env, 8, blind=True)
    chosen = choose(env, blind, tasks).layers
    assert len(chosen.unique(dim=0)) == 1


@pytest.mark.parametrize("routes", ["learned", "random"])
def test_a_training_that_is_stopped_goes_on_as_if_it_had_not_been(routes, run) -> None:
    whole, parts = training(routes), training(routes)
    for _ in range(3):
        whole.update()
        parts.update()
    again = training(routes, seed=7)
    again.restore(parts.checkpoint())
    for _ in range(3):
        assert whole.update() == pytest.approx(again.update(), nan_ok=True)
    for a, b in zip(whole.env.pool, again.env.pool, strict=True):
        assert torch.equal(a, b)
    if whole.agent is not None:
        kept = zip(
            whole.agent.model.state_dict().values(),
            again.agent.model.state_dict().values(),
            strict=True,
        )
        assert all(torch.equal(a, b) for a, b in kept)


def test_a_stage_is_logged_kept_and_not_repeated(run) -> None:
    stage = run.stage("routed")
    train_pool(stage, training())
    assert stage.finished
    logged = run.metrics()
    assert set(logged["name"]) == {"routed/training_log_loss", "routed/training_entropy"}
    assert logged[logged["name"] == "routed/training_log_loss"]["step"].tolist() == [*range(1, 9)]
    assert {key.split(".")[0] for key in stage.tensors} == {"pool", "router"}
    again = training(seed=3)
    before = [part.clone() for part in again.env.pool]
    train_pool(run.stage("routed"), again)
    assert all(map(torch.equal, before, again.env.pool))


def test_a_loss_that_is_no_number_stops_the_run(run) -> None:
    learner = training("fixed")
    learner.env.pool.output_bias.fill_(float("nan"))
    with pytest.raises(DivergenceError, match="fixed diverged at step 1: log_loss = nan"):
        train_pool(run.stage("fixed"), learner)


def test_unknown_routes_are_refused() -> None:
    with pytest.raises(ValueError, match="routes='best' is unknown: choose one of learned, random"):
        PoolTraining(LayerPool(**SMALL), settings(), streams(), routes="best")
