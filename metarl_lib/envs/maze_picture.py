"""A maze as a picture: what `rgb_array` rendering shows of it."""

from __future__ import annotations

import numpy as np

WALL, OPEN, SEEN = (51, 51, 51), (255, 255, 255), (214, 230, 244)
TARGET, AGENT = (230, 159, 0), (0, 114, 178)


def picture(walls: np.ndarray, target: int, position: int, pixels: int = 16) -> np.ndarray:
    """Walls dark, the nine cells in view tinted, the target a square, the agent a disc.

    Args:
        walls: `[m, m]`, 1 for a wall, the outer ones included.
        target: the number of its cell, row by row.
        position: the agent's.
        pixels: of a cell's side.

    Returns:
        `[m * pixels, m * pixels, 3]`, whole numbers from 0 to 255.
    """
    width = len(walls)
    image = np.where(walls[..., None] > 0, WALL, OPEN).astype(np.uint8)
    row, column = divmod(position, width)
    around = np.s_[row - 1 : row + 2, column - 1 : column + 2]
    image[around] = np.where(walls[around][..., None] > 0, WALL, SEEN)
    image = image.repeat(pixels, 0).repeat(pixels, 1)
    middle = (np.arange(pixels) + 0.5) / pixels - 0.5
    square = (abs(middle) < 0.35)[:, None] & (abs(middle) < 0.35)
    disc = middle[:, None] ** 2 + middle**2 < 0.35**2
    for cell, shape, colour in ((target, square, TARGET), (position, disc, AGENT)):
        top, left = (pixels * place for place in divmod(cell, width))
        image[top : top + pixels, left : left + pixels][shape] = colour
    return image
