"""A maze, one row at a time with Python numbers.

Written from the text of `Maze`, not from its code. Each row is told its open cells, its target,
where it starts, and the very numbers that were drawn for its jumps.
"""

from collections import deque

from plain_tasks import Said

Cell = tuple[int, int]  # row and column
MOVES = {0: (-1, 0), 1: (1, 0), 2: (0, -1), 3: (0, 1)}  # up, down, to the left, to the right


def drawn_maze(text: str) -> tuple[list[list[bool]], int]:
    """Which cells of a drawing are open, and the number of T's cell; # is closed."""
    lines = text.split()
    return [[mark != "#" for mark in line] for line in lines], "".join(lines).index("T")


class PlainMaze:
    """Whatever is not among the open cells is a wall, inside or outside.

    `others` are the cells where a jump may lead, counted row by row.
    """

    def __init__(
        self, free: list[list[bool]], target: int, steps: int, *, visible: bool = False
    ) -> None:
        size, self.size, self.visible = range(len(free)), len(free), visible
        self.open = [(row, column) for row in size for column in size if free[row][column]]
        self.target, self.steps, self.time = divmod(target, len(free)), steps, 0
        self.others = [cell for cell in self.open if cell != self.target]

    def start(self, here: Cell) -> "PlainMaze":
        self.here = here
        return self

    def jump(self, u: float) -> Cell:
        """Where a jump goes for which u was drawn between 0 and 1."""
        return self.others[int(u * len(self.others))]

    def beside(self, cell: Cell, action: int) -> Cell:
        return cell[0] + MOVES[action][0], cell[1] + MOVES[action][1]

    def observation(self) -> list[float]:
        row, column = self.here
        around = [(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        walls = [0.0 if cell in self.open else 1.0 for cell in around]
        return walls + [float(cell == self.target) for cell in around] * self.visible

    def step(self, action: int, u: float) -> Said:
        ahead = self.beside(self.here, action)
        if ahead in self.open:
            self.here = ahead
        hit = self.here == self.target
        if hit:
            self.here = self.jump(u)
        self.time += 1
        reward = 10.0 if hit else 0.0
        info = {"hit": hit, "cell": self.size * self.here[0] + self.here[1]}
        return Said(self.observation(), reward, self.time >= self.steps, False, info)

    def ways(self) -> dict[Cell, int]:
        """For each cell from which the target can be reached, a first step of a shortest way."""
        best, queue = {}, deque([self.target])
        while queue:
            cell = queue.popleft()
            for action, back in ((0, 1), (1, 0), (2, 3), (3, 2)):
                before = self.beside(cell, back)
                if before in self.others and before not in best:
                    best[before] = action
                    queue.append(before)
        return best
