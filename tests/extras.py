"""What an experiment needs that is not always installed."""

import pytest

# The package of an experiment, and the extra that brings it.
EXTRAS = {
    "atari": ("ale_py", "atari"),
    **dict.fromkeys(("ant_dir", "cheetah_dir", "cheetah_vel"), ("mujoco", "mujoco")),
    **dict.fromkeys(("ml1_reach", "ml1_push", "ml10", "pearl_robots"), ("metaworld", "mujoco")),
}


def need_extra(experiment: str) -> None:
    """Skip a test, with a clear line, where what the experiment needs is missing."""
    if experiment in EXTRAS:
        package, extra = EXTRAS[experiment]
        missing = f"the extra {extra} is missing: pip install 'metarl_lib[{extra}]'"
        pytest.importorskip(package, reason=missing)
