"""Agents with a memory: a trial played row by row, and a training stopped at any moment."""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.distributions import Categorical

from metarl_lib.algos import PPO, ActorCritic, Settings, Streams, ppo
from metarl_lib.algos.actor_critic import Outputs
from metarl_lib.cores import GRU, MetODS
from metarl_lib.envs.base import Step
from metarl_lib.experiments import meta_training
from metarl_lib.experiments.base import row
from metarl_lib.experiments.meta_agents import matched_units, parameters_of
from metarl_lib.experiments.meta_training import (
    average,
    last_logged,
    less_others,
    load_agent,
    make_model,
    play,
    report_times,
    train_agent,
    tune_rate,
)
from metarl_lib.experiments.training_loop import Rhythm
from metarl_lib.runs import DivergenceError, Run, Stage

BOX = spaces.Box(np.array([-0.2, -0.1], np.float32), np.array([0.3, 0.1], np.float32))
SMALL = Settings(
    rows=4, segment=3, updates=11, epochs=2, minibatches=2, learning_rate=1e-2, clip=0.3
)
SIZE = 4 * 3
LAST = "training-a"


class Life(NamedTuple):
    length: Tensor
    time: Tensor
    total: Tensor


class Lives:
    """A task is a length n; its trial takes n steps and is cut off if n is even.

    A step adds the action's number to the total and pays total · (time − 2), also after the end.
    """

    max_steps = 9

    def __init__(self, action_space=None) -> None:
        self.action_space = spaces.Discrete(3) if action_space is None else action_space
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def sample_tasks(self, batch, generator, split="train"):
        return 3.0 + torch.randint(5, (batch,), generator=generator)

    def reset(self, tasks, generator):
        state = Life(tasks, torch.zeros_like(tasks), torch.zeros_like(tasks))
        return state, self.observe(state)

    def observe(self, state):
        return torch.stack([state.time / 3, state.total.sin(), state.length / 5], -1)

    def step(self, state, action, generator):
        number = action.float() if action.ndim == 1 else action.sum(-1)
        state = Life(state.length, state.time + 1, state.total + number)
        over, even = state.time >= state.length, state.length % 2 == 0
        reward = state.total * (state.time - 2)
        info = {"clock": state.time.clone()}
        return state, Step(self.observe(state), reward, over & ~even, over & even, info)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def opinionated(env, core=None, seed=3):
    """An agent whose choices depend on what it sees and remembers."""

    def build():
        cell = GRU(3, 6) if core is None else core()
        model = ActorCritic(cell, env.observation_space, env.action_space)
        with torch.no_grad():
            model.policy_head.weight.mul_(400)
            for p in model.core.parameters():
                p.mul_(1.5)
        return model

    return make_model(build, seed, 0)


def one_row(model, length, wiped=False):
    """Rewards and actions of one greedy trial, the environment in Python's numbers."""
    rewards, actions, total, memory = [], [], 0.0, model.core.initial_state(1)
    for time in range(int(length)):
        seen = torch.tensor([[time / 3, math.sin(total), length / 5]])
        y, after = model.core.step(seen, model.core.initial_state(1) if wiped else memory)
        memory = after
        logits = (model.policy_head.weight @ y[0] + model.policy_head.bias).tolist()
        actions.append(logits.index(max(logits)))
        total += actions[-1]
        rewards.append(total * (time + 1 - 2))
    return rewards, actions


@pytest.mark.parametrize("wiped", [False, True])
@torch.no_grad()
def test_a_trial_is_that_of_each_row_alone(wiped) -> None:
    """With MetODS, whose initial memory is not zero."""
    env = Lives()
    model = opinionated(env, lambda: MetODS(3, 4, 2))
    lengths = torch.tensor([3.0, 6.0, 4.0, 5.0, 6.0])
    played = play(env, model, lengths, seeded(), wiped=wiped)
    assert len(played.rewards) == 6 < env.max_steps  # nobody waits longer than the longest trial
    every = []
    for b, length in enumerate(lengths.tolist()):
        rewards, actions = one_row(model, length, wiped)
        n = int(length)
        assert played.rewards[:n, b].tolist() == pytest.approx(rewards, abs=1e-5)
        assert played.actions[:n, b].tolist() == actions
        assert played.rewards[n:, b].tolist() == [0.0] * (6 - n)
        assert played.alive[:, b].tolist() == [True] * n + [False] * (6 - n)
        assert float(played.returns[b]) == pytest.approx(sum(rewards), abs=1e-5)
        assert played.info["clock"][:, b].tolist() == [1, 2, 3, 4, 5, 6]
        every += actions
    assert len(set(every)) > 1
    other = play(env, model, lengths, seeded(), wiped=not wiped)
    assert not torch.equal(other.actions, played.actions)


