"""A robot as a picture, drawn from its limbs: no graphics card, nor a driver of one, is needed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

TILES, BODY, EDGE = ((236, 236, 236), (214, 226, 214)), (0, 114, 178), (0, 60, 100)
WIDTH, HEIGHT = 240, 160
METRE = 64  # pixels
TILE = 0.5  # metres
SAMPLES = 2  # along each side of a pixel


class Limbs(NamedTuple):
    """The ends of G capsules in the world, in metres, and their radii; a ball has equal ends."""

    ends: Float[np.ndarray, "G 2 3"]
    radii: Float[np.ndarray, " G"]


class View(NamedTuple):
    """How the camera looks, parallel rays all: from which side, and how steeply from above.

    `turn` is the angle from the x axis to what is right in the picture, `pitch` that between
    the camera's axis and the ground, in radians.
    """

    turn: float
    pitch: float

    def project(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """To the right, up, and towards the camera, in metres."""
        x, y, z = np.moveaxis(points, -1, 0)
        right = x * math.cos(self.turn) + y * math.sin(self.turn)
        ahead = y * math.cos(self.turn) - x * math.sin(self.turn)
        up = z * math.cos(self.pitch) + ahead * math.sin(self.pitch)
        near = z * math.sin(self.pitch) - ahead * math.cos(self.pitch)
        return np.stack([right, up, near], -1)

    def ground(self, right: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The x and y of the places on the ground that are seen there, all of the same shape."""
        ahead = up / math.sin(self.pitch)
        x = right * math.cos(self.turn) - ahead * math.sin(self.turn)
        return x, right * math.sin(self.turn) + ahead * math.cos(self.turn)


def picture(limbs: Limbs, view: View, centre: Float[np.ndarray, " 3"]) -> np.ndarray:
    """Limbs over tiled ground, what is nearer over what is further away.

    Args:
        limbs: of the robot.
        view: of the camera.
        centre: the place in the world that is in the middle of the picture.

    Returns:
        `[160, 240, 3]`, whole numbers from 0 to 255.
    """
    middle = view.project(np.asarray(centre))
    columns = (np.arange(WIDTH * SAMPLES) + 0.5) / SAMPLES - WIDTH / 2
    rows = HEIGHT / 2 - (np.arange(HEIGHT * SAMPLES) + 0.5) / SAMPLES
    right, up = np.meshgrid(middle[0] + columns / METRE, middle[1] + rows / METRE)
    x, y = view.ground(right, up)
    tile = (np.floor(x / TILE) + np.floor(y / TILE)).astype(int) % 2
    image = np.array(TILES)[tile]
    ends = view.project(limbs.ends)
    for g in ends[:, :, 2].max(1).argsort():
        away = distance(right, up, ends[g, 0, :2], ends[g, 1, :2])
        image[away < limbs.radii[g]] = EDGE
        image[away < limbs.radii[g] - 1 / METRE] = BODY
    parts = image.reshape(HEIGHT, SAMPLES, WIDTH, SAMPLES, 3)
    return parts.mean((1, 3)).round().astype(np.uint8)


def distance(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """From points, x and y of the same shape, to the line between a and b, `[2]` each."""
    dx, dy = b - a
    length = dx * dx + dy * dy
    along = ((x - a[0]) * dx + (y - a[1]) * dy) / max(length, 1e-12)
    along = along.clip(0, 1)
    return np.hypot(x - a[0] - along * dx, y - a[1] - along * dy)
