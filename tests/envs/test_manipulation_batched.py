"""Manipulation as a batched environment: its states, its generators, its errors, PPO on it."""

import sys
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from streams import stream

from metarl_lib.algos import PPO, ActorCritic, Settings, Streams
from metarl_lib.cores import GRU
from metarl_lib.envs.base import BoundedEnv, map_tree
from metarl_lib.envs.manipulation import Manipulation, ManipulationTasks
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments.meta_training import play

pytest.importorskip(
    "metaworld", reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'"
)
pytestmark = pytest.mark.xdist_group("metaworld")

ROWS = 5


@cache
def arm(benchmark="reach-v3", steps=6) -> Manipulation:
    return Manipulation(benchmark, steps)


def leaves(tree) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [
        leaf
        for part in (tree.values() if isinstance(tree, dict) else tree)
        for leaf in leaves(part)
    ]


def same(a, b) -> bool:
    return all(map(torch.equal, leaves(a), leaves(b)))


def some_action(generator, rows=ROWS) -> torch.Tensor:
    return torch.rand(rows, 4, generator=generator) * 2 - 1


def run(env, seed=0, steps=15) -> list:
    """Tasks, states and what is said of a run."""
    generator = stream(seed)
    tasks = env.sample_tasks(ROWS, generator)
    state, observation = env.reset(tasks, generator)
    found = [tasks, state, observation]
    for _ in range(steps):
        state, step = env.step(state, some_action(generator), generator)
        found += [state, step]
    return found


def test_the_defaults_are_those_of_the_published_protocol() -> None:
    env = arm("reach-v3", 500)
    assert isinstance(env, BoundedEnv)
    assert (Manipulation().steps, env.max_steps, env.reward) == (500, 500, "v2")
    assert Trial(env, 10).max_steps == 5000
    assert env.observation_space.shape == (39,)
    assert (env.action_space.low.tolist(), env.action_space.high.tolist()) == ([-1] * 4, [1] * 4)


@pytest.mark.parametrize("episodes", [None, 3])
def test_equal_generators_give_equal_runs_in_any_object(episodes) -> None:
    def make(env):
        return env if episodes is None else Trial(env, episodes)

    first = run(make(arm()))
    assert same(first, run(make(arm())))
    assert same(first, run(make(Manipulation(steps=6))))
    assert not same(first, run(make(arm()), 1))


def test_equal_generators_give_equal_runs_of_many_classes() -> None:
    assert same(run(arm("ML10")), run(arm("ML10")))


def test_a_state_can_be_kept_and_stepped_again() -> None:
    """After others were stepped on the same object; and neither it nor the action changes."""
    env, generator = arm("ML10", 500), stream()
    state, _ = env.reset(env.sample_tasks(ROWS, generator), generator)
    other, _ = env.reset(env.sample_tasks(ROWS, generator), generator)
    for _ in range(6):
        action = some_action(generator)
        kept, given = map_tree(torch.clone, state), action.clone()
        after, said = env.step(state, action, generator)
        kept_after = map_tree(torch.clone, after)
        other, _ = env.step(other, some_action(generator), generator)
        again, said_again = env.step(state, action, generator)
        assert same((after, said), (again, said_again))
        for values in (said.observation, said.reward, *said.info.values()):
            values.fill_(1)
        assert same(after, kept_after), "what is said shares no memory with the state"
        assert same((kept, given), (state, action))
        state = after


def test_rows_do_not_touch_each_other() -> None:
    """A batch in another order, with rows of the same task, says the same of each row."""
    env, generator, order = arm("ML10", 500), stream(), torch.tensor([4, 0, 0, 2, 3, 1])
    tasks = env.sample_tasks(ROWS, generator)
    (state, seen), (mixed, mixed_seen) = (
        env.reset(t, generator) for t in (tasks, map_tree(lambda x: x[order], tasks))
    )
    for _ in range(10):
        assert torch.equal(seen[order], mixed_seen)
        action = some_action(generator)
        state, step = env.step(state, action, generator)
        mixed, mixed_step = env.step(mixed, action[order], generator)
        seen, mixed_seen = step.observation, mixed_step.observation
        assert torch.equal(step.reward[order], mixed_step.reward)


def test_nothing_is_drawn_but_tasks() -> None:
    env, generator = arm(), stream()
    tasks = env.sample_tasks(ROWS, generator)
    before = generator.get_state()
    state, _ = env.reset(tasks, generator)
    env.step(state, torch.zeros(ROWS, 4), generator)
    assert torch.equal(before, generator.get_state())


def test_an_episode_is_cut_off_after_its_steps_and_a_trial_after_its_episodes() -> None:
    found = run(arm(steps=6), steps=8)[4::2]
    assert [bool(step.truncated.all()) for step in found] == [False] * 5 + [True] * 3
    assert not any(bool(step.terminated.any()) for step in found)
    trial = Trial(arm(steps=6), 2)
    steps = run(trial, steps=12)[4::2]
    assert [bool(step.truncated.any()) for step in steps] == [False] * 11 + [True]
    first = trial.reset(run(trial)[0], stream())[1]
    assert torch.equal(steps[5].observation[:, :39], first[:, :39]), "the next episode is seen"
    assert steps[5].observation[:, -1].tolist() == [1] * ROWS


def test_kinds_of_numbers() -> None:
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            state, observation = arm().reset(arm().sample_tasks(ROWS, stream()), stream())
            state, step = arm().step(state, torch.zeros(ROWS, 4), stream())
        finally:
            torch.set_default_dtype(torch.float32)
        assert observation.dtype == step.observation.dtype == step.reward.dtype == dtype
        assert state.physics.dtype == state.seen.dtype == torch.float64
        assert step.info["success"].dtype == step.info["diverged"].dtype == torch.bool


