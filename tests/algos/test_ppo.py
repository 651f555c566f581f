"""What a training learns from a segment, against autograd through a plain loop of steps."""

import copy
import math

import pytest
import torch
from trainings import CORES, Training, counting, double, plain_parts

from metarl_lib.algos import Settings
from metarl_lib.algos.ppo import OPTIMISERS, Segment


@pytest.fixture(autouse=True)
def _double():
    with double():
        yield


NUMBERS = {"discount": 0.9, "gae_lambda": 0.7, "value_weight": 0.3, "max_grad_norm": 1e9}

REPORTED = ("policy_loss", "value_loss", "entropy", "kl")


def moved(core: str = "gru", actions: str = "choices", **options) -> tuple[Training, Segment]:
    """A training whose agent has moved since it collected the segment; many ratios are clipped."""
    training = counting(core, actions, **(NUMBERS | options))
    training.update()
    segment, _ = training.collect()
    stream = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in training.model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=stream))
    return training, segment


def plain_learn(training: Training, segment: Segment, rate: float, weight: float) -> tuple:
    """A copy of the agent after all passes, the gradients of the last step, the mean numbers."""
    s, model = training.settings, copy.deepcopy(training.model)
    optimiser = OPTIMISERS[s.optimiser](model.parameters(), lr=rate, eps=1e-5)
    optimiser.load_state_dict(copy.deepcopy(training.optimiser.state_dict()))
    optimiser.param_groups[0]["lr"] = rate
    order = torch.Generator()
    order.set_state(training.streams.minibatches.get_state())
    size, gradients, said = s.rows // s.minibatches, [], []
    for _ in range(s.epochs if s.loss == "ppo" else 1):
        rows = torch.randperm(s.rows, generator=order).tolist()
        for first in range(0, s.rows, size):
            parts = plain_parts(model, segment, rows[first : first + size], s)
            loss = parts.policy + s.value_weight * parts.value - weight * parts.entropy
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p.grad = gradient
            optimiser.step()
            said.append([float(part.detach()) for part in parts])
    return model, gradients, [sum(column) / len(said) for column in zip(*said, strict=True)]


def close(ours: Training, model: torch.nn.Module) -> None:
    """Equal parameters, each of which has changed since the training began."""
    before = list(ours.collected[0].model.parameters())
    named = zip(ours.model.named_parameters(), model.parameters(), before, strict=True)
    for (name, mine), plain, start in named:
        torch.testing.assert_close(mine, plain, rtol=1e-7, atol=1e-9, msg=name)
        assert not torch.equal(mine, start), name


CASES = [
    pytest.param("gru", "choices", {}, id="gru"),
    pytest.param("gru", "vectors", {"bootstrap": True}, id="gru-vectors"),
    pytest.param("lstm", "choices", {"loss": "a2c"}, id="lstm-a2c"),
    pytest.param("metods", "choices", {"whole_trials": True}, id="metods-whole"),
    pytest.param("metods", "vectors", {"loss": "a2c", "optimiser": "rmsprop"}, id="metods-a2c"),
]


@pytest.mark.parametrize(("core", "actions", "options"), CASES)
def test_the_gradient_is_that_of_the_plain_loss(core, actions, options) -> None:
    """One step on all rows."""
    training, segment = moved(core, actions, epochs=1, **options)
    _, gradients, numbers = plain_learn(training, segment, 1e-3, 0.01)
    said = training.learn(segment)
    for p, gradient in zip(training.model.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-6, atol=1e-9)
        assert gradient.abs().max() > 1e-6
    assert [said[n] for n in REPORTED] == pytest.approx(numbers)


def test_the_moved_agents_ratios_are_clipped_on_both_sides() -> None:
    """Else the test before would not have seen the clip."""
    training, segment = moved()
    out = training.model(segment.observations, segment.memory, segment.resets)
    ratio = (out.policy.log_prob(segment.actions) - segment.log_probs).exp()
    assert (ratio > 1.2).sum() >= 3
    assert (ratio < 0.8).sum() >= 3


@pytest.mark.parametrize(
    ("core", "options"),
    [
        ("gru", {"epochs": 2, "minibatches": 2}),
        ("metods", {"epochs": 3, "minibatches": 1, "optimiser": "rmsprop"}),
        ("gru", {"epochs": 3, "minibatches": 4, "loss": "a2c"}),
    ],
)
def test_all_passes_are_those_of_a_plain_training(core, options) -> None:
    """Same order of rows, same optimiser; advantages are standardised over the whole segment."""
    training, segment = moved(core, segment=4, **options)
    model, _, numbers = plain_learn(training, segment, 1e-3, 0.01)
    said = training.learn(segment)
    close(training, model)
    assert [said[n] for n in REPORTED] == pytest.approx(numbers)


def test_rewards_and_values_in_another_unit_change_nothing(monkeypatch) -> None:
    """An agent whose values count in sevens learns from sevenfold rewards what another learns
    from single ones."""
    plain = counting(discount=0.9, bootstrap=True)
    large = counting(discount=0.9, bootstrap=True)
    step = large.env.step

    def pays_seven_times(*arguments):
        state, found = step(*arguments)
        return state, found._replace(reward=7 * found.reward)

    monkeypatch.setattr(large.env, "step", pays_seven_times)
    large.model.value_unit = 7.0
    for _ in range(3):
        said, sevenfold = plain.update(), large.update()
        assert sevenfold["return"] == pytest.approx(7 * said["return"])
        assert [sevenfold[n] for n in REPORTED] == pytest.approx([said[n] for n in REPORTED])
    close(large, plain.model)


