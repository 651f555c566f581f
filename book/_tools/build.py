"""Build the book: execute the pages, two at a time, then let Jupyter Book typeset them.

Executed pages are kept in `_build/.jupyter_cache/<key>`. The key is a hash of the library, the
published results, the pinned versions and the scale, because the cache itself looks only at the
code cells of a page. Jupyter Book is then called as `jb build . -n -W --keep-going` calls it, and
finds every page already executed.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from jupyter_book.sphinx import build_sphinx
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
from myst_nb.core.read import read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig
from nbformat import NotebookNode
from pages import ROOT, notebook_pages

SCALES = ("smoke", "book", "full")
CACHES = ROOT / "_build" / ".jupyter_cache"
KEPT_CACHES = 4
STATE = "state.json"  # beside the HTML: what it was built from, and how long its pages took
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Execution:
    """What running a page gave; `error` is empty if all went well."""

    notebook: NotebookNode
    seconds: float
    cpu_seconds: float
    error: str


@dataclass(frozen=True)
class Book:
    """A built book: its HTML, and the processor seconds that each page took."""

    html: Path
    seconds: dict[str, float]


def digest(paths: Iterable[Path], *words: str) -> str:
    """A hash of some words, and of the names and contents of files."""
    state = hashlib.sha256("\0".join(words).encode())
    for path in sorted(paths):
        state.update(f"\0{path.relative_to(ROOT)}\0".encode())
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


def files_below(*folders: str) -> list[Path]:
    return [
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]


def cache_key(scale: str) -> str:
    """What the numbers on a page depend on, besides the page's own code."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    paths = [*files_below("metarl_lib", "book/_results"), ROOT / "constraints.txt", Path(__file__)]
    return digest(paths, scale, python)


def book_key(scale: str) -> str:
    """What the whole built book depends on."""
    paths = [*files_below("book"), ROOT / "_config.yml", ROOT / "_toc.yml"]
    return digest(paths, cache_key(scale))


def built_book(out: Path, scale: str) -> Book | None:
    """The book in `out`, or None unless it was built from what there is now."""
    state = out.parent / STATE
    record = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
    fresh = record.get("key") == book_key(scale) and record["html"] == out.name
    return Book(out, record["seconds"]) if fresh else None


def read_config() -> dict:
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def read_page(path: Path, config: dict) -> NotebookNode:
    """A page as MyST-NB reads it, so that the cache knows it again."""
    extensions = set(config["parse"]["myst_enable_extensions"])
    return read_myst_markdown_notebook(
        path.read_text(encoding="utf-8"),
        config=MdParserConfig(enable_extensions=extensions),
        add_source_map=True,
        path=str(path),
    )


def recorded_seconds(cache: JupyterCacheAbstract, notebook: NotebookNode) -> float | None:
    """What this page took when it was executed, or None if the cache has not seen it."""
    try:
        return cache.match_cache_notebook(notebook).data["cpu_seconds"]
    except KeyError:
        return None


