"""Atari games, all rows stepped at once by the emulator's own threads."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl_lib.envs.base import OneTask, RowTasks, Step, check_discrete
from metarl_lib.envs.option_checks import check_whole

MAX_STEPS = 27_000
"""Steps of four frames in the 30 minutes after which an episode is cut off."""


def import_ale() -> Any:
    """The vector environments of the Arcade Learning Environment.

    Raises:
        ImportError: where it is not installed; one line that says which extra to install.
    """
    try:
        from ale_py import vector_env
    except ImportError:
        raise ImportError(
            "Atari games need ale-py, which is not installed: pip install 'metarl_lib[atari]'"
        ) from None
    return vector_env


def check_game(game: str) -> None:
    """A game must be one that the emulator has.

    Raises:
        ImportError: without the extra `atari`.
        ValueError: for another name.
    """
    if game not in import_ale().roms.get_all_rom_ids():
        raise ValueError(
            f"game={game!r} is unknown to the emulator: give a name such as 'pong' or "
            "'space_invaders'"
        )


class AtariState(NamedTuple):
    """The frames that each row sees, `[B, I]`; the rest is in the emulators."""

    seen: Tensor


class Atari(OneTask):
    """A game of the Arcade Learning Environment (Bellemare et al. 2013) on B rows.

    What is seen is the last four frames in grey, scaled down to `pixels` × `pixels` and to
    [0, 1], flat, `[4 · pixels²]`. A step lasts four frames. Rewards are clipped to −1, 0 and 1;
    the real ones are `info["score"]`. Episodes begin with up to 30 steps of doing nothing.

    Unlike in the other environments the state is in the emulators: a state can be stepped once,
    in order, by the object that made it. A row that ends begins anew at once, so that `reset`
    after the first one gives what is seen of the running rows, of all of them. So ended rows are
    restarted with `where_rows` only, as `Trial` and the algorithms do it; the adapters, which
    reset the ended rows alone, can have one row.

    Args:
        game: its name, such as `"pong"`.
        pixels: see above.
        threads: of the emulators.

    Raises:
        ImportError: without the extra `atari`.
        ValueError: for a game that the emulator does not have, or numbers out of range.
    """

    def __init__(self, game: str = "pong", pixels: int = 28, threads: int = 1) -> None:
        check_whole("pixels", pixels)
        check_whole("threads", threads)
        self.game, self.pixels, self.threads = game, pixels, threads
        self._make = import_ale()
        check_game(game)
        self._running: Any = None
        probe = self._emulators(1)
        self.observation_space = spaces.Box(0.0, 1.0, (4 * pixels**2,), np.float32)
        self.action_space = spaces.Discrete(int(probe.single_action_space.n))
        probe.close()

    @property
    def max_steps(self) -> int:
        """Steps after which an episode is cut off."""
        return MAX_STEPS

    def reset(self, tasks: RowTasks, generator: torch.Generator) -> tuple[AtariState, Tensor]:
        """Start the emulators, or say what is seen of the running ones.

        Raises:
            ValueError: for another number of rows than run.
        """
        if self._running is None:
            self._running = self._emulators(len(tasks.row))
            seed = int(torch.randint(2**31 - 1, (), generator=generator))
            self._seen = self._look(self._running.reset(seed=seed)[0])
        if len(tasks.row) != len(self._seen):
            raise ValueError(
                f"reset of {len(tasks.row)} rows, and {len(self._seen)} are running: reset all and "
                "use where_rows, run one row, or close first"
            )
        return AtariState(self._seen), self._seen

    def step(
        self, state: AtariState, action: Tensor, generator: torch.Generator
    ) -> tuple[AtariState, Step]:
        """Four frames of every row."""
        check_discrete(action, len(state.seen), self.action_space)
        frames, score, terminated, truncated, _ = self._running.step(action.numpy())
        self._seen = self._look(frames)
        score = torch.as_tensor(score).float()
        over, late = torch.as_tensor(terminated), torch.as_tensor(truncated)
        late = late & ~over
        step = Step(self._seen, score.sign(), over, late, {"score": score})
        return AtariState(self._seen), step

    def close(self) -> None:
        """End the emulators."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _emulators(self, rows: int) -> Any:
        return self._make.AtariVectorEnv(
            self.game, rows, num_threads=self.threads, img_height=self.pixels,
            img_width=self.pixels, reward_clipping=False, autoreset_mode="SameStep",
        )  # fmt: skip

    def _look(self, frames: np.ndarray) -> Tensor:
        return torch.as_tensor(frames).flatten(1).float() / 255
