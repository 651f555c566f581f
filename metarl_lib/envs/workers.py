"""Processes that share the rows of a batch: for code in Python that no thread would speed up."""

from __future__ import annotations

import multiprocessing
import signal
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

PATIENCE = 5.0
"""Seconds that a process is given to end."""


class Workers:
    """Calls methods of an object on arrays of B rows, each process on a part of them.

    A process has its own copy of the object, and nothing that it must remember: whatever a
    method needs is in its arguments. It ends when this object, or its own parent, does.

    Args:
        target: the object. Its methods take arrays and return arrays, or tuples of them, all
            with a leading B.
        processes: how many; with 1, all is done in this one. They start with the first call.
    """

    def __init__(self, target: Any, processes: int = 1) -> None:
        self.target, self.processes = target, processes
        self._pipes: list[Connection] = []
        self._end: Any = None

    def call(self, method: str, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Call a method on all rows of arrays `[B, …]`; they come back in their order.

        Raises:
            RuntimeError: when a process has died.
        """
        if self.processes == 1:
            return getattr(self.target, method)(*arrays)
        if self._end is None:
            self._start()
        parts = list(zip(*(np.array_split(a, self.processes) for a in arrays), strict=True))
        busy = [(p, part) for p, part in zip(self._pipes, parts, strict=True) if len(part[0])]
        try:
            for pipe, part in busy:
                pipe.send((method, part))
            answers = [pipe.recv() for pipe, _ in busy]
        except (EOFError, OSError):
            self.close()
            raise RuntimeError(
                "a process that steps rows has died: look for its message above; a script with "
                'workers > 1 does its work under `if __name__ == "__main__":`'
            ) from None
        except BaseException:  # an answer that nobody waited for would be taken for the next one
            self.close()
            raise
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return tuple(np.concatenate(column) for column in zip(*answers, strict=True))

    def close(self) -> None:
        """End the processes; a later call starts new ones."""
        if self._end is not None:
            self._end()
        self._end, self._pipes = None, []

    def _start(self) -> None:
        # A fork would copy threads in the middle of what they do.
        context, crew = multiprocessing.get_context("spawn"), []
        for _ in range(self.processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self.target), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            crew.append(process)
        self._end = weakref.finalize(self, _end, crew, self._pipes)


def _serve(pipe: Connection, target: Any) -> None:
    """What a process does: answer until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
    while True:
        try:
            method, arrays = pipe.recv()
        except EOFError:
            return
        try:
            answer = getattr(target, method)(*arrays)
        except Exception as error:
            answer = error
        pipe.send(answer)


def _end(crew: Sequence[BaseProcess], pipes: Sequence[Connection]) -> None:
    for pipe in pipes:
        pipe.close()
    for process in crew:
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