def test_drawn_actions_follow_the_policy_and_the_given_stream_alone() -> None:
    env = Lives()
    model, lengths = opinionated(env), torch.full((4000,), 1.0)
    model.policy_head.weight.data.mul_(0.1)
    before = torch.random.get_rng_state()
    first = play(env, model, lengths, seeded(1), greedy=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    again = play(env, model, lengths, seeded(1), greedy=False)
    other = play(env, model, lengths, seeded(2), greedy=False)
    assert torch.equal(first.actions, again.actions)
    assert not torch.equal(first.actions, other.actions)
    y, _ = model.core.step(torch.tensor([[0.0, 0.0, 0.2]]), model.initial_state(1))
    expected = model.policy_head(y)[0].softmax(-1).tolist()
    assert max(expected) < 0.9
    shares = (first.actions[0].bincount(minlength=3) / 4000).tolist()
    assert shares == pytest.approx(expected, abs=0.04)
    greedy = play(env, model, lengths, seeded(1)).actions
    assert greedy.unique().tolist() == [expected.index(max(expected))]


class Counting:
    """Its memory is how often it was updated. It keeps what it is given, and acts on it."""

    def __init__(self) -> None:
        self.given = []

    def initial_state(self, batch):
        return (torch.full((batch,), 4.0),)

    def step(self, observation, state):
        self.given.append(state[0].tolist())
        logits = torch.nn.functional.one_hot(state[0].long() % 3, 3) * 50.0
        return Outputs(Categorical(logits=logits), state[0], (state[0] + 1,))

    def clip(self, action):
        return action


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [4, 5, 6, 7, 8, 9]),
        ({"frozen_after": 0}, [4, 4, 4, 4, 4, 4]),
        ({"frozen_after": 1}, [4, 5, 5, 5, 5, 5]),
        ({"frozen_after": 4}, [4, 5, 6, 7, 8, 8]),
        ({"frozen_after": 5}, [4, 5, 6, 7, 8, 9]),
        ({"frozen_after": 3, "wiped": True}, [4, 4, 4, 4, 4, 4]),
    ],
)
@pytest.mark.parametrize("greedy", [True, False])
def test_a_frozen_memory_is_that_after_so_many_steps(options, expected, greedy) -> None:
    model = Counting()
    played = play(Lives(), model, torch.tensor([6.0, 4.0]), seeded(), greedy=greedy, **options)
    assert model.given == [[count, count] for count in expected]
    assert played.actions.tolist() == [[count % 3] * 2 for count in expected]


def test_frozen_at_once_is_wiped_and_frozen_at_the_end_is_not_at_all() -> None:
    """Of an agent with an initial memory that is not zero; in between, it is neither."""
    env = Lives()
    model, lengths = opinionated(env, lambda: MetODS(3, 4, 2)), torch.full((400,), 6.0)

    def lived(**options):
        return play(env, model, lengths, seeded(), greedy=False, **options).actions

    plain, half = lived(), lived(frozen_after=3)
    assert torch.equal(lived(frozen_after=0), lived(wiped=True))
    assert torch.equal(lived(frozen_after=6), plain)
    assert torch.equal(half[:4], plain[:4])
    assert not torch.equal(half[4], plain[4])
    assert not torch.equal(half[4], lived(frozen_after=0)[4])


@torch.no_grad()
def test_who_watches_sees_each_step() -> None:
    env = Lives()
    model, seen = opinionated(env), []
    lengths = torch.tensor([3.0, 5.0])
    played = play(env, model, lengths, seeded(), watch=lambda *step: seen.append(step))
    assert [t for t, *_ in seen] == [0, 1, 2, 3, 4]
    total, memory = torch.zeros(2), model.initial_state(2)
    for (t, observation, outputs, action), taken in zip(seen, played.actions, strict=True):
        expected = torch.stack([torch.full((2,), t / 3), total.sin(), lengths / 5], -1)
        torch.testing.assert_close(observation, expected)
        y, memory = model.core.step(observation, memory)
        assert torch.equal(outputs.values, model.value_head(y)[:, 0])
        assert torch.equal(outputs.state[0], memory[0])
        assert torch.equal(action, taken)
        total = total + action


