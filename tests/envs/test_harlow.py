"""Harlow's task against a line that moves past the agent, and the ladder of strategies."""

import math

import pytest
import torch
from plain_tasks import PlainHarlow, close, same, twin
from streams import stream

from metarl_lib.envs.harlow import Harlow, HarlowTasks
from metarl_lib.envs.harlow_strategies import (
    exact,
    forget,
    learn_from_wins,
    never_learn,
    play,
    random_walk,
    threshold,
)

ROWS = 24
LEFT, RIGHT = 0, 1


def within(values: torch.Tensor, expected: float) -> None:
    values = values.double().flatten()
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - expected) < 4 * error, (values.mean(), expected, error)


def begin(env, generator, rows=ROWS, split="train"):
    """State, observation and the plain rows."""
    tasks = env.sample_tasks(rows, generator, split)
    shifts = torch.randint(-3, 3, (rows,), generator=twin(generator)).tolist()
    state, observation = env.reset(tasks, generator)
    pairs = zip(tasks.rewarded.tolist(), tasks.other.tolist(), shifts, strict=True)
    plain = [PlainHarlow(a, b, s, env.presentations, env.max_steps) for a, b, s in pairs]
    return state, observation, plain


@pytest.mark.parametrize(
    ("options", "lean"),
    [({}, 0.5), ({}, 0.8), ({"presentations": 2, "max_steps": 40}, 0.5), ({}, 1.0)],
)
def test_every_step_is_that_of_the_plain_row(options, lean) -> None:
    """Random walks; with a lean to the right they go round the ring."""
    env, generator = Harlow(**options), stream()
    state, observation, plain = begin(env, generator)
    close(observation, [row.observation() for row in plain], 0)
    ends = set()
    for _ in range(env.max_steps):
        action = (torch.rand(ROWS, generator=generator) < lean).long()
        coins = torch.randint(2, (ROWS,), generator=twin(generator)).tolist()
        state, step = env.step(state, action, generator)
        same(step, [*map(PlainHarlow.step, plain, action.tolist(), coins)], 1e-6)
        close(step.observation, [row.observation() for row in plain], 0)
        ends |= set(zip(step.terminated.tolist(), step.truncated.tolist(), strict=True))
    assert ends == {(False, False), (True, False)} | ({(False, True)} if lean == 0.5 else set())


def test_a_walk_by_hand() -> None:
    """The mark stands two cells to the right, and so does, later, the rewarded object 0.7."""
    env, generator = Harlow(), stream()
    state, _ = env.reset(HarlowTasks(torch.tensor([0.7]), torch.tensor([0.3])), generator)
    state = state._replace(position=torch.tensor([6]))
    seen, rewards, numbers = [env.observe(state)], [], []
    for action in (*[RIGHT] * 5, LEFT, LEFT):
        state, step = env.step(state, torch.tensor([action]), generator)
        if len(rewards) == 1:  # the mark was reached: let the rewarded object be on the right
            state = state._replace(side=torch.tensor([1]))
        seen.append(env.observe(state))
        rewards.append(round(float(step.reward[0]), 3))
        numbers.append(int(step.info["presentation"][0]))
    assert [[round(x, 3) for x in view[0].tolist()] for view in seen] == [
        [0, 0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0, 0],
        [0, 0.3, 0, 0, 0, 0, 0, 0.7, 0],
        [0.3, 0, 0, 0, 0, 0, 0.7, 0, 0],
        [0, 0, 0, 0, 0, 0.7, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 0, 0],
    ]
    assert rewards == [0, 0.2, 0, 0, 1, 0, 0]
    assert numbers == [0] * 5 + [1] * 2


def test_an_object_that_looks_like_the_mark_is_an_object() -> None:
    env, generator = Harlow(), stream()
    tasks = HarlowTasks(torch.full((9,), 1.0), torch.full((9,), 0.4))
    state, _ = env.reset(tasks, generator)
    state = state._replace(position=torch.full((9,), 8 + 2), shown=torch.ones(9).bool())
    state, step = env.step(state._replace(side=torch.ones(9).long()), torch.ones(9).long(),
                           generator)  # fmt: skip
    assert step.reward.tolist() == [1.0] * 9
    assert step.info["correct"].all()
    assert step.observation.tolist() == [[0, 1, *[0] * 7]] * 9


