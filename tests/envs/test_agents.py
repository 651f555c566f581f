"""Several agents in one environment: whose number goes where, and whose turn it is."""

import threading
import time

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from torch import Tensor
from toys import Loop, Toy, some_actions

from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.envs.agents import SharedAgents, Synapses, learn_independently
from metarl_lib.envs.layerwise import Layerwise
from metarl_lib.envs.weight_space import WeightSpace

BATCH, AGENTS, STEPS, SEED = 4, 3, 9, 5


def ppo(env, seed: int = 0) -> PPO:
    return PPO(
        "MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=2, seed=seed, device="cpu",
        policy_kwargs={"net_arch": [8]},
    )  # fmt: skip


def parameters(learner: PPO) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.policy.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_agent_a_of_row_b_is_row_b_times_agents_plus_a() -> None:
    env = SharedAgents(SB3VecEnv(Toy(AGENTS), BATCH, seed=SEED))
    loop = Loop(BATCH, SEED, AGENTS)
    assert env.num_envs == BATCH * AGENTS
    assert (env.observation_space.shape, env.action_space.shape) == ((3,), (1,))
    observation, kinds = env.reset(), set()
    for step in range(STEPS):
        actions = some_actions(step, BATCH, AGENTS)
        flat = np.stack([actions[b, a] for b in range(BATCH) for a in range(AGENTS)])
        nested = loop.observation()
        assert observation.shape == (BATCH * AGENTS, 3)
        for b in range(BATCH):
            for a in range(AGENTS):
                assert observation[b * AGENTS + a].tolist() == nested[b][a]
        observation, rewards, dones, infos = env.step(flat)
        said = loop.step(actions[..., 0].tolist())
        ended = [any(e) for e in zip(said["terminated"], said["truncated"], strict=True)]
        for b in range(BATCH):
            for a in range(AGENTS):
                row = b * AGENTS + a
                assert rewards[row] == said["reward"][b]
                assert dones[row] == ended[b]
                assert ("terminal_observation" in infos[row]) == ended[b]
                if ended[b]:
                    assert infos[row]["terminal_observation"].tolist() == said["last"][b][a]
                    kind = said["truncated"][b] and not said["terminated"][b]
                    assert infos[row]["TimeLimit.truncated"] is kind
                    kinds.add(kind)
        assert len({id(info) for info in infos}) == BATCH * AGENTS
        loop.restart(ended)
    assert kinds == {False, True}


@pytest.mark.parametrize("bias", [False, True])
def test_synapses_act_each_on_its_own_weight(bias) -> None:
    """Row b·P + p of the shared environment is weight p of network b."""
    options = {"widths": (10, 3, 10), "steps": 3, "bias": bias, "action_mode": "synapse"}
    count, whole = 60 + 13 * bias, WeightSpace(**options)
    env = SharedAgents(SB3VecEnv(Synapses(WeightSpace(**options)), 2, seed=SEED))
    assert (env.num_envs, env.observation_space.shape) == (2 * count, (9,))
    assert env.action_space.shape == (1,)
    generator = torch.Generator().manual_seed(SEED)
    state, seen = whole.reset(whole.sample_tasks(2, generator), generator)
    observation = env.reset()
    for step in range(2):
        assert np.array_equal(observation, seen.reshape(2 * count, 9).numpy())
        actions = some_actions(step, 2, count)
        state, reference = whole.step(state, torch.from_numpy(actions[..., 0]), generator)
        observation, rewards, *_ = env.step(actions.reshape(2 * count, 1))
        seen = reference.observation
        assert rewards.tolist() == [r for r in reference.reward.tolist() for _ in range(count)]
    action = torch.zeros(2, count, 1)
    action[1, 17] = 1.0
    after, _ = Synapses(whole).step(state, action, generator)
    flat = [torch.cat([p.flatten(1) for p in s.params], -1) for s in (state, after)]
    assert (flat[0] != flat[1]).nonzero().tolist() == [[1, 17]]


