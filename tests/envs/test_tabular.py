"""The tabular environment: its tables come back as frequencies, and its options are checked."""

import numpy as np
import pytest
import torch
from streams import stream

from metarl_lib.envs.base import BatchedEnv
from metarl_lib.envs.tabular import Tabular

P = torch.tensor([[[0.7, 0.3, 0.0], [1.0, 0.0, 0.0]], [[0.0, 0.6, 0.4], [0.2, 0.3, 0.5]]])
P = torch.cat([P, torch.tensor([[[0.1, 0.0, 0.9], [0.25, 0.25, 0.5]]])])
R = torch.tensor([[2.0, -1.0], [1.5, -0.5], [0.0, -2.0]])
START = torch.tensor([0.5, 0.2, 0.3])


def make(**options) -> Tabular:
    return Tabular(P, R, START, 4, **options)


def test_it_is_a_batched_environment() -> None:
    assert isinstance(make(), BatchedEnv)


def test_frequencies_are_the_tables_and_rewards_those_of_the_state_before() -> None:
    env, generator, rows = make(), stream(), 60_000
    state, observation = env.reset(env.sample_tasks(rows, generator), generator)
    first = torch.bincount(state.place, minlength=3) / rows
    assert torch.allclose(first, START, atol=0.01)
    for _ in range(2):
        assert torch.equal(observation.argmax(-1), state.place)
        action = torch.randint(2, (rows,), generator=generator)
        before = state
        state, step = env.step(state, action, generator)
        observation = step.observation
        assert torch.equal(step.info["place"], state.place)
        for s in range(3):
            for a in range(2):
                here = (before.place == s) & (action == a)
                assert (step.reward[here] == R[s, a]).all()
                found = torch.bincount(state.place[here], minlength=3) / here.sum()
                assert torch.allclose(found, P[s, a], atol=5 * 0.5 / float(here.sum()) ** 0.5)
                assert (found[P[s, a] == 0] == 0).all()


def test_an_episode_has_t_steps_and_terminates() -> None:
    env, generator = make(show_time=True), stream()
    state, observation = env.reset(env.sample_tasks(5, generator), generator)
    left = [observation[:, -1]]
    for t in range(4):
        state, step = env.step(state, torch.zeros(5, dtype=torch.long), generator)
        left.append(step.observation[:, -1])
        assert step.terminated.tolist() == [t == 3] * 5
        assert not step.truncated.any()
    assert torch.stack(left)[:, 0].tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_states_that_show_the_same_look_the_same() -> None:
    env, generator = make(shows=[0, 0, 1]), stream()
    state, observation = env.reset(env.sample_tasks(500, generator), generator)
    assert env.observation_space.shape == (2,)
    assert set(state.place.tolist()) == {0, 1, 2}
    assert torch.equal(observation[:, 1] == 1, state.place == 2)
    assert (observation.sum(-1) == 1).all()
    assert env.observation_space.contains(observation[0].numpy().astype(np.float32))


def test_equal_streams_give_equal_runs() -> None:
    runs = []
    for _ in range(2):
        env, generator = make(), stream(3)
        state, _ = env.reset(env.sample_tasks(20, generator), generator)
        state, step = env.step(state, torch.ones(20, dtype=torch.long), generator)
        runs.append((state.place, step.reward))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"transitions": P[:2]}, r"transitions has shape \(2, 2, 3\), \(3, 2, 3\) is wanted"),
        ({"transitions": 2 * P}, "transitions holds no distributions"),
        ({"transitions": P - torch.tensor([0.5, -0.5, 0.0])}, "transitions holds no distributions"),
        ({"start": torch.tensor([0.5, 0.2, 0.2])}, "start holds no distributions"),
        ({"start": START[:2]}, r"start has shape \(2,\)"),
        ({"rewards": R[0]}, r"rewards of shape \(2,\)"),
        ({"rewards": R / 0}, "must be finite"),
        ({"steps": 0}, "steps=0"),
        ({"shows": [0, 1]}, r"shows=\[0, 1\]: must be 3 whole numbers"),
        ({"shows": [0, -1, 1]}, r"shows=\[0, -1, 1\]"),
    ],
)
def test_bad_options_are_refused(change, words) -> None:
    good = {"transitions": P, "rewards": R, "start": START, "steps": 4}
    with pytest.raises(ValueError, match=words):
        Tabular(**good | change)


def test_bad_actions_are_refused() -> None:
    env, generator = make(), stream()
    state, _ = env.reset(env.sample_tasks(2, generator), generator)
    with pytest.raises(ValueError, match="action=2 is unknown"):
        env.step(state, torch.tensor([0, 2]), generator)
