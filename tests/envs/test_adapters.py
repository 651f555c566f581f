"""Gymnasium's and Stable-Baselines3's views, against a plain loop over rows (see `toys`)."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as check_gymnasium
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_sb3
from stable_baselines3.common.monitor import Monitor
from torch import Tensor
from toys import Loop, Toy, some_actions

from metarl_lib.envs.adapters import SB3VecEnv, SingleEnv, VectorEnv, draw_seed
from metarl_lib.envs.trial import Trial
from metarl_lib.envs.weight_space import MODES, WeightSpace

BATCH, STEPS, SEED = 5, 12, 7
SMALL = {"widths": (10, 7, 10), "steps": 5}


def stream_seed(seed: int) -> int:
    """The seed of the rows' stream when Gymnasium's is `seed`."""
    return draw_seed(gymnasium.utils.seeding.np_random(seed)[0])


def fields(env: VectorEnv) -> list[tuple]:
    """The parts of its state, by name."""
    return list(env.rows.state._asdict().items())


def tensors(nested) -> list[Tensor]:
    if isinstance(nested, Tensor):
        return [nested]
    return [tensor for part in nested for tensor in tensors(part)]


@pytest.mark.filterwarnings("error", "ignore:Your observation  has an unconventional shape")
@pytest.mark.parametrize("mode", MODES)
def test_both_libraries_accept_every_action_mode_without_a_warning(mode) -> None:
    options = SMALL | {"action_mode": mode, "observation": "statistics", "step_size": 1.0}
    check_gymnasium(gymnasium.make("metarl/WeightSpace-v0", **options).unwrapped)
    check_sb3(gymnasium.make("metarl/WeightSpace-v0", **options).unwrapped)


def test_the_single_environment_says_what_the_loop_says() -> None:
    env, loop = SingleEnv(Toy()), Loop(1, stream_seed(SEED))
    observation, _ = env.reset(seed=SEED)
    episodes = 0
    for step in range(STEPS):
        assert observation.tolist() == loop.observation()[0][0]
        action = some_actions(step, 1)[0, 0]
        observation, reward, terminated, truncated, info = env.step(action)
        said = loop.step([[action.item()]])
        assert observation.tolist() == said["last"][0][0]
        assert [reward, terminated, truncated] == [
            said[name][0] for name in ("reward", "terminated", "truncated")
        ]
        assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
        assert info == {"double": 2 * observation[1]}
        if terminated or truncated:
            episodes += 1
            loop.restart([True])
            observation, _ = env.reset()
    assert episodes >= 3


def test_the_vector_environment_restarts_rows_in_the_step_that_ends_them() -> None:
    toy = Toy()
    env, loop = VectorEnv(toy, BATCH, split="test"), Loop(BATCH, stream_seed(SEED), split="test")
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    observation, info = env.reset(seed=SEED)
    assert info == {}
    started, ends = [BATCH], []
    for step in range(STEPS):
        assert observation.tolist() == [row for (row,) in loop.observation()]
        assert observation in env.observation_space
        actions = some_actions(step, BATCH)[:, 0]
        observation, reward, terminated, truncated, info = env.step(actions)
        said = loop.step(actions.tolist())
        assert reward.tolist() == said["reward"]
        assert terminated.tolist() == said["terminated"]
        assert truncated.tolist() == said["truncated"]
        assert info["double"].tolist() == [2 * last[0][1] for last in said["last"]]
        ended = (terminated | truncated).tolist()
        ends.append(sum(ended))
        assert ("final_obs" in info) == ("_final_obs" in info) == any(ended)
        if any(ended):
            started.append(sum(ended))
            assert info["_final_obs"].tolist() == ended
            for row, last in enumerate(info["final_obs"]):
                assert (last.tolist() if ended[row] else last) == (
                    said["last"][row][0] if ended[row] else None
                )
        loop.restart(ended)
    assert toy.started == started, "tasks are drawn for the rows that ended, and for no others"
    assert {0} < set(ends) - {BATCH}, "the check needs steps without an end and with some"


def test_the_sb3_environment_restarts_rows_in_the_step_that_ends_them() -> None:
    toy = Toy()
    env, loop = SB3VecEnv(toy, BATCH, seed=SEED), Loop(BATCH, SEED)
    observation, started, kinds = env.reset(), [BATCH], set()
    for step in range(STEPS):
        assert observation.tolist() == [row for (row,) in loop.observation()]
        actions = some_actions(step, BATCH)[:, 0]
        observation, reward, done, infos = env.step(actions)
        said = loop.step(actions.tolist())
        assert reward.tolist() == said["reward"]
        ends = list(zip(said["terminated"], said["truncated"], strict=True))
        assert done.tolist() == [any(end) for end in ends]
        for row, (terminated, truncated) in enumerate(ends):
            if not (terminated or truncated):
                assert "terminal_observation" not in infos[row]
                assert "TimeLimit.truncated" not in infos[row]
                continue
            assert infos[row]["terminal_observation"].tolist() == said["last"][row][0]
            assert infos[row]["TimeLimit.truncated"] is (truncated and not terminated)
            assert infos[row]["double"] == 2 * said["last"][row][0][1]
            kinds.add((terminated, truncated))
        started += [sum(done)] if any(done) else []
        loop.restart(done.tolist())
    assert toy.started == started
    assert kinds == {(True, False), (False, True), (True, True)}


def test_gymnasiums_episode_statistics_are_those_of_the_loop() -> None:
    env = RecordEpisodeStatistics(VectorEnv(Toy(), BATCH))
    loop = Loop(BATCH, stream_seed(SEED))
    env.reset(seed=SEED)
    returns, lengths, finished = [0.0] * BATCH, [0] * BATCH, []
    for step in range(STEPS):
        actions = some_actions(step, BATCH)[:, 0]
        env.step(actions)
        said = loop.step(actions.tolist())
        ended = [any(e) for e in zip(said["terminated"], said["truncated"], strict=True)]
        for row in range(BATCH):
            returns[row] += said["reward"][row]
            lengths[row] += 1
            if ended[row]:
                finished.append((returns[row], lengths[row]))
                returns[row], lengths[row] = 0.0, 0
        loop.restart(ended)
    assert list(zip(env.return_queue, env.length_queue, strict=True)) == finished
    assert len(finished) > BATCH


def run(env, seed, steps=STEPS) -> list:
    """Observations and rewards of a vector environment; Gymnasium's or that of SB3."""
    if isinstance(env, SB3VecEnv):
        if seed is not None:
            env.seed(seed)
        first = env.reset()
    else:
        first, _ = env.reset(seed=seed)
    seen = [first.tolist()]
    for step in range(steps):
        observation, reward, *_ = env.step(some_actions(step, BATCH)[:, 0])
        seen.append((observation.tolist(), reward.tolist()))
    return seen


