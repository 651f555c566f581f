"""Manipulation against Meta-World used directly, its splits, and its trials against its wrapper."""

import pickle
from functools import cache

import numpy as np
import pytest
import torch
from streams import stream

from metarl_lib.envs.manipulation import Manipulation, ManipulationTasks
from metarl_lib.envs.sawyer import Robots, Sawyer, benchmark_tasks
from metarl_lib.envs.trial import Trial

metaworld = pytest.importorskip(
    "metaworld", reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'"
)
import gymnasium  # noqa: E402
from metaworld import policies  # noqa: E402

# What is made once is used by all tests: drawing the tasks of ML10 takes ten seconds.
pytestmark = [
    pytest.mark.xdist_group("metaworld"),
    pytest.mark.filterwarnings("ignore:Constant:UserWarning"),  # of the scripted policies
]

POLICIES = {
    "reach-v3": policies.SawyerReachV3Policy,
    "push-v3": policies.SawyerPushV3Policy,
    "pick-place-v3": policies.SawyerPickPlaceV3Policy,
    "door-open-v3": policies.SawyerDoorOpenV3Policy,
    "basketball-v3": policies.SawyerBasketballV3Policy,
    "sweep-into-v3": policies.SawyerSweepIntoV3Policy,
}


@cache
def arm(benchmark="reach-v3", steps=6, reward="v2", seed=0) -> Manipulation:
    return Manipulation(benchmark, steps, reward, seed)


@cache
def robots(reward: str) -> Robots:
    """Of all the classes of ML10."""
    train, test = benchmark_tasks("ML10", 0)
    return Robots((*train, *test), reward)


def some_actions(rows: int, steps: int, seed: int = 5) -> torch.Tensor:
    return torch.rand(steps, rows, 4, generator=stream(seed)) * 2 - 1


def told(observation, goal) -> np.ndarray:
    """An observation as the scripted policies want it: with the goal."""
    return np.concatenate([observation[:36], goal])


@cache
def own_object(name: str, reward: str):
    return metaworld.ALL_V3_ENVIRONMENTS[name](reward_function_version=reward)


def directly(task, reward: str, steps: int):
    """Meta-World's own object under its scripted policy, which is noisy and now and then random."""
    env = own_object(task.env_name, reward)
    env.set_task(task)
    observation, _ = env.reset()
    policy, noise = POLICIES[task.env_name](), np.random.default_rng(0)
    actions, found = [], [observation]
    for t in range(steps):
        action = policy.get_action(told(observation, env._target_pos))
        action = action + 0.1 * noise.standard_normal(4)
        if t % 20 > 17:
            action = noise.uniform(-1, 1, 4)
        actions.append(np.clip(action, -1, 1).astype(np.float32))
        observation, paid, terminated, truncated, info = env.step(actions[-1])
        assert terminated is truncated is False
        found.append((observation, paid, info["success"]))
    return np.stack(actions), found


@pytest.mark.parametrize(("reward", "classes"), [("v2", 6), ("v1", 4)])
def test_every_step_is_that_of_meta_world_to_the_last_bit(reward, classes) -> None:
    """Two tasks of a class, and classes, take turns on the same objects."""
    own, steps, names = robots(reward), 90, list(POLICIES)[:classes]
    numbers = np.array([i for i, t in enumerate(own.tasks) if t.env_name in names and i % 50 < 2])
    assert len(numbers) == 2 * classes
    plain = [directly(own.tasks[i], reward, steps) for i in numbers]
    physics, seen, observation = own.start(numbers)
    succeeded = np.zeros(len(numbers))
    for t in range(steps):
        assert np.array_equal(observation, [f[t][0] if t else f[0] for _, f in plain])
        actions = np.stack([a[t] for a, _ in plain])
        physics, seen, observation, paid, success, diverged = own.step(
            numbers, physics, seen, actions
        )
        assert paid.tolist() == [float(f[t + 1][1]) for _, f in plain]
        assert success.tolist() == [bool(f[t + 1][2]) for _, f in plain]
        assert not diverged.any()
        assert reward == "v1" or (paid.min() >= 0 and paid.max() <= 10)
        succeeded += success
    assert (succeeded > 0).sum() >= 4, "what succeeds is compared, too"


