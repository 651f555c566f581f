"""What every test shares: shapes are checked at run time, one thread, no window."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import matplotlib
import pytest
import torch
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]

# The shapes in the signatures of the library are checked in the tests, and only here. The hook
# has to be there before the library is imported for the first time.
install_import_hook("metarl_lib", "beartype.beartype")

# The tools of the book are scripts, not a package.
sys.path.insert(0, str(ROOT / "book" / "_tools"))

matplotlib.use("Agg")
torch.set_num_threads(1)

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in this same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what their module makes go to one worker, so that it is made once.

    Otherwise pytest-xdist deals tests out one by one, and every worker makes it anew. A group
    ends with the number of the case where what is made differs from case to case.
    """
    for item in items:
        fixtures = getattr(item, "_fixtureinfo", None)  # pages have none
        if fixtures is None or item.get_closest_marker("xdist_group"):
            continue
        found = sorted(fixtures.name2fixturedefs.items())
        shared = [name for name, definitions in found if definitions[-1].scope == "module"]
        if shared:
            indices = item.callspec.indices if hasattr(item, "callspec") else {}
            cases = [str(indices[name]) for name in shared if name in indices]
            item.add_marker(pytest.mark.xdist_group("-".join([item.path.stem, *cases])))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As outside of the tests: full speed, and the library's own refusals speak."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def double() -> Iterator[None]:
    """Numbers are float64 where nobody says otherwise."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