def test_actions_outside_count_as_the_nearest_inside() -> None:
    env = arm()
    state, _ = env.reset(env.sample_tasks(ROWS, stream()), stream())
    action = 3 * some_action(stream())
    assert same(env.step(state, action, stream()), env.step(state, action.clamp(-1, 1), stream()))


def test_a_row_whose_physics_fails_stays_and_ends(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = arm("reach-v3", 500)
    state, observation = env.reset(env.sample_tasks(3, stream()), stream())
    sick = state._replace(physics=state.physics.clone())
    sick.physics[1, 20] = 1e12  # a velocity
    action = some_action(stream(), 3)
    (_, well), (after, step) = (env.step(s, action, stream()) for s in (state, sick))
    assert step.info["diverged"].tolist() == step.terminated.tolist() == [False, True, False]
    assert not step.truncated.any()
    assert torch.equal(after.physics[1], sick.physics[1])
    assert torch.equal(step.observation[1], observation[1])
    assert step.reward[1] == 0
    for row in (0, 2):
        assert torch.equal(step.observation[row], well.observation[row])
        assert step.reward[row] == well.reward[row]
    assert not [*tmp_path.iterdir()], "MuJoCo writes its warnings into a file"


def test_nothing_is_warned_of_or_printed(capfd) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(Manipulation("reach-v3", 6))
    assert capfd.readouterr() == ("", "")


def training(segment: int, whole: bool) -> PPO:
    env = Trial(arm("reach-v3", 4), 2)
    settings = Settings(rows=4, segment=segment, updates=4, epochs=2, whole_trials=whole)
    torch.manual_seed(0)
    model = ActorCritic(GRU(45, 8), env.observation_space, env.action_space, value_unit=10.0)
    return PPO(env, model, settings, Streams(*map(stream, range(4))))


@pytest.mark.parametrize(("segment", "whole"), [(8, True), (5, False)])
def test_ppo_trains_on_it_and_goes_on_from_a_checkpoint_bit_for_bit(segment, whole) -> None:
    """With whole trials as segments, and with segments that cut them."""
    one = training(segment, whole)
    numbers = [one.update(), one.update()]
    assert all(np.isfinite(n["value_loss"]) for n in numbers)
    other = training(segment, whole)
    other.restore(one.checkpoint())
    after, again = one.update(), other.update()
    assert after.pop("return") == pytest.approx(again.pop("return"), nan_ok=True, rel=0)
    assert after == again
    assert same(list(one.model.state_dict().values()), list(other.model.state_dict().values()))


def test_an_agent_plays_whole_trials() -> None:
    model, env = training(8, True).model, Trial(arm("reach-v3", 4), 2)
    played = play(env, model, env.sample_tasks(3, stream(), "test"), stream())
    assert played.alive.shape == (8, 3)
    assert played.alive.all()
    assert played.info["success"].shape == (8, 3)
    assert played.info["inner_episode"][:, 0].tolist() == [0] * 4 + [1] * 4


def test_rows_are_shared_by_processes() -> None:
    shared = Manipulation("reach-v3", 6, workers=2)
    assert same(run(arm(), steps=4), run(shared, steps=4))
    shared.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"benchmark": "reach"}, "benchmark='reach' is unknown: choose one of ML10, reach-v3"),
        ({"benchmark": "ML45"}, "benchmark='ML45' is unknown"),
        ({"reward": "v3"}, "reward='v3' is unknown: choose one of v2, v1"),
        ({"steps": 0}, "steps=0: must be a whole number >= 1"),
        ({"steps": 501}, "steps=501: must be at most 500"),
        ({"seed": -1}, "seed=-1: must be a whole number >= 0"),
        ({"workers": 0}, "workers=0: must be a whole number >= 1"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        Manipulation(**options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "goal", "words"),
    [
        (1, 0, r"\(kind, goal\)=\(1, 0\) is unknown: reach-v3 has the kinds 0 to 0"),
        (-1, 0, r"\(-1, 0\) is unknown"),
        (0, 100, r"\(0, 100\) is unknown.*the goals 0 to 99"),
        (0, -1, r"\(0, -1\) is unknown"),
    ],
)
def test_an_unknown_task_is_refused_in_one_line(kind, goal, words) -> None:
    tasks = ManipulationTasks(torch.tensor([0, kind]), torch.tensor([0, goal]))
    with pytest.raises(ValueError, match=words) as refusal:
        arm().reset(tasks, stream())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (torch.zeros(2, 3), r"\(2, 3\), \(2, 4\) is wanted"),
        (torch.zeros(3, 4), r"\(3, 4\), \(2, 4\) is wanted"),
        (torch.full((2, 4), torch.nan), "8 NaN or infinite"),
    ],
)
def test_a_bad_action_is_refused_in_one_line(action, words) -> None:
    state, _ = arm().reset(arm().sample_tasks(2, stream()), stream())
    with pytest.raises(ValueError, match=words) as refusal:
        arm().step(state, action, stream())
    assert "\n" not in str(refusal.value)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"split='valid' is unknown.*train, test"):
        arm().sample_tasks(3, stream(), "valid")


def test_without_meta_world_the_extra_is_named_in_one_line(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(ImportError, match=r"pip install 'metarl_lib\[mujoco\]'") as refusal:
        Manipulation()
    assert "\n" not in str(refusal.value)