@pytest.mark.parametrize("kind", [VectorEnv, SB3VecEnv])
def test_equal_seeds_give_equal_runs_and_no_seed_continues_the_stream(kind) -> None:
    env = kind(Toy(), BATCH)
    first = run(env, 3)
    after = run(env, None)
    assert after != first
    assert run(env, 4) != first
    assert run(env, 3) == first
    assert run(env, None) == after
    other = kind(Toy(), BATCH)
    run(other, 5, steps=2)
    assert run(other, 3) == first


def test_the_seed_given_to_sb3s_method_and_to_the_constructor_mean_the_same() -> None:
    given, seeded = SB3VecEnv(Toy(), BATCH, seed=3), SB3VecEnv(Toy(), BATCH)
    assert run(given, None) == run(seeded, 3)
    assert run(SB3VecEnv(Toy(), BATCH, seed=4), None) != run(SB3VecEnv(Toy(), BATCH, seed=3), None)


@pytest.mark.parametrize("make", [SingleEnv, lambda env: VectorEnv(env, 1)])
def test_environments_that_were_never_seeded_draw_different_tasks(make) -> None:
    """Gymnasium: without a seed the first reset takes one from the system."""
    firsts = {tuple(make(Toy()).reset()[0].flatten().tolist()) for _ in range(8)}
    assert len(firsts) > 1