class Scripted:
    """A learner whose actions are known, which writes down when it runs and what it sees."""

    def __init__(self, env, agent: int, diary: list, fails_at: str | None = None) -> None:
        self.env, self.agent, self.diary, self.fails_at = env, agent, diary, fails_at
        self.seen: list = []
        self.callback = None

    def work(self, moment: str) -> None:
        """Longest for the first agent, so that whoever does not wait overtakes it."""
        self.diary.append((self.agent, moment, "begins"))
        time.sleep(0.002 * (AGENTS - self.agent))
        if moment == self.fails_at:
            raise KeyError(f"agent {self.agent}, {moment}")
        self.diary.append((self.agent, moment, "ends"))

    def learn(self, total_timesteps: int, callback=None) -> None:
        self.callback = callback
        self.work("start")
        self.seen.append(self.env.reset())
        for step in range(total_timesteps):
            self.work(f"step {step}")
            actions = some_actions(step, self.env.num_envs, AGENTS)[:, self.agent]
            self.seen.append(self.env.step(actions))
        self.work("finish")


def scripted_run(fails: tuple[int, str] | None = None, toy: Toy | None = None, steps: int = STEPS):
    """Three scripted learners on a toy: the toy, the learners, and their diary."""
    toy, diary = toy or Toy(AGENTS), []

    def make(env, agent: int) -> Scripted:
        moment = fails[1] if fails and fails[0] == agent else None
        return Scripted(env, agent, diary, moment)

    venv = SB3VecEnv(toy, BATCH, seed=SEED)
    return toy, learn_independently(venv, make, steps), diary


def test_learners_run_strictly_in_turn() -> None:
    _, learners, diary = scripted_run(steps=3)
    assert [learner.agent for learner in learners] == [0, 1, 2]
    moments = ["start", "step 0", "step 1", "step 2", "finish"]
    assert diary == [
        (agent, moment, edge)
        for moment in moments
        for agent in range(AGENTS)
        for edge in ("begins", "ends")
    ]


def test_the_actions_of_each_learner_reach_the_environment_as_its_column() -> None:
    toy, learners, _ = scripted_run()
    loop = Loop(BATCH, SEED, AGENTS)
    ends = 0
    for learner in learners:
        assert (learner.env.num_envs, learner.env.observation_space.shape) == (BATCH, (3,))
        assert learner.seen[0].tolist() == [row[learner.agent] for row in loop.observation()]
    for step in range(STEPS):
        actions = some_actions(step, BATCH, AGENTS)
        assert toy.actions[step] == actions.tolist()
        said = loop.step(actions[..., 0].tolist())
        ended = [any(e) for e in zip(said["terminated"], said["truncated"], strict=True)]
        ends += sum(ended)
        loop.restart(ended)
        for learner in learners:
            observation, rewards, dones, infos = learner.seen[step + 1]
            assert observation.tolist() == [row[learner.agent] for row in loop.observation()]
            assert rewards.tolist() == said["reward"]
            assert dones.tolist() == ended
            for b, info in enumerate(infos):
                last = info.get("terminal_observation")
                assert (last is not None) == ended[b]
                if ended[b]:
                    assert last.tolist() == said["last"][b][learner.agent]
    assert len(toy.actions) == STEPS
    assert ends > BATCH, "the check needs restarts"


def test_the_callback_is_given_to_the_first_learner_only() -> None:
    venv, callback = SB3VecEnv(Toy(AGENTS), BATCH), object()
    learners = learn_independently(venv, lambda env, a: Scripted(env, a, []), 1, callback)
    assert [learner.callback is callback for learner in learners] == [True, False, False]


def test_what_one_learner_writes_into_its_arrays_the_others_do_not_see() -> None:
    """SB3 adds the value of the last observation to the rewards of truncated rows, in place."""
    _, learners, _ = scripted_run(steps=2)
    for step in (1, 2):
        for learner in learners:
            observation, rewards, dones, infos = learner.seen[step]
            for array in (observation, rewards):
                array.fill(1000 + learner.agent)
            dones.fill(learner.agent == 1)
            for info in infos:
                info["mine"] = learner.agent
        for learner in learners:
            observation, rewards, dones, infos = learner.seen[step]
            assert set(observation.flatten()) == set(rewards) == {1000 + learner.agent}
            assert set(dones) == {learner.agent == 1}
            assert {info["mine"] for info in infos} == {learner.agent}