def test_episodes_start_at_the_five_distances_that_are_named() -> None:
    env, generator = Harlow(), stream()
    _, observation = env.reset(env.sample_tasks(12_000, generator), generator)
    counts = torch.bincount(observation.argmax(-1) - 4 + 3, minlength=6)
    assert counts.sum() == 12_000
    assert (observation.sum(-1) == 1).all()
    for distance, share in {-3: 1, -2: 1, -1: 1, 0: 0, 1: 2, 2: 1}.items():
        count = int(counts[distance + 3])
        assert abs(count - 2000 * share) <= 4 * math.sqrt(2000 * share)


def test_sides_are_drawn_anew_at_each_presentation() -> None:
    env, generator = Harlow(), stream()
    state, _ = env.reset(env.sample_tasks(4000, generator), generator)
    sides = []
    for _ in range(2):  # put every agent one step before the mark, which is there
        state = state._replace(
            position=torch.full((4000,), 7), shown=torch.zeros(4000, dtype=torch.bool)
        )
        state, _ = env.step(state, torch.ones(4000, dtype=torch.long), generator)
        sides.append(state.side.float())
    for values in (*sides, sides[0] * sides[1]):
        assert set(values.tolist()) == {-1.0, 1.0}
        within(values, 0)


def numbers(tasks: HarlowTasks) -> torch.Tensor:
    return (1000 * torch.stack(tasks, -1).double()).round().long()


@pytest.mark.parametrize("split", ["train", "test"])
def test_objects_are_two_different_numbers_and_their_sum_tells_the_split(split) -> None:
    pairs = numbers(Harlow().sample_tasks(100_000, stream(1), split))
    assert int(pairs.min()) == 2
    assert int(pairs.max()) == 1001
    assert bool((pairs[:, 0] != pairs[:, 1]).all())
    assert set((pairs.sum(-1) % 5).tolist()) == ({0} if split == "test" else {1, 2, 3, 4})
    for column in pairs.T:  # every object is equally likely: 1000 counts around 100
        counts = torch.bincount(column - 2, minlength=1000).double()
        chi_square = float(((counts - 100) ** 2 / 100).sum())
        assert abs(chi_square - 999) < 4 * math.sqrt(2 * 999)


