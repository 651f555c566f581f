"""The two-step task against a plain row, and what is known of it in closed form."""

import math

import pytest
import torch
from plain_tasks import PlainTwoStep, close, same, twin
from streams import stream

from metarl_lib.envs.base import where_rows
from metarl_lib.envs.two_step import TwoStep, TwoStepTasks

ROWS = 16


def within(values: torch.Tensor, expected: float) -> None:
    values = values.double().flatten()
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - expected) < 4 * error, (values.mean(), expected, error)


@pytest.mark.parametrize(
    "options", [{}, {"common": 0.3, "reward": 0.6, "switch": 0.4}, {"common": 1.0, "reward": 0.0}]
)
def test_every_step_is_that_of_the_plain_row(options) -> None:
    numbers = {"rounds": 6, "common": 0.8, "reward": 0.9, "switch": 0.025} | options
    env, generator = TwoStep(**{"rounds": 6} | options), stream()
    tasks = env.sample_tasks(ROWS, generator)
    plain = [PlainTwoStep(good, **numbers) for good in tasks.good.tolist()]
    state, observation = env.reset(tasks, generator)
    close(observation, [row.observation() for row in plain], 0)
    for t in range(env.max_steps):
        action = torch.randint(2, (ROWS,), generator=generator)
        chances, turns = torch.rand(2, ROWS, generator=twin(generator)).tolist()
        state, step = env.step(state, action, generator)
        same(step, [*map(PlainTwoStep.step, plain, action.tolist(), chances, turns)])
        assert step.terminated.all() == (t == 11)


def test_rows_can_stand_at_different_stages() -> None:
    """As after a restart of some rows; the odd rows are one step behind."""
    env, generator = TwoStep(5, switch=0.5), stream()
    tasks = env.sample_tasks(ROWS, generator)
    plain = [PlainTwoStep(good, 5, 0.8, 0.9, 0.5) for good in tasks.good.tolist()]
    odd = torch.arange(ROWS) % 2 == 1
    state, _ = env.reset(tasks, generator)
    for t in range(10):
        action = torch.randint(2, (ROWS,), generator=generator)
        chances, turns = torch.rand(2, ROWS, generator=twin(generator)).tolist()
        after, step = env.step(state, action, generator)
        for b in range(ROWS):
            if t == 0 and odd[b]:
                continue
            said = plain[b].step(int(action[b]), chances[b], turns[b])
            close(step.observation[b], said.observation, 0)
            assert float(step.reward[b]) == said.reward
            assert bool(step.terminated[b]) == said.terminated == (t == 9 and not odd[b])
            assert {name: step.info[name][b].item() for name in said.info} == said.info
        state = where_rows(odd, state, after) if t == 0 else after


def rounds_of(env: TwoStep, rows: int, best: bool) -> dict[str, torch.Tensor]:
    """Rewards `[R, B]` and what the rounds were like, of choices at random or of the best ones."""
    generator = stream(3)
    state, _ = env.reset(env.sample_tasks(rows, generator), generator)
    found: dict[str, list] = {"reward": [], "common": [], "good": [], "place": [], "action": []}
    for _ in range(env.rounds):
        action = state.good if best else torch.randint(2, (rows,), generator=generator)
        state, first = env.step(state, action, generator)
        assert not first.reward.any()
        place = first.observation[:, 1:].argmax(-1)
        state, second = env.step(state, torch.randint(2, (rows,), generator=generator), generator)
        assert torch.equal(first.info["common"], second.info["common"])
        assert torch.equal(first.info["good"], second.info["good"])
        values = (second.reward, first.info["common"], first.info["good"], place, action)
        for name, value in zip(found, values, strict=True):
            found[name].append(value)
    return {name: torch.stack(values) for name, values in found.items()}


def test_random_choices_earn_a_half_a_round_and_the_best_ones_074() -> None:
    env = TwoStep(20)
    within(rounds_of(env, 2000, best=False)["reward"].mean(0), 0.5)
    within(rounds_of(env, 2000, best=True)["reward"].mean(0), 0.8 * 0.9 + 0.2 * 0.1)
    other = TwoStep(20, common=0.6, reward=0.7, switch=0.5)
    within(rounds_of(other, 2000, best=True)["reward"].mean(0), 0.6 * 0.7 + 0.4 * 0.3)


def test_each_probability_is_the_one_that_is_asked_for() -> None:
    env = TwoStep(21, common=0.7, reward=0.95, switch=0.1)
    found = rounds_of(env, 2000, best=False)
    within(found["common"].float(), 0.7)
    assert torch.equal(found["common"], found["place"] == found["action"])
    at_good = found["place"] == found["good"]
    within(found["reward"][at_good], 0.95)
    within(found["reward"][~at_good], 0.05)
    within((found["good"][1:] != found["good"][:-1]).float(), 0.1)
    within(found["good"][0].float(), 0.5)


def test_without_chance_the_task_is_what_it_says() -> None:
    """Rows: the good place 0 or 1, chosen or not. The second action does not matter."""
    env = TwoStep(2, common=1.0, reward=1.0, switch=1.0)
    state, observation = env.reset(TwoStepTasks(torch.tensor([0, 0, 1, 1])), stream())
    assert observation.tolist() == [[1, 0, 0]] * 4
    choices = torch.tensor([0, 1, 0, 1])
    rewards = []
    for _ in range(2):
        state, step = env.step(state, choices, stream())
        assert step.observation[:, 1:].argmax(-1).tolist() == choices.tolist()
        state, step = env.step(state, torch.tensor([1, 0, 1, 0]), stream())
        assert step.observation.tolist() == [[1, 0, 0]] * 4
        rewards.append(step.reward.tolist())
    assert rewards == [[1, 0, 0, 1], [0, 1, 1, 0]], "the good place switches after each round"


def test_an_action_may_be_of_any_whole_number_type() -> None:
    env = TwoStep(3)
    for kind in (torch.int32, torch.uint8):
        state, _ = env.reset(env.sample_tasks(4, stream()), stream())
        for _ in range(2):
            state, step = env.step(state, torch.ones(4, dtype=kind), stream())
        assert step.observation.tolist() == [[1, 0, 0]] * 4
        assert {part.dtype for part in (state.good, state.place, state.time)} == {torch.int64}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rounds": 0}, "rounds=0.*whole number >= 1"),
        ({"common": 1.1}, r"common=1\.1.*between 0 and 1"),
        ({"reward": -0.1}, r"reward=-0\.1.*between 0 and 1"),
        ({"switch": math.nan}, r"switch=nan.*between 0 and 1"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        TwoStep(**options)
    assert "\n" not in str(refusal.value)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"split='valid' is unknown.*train, test"):
        TwoStep().sample_tasks(3, stream(), "valid")
