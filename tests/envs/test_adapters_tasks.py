"""Environments with tasks, and trials, as Gymnasium and Stable-Baselines3 see them."""

import sys
from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as check_gymnasium
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_sb3
from stable_baselines3.common.vec_env import VecMonitor

from metarl_lib.envs.adapters import SB3VecEnv, SingleEnv, VectorEnv, draw_seed
from metarl_lib.envs.bandit import Bandit, BanditTasks
from metarl_lib.envs.harlow import Harlow
from metarl_lib.envs.locomotion import AntDir, CheetahDir, CheetahVel
from metarl_lib.envs.maze import Maze
from metarl_lib.envs.pendulum import Pendulum
from metarl_lib.envs.point_robot import PointRobot
from metarl_lib.envs.trial import Trial
from metarl_lib.envs.two_step import TwoStep

BATCH, SEED = 5, 7
TASKS = {
    "metarl/Bandit-v0": Bandit,
    "metarl/TwoStep-v0": TwoStep,
    "metarl/Harlow-v0": Harlow,
    "metarl/Maze-v0": Maze,
    "metarl/PointRobot-v0": PointRobot,
    "metarl/Pendulum-v0": Pendulum,
    "metarl/AntDir-v0": AntDir,
    "metarl/CheetahDir-v0": CheetahDir,
    "metarl/CheetahVel-v0": CheetahVel,
}
ROBOTS = list(TASKS)[-3:]
MUJOCO = pytest.mark.skipif(
    find_spec("mujoco") is None,
    reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'",
)
EVERY = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[MUJOCO] if name in ROBOTS else []) for name in TASKS]
)


@pytest.mark.filterwarnings(
    "error", "ignore:.*infinity. This is probably too", "ignore:.*symmetric and normalized"
)
@pytest.mark.parametrize("episodes", [None, 1, 3])
@EVERY
def test_both_libraries_accept_every_environment_with_tasks_and_its_trials(name, episodes) -> None:
    check_gymnasium(gymnasium.make(name, episodes=episodes).unwrapped)
    check_sb3(gymnasium.make(name, episodes=episodes).unwrapped)
    assert type(gymnasium.make(name, episodes=episodes).unwrapped.rows.env) is (
        TASKS[name] if episodes is None else Trial
    )


@EVERY
def test_make_vec_gives_the_rows_and_trials_that_are_asked_for(name) -> None:
    for episodes, kind in ((None, TASKS[name]), (2, Trial)):
        venv = gymnasium.make_vec(name, BATCH, episodes=episodes, split="test")
        assert type(venv.unwrapped) is VectorEnv
        assert type(venv.unwrapped.rows.env) is kind
        assert (venv.num_envs, venv.unwrapped.rows.split) == (BATCH, "test")
        observation, _ = venv.reset(seed=SEED)
        for _ in range(5):
            assert observation in venv.observation_space
            observation, reward, *_ = venv.step(venv.action_space.sample())
            assert reward.shape == (BATCH,)


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_a_robot_without_mujoco_says_in_one_line_what_to_install(name, make, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=r"pip install 'metarl_lib\[mujoco\]'$") as refusal:
        make(name)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["single", "vector", "sb3"])
def test_choices_arrive_as_they_were_made(kind) -> None:
    """Arm 1 always pays and arm 0 never does, whatever whole number says so."""
    env = Trial(Bandit(2, 4, show_time=True), 2)
    sure = BanditTasks(torch.tensor([[0.0, 1.0]] * (1 if kind == "single" else 3)))
    env.sample_tasks = lambda batch, *_: sure  # type: ignore[method-assign]
    made = {"single": SingleEnv, "vector": lambda e: VectorEnv(e, 3),
            "sb3": lambda e: SB3VecEnv(e, 3)}[kind](env)  # fmt: skip
    made.reset()
    if kind == "single":
        for action in (1, np.int64(0), np.array(1)):
            observation, reward, *_ = made.step(action)
            assert reward == int(action)
            assert observation[1:3].tolist() == [1 - int(action), int(action)]
        return
    for action in (np.array([1, 0, 1]), np.array([0, 0, 1], np.int32)):
        observation, reward, *_ = made.step(action)
        assert reward.tolist() == action.tolist()
        assert observation[:, 2].tolist() == action.tolist()


def trial_rewards(env: Trial, seed: int, actions: np.ndarray) -> np.ndarray:
    """`[T, B]`, from the batched environment itself."""
    generator = torch.Generator().manual_seed(seed)
    state, _ = env.reset(env.sample_tasks(actions.shape[1], generator), generator)
    rewards = []
    for action in actions:
        state, step = env.step(state, torch.as_tensor(action), generator)
        rewards.append(step.reward.numpy())
    return np.stack(rewards)


def test_one_episode_of_either_library_is_one_whole_trial() -> None:
    """Three episodes of four pulls; wrappers that count find twelve steps, and their sum."""
    options = {"arms": 3, "steps": 4, "episodes": 3}
    actions = np.random.default_rng(0).integers(3, size=(12, BATCH))
    venv = RecordEpisodeStatistics(gymnasium.make_vec("metarl/Bandit-v0", BATCH, **options))
    sb3 = VecMonitor(SB3VecEnv(Trial(Bandit(3, 4), 3), BATCH, seed=5))
    venv.reset(seed=SEED)
    sb3.reset()
    for t in range(12):
        _, _, terminated, truncated, info = venv.step(actions[t])
        _, _, done, infos = sb3.step(actions[t])
        assert terminated.tolist() == done.tolist() == [t == 11] * BATCH
        assert not truncated.any()
        assert info["inner_episode"].tolist() == [t // 4] * BATCH
        assert info["inner_done"].tolist() == [t % 4 == 3] * BATCH
    bare = Trial(Bandit(3, 4), 3)
    expected = trial_rewards(
        bare, draw_seed(gymnasium.utils.seeding.np_random(SEED)[0]), actions
    ).sum(0)
    assert list(venv.return_queue) == expected.tolist()
    assert list(venv.length_queue) == [12] * BATCH
    assert [last[-1] for last in info["final_obs"]] == [1.0] * BATCH
    expected = trial_rewards(bare, 5, actions).sum(0)
    assert [i["episode"]["r"] for i in infos] == expected.tolist()
    assert [i["episode"]["l"] for i in infos] == [12] * BATCH
    assert [i["terminal_observation"][-1] for i in infos] == [1.0] * BATCH


def test_ppo_learns_the_better_of_two_arms() -> None:
    """Both tasks alike: arm 1 pays more often; a policy without memory can learn that."""
    env = Trial(Bandit(2, 5), 2)
    env.sample_tasks = lambda batch, *_: BanditTasks(  # type: ignore[method-assign]
        torch.tensor([[0.1, 0.9]]).expand(batch, 2)
    )
    learner = PPO(
        "MlpPolicy", VecMonitor(SB3VecEnv(env, 16)), n_steps=20, batch_size=80, n_epochs=4,
        learning_rate=0.01, seed=0, device="cpu", policy_kwargs={"net_arch": [8]},
    )  # fmt: skip
    learner.learn(3200)
    assert len(learner.ep_info_buffer) == 100
    last = [episode["r"] for episode in list(learner.ep_info_buffer)[-32:]]
    assert np.mean(last) > 7.5, "at random it is 5, at best 9"
    assert all(episode["l"] == 10 for episode in learner.ep_info_buffer)