@pytest.mark.parametrize("split", ["train", "test"])
def test_given_one_object_the_others_are_equally_likely(split) -> None:
    """By what divides the distance of two objects, and by how far they are apart."""
    pairs = numbers(Harlow().sample_tasks(100_000, stream(2), split))
    allowed = torch.tensor(allowed_pairs(split))
    within((pairs[:, 0] > pairs[:, 1]).float(), 0.5)
    assert set(((pairs[:, 1] - pairs[:, 0]) % 1000).tolist()) == set(range(1, 1000))
    for bins, count in ((lambda p: (p[:, 0] - p[:, 1]) % 5, 5), (lambda p: p[:, 1] // 101, 10),
                        (lambda p: (p[:, 0] - p[:, 1]) % 1000 // 100, 10)):  # fmt: skip
        found = torch.bincount(bins(pairs), minlength=count) / len(pairs)
        expected = torch.bincount(bins(allowed), minlength=count) / len(allowed)
        # Pairs are uniform up to 1/200, in addition to the noise of the draws.
        slack = 4 * (expected / len(pairs)).sqrt() + expected / 200
        assert bool(((found - expected).abs() <= slack).all()), (found, expected)


def allowed_pairs(split: str) -> list[tuple[int, int]]:
    """Every pair of a split, an object and what goes with it."""
    wanted = (0,) if split == "test" else (1, 2, 3, 4)
    objects = range(2, 1002)
    return [(a, b) for a in objects for b in objects if a != b and (a + b) % 5 in wanted]


def returns(strategy, split="train", rows=20_000, **options) -> torch.Tensor:
    env, generator = Harlow(**options), stream(4)
    return play(env, strategy, env.sample_tasks(rows, generator, split), generator)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_ladder_of_strategies_is_that_of_the_closed_forms(split) -> None:
    """6.2 = 0 + 5 + 6 · 0.2: the first choice is chance, all others are right."""
    best = returns(exact, split)
    assert {round(r, 3) for r in best.tolist()} == {5.2, 7.2}
    within(best, 6.2)
    within(returns(never_learn, split), 1.2)
    differ = [(a > 500) != (b > 500) for a, b in allowed_pairs(split)]
    right = 0.5 + 0.5 * sum(differ) / len(differ)
    assert right == pytest.approx(0.75, abs=0.002)
    within(returns(threshold, split), 1.2 + 5 * (2 * right - 1))
    within(returns(learn_from_wins, split), 1.2 + 5 * 0.5)


def test_the_closed_forms_hold_for_any_number_of_presentations() -> None:
    for n in (1, 3):
        within(returns(exact, rows=4000, presentations=n), n - 1 + 0.2 * n)
        within(returns(threshold, rows=4000, presentations=n), (n - 1) / 2 + 0.2 * n)
        within(returns(learn_from_wins, rows=4000, presentations=n), (n - 1) / 2 + 0.2 * n)
        within(returns(never_learn, rows=4000, presentations=n), 0.2 * n)


def test_who_learns_from_wins_is_always_right_after_one_and_a_coin_after_a_loss() -> None:
    env, generator = Harlow(), stream()
    tasks = env.sample_tasks(4000, generator)
    state, seen = env.reset(tasks, generator)
    memory, reward = forget(seen), torch.zeros(4000)
    right = torch.zeros(6, 4000)
    for _ in range(3 + 3 + 5 * 6):  # it wastes no step
        action, memory = learn_from_wins(seen, reward, memory, generator)
        state, (seen, reward, _, _, info) = env.step(state, action, generator)
        number = info["presentation"].clamp(max=5)
        right[number, torch.arange(4000)] += info["correct"]
    won = right[0] > 0
    assert torch.equal(won, tasks.rewarded > tasks.other)
    assert (right[1:, won] == 1).all()
    for k in range(1, 6):
        within(right[k, ~won], 0.5)


def walks(max_steps: int, presentations: int) -> float:
    """The mean return of a random walk, exactly, from the chances of all places at each time."""
    now = {((8 - s) % 17, False, 0): p / 6 for s, p in {-3: 1, -2: 1, -1: 1, 1: 2, 2: 1}.items()}
    total = 0.0
    for _ in range(max_steps):
        after: dict[tuple, float] = {}
        for (cell, shown, done), chance in now.items():
            for move in (-1, 1):
                place = (cell + move) % 17
                key = (place, shown, done)
                if not shown and place == 8:
                    total += 0.5 * chance * 0.2
                    key = (place, True, done)
                elif shown and place in (5, 11):
                    key = (place, False, done + 1)  # 1 or −1, which is 0 on average
                if key[2] < presentations:
                    after[key] = after.get(key, 0) + 0.5 * chance
        now = after
    return total


@pytest.mark.parametrize(("max_steps", "presentations"), [(250, 6), (60, 2)])
def test_a_random_walk_earns_what_its_chances_say(max_steps, presentations) -> None:
    found = returns(random_walk, rows=4000, max_steps=max_steps, presentations=presentations)
    within(found, walks(max_steps, presentations))


def test_where_the_rule_does_not_decide_the_left_object_is_chosen() -> None:
    """Unknown rule; both objects follow it, or neither does; at last it decides."""
    views = torch.zeros(4, 9)
    views[:, 1], views[:, 7] = torch.tensor([[0.6, 0.7, 0.2, 0.2], [0.9, 0.8, 0.3, 0.8]])
    memory = forget(views)._replace(rule=torch.tensor([0.0, 1.0, 1.0, 1.0]))
    chosen, after = threshold(views, torch.zeros(4), memory, stream())
    assert chosen.tolist() == [LEFT, LEFT, LEFT, RIGHT]
    assert after.bet.tolist() == [1, 1, -1, 1]
    assert torch.equal(after.rule, memory.rule)
    assert never_learn(views, torch.zeros(4), memory, stream())[0].tolist() == [LEFT] * 4
    assert exact(views, torch.zeros(4), memory, stream())[0].tolist() == [LEFT, *[RIGHT] * 3]


def test_the_exact_strategy_wastes_no_step() -> None:
    """|start| + 3 steps for the first presentation, six for each of the others."""
    env, generator = Harlow(), stream()
    state, observation = env.reset(env.sample_tasks(ROWS, generator), generator)
    start = (observation.argmax(-1) - 4).abs()
    memory, reward = forget(observation), torch.zeros(ROWS)
    length = torch.zeros(ROWS)
    for t in range(1, 40):
        action, memory = exact(observation, reward, memory, generator)
        state, (observation, reward, terminated, _, _) = env.step(state, action, generator)
        length[terminated & (length == 0)] = t
    assert length.tolist() == (start + 3 + 5 * 6).tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"presentations": 0}, "presentations=0.*whole number >= 1"),
        ({"max_steps": 0}, "max_steps=0.*whole number >= 1"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        Harlow(**options)
    assert "\n" not in str(refusal.value)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"split='valid' is unknown.*train, test"):
        Harlow().sample_tasks(3, stream(), "valid")
