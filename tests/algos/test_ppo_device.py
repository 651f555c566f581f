"""Collecting never waits for the device: no number, no mask and no copy goes to the host."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toy_envs import CartPole, Recall
from trainings import CORES, agent, counting, streams

from metarl_lib.algos import PPO, Settings, ppo
from metarl_lib.cores import base

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique2", "item"}


class NoWaiting(TorchDispatchMode):
    """Refuses every operation whose result the host would have to wait for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in WAITING or (name.startswith("index") and self.has_mask(args)):
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))

    @staticmethod
    def has_mask(args) -> bool:
        indices = args[1] if isinstance(args[1], list | tuple) else [args[1]]
        return any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indices)


@pytest.fixture
def _as_on_an_accelerator(monkeypatch):
    """On the CPU a look at a flag costs nothing, elsewhere it is left out: as there."""
    monkeypatch.setattr(ppo, "some_reset", lambda flags: True)
    monkeypatch.setattr(base, "some_reset", lambda flags: True)


def training(env, core: str, **options) -> PPO:
    settings = Settings(**({"rows": 4, "segment": 7, "updates": 6} | options))
    return PPO(env, agent(env, core), settings, streams(0))


@pytest.mark.usefixtures("_as_on_an_accelerator")
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("whole", [False, True], ids=["carried", "whole"])
def test_collecting_never_waits(core, whole) -> None:
    options = {"bootstrap": True, "whole_trials": whole}
    for learner in (
        training(CartPole(), core, **options),
        training(Recall(delay=2), core, **options),
        counting(core, "choices", **options),
        counting(core, "vectors", **options),
    ):
        learner.update()
        with NoWaiting():
            learner.collect()


@pytest.mark.usefixtures("_as_on_an_accelerator")
@pytest.mark.parametrize("core", CORES)
def test_what_is_collected_is_what_happened_there_too(core) -> None:
    """Tasks are drawn in every step, whether or not a row ended, and change nothing else."""
    learner = counting(core, bootstrap=True)
    for _ in range(3):
        learner.update()
    for segment, finished, model in learner.collected:
        out = model(segment.observations, segment.memory, segment.resets)
        torch.testing.assert_close(out.values, segment.values)
        began = segment.observations[1:, :, 1] == 0  # the time that an observation shows
        assert torch.equal(began, segment.ended[:-1])
        assert torch.equal(segment.resets[1:], segment.ended[:-1])
        assert finished[1] == segment.ended.sum()


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).any()),
        lambda x: (x > 0).nonzero(),
        lambda x: x[x > 0],
    ],
)
def test_the_guard_sees_a_wait(wait) -> None:
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        wait(torch.ones(3))


def test_on_the_cpu_collecting_looks_at_flags() -> None:
    """The guard would have seen it."""
    learner = counting()
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        learner.collect()