def test_what_is_touched_is_found_as_meta_world_finds_it() -> None:
    own, number = robots("v2"), 50
    task = own.tasks[number]
    assert task.env_name == "push-v3"
    actions, _ = directly(task, "v2", 90)
    robot, start = own._robot(number), own._start(number)
    physics, seen, touched = start.physics, start.seen, []
    for action in actions:
        physics, seen, *_ = robot.step(start, physics, seen, action)
        thing = robot.env._get_id_main_object()
        touched.append(robot.env.touching_object(thing))
        assert touched[-1] == type(robot.env).touching_object(robot.env, thing)
    assert 5 < sum(touched) < 85


def test_what_a_reset_leaves_depends_on_the_task_alone() -> None:
    """So that it is done once: after another task and some steps, and in another object."""
    train, _ = benchmark_tasks("ML10", 0)
    for name in ("push-v3", "door-open-v3"):
        first, other = [task for task in train if task.env_name == name][:2]
        robot = Sawyer(name, "v1")
        fresh = robot.start(first)
        between = robot.start(other)
        robot.step(between, between.physics, between.seen, np.ones(4, np.float32))
        again = robot.start(first)
        for a, b in zip(fresh, again, strict=True):
            if isinstance(a, np.ndarray):
                assert np.array_equal(a, b)
        for attribute in ("obj_init_pos", "_target_pos", "init_tcp"):
            assert np.array_equal(fresh.attributes[attribute], again.attributes[attribute])
        assert not np.array_equal(fresh.observation, between.observation)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_scripted_policy_succeeds_in_reaching(split) -> None:
    env, generator = arm("reach-v3", 100), stream()
    tasks = env.sample_tasks(12, generator, split)
    vectors = [pickle.loads(t.data)["rand_vec"] for s in benchmark_tasks("reach-v3", 0) for t in s]
    goals = [vectors[goal][-3:] for goal in tasks.goal]
    assert np.array_equal(env.goals(tasks), goals)
    (state, observation), policy = env.reset(tasks, generator), policies.SawyerReachV3Policy()
    succeeded, last = torch.zeros(12, dtype=torch.bool), None
    for t in range(100):
        told_rows = map(told, observation.double().numpy(), goals)
        actions = [policy.get_action(row) for row in told_rows]
        state, step = env.step(state, torch.tensor(np.array(actions)), generator)
        observation = step.observation
        assert step.info["success"].dtype == torch.bool
        assert (step.reward[step.info["success"]] == 10).all()  # both say: within 5 cm
        assert t > 0 or not step.info["success"].any()
        succeeded |= step.info["success"]
        last = step
    assert succeeded.all()
    assert last.truncated.all()
    assert not last.terminated.any()


def test_one_class_has_fifty_tasks_for_training_and_fifty_others_for_tests() -> None:
    env = arm()
    assert env.kinds == ("reach-v3",)
    train, test = (env.sample_tasks(3000, stream(), split) for split in ("train", "test"))
    assert sorted(set(train.goal.tolist())) == list(range(50))
    assert sorted(set(test.goal.tolist())) == list(range(50, 100))
    vectors = [
        {tuple(pickle.loads(task.data)["rand_vec"]) for task in split}
        for split in benchmark_tasks("reach-v3", 0)
    ]
    assert [len(split) for split in vectors] == [50, 50]
    assert vectors[0].isdisjoint(vectors[1])


def test_ml10_trains_on_ten_classes_and_tests_on_five_others() -> None:
    env, suite = arm("ML10"), metaworld.env_dict.ML10_V3
    assert env.kinds == (*suite["train"], *suite["test"])
    train, test = (env.sample_tasks(6000, stream(), split) for split in ("train", "test"))
    assert sorted(set(train.kind.tolist())) == list(range(10))
    assert sorted(set(test.kind.tolist())) == list(range(10, 15))
    for tasks, count in ((train, 500), (test, 250)):
        assert len(set(zip(tasks.kind.tolist(), tasks.goal.tolist(), strict=True))) == count
        assert sorted(set(tasks.goal.tolist())) == list(range(50))
        drawn = torch.bincount(tasks.kind - tasks.kind.min()).double() / 6000
        assert torch.allclose(drawn, torch.full_like(drawn, 50 / count), atol=0.02)