def test_actions_are_kept_as_they_are_and_clipped_for_the_environment() -> None:
    env = Lives(BOX)
    played = play(env, opinionated(env), torch.tensor([3.0, 4.0]), seeded(), greedy=False)
    assert (played.actions.abs().amax((0, 1)) > 0.4).all()
    low, high = torch.tensor(BOX.low), torch.tensor(BOX.high)
    totals = torch.minimum(torch.maximum(played.actions, low), high).sum(-1).cumsum(0)
    clock = torch.arange(1.0, 5.0)[:, None]
    torch.testing.assert_close(played.rewards, totals * (clock - 2) * played.alive)


def test_returns_are_averaged_over_the_updates_in_which_a_trial_ended() -> None:
    common = {"reward": 9.0, "policy_loss": 9.0}
    window = [
        {"return": 2.0, "entropy": 1.0, "value_loss": 4.0, "kl": 0.3} | common,
        {"return": math.nan, "entropy": 2.0, "value_loss": 5.0, "kl": 0.6} | common,
        {"return": 5.0, "entropy": 6.0, "value_loss": 9.0, "kl": 0.0} | common,
    ]
    found = average(window)
    expected = {"training_return": 3.5, "entropy": 3.0, "value_loss": 6.0, "kl": 0.3}
    assert found == pytest.approx(expected)
    assert average(window[1:2]) == {"entropy": 2.0, "value_loss": 5.0, "kl": 0.6}


@pytest.fixture(autouse=True, scope="module")
def _few_logs(fast):
    """Eleven updates are logged after 3, 6, 9 and 11 of them, and kept after 6."""
    fast.setattr(meta_training, "RHYTHM", Rhythm(logs=4, logs_per_checkpoint=2))


def train(run, seed=0, model_seed=3):
    model = opinionated(Lives(), seed=model_seed)
    train_agent(run.stage(LAST), Lives(), model, SMALL, seed, 1)
    return model


