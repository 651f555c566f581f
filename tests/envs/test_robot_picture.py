"""The picture of a robot: its limbs are where MuJoCo has them, and where the camera sees them."""

import math

import numpy as np
import pytest
import torch

from metarl_lib.envs.robot_picture import (
    BODY,
    HEIGHT,
    METRE,
    TILES,
    WIDTH,
    Limbs,
    View,
    distance,
    picture,
)

FROM_THE_SIDE, FROM_ABOVE = View(0.0, 1e-6), View(0.0, math.pi / 2)


def middle_of(image: np.ndarray, row: float, column: float) -> tuple[int, ...]:
    return tuple(int(c) for c in image[int(row), int(column)])


@pytest.mark.parametrize("turn", [0.0, 0.4, math.pi])
@pytest.mark.parametrize("pitch", [0.3, 1.2, math.pi / 2])
def test_what_is_seen_of_the_ground_is_the_ground(turn, pitch) -> None:
    view, places = View(turn, pitch), np.random.default_rng(0).normal(size=(20, 3))
    places[:, 2] = 0
    right, up, _ = view.project(places).T
    x, y = view.ground(right, up)
    np.testing.assert_allclose(np.stack([x, y], 1), places[:, :2], atol=1e-9)


def test_the_camera_keeps_lengths_and_looks_from_where_it_says() -> None:
    points = np.random.default_rng(1).normal(size=(9, 3))
    seen = View(0.7, 0.5).project(points)
    np.testing.assert_allclose(np.linalg.norm(seen, axis=1), np.linalg.norm(points, axis=1))
    x, y, z = np.eye(3)
    np.testing.assert_allclose(FROM_THE_SIDE.project(x), [1, 0, 0], atol=1e-5)
    np.testing.assert_allclose(FROM_THE_SIDE.project(z), [0, 1, 0], atol=1e-5)
    np.testing.assert_allclose(FROM_ABOVE.project(y), [0, 1, 0], atol=1e-5)
    np.testing.assert_allclose(FROM_ABOVE.project(z), [0, 0, 1], atol=1e-5)


def test_the_distance_to_a_line_is_that_to_its_nearest_point() -> None:
    rng = np.random.default_rng(2)
    points, a, b = rng.normal(size=(50, 2)), rng.normal(size=2), rng.normal(size=2)
    line = a + np.linspace(0, 1, 20_001)[:, None] * (b - a)
    nearest = np.linalg.norm(points[:, None] - line, axis=2).min(1)
    np.testing.assert_allclose(distance(*points.T, a, b), nearest, atol=1e-4)
    np.testing.assert_allclose(distance(*points.T, a, a), np.linalg.norm(points - a, axis=1))


def test_a_limb_is_drawn_where_it_is_and_as_thick_as_it_is() -> None:
    """A bar from the middle 0.5 m to the right, of radius 0.1 m, seen from above."""
    limbs = Limbs(np.array([[[1.0, 2.0, 0.0], [1.5, 2.0, 0.0]]]), np.array([0.1]))
    image = picture(limbs, FROM_ABOVE, np.array([1.0, 2.0, 0.0]))
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    y, x = HEIGHT / 2, WIDTH / 2
    for right in (0, 0.25, 0.5):
        assert middle_of(image, y, x + right * METRE) == BODY
    ground = set(TILES)
    assert middle_of(image, y, x + 0.65 * METRE) in ground
    assert middle_of(image, y, x - 0.15 * METRE) in ground
    assert middle_of(image, y + 0.15 * METRE, x + 0.2 * METRE) in ground
    covered = (image != TILES[0]).any(-1) & (image != TILES[1]).any(-1)
    area = (0.5 * 0.2 + math.pi * 0.1**2) * METRE**2
    assert covered.sum() == pytest.approx(area, rel=0.15)


def test_ground_moves_under_the_robot() -> None:
    limbs = Limbs(np.zeros((1, 2, 3)), np.array([0.0]))
    here = picture(limbs, FROM_ABOVE, np.zeros(3))
    there = picture(limbs, FROM_ABOVE, np.array([10 / METRE, 0.0, 0.0]))
    np.testing.assert_array_equal(here[:, 10:], there[:, :-10])


def test_what_is_nearer_covers_what_is_further_away() -> None:
    """Two crossing bars, one above the other: the edges of the upper one are unbroken."""
    for low, high in ((0, 1), (1, 0)):
        bars = np.array([[[-0.5, 0, 0], [0.5, 0, 0]], [[0, -0.5, 0], [0, 0.5, 0]]], float)
        bars[low, :, 2], bars[high, :, 2] = 0.0, 1.0
        image = picture(Limbs(bars, np.array([0.1, 0.1])), FROM_ABOVE, np.zeros(3))
        y, x, edge = HEIGHT // 2, WIDTH // 2, round(0.1 * METRE)
        on_the_upper = (y - edge, x) if high == 0 else (y, x - edge)
        on_the_lower = (y, x - edge) if high == 0 else (y - edge, x)
        assert middle_of(image, *on_the_upper) != BODY
        assert middle_of(image, *on_the_lower) == BODY


@pytest.mark.parametrize(("name", "count"), [("AntDir", 13), ("CheetahDir", 8)])
def test_limbs_are_those_of_the_model_and_move_with_it(name, count) -> None:
    pytest.importorskip(
        "mujoco", reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'"
    )
    import mujoco

    from metarl_lib.envs import locomotion

    env = getattr(locomotion, name)(steps=5)
    generator = torch.Generator().manual_seed(0)
    state, _ = env.reset(env.sample_tasks(2, generator), generator)
    for _ in range(3):
        action = 2 * torch.rand(2, *env.action_space.shape, generator=generator) - 1
        state, _ = env.step(state, action, generator)
    positions = env.physics.positions(state.physics)[1]
    limbs = env.physics.limbs(positions)
    data = mujoco.MjData(env.physics.model)
    data.qpos[:] = positions.numpy()
    mujoco.mj_forward(env.physics.model, data)
    geoms = range(1, count + 1)  # all but the floor
    assert limbs.ends.shape == (count, 2, 3)
    for g, ends, radius in zip(geoms, limbs.ends, limbs.radii, strict=True):
        size, turned = env.physics.model.geom_size[g], data.geom_xmat[g].reshape(3, 3)
        np.testing.assert_allclose(ends.mean(0), data.geom_xpos[g], atol=1e-12)
        half = size[1] * turned[:, 2]
        np.testing.assert_allclose(ends[1] - ends[0], 2 * half, atol=1e-12)
        assert radius == size[0]
    first, second = env.render(state, 0), env.render(state, 1)
    assert first.shape == second.shape == (HEIGHT, WIDTH, 3)
    assert (first != second).any()
    body = (second == BODY).all(-1)
    rows, columns = body.nonzero()
    assert abs(columns.mean() - WIDTH / 2) < 0.3 * METRE, "the robot is in the middle"
    assert 100 < len(rows) < HEIGHT * WIDTH / 4
