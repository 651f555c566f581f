"""A maze as a picture: what `rgb_array` rendering shows of it."""

from __future__ import annotations

import numpy as np

WALL, OPEN, SEEN = (51, 51, 51), (255, 255, 255), (214, 230, 244)
TARGET, AGENT = (230, 159, 0), (0, 114, 178)
PIXELS = 16  # of a cell's side


def picture(walls: np.ndarray, target: int, position: int) -> np.ndarray:
    """Walls dark, the nine cells in view tinted, the target a square, the agent a disc.

    Args:
        walls: `[m, m]`, 1 for a wall, the outer ones included.
        target: the number of its cell, row by row.
        position: the agent's.

    Returns:
        `[16 m, 16 m, 3]`, whole numbers from 0 to 255.
    """
    width = len(walls)
    image = np.where(walls[..., None] > 0, WALL, OPEN).astype(np.uint8)
    row, column = divmod(position, width)
    around = np.s_[row - 1 : row + 2, column - 1 : column + 2]
    image[around] = np.where(walls[around][..., None] > 0, WALL, SEEN)
    image = image.repeat(PIXELS, 0).repeat(PIXELS, 1)
    middle = (np.arange(PIXELS) + 0.5) / PIXELS - 0.5
    square = (abs(middle) < 0.35)[:, None] & (abs(middle) < 0.35)
    disc = middle[:, None] ** 2 + middle**2 < 0.35**2
    for cell, shape, colour in ((target, square, TARGET), (position, disc, AGENT)):
        top, left = (PIXELS * place for place in divmod(cell, width))
        image[top : top + PIXELS, left : left + PIXELS][shape] = colour
    return image
