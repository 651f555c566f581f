"""The agents of the maze: each has the memory and the view that its name says, and is trained."""

import math
import re
from dataclasses import replace

import pytest
import torch
from plain_lives import seeded

from metarl_lib.algos import ActorCritic, MAMLPolicy
from metarl_lib.cores import GRU, SRWM, Backpropamine, MetODS
from metarl_lib.envs.maze import Maze
from metarl_lib.envs.trial import Trial
from metarl_lib.experiments import maze, maze_grid, maze_long
from metarl_lib.experiments.base import row
from metarl_lib.experiments.maze import Config, make_agent
from metarl_lib.experiments.maze_agents import ENVS, GRID, VARIANTS
from metarl_lib.experiments.meta_agents import parameters_of
from metarl_lib.experiments.meta_training import play
from metarl_lib.runs import Run

pytestmark = pytest.mark.usefixtures("fast")

N, GATED, HIDDEN, ENCODED = 5, 7, 6, 9
SMALL = Config(
    encoder_units=ENCODED, num_units=N, gru_units=GATED, maml_units=HIDDEN, maml_horizon=5,
    maml_rate=0.3, discount=0.8, gae_lambda=0.7, value_unit=3.0,
)  # fmt: skip
METODS = re.compile(r"metods-(linear|vanilla|mlp)-S([124])(-scalar|-no-alpha|)(-visible|)")
CELLS = {"gru": (GRU, GATED), "backpropamine": (Backpropamine, N), "srwm": (SRWM, N)}
SPECIAL = {
    "metods-linear-S1-wide": (7, 1), "metods-linear-S4-state-matched": (3, 4),
    "metods-linear-S4-no-encoder": (N, 4),
}  # fmt: skip
EXPERIMENTS = maze.EXPERIMENT, maze_grid.EXPERIMENT, maze_long.EXPERIMENT
THREE = ("metods-linear-S2", "gru-visible", "srwm")
POSITIVE = (
    "encoder_units", "num_units", "gru_units", "maml_units", "maml_horizon", "maml_rate",
    "test_trials", "costly_seeds", "value_unit",
)  # fmt: skip
SEEING = {
    "metods-linear-S4", "metods-linear-S2", "metods-linear-S1", "metods-mlp-S4",
    "metods-vanilla-S4", "metods-vanilla-S2", "metods-linear-S4-no-alpha", "gru", "maml",
    "maml-rates",
}  # fmt: skip


def heads(units):
    """Four logits and a value, with biases."""
    return 5 * (units + 1)


def gru_size(inputs, units):
    return 3 * units * (inputs + units + 2) + heads(units)


def metods_size(inputs, units, depth, write="linear", plasticity="matrix"):
    """Embedding, κ and β, α, the map p, the first W, and the heads."""
    alpha = {"matrix": units**2, "scalar": 1, "none": 0}[plasticity]
    p = {"vanilla": 0, "linear": units**2, "mlp": 2 * units * (units + 1)}[write]
    embedding, mixing = units * (inputs + 1), 2 * depth * (depth + 1)
    return embedding + mixing + alpha + p + units**2 + heads(units)


