"""Files that survive a kill: written whole or not at all, checked when read, locked while used.

A rename within a folder is atomic, so whoever reads a file sees the old one or the new one, also
when the writer is killed. That is all a kill can do: what a process has written stays, as the
kernel keeps it. A power failure can also lose what the kernel has not yet put on the disk;
against that, `sync` waits for the disk before the rename.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOCK = ".lock"


class StorageError(OSError):
    """A file cannot be written: the disk is full, the folder read-only."""


class BusyError(OSError):
    """Another process holds the folder."""


def write_atomically(path: Path, write: Callable[[Path], object], *, sync: bool = False) -> None:
    """Call `write` on a temporary neighbour of `path`, then rename it to `path`.

    Args:
        path: the file; its folder is made when it is missing.
        write: writes the file that it is given.
        sync: wait until the contents are on the disk, which takes some milliseconds.

    Raises:
        StorageError: when the system refuses; `path` is as it was, and no temporary file stays.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def cannot_write(path: Path, error: OSError) -> StorageError:
    """The same error, as one line that names the file which was to be written."""
    return StorageError(f"cannot write {path}: {error.strerror or error}")


def write_json(path: Path, value: object, *, sync: bool = False) -> None:
    """Write `value` as JSON, atomically, NaN refused."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text), sync=sync)


def read_json(path: Path) -> Any:
    """The value that a JSON file holds.

    Raises:
        ValueError: when it holds no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(path, f"is not JSON ({error})") from None


def damaged(path: Path, why: str) -> ValueError:
    """The error for a file of a run folder that cannot be used: one line, with the way out."""
    return ValueError(f"{path} {why}: delete the folder {path.parent} and start the run anew")


class Lock:
    """A run folder, held by this process until this object or the process ends.

    The kernel ends it with the process, so a killed run never leaves its folder locked. Where
    the system or the file system cannot lock, nothing is locked.

    Args:
        folder: the folder; its file `.lock` names the process, for whoever finds it held.

    Raises:
        BusyError: when another process holds the folder.
        StorageError: when the lock file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        try:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        weakref.finalize(self, os.close, self.descriptor)
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self.path.read_text().strip() or "another process"
            raise BusyError(
                f"{folder} is being run by {holder}: wait until it ends, or stop it"
            ) from None
        except OSError:
            return
        with contextlib.suppress(OSError):  # a full disk: only the name of the holder is missing
            os.ftruncate(self.descriptor, 0)
            os.write(self.descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())


_held: weakref.WeakValueDictionary[tuple[int, int], Lock] = weakref.WeakValueDictionary()


def hold(folder: Path) -> Lock:
    """Lock a folder; within one process, opening a folder twice shares the lock.

    Raises:
        BusyError, StorageError: see `Lock`.
    """
    with contextlib.suppress(FileNotFoundError):
        known = (folder / LOCK).stat()
        shared = _held.get((known.st_dev, known.st_ino))
        if shared is not None:
            return shared
    lock = Lock(folder)
    status = os.fstat(lock.descriptor)
    return _held.setdefault((status.st_dev, status.st_ino), lock)


def remove_lock(folder: Path) -> None:
    """Remove the lock file, where there is one; a lock itself ends with its `Lock`."""
    with contextlib.suppress(OSError):
        (folder / LOCK).unlink()