def test_progress_moves_learning_rate_and_entropy_linearly() -> None:
    ends = {"learning_rate": 0.004, "learning_rate_end": 0.002, "entropy": 0.8, "entropy_end": 0.4}
    training, segment = moved(epochs=1, **ends)
    model, _, _ = plain_learn(training, segment, 0.0035, 0.7)
    training.learn(segment, 0.25)
    close(training, model)


def test_an_update_learns_with_the_share_of_those_done() -> None:
    training = counting(updates=4, learning_rate=0.008, learning_rate_end=0.004)
    rates = []
    for _ in range(4):
        training.update()
        rates += [group["lr"] for group in training.optimiser.param_groups]
    assert rates == pytest.approx([0.008, 0.007, 0.006, 0.005])
    assert training.done == 4


def test_rates_stay_where_they_end() -> None:
    """However many updates are made beyond the plan."""
    training = counting(updates=1, learning_rate=0.008, learning_rate_end=0.004)
    rates = []
    for _ in range(4):
        training.update()
        rates += [group["lr"] for group in training.optimiser.param_groups]
    assert rates == pytest.approx([0.008, 0.004, 0.004, 0.004])


def test_an_update_learns_from_what_it_collected() -> None:
    """As the two halves by hand, the entropy's weight included."""
    whole, halves = (counting(updates=2, entropy=0.5) for _ in range(2))
    for progress in (0.0, 0.5):
        numbers = whole.update()
        segment, _ = halves.collect()
        said = halves.learn(segment, progress)
        assert said.items() <= numbers.items()
    for mine, other in zip(whole.model.parameters(), halves.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_large_gradients_are_scaled_to_their_greatest_norm() -> None:
    def gradients(limit: float) -> list[torch.Tensor]:
        training = counting(epochs=1, max_grad_norm=limit)
        training.learn(training.collect()[0])
        return [p.grad for p in training.model.parameters()]

    free = gradients(1e9)
    norm = math.sqrt(sum(float((g**2).sum()) for g in free))
    for limit in (norm / 10, norm * 10):
        for found, gradient in zip(gradients(limit), free, strict=True):
            scale = min(1.0, limit / norm)
            torch.testing.assert_close(found, scale * gradient, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("core", CORES)
def test_minibatches_are_whole_rows_and_each_comes_once_in_a_pass(core) -> None:
    training = counting(core, rows=6, epochs=5, minibatches=3)
    segment, _ = training.collect()
    passes: list[list[int]] = []
    forward = training.model.forward

    def record(observations, state, resets):
        rows = []
        for b in range(observations.shape[1]):
            same = (segment.observations == observations[:, b : b + 1]).all(-1).all(0)
            (row,) = same.nonzero().flatten().tolist()
            assert torch.equal(resets[:, b], segment.resets[:, row])
            for given, kept in zip(state, segment.memory, strict=True):
                assert torch.equal(given[b], kept[row])
            rows.append(row)
        passes.append(rows)
        return forward(observations, state, resets)

    training.model.forward = record
    training.learn(segment)
    assert [len(rows) for rows in passes] == [2] * 15
    epochs = [[row for rows in passes[i : i + 3] for row in rows] for i in range(0, 15, 3)]
    assert all(sorted(rows) == list(range(6)) for rows in epochs)
    assert len({tuple(rows) for rows in epochs}) > 1


def test_a2c_passes_once() -> None:
    """However many epochs are set, the optimiser steps once for each part of the rows."""
    training = counting(loss="a2c", epochs=7, minibatches=2)
    training.update()
    (steps,) = {int(kept["step"]) for kept in training.optimiser.state.values()}
    assert steps == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "rows=0: must be a whole number >= 1"),
        ({"segment": -1}, "segment=-1: must be a whole number >= 1"),
        ({"updates": 0}, "updates=0: must be a whole number >= 1"),
        ({"epochs": 0}, "epochs=0: must be a whole number >= 1"),
        ({"minibatches": 0}, "minibatches=0: must be a whole number >= 1"),
        ({"rows": 2.5, "minibatches": 0.5}, "rows=2.5: must be a whole number >= 1"),
        ({"minibatches": 0.5}, "minibatches=0.5: must be a whole number >= 1"),
        ({"max_grad_norm": 0.0}, "max_grad_norm=0.0: must be greater than 0"),
        ({"max_grad_norm": math.inf}, "max_grad_norm=inf: .*finite"),
        ({"learning_rate": -1e-3}, "learning_rate=-0.001: must be 0 or more"),
        ({"learning_rate": math.nan}, "learning_rate=nan: must be 0 or more"),
        ({"learning_rate_end": -1e-3}, "learning_rate_end=-0.001: must be 0 or more"),
        ({"clip": -0.1}, "clip=-0.1: must be 0 or more"),
        ({"value_weight": -0.5}, "value_weight=-0.5: must be 0 or more"),
        ({"value_weight": math.inf}, "value_weight=inf: .*finite"),
        ({"entropy": -0.1}, "entropy=-0.1: must be 0 or more"),
        ({"entropy_end": -0.1}, "entropy_end=-0.1: must be 0 or more"),
        ({"discount": 1.01}, "discount=1.01: must lie between 0 and 1"),
        ({"discount": math.nan}, "discount=nan: must lie between 0 and 1"),
        ({"gae_lambda": -0.1}, "gae_lambda=-0.1: must lie between 0 and 1"),
        ({"rows": 10, "minibatches": 4}, "minibatches=4: must divide the 10 rows"),
        ({"loss": "trpo"}, "loss='trpo' is unknown: choose one of ppo, a2c"),
        ({"optimiser": "sgd"}, "optimiser='sgd' is unknown: choose one of adam, rmsprop"),
    ],
)
def test_bad_settings_are_refused_in_one_line(unchecked, options, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Settings(**options)
    assert "\n" not in str(caught.value)
