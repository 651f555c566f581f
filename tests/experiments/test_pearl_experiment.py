"""PEARL's experiment: numbers of a test by hand, budgets, resuming, what oracles know."""

import math
from dataclasses import replace

import pytest
import torch
from streams import stream

from metarl_lib.algos import PEARL
from metarl_lib.envs.point_robot import PointRobot, PointTasks
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments import pearl, pearl_training
from metarl_lib.experiments.pearl_readings import (
    Episodes,
    exact_posterior_sampling,
    knowing,
    readings,
    towards,
)
from metarl_lib.experiments.pearl_training import Taught, Told, at_each, train_pearl
from metarl_lib.runs import DivergenceError, Run, generator

SMALL = replace(pearl.PRESETS["smoke"], goal_radius=0.6, test_tasks=30)
SEED = 3


def test_what_is_read_off_episodes() -> None:
    """Three tasks, three episodes of two steps; near is 0.5."""
    near, far = 0.5, 0.6
    distance = torch.tensor([
        [[far, far], [near, far], [far, near]],  # found in the second, solved in the third
        [[near, near], [near, near], [far, far]],  # found and solved at once, then lost
        [[far, far], [far, far], [far, far]],
    ])  # fmt: skip
    rewards = torch.arange(18.0).reshape(3, 3, 2)
    found = readings(Episodes(rewards, distance), 0.5)
    assert found["return"].tolist() == [[1, 5, 9], [13, 17, 21], [25, 29, 33]]
    assert found["solved"].tolist() == [[0, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert found["found"].tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert at_each("kept", found["kept"]) == {"kept@2": 1.0, "kept@3": 0.5}
    assert at_each("x", torch.tensor([[1.0, 2.0], [3.0, 6.0]])) == {"x@1": 2.0, "x@2": 4.0}


@pytest.mark.parametrize("sparse", [True, False])
def test_who_knows_the_goal_earns_the_most(sparse) -> None:
    """More than any of many other ways: that one with noise, and others with other speeds."""
    env = PointRobot(sparse=sparse, goals="circle" if sparse else "square")
    tasks = env.sample_tasks(200, stream())
    best = knowing(env, tasks).rewards.sum((1, 2))
    for seed, size in enumerate((0.05, 0.3, 1.0)):
        noise, total = stream(seed), torch.zeros(200)
        state, position = env.reset(tasks, noise)
        for _ in range(env.max_steps):
            action = (10 * (tasks.goal - position)).clamp(-1, 1)
            action = action + size * torch.randn(200, 2, generator=noise)
            state, step = env.step(state, action, noise)
            position, total = step.observation, total + step.reward
        assert (total <= best + 1e-5).all()
        assert (total < best - 1e-3).any()


def test_straight_ways_by_hand() -> None:
    """To (0.25, −1) in ten steps: x arrives in three, y in ten."""
    env = PointRobot(steps=12)
    goal = torch.tensor([[0.25, -1.0]])
    episode, places = towards(env, PointTasks(goal), goal)
    x = [0.1, 0.2] + [0.25] * 10
    y = [-0.1 * k for k in range(1, 11)] + [-1.0] * 2
    torch.testing.assert_close(places[:, 0], torch.tensor([x, y]).T)
    expected = [math.hypot(0.25 - a, -1 - b) for a, b in zip(x, y, strict=True)]
    torch.testing.assert_close(episode.distance[0, 0], torch.tensor(expected), atol=1e-6, rtol=0)
    assert torch.equal(episode.rewards, -episode.distance)


def test_exact_posterior_sampling_finds_what_it_should() -> None:
    """The first draw finds a goal with probability 2w/π − w²/π², w = 2 arcsin(r/2); none is left
    in the end, and what is found is kept at the price of the way there."""
    env = PointRobot(sparse=True)
    count = 800
    angle = math.pi * torch.rand(count, generator=stream())
    tasks = PointTasks(torch.stack([angle.cos(), angle.sin()], -1))
    found = readings(exact_posterior_sampling(env, tasks, 14, stream(1)), env.goal_radius)
    w = 2 * math.asin(env.goal_radius / 2) / math.pi
    share = found["found"].mean(0)
    assert float(share[0]) == pytest.approx(2 * w - w**2, abs=4 * (0.11 / count) ** 0.5)
    assert (share.diff() >= 0).all()
    assert share[-1] > 0.999
    assert at_each("kept", found["kept"])["kept@14"] == 1
    best = knowing(env, tasks).rewards.sum((1, 2))
    before = torch.nn.functional.pad(found["found"][:, :-1], (1, 0)) > 0
    torch.testing.assert_close(found["return"][before], best[:, None].expand(-1, 14)[before])


def test_no_draw_goes_where_nothing_can_be() -> None:
    """Each new draw lies farther than the radius from all that was passed without a reward."""
    env = PointRobot(sparse=True)
    tasks = PointTasks(torch.tensor([[-1.0, 0.0]]).expand(500, -1))
    episodes = exact_posterior_sampling(env, tasks, 2, stream(2))
    again = exact_posterior_sampling(env, tasks, 1, stream(2))
    torch.testing.assert_close(episodes.distance[:, :1], again.distance)
    # Where an episode ends tells its angle, as the goal lies on the circle too.
    angle = math.pi - 2 * torch.asin((episodes.distance[..., -1] / 2).clamp(max=1))
    missed = (episodes.distance[:, 0] > env.goal_radius).all(-1)
    gap = (angle[missed, 0] - angle[missed, 1]).abs()
    assert gap.min() > 2 * math.asin(env.goal_radius / 2) - 0.01
    assert missed.float().mean() > 0.7


def test_the_goal_is_shown_behind_the_rest() -> None:
    env = Told(PointRobot(), 2)
    tasks = env.sample_tasks(5, stream())
    state, seen = env.reset(tasks, stream())
    assert seen.shape == (5, *env.observation_space.shape)
    assert torch.equal(seen[:, 2:], tasks.goal)
    _, step = env.step(state, torch.ones(5, 2), stream())
    torch.testing.assert_close(
        step.observation, torch.cat([0.1 + torch.zeros(5, 2), tasks.goal], 1)
    )


def test_a_taught_trial_pays_the_lesson_and_shows_the_reward() -> None:
    inner = Trial(PointRobot(sparse=True, goal_radius=0.9), 2)
    env = Taught(inner, pearl.distance)
    tasks = env.sample_tasks(5, stream())
    state, _ = env.reset(tasks, stream())
    plain, _ = inner.reset(tasks, stream())
    for _ in range(4):
        action = torch.ones(5, 2)
        state, step = env.step(state, action, stream())
        plain, other = inner.step(plain, action, stream())
        assert torch.equal(step.observation, other.observation)
        assert torch.equal(step.reward, -step.info["distance"])
    assert not torch.equal(step.reward, other.reward)


def test_budgets_are_equal_and_what_was_lived(run) -> None:
    for variant, chosen in pearl.VARIANTS.items():
        steps = pearl.steps_of(SMALL, variant)
        if chosen.kind == "gru":
            settings = pearl.ppo_settings_of(SMALL, variant)
            lived = settings.rows * settings.segment * settings.updates
            times = SMALL.gru_long if chosen.long else 1
            assert lived == pytest.approx(steps * times, rel=0.35)  # of few, large updates
        else:
            pearl.train(SMALL, run, variant)
            assert run.stage(variant).values["steps"] == steps
    full = pearl.PRESETS["full"]
    settings = pearl.ppo_settings_of(full, "gru")
    lived = settings.rows * settings.segment * settings.updates
    assert lived == pytest.approx(pearl.steps_of(full, "gru"), rel=0.02)
    assert pearl.steps_of(full, "gru") == pearl.steps_of(full, "pearl")


def test_agents_are_what_their_names_say() -> None:
    made = {name: pearl.make_agent(SMALL, name) for name in pearl.VARIANTS}
    assert made["pearl-point"].encoder.deterministic
    assert not made["pearl"].encoder.deterministic
    assert made["told"].encoder.latent == 0
    assert made["told"].inputs == made["pearl"].inputs + 2
    assert made["gru"].inputs == 2 + 2 + 2
    assert pearl.lesson_of(SMALL, "pearl") is pearl.lesson_of(SMALL, "gru") is pearl.distance
    assert pearl.lesson_of(replace(SMALL, shaped=False), "pearl") is None
    assert pearl.lesson_of(SMALL, "pearl-dense") is None
    assert pearl.env_of(SMALL, "pearl-dense").goals == "square"


def lives_by_hand(agent, way: str) -> torch.Tensor:
    """Returns `[B, K]` of PEARL's episodes, one task at a time, with the draws of the library."""
    env = pearl.robot(SMALL, True)
    tasks = env.sample_tasks(SMALL.test_tasks, generator(SEED, "evaluation"), "test")
    draws = generator(SEED, "evaluation", 2)
    lived = [[] for _ in range(SMALL.test_tasks)]
    returns = torch.zeros(SMALL.test_tasks, SMALL.test_episodes)
    for k in range(SMALL.test_episodes):
        noise = torch.empty(SMALL.test_tasks, SMALL.latent)
        if way != "mean":
            noise.normal_(generator=draws)
        for b in range(SMALL.test_tasks):
            rows = torch.stack(lived[b]) if lived[b] and way != "prior" else torch.zeros(0, 7)
            mean, variance = (part[0] for part in agent.encoder(rows[None]))
            z = mean if way == "mean" else mean + variance.sqrt() * noise[b]
            state, seen = env.reset(PointTasks(tasks.goal[b : b + 1]), stream())
            for _ in range(env.max_steps):
                found = agent.policy.network(torch.cat([seen[0], z]))[:2]
                action = torch.tanh(found)
                state, step = env.step(state, action[None], stream())
                parts = [seen[0], action, step.reward, step.observation[0]]
                lived[b].append(torch.cat(parts))
                returns[b, k] += step.reward[0]
                seen = step.observation
    return returns


@pytest.mark.parametrize("way", ["posterior", "mean", "prior"])
@torch.no_grad()
def test_every_number_of_a_test_by_hand(way) -> None:
    agent = pearl.make_agent(SMALL, "pearl", SEED)
    rows = pearl.test(SMALL, SEED, agent, "pearl")
    values = {r["metric"]: r["value"] for r in rows}
    suffix = "" if way == "posterior" else f"_{way}"
    plain = lives_by_hand(agent, way).mean(0).tolist()
    for k, expected in enumerate(plain, 1):
        assert values[f"return{suffix}@{k}"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert any(abs(e) > 0.01 for e in plain)
    settings = pearl.settings_of(SMALL, "pearl")
    assert values["gradient_steps"] == settings.iterations * settings.gradient_steps
    assert values["parameters"] == sum(p.numel() for p in agent.parameters() if p.requires_grad)
    assert values["std@1"] == 1


def test_recurrent_lives_are_cut_into_episodes() -> None:
    agent = pearl.make_agent(SMALL, "gru", SEED)
    episodes = pearl.lives(SMALL, SEED, agent, "gru")
    assert episodes.rewards.shape == (30, 3, 20)
    near = episodes.distance <= SMALL.goal_radius
    expected = torch.where(near, 1 - episodes.distance, 0.0)
    torch.testing.assert_close(episodes.rewards, expected)
    start = episodes.distance[:, :, 0]  # one step from the origin, which is 1 from the goal
    assert ((start - 1).abs() < 0.15).all()


def test_the_published_agents_give_their_numbers_again(run) -> None:
    config = replace(SMALL, variants=("pearl", "told", "gru-long", "pearl-dense"))
    rows = {(r["variant"], r["metric"]): r["value"] for r in pearl.run(config, run)}
    again = pearl.evaluate(config, run.seed, run.tensors())
    assert {r["variant"] for r in again} == {"pearl", "told", "pearl-dense"}
    for r in again:
        assert rows[r["variant"], r["metric"]] == r["value"]
    assert rows["exact-posterior", "found@1"] > 0
    assert rows["pearl", "training_return"] == rows["pearl", "training_return"]


def test_a_stage_stopped_on_its_way_goes_on_bit_for_bit(tmp_path) -> None:
    config = replace(SMALL, iterations=5, variants=("pearl",))
    tensors, logged = [], []
    for name, stops in (("straight", 0), ("stopped", 2)):
        folder = tmp_path / name
        run = Run.create(folder, "pearl", config, scale="smoke", seed=0)
        for _ in range(stops):
            run.stopping = True
            with pytest.raises(KeyboardInterrupt):
                pearl.train(config, run, "pearl")
            run = Run.resume(folder, "pearl", config)
            assert 0 < run.stage("pearl").step < 5
        pearl.train(config, run, "pearl")
        tensors.append(run.tensors())
        logged.append(run.metrics())
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(t, tensors[1][key]) for key, t in tensors[0].items())
    assert logged[0].equals(logged[1])


def test_a_checkpoint_between_two_points_of_a_curve_loses_nothing(tmp_path, monkeypatch) -> None:
    """Points at 4, 8 and 10, checkpoints at 3, 6 and 9; after each of these the run is killed."""
    monkeypatch.setattr(pearl_training, "LOGS", 3)
    monkeypatch.setattr(pearl_training, "CHECKPOINTS", 4)
    config = replace(SMALL, iterations=10, gradient_steps=1, variants=("pearl",))
    straight = Run.create(tmp_path / "straight", "pearl", config, scale="smoke", seed=0)
    pearl.train(config, straight, "pearl")
    run = Run.create(tmp_path / "killed", "pearl", config, scale="smoke", seed=0)
    update, reached = PEARL.iteration, []

    def killed_after_a_checkpoint(self):
        if self.done in (3, 6, 9) and self.done not in reached:
            reached.append(self.done)
            raise InterruptedError
        return update(self)

    monkeypatch.setattr(PEARL, "iteration", killed_after_a_checkpoint)
    for done, waiting in ((3, 3), (6, 2), (9, 1)):
        with pytest.raises(InterruptedError):
            pearl.train(config, run, "pearl")
        run = Run.resume(tmp_path / "killed", "pearl", config)
        stage = run.stage("pearl")
        assert (stage.step, len(stage.values["window"])) == (done, waiting)
    pearl.train(config, run, "pearl")
    frame = straight.metrics()
    assert len(frame[frame.name == "pearl/kl"]) == 3
    assert frame.equals(run.metrics())
    assert all(torch.equal(t, run.tensors()[key]) for key, t in straight.tensors().items())


def test_a_divergence_stops_the_run(run) -> None:
    config = replace(SMALL, learning_rate=1e30, iterations=4)
    model = pearl.make_agent(config, "pearl")
    with pytest.raises(DivergenceError, match="pearl diverged at step"):
        train_pearl(run.stage("pearl"), pearl.robot(config, True), model, config, 0, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"goal_radius": 0.0}, "goal_radius=0.0: must be greater than 0"),
        ({"hidden": ()}, "hidden=: must be greater than 0"),
        (
            {"variants": ("maml",)},
            "variants='maml' is unknown: choose one of 'pearl', 'pearl-point'",
        ),
        ({"collected": 5}, "collected=5: must be at most the 4 tasks"),
        ({"latent": -1}, "latent=-1: must be greater than 0"),
        ({"gru_rows": 63}, "gru_rows=63: must be a multiple of 2"),
    ],
)
def test_values_out_of_range(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **options)