def new_run(folder, name="run"):
    return Run.create(folder / name, "test", SMALL, scale="smoke", seed=0)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A training that nothing stops, its model, what its updates said, and its checkpoints."""
    run, said, saved = new_run(tmp_path_factory.mktemp("m")), [], []
    update, save = PPO.update, Stage.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PPO, "update", lambda ppo: said.append(update(ppo)) or said[-1])
        patch.setattr(
            Stage, "save", lambda s, *a, **k: saved.append((a[0], set(a[1]))) or save(s, *a, **k)
        )
        model = train(run)
    return run, model, said, saved


def test_a_learning_curve_has_the_means_since_the_point_before(straight) -> None:
    run, _, said, _ = straight
    assert len(said) == 11
    curve = {}
    for step, name, value in run.metrics().itertuples(index=False, name=None):
        curve[step, name] = value
    expected, begin = {}, 0
    for end in (3, 6, 9, 11):
        part, step = said[begin:end], end * SIZE
        begin = end
        for name in ("entropy", "value_loss", "kl"):
            expected[step, f"{LAST}/{name}"] = sum(u[name] for u in part) / len(part)
        returns = [u["return"] for u in part if not math.isnan(u["return"])]
        expected[step, f"{LAST}/training_return"] = sum(returns) / len(returns)
    assert curve == pytest.approx(expected)
    assert len(curve) == len(run.metrics())


def test_a_training_is_kept_now_and_then_and_at_its_end_the_agent_alone(straight) -> None:
    run, model, _, saved = straight
    own = model.state_dict()
    assert [step for step, _ in saved] == [6 * SIZE, 11 * SIZE]
    assert saved[0][1] > {f"model.{name}" for name in own}
    assert saved[1][1] == set(own)
    stage = Run.resume(run.folder, "test", SMALL).stage(LAST)
    assert (stage.finished, stage.step) == (True, 11 * SIZE)
    assert all(torch.equal(stage.tensors[name], own[name]) for name in own)
    assert [path.name for path in run.folder.glob("*.safetensors")] == [
        f"ckpt-{LAST}-{11 * SIZE}.safetensors"
    ]


def test_a_finished_training_is_not_trained_again(straight, monkeypatch) -> None:
    run, model, _, _ = straight
    monkeypatch.setattr(meta_training, "PPO", None)
    again = Run.resume(run.folder, "test", SMALL)
    loaded = train(again, model_seed=8).state_dict()
    assert all(torch.equal(loaded[name], t) for name, t in model.state_dict().items())
    assert again.metrics().equals(run.metrics())


def test_the_last_point_of_each_curve_is_a_result(straight) -> None:
    run, last = straight[0], {}
    for step, name, value in run.metrics().itertuples(index=False, name=None):
        last[name.removeprefix(f"{LAST}/")] = (value, step)
    assert len(last) == 4
    assert last_logged(run) == [
        {"variant": LAST, "metric": name, "value": value, "budget": 11 * SIZE}
        for name, (value, _) in last.items()
    ]


class Killed(Exception):
    """The moment at which a run is killed."""


def bombs(owner, name, count):
    """A method that fails instead of being called for the `count`-th time."""
    real, calls = getattr(owner, name), []

    def method(*arguments, **options):
        calls.append(1)
        if len(calls) == count:
            raise Killed
        return real(*arguments, **options)

    return method


@pytest.mark.parametrize(
    ("owner", "name", "count"),
    [
        (PPO, "update", 5),  # before the first checkpoint
        (PPO, "update", 7),  # just after it
        (PPO, "update", 11),  # two updates after a log
        (Stage, "save", 1),  # instead of the checkpoint
        (Stage, "save", 2),  # instead of the end
    ],
)
def test_a_training_killed_and_resumed_is_one_that_never_stopped(
    tmp_path, straight, monkeypatch, owner, name, count
) -> None:
    run = new_run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, bombs(owner, name, count))
        with pytest.raises(Killed):
            train(run)
    resumed = Run.resume(run.folder, "test", SMALL)
    kept = resumed.stage(LAST)
    had = 0 if (owner, count) in {(PPO, 5), (Stage, 1)} else 6
    assert (kept.step, kept.finished) == (had * SIZE, False)
    # With a checkpoint the parameters come from there, whatever the new model has.
    train(resumed, model_seed=8 if had else 3)
    expected, found = straight[0].tensors(), resumed.tensors()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], t) for key, t in expected.items())
    assert resumed.metrics().equals(straight[0].metrics())


def test_a_training_that_is_asked_to_stop_saves_at_its_next_log(
    tmp_path, straight, monkeypatch
) -> None:
    """With what was logged so far, and nothing of what comes after."""
    run = new_run(tmp_path)
    update, calls = PPO.update, []

    def ask(ppo):
        calls.append(1)
        run.stopping = len(calls) >= 2
        return update(ppo)

    monkeypatch.setattr(PPO, "update", ask)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    assert len(calls) == 3
    resumed = Run.resume(run.folder, "test", SMALL)
    assert resumed.stage(LAST).step == 3 * SIZE
    train(resumed, model_seed=8)
    assert all(torch.equal(resumed.tensors()[k], t) for k, t in straight[0].tensors().items())
    assert resumed.metrics().equals(straight[0].metrics())


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_last_checkpoint(
    tmp_path, straight, monkeypatch
) -> None:
    run, real = new_run(tmp_path), PPO.update

    def update(ppo):
        numbers = real(ppo)
        return numbers | {"value_loss": math.nan} if ppo.done == 8 else numbers

    with monkeypatch.context() as patch:
        patch.setattr(PPO, "update", update)
        words = (
            rf"diverged at step {8 * SIZE}: value_loss = nan; last good checkpoint: .*{6 * SIZE}"
        )
        with pytest.raises(DivergenceError, match=words):
            train(run)
    resumed = Run.resume(run.folder, "test", SMALL)
    assert resumed.stage(LAST).step == 6 * SIZE
    train(resumed)
    assert all(torch.equal(resumed.tensors()[k], t) for k, t in straight[0].tensors().items())


def test_a_training_depends_on_its_seed_and_index(tmp_path, straight) -> None:
    """And a segment in which no trial ends is no divergence."""
    expected = straight[1].value_head.weight
    for place, (seed, index) in enumerate([(1, 1), (0, 2)]):
        model, run = opinionated(Lives()), new_run(tmp_path, f"run{place}")
        train_agent(run.stage(LAST), Lives(), model, SMALL, seed, index)
        assert not torch.equal(model.value_head.weight, expected)
    short = replace(SMALL, updates=1, segment=2)
    run = new_run(tmp_path, "short")
    train_agent(run.stage(LAST), Lives(), opinionated(Lives()), short, 0, 1)
    names = {f"{LAST}/{name}" for name in ("entropy", "value_loss", "kl")}
    assert set(run.metrics()["name"]) == names
    assert set(run.metrics()["step"]) == {8}


@pytest.mark.parametrize("compiled", [False, True])
def test_compiled_code_of_other_agents_is_forgotten(tmp_path, monkeypatch, compiled) -> None:
    """Else torch, which compiles a function eight times, runs the ninth agent as it is."""
    resets = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(None))
    settings = replace(SMALL, updates=1)
    object.__setattr__(settings, "compile", compiled)
    run = new_run(tmp_path)
    train_agent(run.stage(LAST), Lives(), opinionated(Lives()), settings, 0, 1)
    assert len(resets) == compiled


def test_initial_parameters_depend_on_seed_and_index_and_leave_the_global_stream_alone() -> None:
    def weights(seed, index):
        before = torch.random.get_rng_state()
        made = make_model(make_agent, seed, index)
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.rand(1)
        return made.value_head.weight

    def make_agent():
        return ActorCritic(GRU(3, 2), Lives().observation_space, spaces.Discrete(3))

    assert torch.equal(weights(5, 2), weights(5, 2))
    assert not torch.equal(weights(5, 2), weights(5, 1))
    assert not torch.equal(weights(5, 2), weights(6, 2))


def test_an_agent_is_loaded_from_its_own_tensors() -> None:
    one, two = (opinionated(Lives(), seed=seed) for seed in (1, 2))
    tensors = {f"gru-k5-n10.{k}": t for k, t in one.state_dict().items()}
    tensors |= {f"gru-k5-n100.{k}": t for k, t in two.state_dict().items()}
    found = load_agent(opinionated(Lives()), tensors, "gru-k5-n10").state_dict()
    assert all(torch.equal(found[name], t) for name, t in one.state_dict().items())
    assert parameters_of(one) == 3 * 6 * (3 + 6 + 2) + 4 * (6 + 1)


@pytest.mark.parametrize("most", [1, 7, 40])
def test_the_matched_number_of_units_is_that_of_the_nearest_count(most) -> None:
    def count(units):
        return 3 * units * units + 4 * units + 1  # 8, 21, 40, …

    for target in range(0, 700, 3):
        found = matched_units(count, target, most)
        assert 1 <= found <= most
        nearest = min(abs(count(units) - target) for units in range(1, most + 1))
        assert abs(count(found) - target) == nearest


def test_a_training_says_what_took_how_long(capsys, monkeypatch) -> None:
    """A clock that every look moves on by a second, and one more in the environment."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    class Slow(Lives):
        def step(self, state, action, generator):
            now[0] += 1.0
            return super().step(state, action, generator)

    env = Slow()
    model = make_model(
        lambda: ActorCritic(GRU(3, 4), env.observation_space, env.action_space), 0, 0
    )
    streams = Streams(*(torch.Generator().manual_seed(k) for k in range(4)))
    training = PPO(env, model, SMALL, streams)
    monkeypatch.setattr(ppo, "perf_counter", clock)
    training.update()
    assert training.seconds == {"environment": 6.0, "inference": 3.0, "update": 1.0}
    report_times("an agent", training)
    said = capsys.readouterr().err
    assert said == "an agent: 10 s, of which environment 60%, inference 30%, update 10%\n"


