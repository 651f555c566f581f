"""Where learned rules are tested: what each condition changes, its tasks and its tuned rates."""

import dataclasses

import pytest
import torch

from metarl_lib.experiments.hand_made import HAND_MADE, tune, tuned_rates
from metarl_lib.experiments.learners import copy_env
from metarl_lib.experiments.rule_comparison import (
    CONDITIONS,
    LEARNED,
    OpenLoop,
    environment,
    unseen_stream,
    unseen_tasks,
)
from metarl_lib.experiments.update_rule import Config
from metarl_lib.runs import generator

SEED = 3
SMALL = Config(
    hidden=5, samples=8, steps=5, rows=2, epochs=1, minibatches=1, units=8, test_tasks=3,
    search_tasks=2, rates=(1e-2, 5e-2), conditions=("held_out", "life_4x"), init_std=0.8,
    sigma=0.05,
)  # fmt: skip
SIGNALS = ("drive", "momentum", "hebb", "decay")

USUAL = {
    "hidden": 5, "samples": 8, "activation": "relu", "output": "relu", "steps": 5, "init": 0.8,
    "ends": (10, 10), "kind": "regression",
}  # fmt: skip
CHANGES = {
    "held_out": {},
    "width_2x": {"hidden": 10},
    "width_4x": {"hidden": 20},
    "tanh": {"activation": "tanh"},
    "samples_8x": {"samples": 64},
    "he_init": {"init": None},
    "life_4x": {"steps": 20},
    "digits": {"kind": "classification", "output": None},
    "sinusoids": {"ends": (1, 1), "output": None},
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_changes_what_it_says_and_nothing_else(condition) -> None:
    env = environment(SMALL, condition)
    first, hidden, last = env.network.widths
    found = {
        "hidden": hidden,
        "samples": env.family.num_train,
        "activation": env.network.activation,
        "output": env.network.output_activation,
        "steps": env.steps,
        "init": env.init_std,
        "ends": (first, last),
        "kind": env.family.kind,
    }
    assert found == USUAL | CHANGES[condition]
    assert (env.family.num_held_out, env.sigma, env.network.bias) == (env.family.num_train, 0.05, 0)
    if hasattr(env.family, "hidden"):
        assert tuple(env.family.hidden) == (hidden,)
    assert (env.action_mode, env.drive, env.signals) == ("rule", "perturbation", SIGNALS)


def test_each_learned_rule_has_its_drive_its_signals_and_its_agents() -> None:
    found = {
        name: (env.action_mode, env.drive, env.signals, env.action_space.shape)
        for name, env in ((n, environment(SMALL, learned=v)) for n, v in LEARNED.items())
    }
    assert found == {
        "rule": ("rule", "perturbation", SIGNALS, (8,)),
        "rule-drive-only": ("rule", "perturbation", ("drive",), (2,)),
        "rule-recurrent": ("rule", "perturbation", SIGNALS, (8,)),
        "rule-gradient": ("rule", "gradient", SIGNALS, (8,)),
        "synapse": ("synapse", "perturbation", SIGNALS, (100,)),
    }


@pytest.mark.parametrize("condition", ["held_out", "width_2x", "life_4x"])
def test_unseen_teachers_have_a_first_weight_below_zero(condition) -> None:
    """The teachers are drawn again; with the sign of that weight changed the targets do not fit."""
    env = environment(SMALL, condition)
    tasks = unseen_tasks(SMALL, SEED, condition, env)
    stream = generator(SEED, "evaluation", 2 * CONDITIONS.index(condition))
    hidden = env.network.widths[1]
    first = torch.randn(3, hidden, 10, generator=stream)
    second = torch.randn(3, 10, hidden, generator=stream)
    misses = {}
    for sign in (-1, 1):
        first[:, 0, 0] = sign * first[:, 0, 0].abs()
        targets = torch.relu(torch.relu(tasks.x @ first.mT) @ second.mT)
        misses[sign] = (targets - tasks.y).flatten(1).square().mean(-1).sqrt()
    assert misses[-1].max() < 0.015  # the noise on the targets
    assert misses[1].max() > 0.05


def test_all_rules_meet_the_same_tasks_and_no_two_conditions_or_seeds_do() -> None:
    for learned in LEARNED.values():
        env = environment(SMALL, "held_out", learned)
        tasks = unseen_tasks(SMALL, SEED, "held_out", env)
        expected = unseen_tasks(SMALL, SEED, "held_out", environment(SMALL))
        assert all(torch.equal(a, b) for a, b in zip(tasks, expected, strict=True))
    alike = ("held_out", "tanh", "he_init", "life_4x")
    drawn = {
        (seed, c): unseen_tasks(SMALL, seed, c, environment(SMALL, c)).x
        for c in alike
        for seed in (SEED, SEED + 1)
    }
    for place, condition in enumerate(CONDITIONS):
        for index in range(10 * place, 10 * place + 4):
            stream = generator(SEED, "tuning", index)
            drawn[condition, index] = environment(SMALL).sample_tasks(3, stream).x
    drawn["plan"] = environment(SMALL).sample_tasks(3, generator(SEED, "tuning", 999)).x
    rows = [tuple(x.flatten().tolist()) for task in drawn.values() for x in task]
    assert len(set(rows)) == len(rows) == 3 * len(drawn)


@pytest.mark.parametrize("steps", [5, 20, 3])
def test_a_plan_is_stretched_over_a_life_and_the_same_for_all_rows(steps) -> None:
    """Whatever they see; each action lasts equally long, as nearly as whole steps allow."""
    env, actions = copy_env(environment(SMALL), steps=steps), torch.rand(5, 8)
    state, _ = env.reset(unseen_tasks(SMALL, 0, "held_out", env), torch.Generator())
    for time in range(steps):
        state = state._replace(time=torch.full((3,), time))
        place = max(k for k in range(5) if k / 5 <= time / steps)
        taken = OpenLoop(actions, steps)(env.observe(state), state)
        assert torch.equal(taken, actions[[place] * 3])


def test_weights_and_noise_are_drawn_from_streams_of_their_own() -> None:
    places = [("evaluation", 2 * i) for i in range(len(CONDITIONS))]
    first = [torch.randn(4, generator=generator(SEED, *place)).tolist() for place in places]
    first += [torch.randn(4, generator=unseen_stream(SEED, c)).tolist() for c in CONDITIONS]
    assert len({tuple(draws) for draws in first}) == 2 * len(CONDITIONS)
    again = torch.randn(4, generator=unseen_stream(SEED, "tanh")).tolist()
    assert again == first[len(CONDITIONS) + 3]


def test_the_rates_are_tuned_rule_by_rule_and_once(run, monkeypatch) -> None:
    config = dataclasses.replace(SMALL, rates=(3e-2, 0.5))
    stage = run.stage("search-tanh")
    env = environment(SMALL, "tanh")
    tuned_rates(stage, env, HAND_MADE, config, SEED, CONDITIONS.index("tanh"))
    place = 10 * CONDITIONS.index("tanh")
    expected = [tune(env, name, config.rates, 2, SEED, place) for name in HAND_MADE]
    assert stage.tensors["rates"].tolist() == pytest.approx(expected)
    assert all(min(config.rates) / 2 <= rate <= 3 * max(config.rates) for rate in expected)
    assert len(set(expected)) > 2
    monkeypatch.setattr("metarl_lib.experiments.hand_made.tune", None)
    again = run.stage("search-tanh")
    tuned_rates(again, env, HAND_MADE, config, SEED, CONDITIONS.index("tanh"))
    assert run.stage("search-tanh").tensors["rates"].tolist() == pytest.approx(expected)
