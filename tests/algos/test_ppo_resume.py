"""Checkpoints, seeds and streams: what a training depends on, bit for bit."""

import pytest
import torch
from trainings import CORES, Training, agent, counting, streams

from metarl_lib.algos import Settings, Streams
from metarl_lib.runs import Run

OPTIONS = {"epochs": 2, "minibatches": 2, "entropy_end": 0.002}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """The names of what is not equal, bit for bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def trained(training: Training, updates: int) -> dict[str, torch.Tensor]:
    """What the training holds after some more updates, as numbers of its own."""
    for _ in range(updates):
        training.update()
    return {name: tensor.clone() for name, tensor in training.checkpoint().items()}


@pytest.mark.parametrize("whole", [False, True], ids=["carried", "whole"])
@pytest.mark.parametrize("optimiser", ["adam", "rmsprop"])
@pytest.mark.parametrize("core", CORES)
def test_a_training_resumed_is_one_that_never_stopped(core, optimiser, whole) -> None:
    """Parameters, optimiser, rows and streams, in a training that began elsewhere."""
    options = OPTIONS | {"optimiser": optimiser, "whole_trials": whole}
    straight = trained(counting(core, **options), 6)
    half = trained(counting(core, **options), 3)
    resumed = counting(core, seed=7, **options)
    resumed.restore(half)
    assert not differing(resumed.checkpoint(), half)
    assert not differing(trained(resumed, 3), straight)
    assert differing(straight, half)


@pytest.mark.parametrize("done", [0, 3])
@pytest.mark.parametrize("core", ["gru", "metods"])
def test_a_training_is_resumed_from_a_run_folder(tmp_path, core, done) -> None:
    """The same through files, before the first update too."""
    straight = trained(counting(core, "vectors", **OPTIONS), 5)
    settings = Settings(**OPTIONS)
    run = Run.create(tmp_path / "run", "toy", settings, scale="smoke", seed=0)
    first = counting(core, "vectors", **OPTIONS)
    for _ in range(done):
        first.update()
    run.stage("ppo").save(done, first.checkpoint())
    stage = Run.resume(tmp_path / "run", "toy", settings).stage("ppo")
    resumed = counting(core, "vectors", seed=7, **OPTIONS)
    resumed.restore(stage.tensors)
    assert not differing(trained(resumed, 5 - stage.step), straight)


@pytest.mark.parametrize("core", ["gru", "metods"])
def test_a_training_goes_back_to_its_own_checkpoint(core) -> None:
    """Which does not change when the training goes on."""
    training = counting(core, **OPTIONS)
    trained(training, 2)
    kept = training.checkpoint()
    copied = {name: tensor.clone() for name, tensor in kept.items()}
    further = trained(training, 3)
    assert not differing(kept, copied)
    training.restore(kept)
    assert not differing(trained(training, 3), further)


def test_a_checkpoint_holds_every_part() -> None:
    names = {name.split(".")[0] for name in trained(counting("metods"), 1)}
    assert names == {"model", "optimiser", "stream", "rows", "done"}
    streams_kept = [n for n in counting("metods").checkpoint() if n.startswith("stream.")]
    assert [name.removeprefix("stream.") for name in streams_kept] == list(Streams._fields)


@pytest.mark.parametrize("core", CORES)
def test_equal_seeds_give_equal_trainings(core) -> None:
    """Whatever torch's global stream does meanwhile, which `predict` draws from."""
    one, other = counting(core, **OPTIONS), counting(core, **OPTIONS)
    first = trained(one, 3)
    for _ in range(3):
        torch.manual_seed(123)
        other.model.predict(torch.randn(9, 3).numpy())
        other.update()
    assert not differing(first, {n: t.clone() for n, t in other.checkpoint().items()})


@pytest.mark.parametrize("name", Streams._fields)
def test_every_stream_counts(name) -> None:
    """Another seed for one of them gives other parameters, and leaves the others' draws alone."""
    changed = counting(**OPTIONS)
    stranger = getattr(streams(5), name)
    changed.streams = changed.streams._replace(**{name: stranger})
    changed._start()
    plain = counting(**OPTIONS)
    plain._start()
    one, other = trained(plain, 2), trained(changed, 2)
    assert not torch.equal(one["model.policy_head.weight"], other["model.policy_head.weight"])
    if name != "minibatches":
        assert torch.equal(one["stream.minibatches"], other["stream.minibatches"])
    if name == "actions":
        assert torch.equal(one["stream.tasks"], other["stream.tasks"])


def test_the_agents_parameters_come_from_elsewhere() -> None:
    """A training draws nothing for them: the streams leave a given agent as it is."""
    one, other = counting(seed=0), counting(seed=0)
    other.streams = streams(3)
    other._start()
    fresh = agent(one.env, "gru")
    for training in (one, other):
        for mine, given in zip(training.model.parameters(), fresh.parameters(), strict=True):
            assert torch.equal(mine, given)