def test_every_memory_is_there_with_each_depth_write_and_plasticity() -> None:
    grid = {
        f"metods-{write}-S{depth}{end}"
        for write in ("linear", "vanilla", "mlp")
        for depth in (1, 2, 4)
        for end in ("", "-scalar", "-no-alpha")
    }
    hidden = {name for name in VARIANTS if not name.endswith("-visible")}
    assert hidden == grid | set(CELLS) | set(SPECIAL) | {"gru-matched", "maml", "maml-rates"}
    assert set(VARIANTS) - hidden == {f"{name}-visible" for name in SEEING}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_agent_is_what_its_name_says_and_lives_a_trial(name) -> None:
    agent, visible = make_agent(SMALL, name), name.endswith("-visible")
    inputs = 24 if visible else 15
    bare = name.removesuffix("-visible")
    assert (agent.inputs, agent.outputs, agent.value_unit) == (inputs, 4, 3.0)
    if bare in ("maml", "maml-rates"):
        assert isinstance(agent, MAMLPolicy)
        shapes = [(HIDDEN, inputs), (HIDDEN,), (HIDDEN, HIDDEN), (HIDDEN,), (5, HIDDEN), (5,)]
        assert [tuple(w.shape) for w in agent.weights] == shapes
        assert (agent.horizon, agent.discount, agent.gae_lambda) == (5, 0.8, 0.7)
        learned = {rate.requires_grad for rate in agent.log_rates}
        assert learned == {bare == "maml-rates"}
        rates = torch.cat([rate.exp().flatten() for rate in agent.log_rates])
        torch.testing.assert_close(rates, torch.full_like(rates, 0.3))
    else:
        assert isinstance(agent, ActorCritic)
        core, front = agent.core, 0
        if name == "metods-linear-S4-no-encoder":
            assert type(agent.encoder) is torch.nn.Identity
        else:
            layer, bend = agent.encoder
            assert (type(bend), tuple(layer.weight.shape)) == (torch.nn.Tanh, (ENCODED, inputs))
            front = ENCODED
        if match := METODS.fullmatch(name):
            write, depth, end, _ = match.groups()
            plasticity = {"": "matrix", "-scalar": "scalar", "-no-alpha": "none"}[end]
            wanted = (write, int(depth), plasticity, N)
        elif bare in SPECIAL:
            units, depth = SPECIAL[bare]
            wanted = ("linear", depth, "matrix", units)
        else:
            kind, size = CELLS.get(bare, (GRU, agent.core.num_units))
            assert (type(core), core.num_units) == (kind, size)
            wanted = None
        if wanted:
            assert type(core) is MetODS
            assert (core.write, core.depth, core.plasticity, core.num_units) == wanted
            write, depth, plasticity, units = wanted
            size = metods_size(front or inputs, units, depth, write, plasticity)
            assert parameters_of(agent) == size + front * (inputs + 1)
        elif bare == "gru":
            assert parameters_of(agent) == gru_size(ENCODED, GATED) + ENCODED * (inputs + 1)
    env = Trial(Maze(4, 12, "visible" if visible else "hidden"))
    played = play(env, agent, env.sample_tasks(3, seeded()), seeded(1), greedy=False)
    assert played.rewards.shape == (12, 3)
    assert len(played.actions.unique()) > 1


def test_the_agents_live_in_mazes_of_eight_by_eight_cells() -> None:
    assert set(ENVS) == {"hidden", "visible"}
    for target, env in ENVS.items():
        assert (env.env.size, env.env.visible, env.max_steps) == (8, target == "visible", 100)
        assert (env.reward_input, env.episodes) == (True, 1)
        tasks = env.sample_tasks(2, seeded())
        assert tasks.open.shape == (2, 8, 8)
        assert env.reset(tasks, seeded())[1].shape == (2, 24 if target == "visible" else 15)


@pytest.mark.parametrize("name", sorted(SEEING))
def test_who_can_see_the_target_is_built_as_who_cannot(name) -> None:
    hidden, visible = VARIANTS[name], VARIANTS[f"{name}-visible"]
    assert hidden.build is visible.build
    assert (hidden.target, visible.target) == ("hidden", "visible")


@pytest.mark.parametrize("rates", ["maml", "maml-rates"])
def test_of_an_agent_that_takes_gradient_steps_the_rates_count_if_they_are_learned(rates) -> None:
    network = HIDDEN * 16 + HIDDEN * (HIDDEN + 1) + heads(HIDDEN)
    assert parameters_of(make_agent(SMALL, rates)) == network * (2 if rates == "maml-rates" else 1)


@pytest.mark.parametrize(("units", "encoded"), [(3, 4), (14, 9), (14, 30), (32, 64), (64, 64)])
def test_the_matched_gru_has_the_number_of_parameters_nearest_to_metods(units, encoded) -> None:
    config = Config(num_units=units, encoder_units=encoded, value_unit=3.0)
    found = make_agent(config, "gru-matched")
    front, target = 16 * encoded, metods_size(encoded, units, 4)
    assert front + target == parameters_of(make_agent(config, "metods-linear-S4"))
    nearest = min(range(1, 200), key=lambda u: abs(gru_size(encoded, u) - target))
    assert isinstance(found.core, GRU)
    assert found.core.num_units == nearest
    assert parameters_of(found) == front + gru_size(encoded, nearest)
    assert found.value_unit == 3.0