def test_a_task_of_ml10_is_the_one_that_is_named() -> None:
    env = arm("ML10")
    kind, goal = torch.tensor([0, 2, 12, 14]), torch.tensor([7, 0, 49, 3])
    train, test = benchmark_tasks("ML10", 0)
    named = [(*train, *test)[i] for i in env._places(ManipulationTasks(kind, goal))]
    assert [task.env_name for task in named] == [env.kinds[k] for k in kind]
    for task, g in zip(named, goal, strict=True):
        assert [t for t in (*train, *test) if t.env_name == task.env_name][g] is task


def test_the_goal_is_hidden() -> None:
    """Two tasks that differ in the goal alone look alike, and pay differently."""
    first, other = benchmark_tasks("reach-v3", 0)[0][:2]
    data, goal = (pickle.loads(task.data) for task in (first, other))
    data["rand_vec"] = np.concatenate([data["rand_vec"][:3], goal["rand_vec"][3:]])
    moved = metaworld.Task(first.env_name, pickle.dumps(data))
    own, numbers = Robots((first, moved), "v2"), np.array([0, 1])
    physics, seen, observation = own.start(numbers)
    for actions in some_actions(1, 40).expand(-1, 2, -1).numpy():
        assert np.array_equal(observation[0], observation[1])
        assert not observation[:, -3:].any()
        physics, seen, observation, paid, _, _ = own.step(numbers, physics, seen, actions)
        assert paid[0] != paid[1]


def test_a_trial_adds_what_the_recurrent_wrapper_adds() -> None:
    """Through `make_vec`. What is shown after the end of an episode differs."""
    wrapped = gymnasium.make_vec(
        "Meta-World/ML1-test",
        env_name="reach-v3",
        seed=0,
        meta_batch_size=2,
        max_episode_steps=4,
        terminate_on_success=False,
        recurrent_info_in_obs=True,
        normalize_reward_in_recurrent_info=False,
    )
    wrapped.call("sample_tasks")
    theirs, _ = wrapped.reset()
    vectors = [pickle.loads(t.data)["rand_vec"] for t in sum(benchmark_tasks("reach-v3", 0), ())]
    goal = [
        next(g for g, v in enumerate(vectors) if np.array_equal(v, env.unwrapped._last_rand_vec))
        for env in wrapped.envs
    ]
    assert min(goal) >= 50
    trial = Trial(arm("reach-v3", 4), 3)
    tasks = ManipulationTasks(torch.zeros(2, dtype=torch.long), torch.tensor(goal))
    state, observation = trial.reset(tasks, stream())
    assert wrapped.single_observation_space.shape == trial.observation_space.shape == (45,)
    assert np.array_equal(observation, theirs.astype(np.float32))
    for t, action in enumerate(some_actions(2, 12)):
        theirs, paid, terminated, truncated, info = wrapped.step(action.numpy())
        state, step = trial.step(state, action, stream())
        ours, theirs = step.observation.numpy(), theirs.astype(np.float32)
        assert np.array_equal(step.reward, paid.astype(np.float32))
        assert step.terminated.tolist() == terminated.tolist() == [False] * 2
        assert step.info["inner_done"].tolist() == truncated.tolist() == [t % 4 == 3] * 2
        assert step.truncated.tolist() == [t == 11] * 2
        if not truncated[0]:
            assert np.array_equal(ours, theirs)
            continue
        last = np.stack(list(info["final_obs"])).astype(np.float32)
        assert np.array_equal(ours[:, 39:], last[:, 39:]), "said of the step that ended it"
        assert (ours[:, -1] == 1).all()
        assert not theirs[:, 39:].any(), "of which the wrapper shows an agent nothing"
        assert np.array_equal(ours[:, :39], (last if t == 11 else theirs)[:, :39])
    wrapped.close()


def test_the_wrapper_divides_the_reward_that_is_seen_unless_it_is_told_not_to() -> None:
    env = metaworld.RNNBasedMetaRLWrapper(own_object("reach-v3", "v2"))
    env.unwrapped.set_task(benchmark_tasks("reach-v3", 0)[0][0])
    env.reset()
    observation, paid, *_ = env.step(np.ones(4, np.float32))
    assert observation[43] == paid / 10
