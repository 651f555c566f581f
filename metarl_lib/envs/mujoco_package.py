"""MuJoCo, where it is installed, and its warnings, where nobody reads them. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def import_mujoco() -> Any:
    """The package.

    Raises:
        ImportError: where it is not installed; one line that says which extra to install.
    """
    try:
        import mujoco
    except ImportError:
        raise ImportError(
            "robots need MuJoCo, which is not installed: pip install 'metarl_lib[mujoco]'"
        ) from None
    return mujoco


@contextmanager
def quiet() -> Iterator[None]:
    """Drop MuJoCo's warnings, which it would write into a file in the working directory."""
    mujoco = import_mujoco()
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