def test_what_agents_have_more_than_others() -> None:
    numbers = {("a", "return"): 3.0, ("b", "return"): 1.5, ("b", "loss"): 9.0, ("c", "return"): 1.0}
    rows = [row(variant, metric, value, 7) for (variant, metric), value in numbers.items()]
    found = less_others(rows, ("return", "success"), ("b", "missing"))
    assert found == [
        row("a", "return_minus_b", 1.5, 7),
        row("c", "return_minus_b", -0.5, 7),
    ]


class Scripted:
    """A training at a rate: what each update earns; a rate that is too large ends in NaN."""

    def __init__(self, rate: float) -> None:
        self.rate, self.done = rate, 0

    def update(self) -> dict[str, float]:
        assert self.rate < 1 or self.done < 2, "a training that has diverged is left alone"
        self.done += 1
        gone = self.rate >= 1 and self.done == 2
        return {
            "return": math.nan,
            "reward": 9.0 if self.rate >= 1 else self.rate * self.done,
            "kl": math.nan if gone else 0.1,
        }


def test_the_rate_that_earns_most_late_is_chosen_and_none_that_diverges(tmp_path) -> None:
    stage = Run.create(tmp_path / "r", "x", SMALL, scale="smoke", seed=0).stage("search")
    tune_rate(stage, "rates", (0.1, 2.0, 0.3, 0.2), Scripted, 4)
    assert stage.finished
    assert stage.values["rate"] == 0.3
    assert stage.values["score"] == pytest.approx(0.3 * (3 + 4) / 2)
    other = Run.create(tmp_path / "s", "x", SMALL, scale="smoke", seed=0).stage("search")
    with pytest.raises(DivergenceError, match=r"rates=\(2.0, 5.0\): every one diverged; add small"):
        tune_rate(other, "rates", (2.0, 5.0), Scripted, 4)