@pytest.mark.parametrize("wrap", ["shared", "independent"])
def test_with_one_agent_training_is_that_of_plain_ppo(wrap) -> None:
    plain = ppo(SB3VecEnv(Toy(), 2, seed=SEED))
    start = parameters(plain)
    plain.learn(32)
    venv = SB3VecEnv(Toy(1), 2, seed=SEED)
    if wrap == "shared":
        learner = ppo(SharedAgents(venv)).learn(32)
    else:
        (learner,) = learn_independently(venv, lambda env, agent: ppo(env), 32)
    assert learner.num_timesteps == plain.num_timesteps == 32
    assert equal(parameters(learner), parameters(plain))
    assert not equal(parameters(plain), start)


def independent_training(seed: int) -> list[dict[str, Tensor]]:
    venv = SB3VecEnv(Layerwise(widths=(10, 7, 10), steps=5), 2, seed=seed)
    learners = learn_independently(venv, lambda env, agent: ppo(env, seed + agent), 32)
    assert [learner.num_timesteps for learner in learners] == [32, 32]
    return [parameters(learner) for learner in learners]


def shared_training(seed: int) -> list[dict[str, Tensor]]:
    env = SharedAgents(SB3VecEnv(Layerwise(widths=(10, 7, 10), steps=5), 2, seed=seed))
    learner = ppo(env, seed).learn(64)
    assert learner.num_timesteps == 64
    return [parameters(learner)]


@pytest.mark.parametrize("train", [independent_training, shared_training])
def test_equal_seeds_give_equal_learners(train) -> None:
    first, again, other = train(0), train(0), train(10)
    assert all(map(equal, first, again))
    assert not any(map(equal, first, other))
    assert all(torch.isfinite(t).all() for learner in first for t in learner.values())
    assert len(first) < 2 or not equal(*first)


def outcome(function, *arguments) -> BaseException | None:
    """What a call raises; the test fails, and does not hang, if the call does not come back."""
    raised: list[BaseException | None] = [None]

    def call() -> None:
        try:
            function(*arguments)
        except BaseException as error:
            raised[0] = error

    before = set(threading.enumerate())
    # Threads that a daemon starts are daemons too: none of them can keep pytest from ending.
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "the call hangs"
    assert set(threading.enumerate()) <= before, "threads were left behind"
    return raised[0]


@pytest.mark.parametrize("moment", ["start", "step 1", "finish"])
@pytest.mark.parametrize("agent", range(AGENTS))
def test_an_error_in_one_learner_is_raised_and_stops_the_others(agent, moment) -> None:
    error = outcome(scripted_run, (agent, moment), None, 3)
    assert isinstance(error, KeyError)
    assert error.args == (f"agent {agent}, {moment}",)


def test_an_error_in_the_environment_is_raised_and_stops_all_learners() -> None:
    class Broken(Toy):
        def step(self, state, action, generator):
            if len(self.actions) == 2:
                raise ZeroDivisionError("the environment broke")
            return super().step(state, action, generator)

    toy = Broken(AGENTS)
    error = outcome(scripted_run, None, toy)
    assert isinstance(error, ZeroDivisionError)
    assert len(toy.actions) == 2


@pytest.mark.parametrize("steps", [(2, 3, 3), (3, 3, 2), (3, 2, 3)])
def test_learners_that_want_unequally_many_steps_are_refused_in_one_line(steps) -> None:
    """Whoever goes on alone would get old observations, or wait for ever."""

    class Uneven(Scripted):
        def learn(self, total_timesteps: int, callback=None) -> None:
            super().learn(steps[self.agent], callback)

    venv = SB3VecEnv(Toy(AGENTS), BATCH, seed=SEED)
    error = outcome(learn_independently, venv, lambda env, a: Uneven(env, a, []), 3)
    assert isinstance(error, (ValueError, RuntimeError))
    assert "equally many steps" in str(error)
    assert "\n" not in str(error)


def test_after_an_error_the_environment_can_be_trained_in_again() -> None:
    venv = SB3VecEnv(Toy(AGENTS), BATCH, seed=SEED)
    diary: list = []
    with pytest.raises(KeyError):
        learn_independently(venv, lambda env, a: Scripted(env, a, diary, "step 1"), 3)
    venv.seed(SEED)
    again = learn_independently(venv, lambda env, a: Scripted(env, a, diary), 3)
    _, fresh, _ = scripted_run(steps=3)
    for learner, twin in zip(again, fresh, strict=True):
        assert [s[0].tolist() for s in learner.seen[1:]] == [s[0].tolist() for s in twin.seen[1:]]