def execute(page: str, notebook: NotebookNode, timeout: int) -> Execution:
    """Run one page in a kernel of its own. A process calls this for one page at a time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = single_nb_execution(
        notebook,
        cwd=str((ROOT / page).parent),
        timeout=timeout,
        allow_errors=False,
        extra_arguments=["--log-level=ERROR"],
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Execution(result.nb, result.time, cpu, failure(page, result) if result.err else "")


def failure(page: str, result: ExecutionResult) -> str:
    """Which page, which cell, which error."""
    lines = [f"FAILED {page}"]
    places = result.nb.metadata.get("source_map", [])
    for index, cell in enumerate(result.nb.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                at = f", line {places[index] + 1}" if index < len(places) else ""
                lines = [f"FAILED {page}{at}, in the cell", ""]
                lines += [f"    {line}" for line in cell.source.splitlines()]
                lines += ["", *ANSI.sub("", "\n".join(output.traceback)).splitlines()[-40:]]
    if len(lines) == 1:
        lines.append(ANSI.sub("", str(result.err)))
    return "\n".join(lines)


def execute_pages(cache_path: Path, config: dict, workers: int) -> tuple[dict[str, float], int]:
    """Execute what the cache does not hold; return the pages' processor seconds, and the failures.

    Processor seconds, because the time on the wall tells how busy the machine was.
    """
    cache = get_cache(str(cache_path))
    seconds: dict[str, float] = {}
    waiting: dict[str, NotebookNode] = {}
    for path in notebook_pages():
        name, notebook = path.relative_to(ROOT).as_posix(), read_page(path, config)
        known = recorded_seconds(cache, notebook)
        if known is None:
            waiting[name] = notebook
        else:
            seconds[name] = known
            print(f"{known:8.1f} s  {name} (already executed)", flush=True)

    failed = 0
    timeout = config["execute"]["timeout"]
    with ProcessPoolExecutor(workers) as pool:
        jobs = {pool.submit(execute, name, nb, timeout): name for name, nb in waiting.items()}
        for job in as_completed(jobs):
            name = jobs[job]
            try:
                done = job.result()
            except Exception as error:
                failed += 1
                print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
                continue
            if done.error:
                failed += 1
                print(done.error, flush=True)
                continue
            times = {"execution_seconds": done.seconds, "cpu_seconds": done.cpu_seconds}
            bundle = CacheBundleIn(done.notebook, str(ROOT / name), data=times)
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            seconds[name] = done.cpu_seconds
            print(f"{done.cpu_seconds:8.1f} s  {name} (after {done.seconds:.0f} s)", flush=True)
    return seconds, failed


def typeset(out: Path, cache_path: Path, config: dict) -> bool:
    """Run Sphinx as Jupyter Book does, strictly; True if there was no warning and no error."""
    config["execute"].update(execute_notebooks="cache", cache=str(cache_path))
    out.parent.mkdir(parents=True, exist_ok=True)
    path_config = out.parent / "config.yml"
    text = yaml.safe_dump(config, allow_unicode=True)
    if not path_config.exists() or path_config.read_text(encoding="utf-8") != text:
        # The library has changed, so Sphinx reads all pages again. The listings of the library's
        # source it would only renew by file times, which a checkout does not keep.
        shutil.rmtree(out / "_modules", ignore_errors=True)
        path_config.write_text(text, encoding="utf-8")
    result = build_sphinx(
        ROOT,
        out,
        noconfig=True,
        path_config=path_config,
        confoverrides={
            "external_toc_path": (ROOT / "_toc.yml").as_posix(),
            "latex_individualpages": False,
            "nitpicky": True,
        },
        warningiserror=True,
        keep_going=True,
        quiet=True,
    )
    return result == 0


def remove_leftovers(out: Path) -> None:
    """Take away what Sphinx would leave of pages that are gone."""
    for path in out.glob("book/**/*.html"):
        if not (ROOT / path.relative_to(out)).with_suffix(".md").exists():
            path.unlink()


def forget_old_caches(current: Path) -> None:
    current.touch()
    caches = sorted(CACHES.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in caches[KEPT_CACHES:]:
        shutil.rmtree(path)


def build(scale: str, out: Path, workers: int) -> int:
    """Execute and typeset; return the exit status."""
    start = time.perf_counter()

    os.environ.update(METARL_SCALE=scale, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    # torch loads tqdm, which warns in a kernel without widgets; no page has a widget.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")
    os.environ.pop("MPLBACKEND", None)  # a page draws with the kernel's own backend
    key = book_key(scale)
    cache_path = CACHES / cache_key(scale)
    state = out.parent / STATE
    state.unlink(missing_ok=True)

    config = read_config()
    print(f"Executing the pages at scale '{scale}'; processor seconds:", flush=True)
    seconds, failed = execute_pages(cache_path, config, workers)
    forget_old_caches(cache_path)
    if failed:
        print(f"{failed} of {failed + len(seconds)} pages failed", file=sys.stderr)
        return 1

    held = len(get_cache(str(cache_path)).list_cache_records())
    print("Typesetting", flush=True)
    remove_leftovers(out)
    if not typeset(out, cache_path, config):
        # Sphinx warns about a page only when it reads it: make it read them all the next time.
        shutil.rmtree(out.parent / ".doctrees", ignore_errors=True)
        print("the book has warnings or errors; they are listed above", file=sys.stderr)
        return 1
    if len(get_cache(str(cache_path)).list_cache_records()) != held:
        print("Jupyter Book executed a page that was executed before", file=sys.stderr)
        return 1

    record = {"key": key, "html": out.name, "scale": scale, "seconds": seconds}
    state.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{out / 'index.html'} is ready after {time.perf_counter() - start:.0f} s")
    return 0


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other build of this tree is at work: they share the executed pages."""
    CACHES.mkdir(parents=True, exist_ok=True)
    with (CACHES.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scale", choices=SCALES, default="book")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--workers", type=int, default=2, help="pages executed at a time")
    args = parser.parse_args(argv)
    # Beside the HTML stand files of the build, which must not land among somebody's own.
    if not args.out.absolute().is_relative_to(ROOT / "_build"):
        print(f"--out {args.out}: must lie in _build, such as _build/html", file=sys.stderr)
        return 2
    with one_at_a_time():
        return build(args.scale, args.out.absolute(), args.workers)


if __name__ == "__main__":
    sys.exit(main())