@pytest.mark.parametrize("units", [1, 4, 10, 64])
def test_the_matched_w_has_about_as_many_numbers_as_the_gru_carries_on(units) -> None:
    core = make_agent(Config(gru_units=units), "metods-linear-S4-state-matched").core
    sizes = {n: abs(n * n - units) for n in range(1, 70)}
    assert core.num_units == min(sizes, key=sizes.get)
    assert core.initial_state(1)[0].shape == (1, core.num_units, core.num_units)


@pytest.mark.parametrize("units", [3, 4, 20, 64])
def test_the_wide_layer_passes_over_as_many_numbers_in_one_update_as_four_do(units) -> None:
    """W is read and written S + 2 times in a step."""
    core = make_agent(Config(num_units=units), "metods-linear-S1-wide").core
    passed = {n: abs((1 + 2) * n * n - (4 + 2) * units * units) for n in range(1, 200)}
    assert core.num_units == min(passed, key=passed.get)


def test_equal_seeds_give_equal_agents() -> None:
    before = torch.random.get_rng_state()
    for name in ("metods-linear-S4", "maml", "gru-matched", "srwm", "gru-visible"):
        one, same, other = (make_agent(SMALL, name, seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(one[key], tensor) for key, tensor in same.items())
        assert sum(not torch.equal(one[key], other[key]) for key in one) >= 3
    assert torch.equal(torch.random.get_rng_state(), before)


def test_no_two_variants_start_alike() -> None:
    """What is drawn first are the weights of the input; their order does not depend on units."""
    orders = set()
    for name in VARIANTS:
        agent = make_agent(SMALL, name)
        first = getattr(agent, "weights", None) or [*agent.encoder.parameters()]
        first = first[0] if first else agent.core.embed.weight  # there is no layer in front
        orders.add(tuple(first.flatten()[:12].argsort().tolist()))
    assert len(orders) == len(VARIANTS)


def test_compiling_is_passed_on_but_tests_do_without(monkeypatch) -> None:
    asked, real = [], MetODS.__init__

    def made(core, *arguments, compile=False, **options):
        asked.append(compile)
        real(core, *arguments, **options)

    monkeypatch.setattr(MetODS, "__init__", made)
    config = Config(num_units=3, gru_units=4, compile=True)
    for name in (*SPECIAL, "metods-vanilla-S2-scalar", "metods-linear-S4-visible"):
        agent = make_agent(config, name, 3)
        tensors = {f"{name}.{key}": tensor for key, tensor in agent.state_dict().items()}
        loaded = maze.agent_of(config, tensors, name)
        assert asked == [True, False]
        assert all(map(torch.equal, loaded.parameters(), agent.parameters()))
        asked.clear()
    make_agent(config, "gru-matched")
    assert not any(asked), "what is only counted is not compiled"


def test_each_agent_is_trained_from_its_own_start_in_its_own_mazes(tmp_path, monkeypatch) -> None:
    given, config = [], replace(SMALL, variants=THREE)

    def train(stage, env, model, settings, seed, index):
        given.append((stage.name, env, settings, seed, index))
        fresh = make_agent(SMALL, stage.name, 3).state_dict()
        assert all(torch.equal(fresh[name], t) for name, t in model.state_dict().items())
        stage.save(1, model.state_dict(), finished=True)

    monkeypatch.setattr(maze, "train_agent", train)
    monkeypatch.setattr(
        maze, "test", lambda config, seed, agent, variant: [row(variant, "tested", seed, 1)]
    )
    monkeypatch.setattr(maze, "by_hand", lambda config, seed: [row("by hand", "tested", seed, 1)])
    run = Run.create(tmp_path / "m", "maze", config, scale="smoke", seed=3)
    assert maze.run(config, run) == [row(name, "tested", 3, 1) for name in ("by hand", *THREE)]
    assert [(name, seed, index) for name, _, _, seed, index in given] == [
        (name, 3, list(VARIANTS).index(name)) for name in THREE
    ]
    assert [env.env.visible for _, env, *_ in given] == [False, True, False]
    assert all(settings is config for _, _, settings, *_ in given)


def test_only_the_first_seeds_train_what_is_costly(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(maze, "train_agent", lambda stage, *rest: trained.append(stage.name))
    monkeypatch.setattr(
        maze, "test", lambda config, seed, agent, variant: [row(variant, "tested", seed, 1)]
    )
    monkeypatch.setattr(maze, "agent_of", lambda config, tensors, variant: None)
    monkeypatch.setattr(maze, "by_hand", lambda config, seed: [])
    config = replace(SMALL, variants=("gru", "srwm", "maml"), costly=("srwm", "gru"))
    for seed, wanted in ((0, ["gru", "srwm", "maml"]), (1, ["gru", "srwm", "maml"]), (2, ["maml"])):
        trained: list[str] = []
        run = Run.create(tmp_path / str(seed), "maze", config, scale="smoke", seed=seed)
        assert [r["variant"] for r in maze.run(config, run)] == wanted
        assert trained == wanted == config.trained(seed)


def test_in_published_trainings_a_segment_is_a_whole_trial() -> None:
    for experiment in EXPERIMENTS:
        full = experiment.config("full")
        assert full.whole_trials
        assert {env.max_steps for env in ENVS.values()} == {full.segment}


def test_the_grid_is_the_other_training_of_narrower_layers() -> None:
    """Everything that the paper varies, crossed, for as many steps; and it tests quickly."""
    grid, other = maze_grid.EXPERIMENT.config("full"), maze.EXPERIMENT.config("full")
    assert len(GRID) == 27
    assert set(grid.variants) >= set(GRID)
    tested = set(grid.variants) - set(grid.brief)
    assert {"metods-linear-S4", "metods-vanilla-S4"} < tested < set(GRID)
    free = {"num_units", "variants", "brief", "costly", "test_trials", "thorough"}
    assert all(value == vars(other)[name] for name, value in vars(grid).items() if name not in free)
    assert (grid.num_units, other.num_units, grid.thorough) == (32, 64, False)
    assert (maze_grid.EXPERIMENT.run, maze_grid.EXPERIMENT.evaluate) == (maze.run, maze.evaluate)
    assert maze_grid.EXPERIMENT.name == "maze_grid" != maze.EXPERIMENT.name == "maze"


def test_the_long_training_is_the_other_one_with_the_papers_steps() -> None:
    """Fewer agents are trained longer; nothing else differs, so that the two can be compared."""
    long, other = maze_long.EXPERIMENT.config("full"), maze.EXPERIMENT.config("full")
    assert (
        long.rows * long.segment * (long.updates - 1)
        < 1e7
        < long.rows * long.segment * long.updates
    )
    assert set(long.variants) < set(other.variants)
    free = {"updates", "variants", "brief"}
    assert vars(long).keys() == vars(other).keys() > free
    assert all(value == vars(other)[name] for name, value in vars(long).items() if name not in free)
    assert maze_long.EXPERIMENT.run == maze.run


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variants": ("gru", "metods")}, "variants='metods' is unknown: choose one of.*srwm"),
        ({"costly": ("gru-400",)}, "costly='gru-400' is unknown: choose one of.*srwm"),
        ({"brief": ("gru-4",)}, "brief='gru-4' is unknown: choose one of.*srwm"),
        ({"rows": 5, "minibatches": 2}, "minibatches=2: must divide the 5 rows"),
        ({"discount": 1.1}, "discount=1.1: must lie between 0 and 1"),
        ({"maml_rate": math.inf}, "maml_rate=inf: must be greater than 0 and finite"),
        ({"test_trials": 3}, "test_trials=3: must be at least 4"),
        ({"value_unit": -1.0}, "value_unit=-1.0: must be greater than 0 and finite"),
        *(({name: 0}, f"{name}=0: must be greater than 0 and finite") for name in POSITIVE),
        ({"updates": 0}, "updates=0: must be a whole number >= 1"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(experiment, options, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        experiment.config("smoke", options)
    assert "\n" not in str(refusal.value)
