"""The maze as a picture, cell by cell, and through every adapter."""

import gymnasium
import numpy as np
import pytest
import torch
from plain_maze import drawn_maze
from stable_baselines3.common.vec_env import VecEnv

import metarl_lib  # noqa: F401, registers the environments
from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.envs.maze import Maze, MazeTasks
from metarl_lib.envs.maze_picture import AGENT, OPEN, SEEN, TARGET, WALL

ROOM = """
.#...
.....
T#..#
.....
.....
"""
COLOURS = {OPEN: ".", SEEN: "s", WALL: "#"}


def cells(image: np.ndarray) -> list[str]:
    """The colour of each cell's corner as a letter; of the middle where something stands."""
    text = []
    for row in range(0, len(image), 16):
        line = ""
        for column in range(0, len(image), 16):
            middle = tuple(image[row + 8, column + 8].tolist())
            corner = tuple(image[row, column].tolist())
            line += {TARGET: "T", AGENT: "A"}.get(middle, COLOURS[corner])
        text.append(line)
    return text


def test_every_cell_is_drawn_in_its_place() -> None:
    env = Maze(5)
    free, target = drawn_maze(ROOM)
    tasks = MazeTasks(torch.tensor([free, free]), torch.tensor([target, target]))
    state, _ = env.reset(tasks, torch.Generator().manual_seed(0))
    place = torch.tensor([env.width * 4 + 2, env.width * 5 + 4])  # of cells (3, 1) and (4, 3)
    image = env.render(state._replace(position=place))
    assert image.shape == (112, 112, 3)
    assert image.dtype == np.uint8
    assert cells(image) == [
        "#######",
        "#.#...#",
        "#.....#",
        "#T#s.##",
        "#sAs..#",
        "#sss..#",
        "#######",
    ]  # fmt: skip
    assert cells(env.render(state._replace(position=place), row=1))[5] == "#..sAs#"


def test_the_agent_is_a_disc_and_the_target_a_square() -> None:
    """Their areas in pixels: those whose middle lies within 0.35 of the cell's."""
    env = Maze(5)
    free, target = drawn_maze(ROOM)
    tasks = MazeTasks(torch.tensor([free]), torch.tensor([target]))
    state, _ = env.reset(tasks, torch.Generator().manual_seed(0))
    image = env.render(state)
    middles = [(k + 0.5) / 16 - 0.5 for k in range(16)]
    disc = sum(x * x + y * y < 0.35**2 for x in middles for y in middles)
    assert disc / 16**2 == pytest.approx(np.pi * 0.35**2, rel=0.1)
    for colour, area in ((AGENT, disc), (TARGET, 12**2)):
        assert (image == colour).all(-1).sum() == area


def test_gymnasium_and_sb3_show_the_same_pictures() -> None:
    kind = {"render_mode": "rgb_array", "size": 5}
    single = gymnasium.make("metarl/Maze-v0", **kind)
    many = gymnasium.make_vec(
        "metarl/Maze-v0", num_envs=3, vectorization_mode="vector_entry_point", **kind
    )
    sb3: VecEnv = SB3VecEnv(Maze(5), 3, seed=4, render_mode="rgb_array")
    for env in (single, many):
        env.reset(seed=7)
    sb3.reset()
    for env, frames, rows in (
        (single, [single.render()], single.unwrapped.rows),
        (many, many.render(), many.unwrapped.rows),
        (sb3, sb3.get_images(), sb3.rows),
    ):
        wanted = [rows.env.render(rows.state, row) for row in range(rows.batch)]
        assert len(frames) == rows.batch, env
        assert all(map(np.array_equal, frames, wanted))
    assert sb3.get_attr("render_mode") == ["rgb_array"] * 3


def test_a_trial_shows_the_maze_inside() -> None:
    env = gymnasium.make("metarl/Maze-v0", episodes=2, render_mode="rgb_array").unwrapped
    env.reset(seed=1)
    env.step(2)
    inner = env.rows.env.env
    assert np.array_equal(env.render(), inner.render(env.rows.state.inner))


def test_without_a_mode_nothing_is_drawn() -> None:
    env = gymnasium.make("metarl/Maze-v0").unwrapped
    env.reset(seed=0)
    assert env.render() is None
    assert SB3VecEnv(Maze(), 2).get_images() == [None, None]


@pytest.mark.parametrize(
    ("name", "mode", "allowed"),
    [("Maze", "human", "rgb_array or None"), ("Bandit", "rgb_array", "None")],
)
def test_an_unknown_mode_is_refused_by_name(name, mode, allowed) -> None:
    with pytest.raises(ValueError, match=f"render_mode='{mode}'") as refusal:
        gymnasium.make(f"metarl/{name}-v0", render_mode=mode)
    said = str(refusal.value)
    assert said == f"render_mode='{mode}' is unknown to {name}: choose {allowed}"


def test_a_picture_needs_a_reset() -> None:
    env = gymnasium.make("metarl/Maze-v0", render_mode="rgb_array").unwrapped
    with pytest.raises(RuntimeError, match="call reset first"):
        env.render()