def test_a_single_row_is_a_vector_environment_of_one() -> None:
    options = SMALL | {"steps": 3}
    single, vector = SingleEnv(WeightSpace(**options)), VectorEnv(WeightSpace(**options), 1)
    single.action_space.seed(SEED)
    one, _ = single.reset(seed=SEED)
    many, _ = vector.reset(seed=SEED)
    for step in range(8):
        assert np.array_equal(one, many[0])
        action = single.action_space.sample()
        one, reward, terminated, _, info = single.step(action)
        many, rewards, ends, _, infos = vector.step(action[None])
        assert (reward, terminated) == (rewards[0], ends[0])
        assert terminated == (step % 3 == 2)
        assert info == {name: infos[name][0] for name in ("loss", "diverged")}
        if terminated:
            assert np.array_equal(one, infos["final_obs"][0])
            one, _ = single.reset()


@pytest.mark.parametrize(
    "kind", [SingleEnv, lambda env: VectorEnv(env, 1), lambda env: SB3VecEnv(env, 1)]
)
def test_a_step_before_the_first_reset_is_refused_in_one_line(kind) -> None:
    env = kind(Toy())
    with pytest.raises(RuntimeError, match=r"before reset.*call reset first") as refusal:
        env.step(np.zeros(env.action_space.shape, np.float32))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("observation", ["weights", "statistics"])
@pytest.mark.parametrize("mode", ["set", "delta"])
def test_nobody_outside_can_write_into_the_state(mode, observation) -> None:
    env = VectorEnv(WeightSpace(**SMALL, action_mode=mode, observation=observation), 3)
    first, _ = env.reset(seed=SEED)
    env.action_space.seed(SEED)
    actions = env.action_space.sample()
    observation, reward, terminated, _, info = env.step(actions)
    before = {name: [t.clone() for t in tensors(part)] for name, part in fields(env)}
    for array in (first, actions, observation, reward, info["loss"]):
        array.fill(123)
    for array in (terminated, info["diverged"]):
        array.fill(True)
    changed = [
        name for name, part in fields(env) if not all(map(torch.equal, before[name], tensors(part)))
    ]
    assert changed == []


def test_the_rows_share_one_environment_whose_attributes_can_be_read_but_not_set() -> None:
    toy = Toy()
    env = SB3VecEnv(toy, 3)
    assert [value is toy.started for value in env.get_attr("started")] == [True] * 3
    assert env.get_attr("count", 1) == [1]
    assert env.get_attr("count", [0, 2]) == [1, 1]
    assert env.get_attr("render_mode") == [None] * 3
    assert (env.has_attr("count"), env.has_attr("nothing")) == (True, False)
    with pytest.raises(AttributeError, match=r"count=2 cannot be set.*make a new one") as refusal:
        env.set_attr("count", 2)
    assert "\n" not in str(refusal.value)
    assert toy.count == 1
    assert env.env_method("greeting", "hello", mark="!") == ["hello!"] * 3
    assert env.env_method("greeting", "hello", indices=[0, 2]) == ["hello"] * 2
    assert env.env_is_wrapped(Monitor) == [False] * 3
    assert env.env_is_wrapped(Monitor, indices=0) == [False]


class OpenToy(Toy):
    """Counts how often it is closed."""

    max_steps, closed = 5, 0

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("make", [SingleEnv, lambda e: VectorEnv(e, 2), lambda e: SB3VecEnv(e, 2)])
def test_closing_closes_the_environment_where_there_is_something_to_close(make) -> None:
    toy = OpenToy()
    make(toy).close()
    make(Trial(toy, 2)).close()
    assert toy.closed == 2
    make(Toy()).close()


def trained(seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """PPO's parameters before and after two rollouts."""
    env = SB3VecEnv(WeightSpace(**SMALL), 2)
    learner = PPO(
        "MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=2, seed=seed, device="cpu",
        policy_kwargs={"net_arch": [8]},
    )  # fmt: skip
    start = {name: tensor.clone() for name, tensor in learner.policy.state_dict().items()}
    learner.learn(32)
    assert learner.num_timesteps == 32
    return start, learner.policy.state_dict()


def test_ppo_trains_and_equal_seeds_give_equal_parameters() -> None:
    (start, end), (_, again), (other_start, other) = trained(0), trained(0), trained(1)
    assert all(torch.isfinite(tensor).all() for tensor in end.values())
    moved = [name for name in end if not torch.equal(start[name], end[name])]
    assert set(moved) == set(end)
    assert all(torch.equal(end[name], again[name]) for name in end)
    assert any(not torch.equal(end[name], other[name]) for name in end)
    assert other_start.keys() == start.keys()
