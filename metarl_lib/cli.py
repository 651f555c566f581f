"""`metarl`: list the experiments, run one, publish its results, look the machine over."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import torch

from metarl_lib import __version__
from metarl_lib.experiments import EXPERIMENTS, Experiment
from metarl_lib.experiments.base import parse_field
from metarl_lib.report import publish, results_folder
from metarl_lib.runs import SCALES, Run, read_json

EXTRAS = {
    "book": ("jupyter_book", "jupytext", "sphinx_proof", "sphinx_exercise"),
    "test": ("pytest", "xdist", "nbmake", "beartype"),
    "mujoco": ("mujoco", "metaworld"),
    "ray": ("ray",),
}


class UsageError(Exception):
    """Something on the command line is wrong; its text is the one line that is shown."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing a usage block."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when all went well, 1 for a failed run, 2 for bad input."""
    torch.set_num_threads(1)  # small matrices: more threads only wait for each other
    try:
        options, extra = build_parser().parse_known_args(arguments)
        action: Callable[[argparse.Namespace, list[str]], int] = options.action
        return action(options, extra)
    except (RuntimeError, ArithmeticError, ConnectionError) as error:
        print(f"metarl: {_one_line(error)}", file=sys.stderr)
        return 1
    except (UsageError, ValueError, OSError) as error:
        print(f"metarl: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("metarl: stopped; continue with --resume", file=sys.stderr)
        return 130


def build_parser() -> Parser:
    """The commands and their options."""
    parser = Parser(prog="metarl", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"metarl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)

    listing = commands.add_parser("list", help="each experiment: page, claim, cost at each scale")
    listing.set_defaults(action=list_experiments)

    running = commands.add_parser(
        "run",
        help="run one experiment with one seed",
        description="Fields of the experiment are options too; see `metarl run NAME --help`.",
        allow_abbrev=False,
        add_help=False,
    )
    running.add_argument("name", nargs="?", help="an experiment of `metarl list`")
    running.add_argument("--scale", choices=SCALES, help="the preset (default: book)")
    running.add_argument("--seed", type=int, help="the root seed (default: 0)")
    running.add_argument("--out", type=Path, help="the run folder (default: runs/NAME/SCALE-sSEED)")
    running.add_argument("--resume", type=Path, metavar="DIR", help="continue an unfinished run")
    running.add_argument("-h", "--help", action="store_true", help="show this and the fields")
    running.set_defaults(action=run_experiment, parser=running)

    publishing = commands.add_parser(
        "publish", help="copy the small results of finished runs to book/_results"
    )
    publishing.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    publishing.set_defaults(action=publish_runs)

    doctor = commands.add_parser("doctor", help="what is installed, and what this machine can do")
    doctor.set_defaults(action=examine)
    return parser


def list_experiments(options: argparse.Namespace, extra: list[str]) -> int:
    """Print every experiment."""
    _refuse(extra)
    for experiment in EXPERIMENTS.values():
        cost = ", ".join(f"{scale} {experiment.cost[scale]}" for scale in SCALES)
        print(f"{experiment.name}\n  {experiment.claim}\n  page  {experiment.page}\n  cost  {cost}")
    print("\nCost is for one seed on one core.")
    return 0


def run_experiment(options: argparse.Namespace, extra: list[str]) -> int:
    """Run or resume one experiment."""
    if options.help and options.name is None:
        options.parser.print_help()
        return 0
    if options.resume is not None:
        return _resume(options, extra)
    if options.name is None:
        raise UsageError(f"run needs the name of an experiment: {', '.join(EXPERIMENTS)}")
    if options.name not in EXPERIMENTS and any(word.startswith("--") for word in extra):
        raise UsageError(
            f"no experiment {options.name!r}: write the experiment's name before its fields, as in "
            f"metarl run {next(iter(EXPERIMENTS))} {extra[0]} …"
        )
    experiment = _find(options.name)
    scale = options.scale or "book"
    if options.help:
        options.parser.print_help()
        _print_fields(experiment, scale)
        return 0
    seed = options.seed if options.seed is not None else 0
    if seed < 0:
        raise UsageError(f"--seed {seed}: must be a whole number >= 0")
    config = experiment.config(scale, _read_fields(experiment, scale, extra))
    folder = options.out or Path("runs") / experiment.name / f"{scale}-s{seed}"
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder}: is a file; name a folder that is empty or not there yet")
    run = Run.create(folder, experiment.name, config, scale=scale, seed=seed)
    return _execute(experiment, run)


def publish_runs(options: argparse.Namespace, extra: list[str]) -> int:
    """Publish finished runs of one experiment."""
    _refuse(extra)
    target = publish(options.runs, results_folder())
    print(f"published {len(options.runs)} run(s) to {target}")
    return 0


def examine(options: argparse.Namespace, extra: list[str]) -> int:
    """Print versions, devices and extras; exit status 1 when a needed package is missing."""
    _refuse(extra)
    print(f"metarl    {__version__}")
    print(f"python    {platform.python_version()}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    print(f"machine   {platform.machine()}, {os.cpu_count()} CPUs, GPU: {gpu}")
    missing = []
    try:
        requirements = metadata.requires("metarl_lib") or []
    except metadata.PackageNotFoundError:
        requirements = []
        missing.append("metarl_lib")
        print("metarl_lib            MISSING: pip install -e . in the checkout")
    for requirement in requirements:
        if "extra ==" in requirement:
            continue
        name = requirement.split(";")[0].strip()
        for separator in "<>=!~ [(":
            name = name.split(separator)[0]
        try:
            print(f"{name:<22}{metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
            print(f"{name:<22}MISSING: pip install {name}")
    for extra_name, modules in EXTRAS.items():
        absent = [module for module in modules if importlib.util.find_spec(module) is None]
        fix = f"missing {', '.join(absent)}: pip install 'metarl_lib[{extra_name}]'"
        print(f"extra {extra_name:<16}{fix if absent else 'complete'}")
    free = shutil.disk_usage(".").free / 2**30
    print(f"disk      {free:.0f} GiB free here")
    published = sorted(path.parent.name for path in results_folder().glob("*/summary.json"))
    print(f"results   {', '.join(published) or 'none published'}")
    return 1 if missing else 0


def _resume(options: argparse.Namespace, extra: list[str]) -> int:
    given = [
        flag
        for flag, value in (
            ("NAME", options.name),
            ("--scale", options.scale),
            ("--seed", options.seed),
            ("--out", options.out),
        )
        if value is not None
    ]
    if given or extra:
        raise UsageError(
            f"--resume takes everything from the run folder: leave out {' '.join(given + extra)}"
        )
    folder = options.resume
    if not (folder / "config.json").exists():
        raise UsageError(f"--resume {folder}: not a run folder, it has no config.json")
    header = read_json(folder / "config.json")
    experiment = _find(header["experiment"])
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in header["config"].items()
    }
    config = experiment.config(header["scale"], fields)
    run = Run.resume(folder, experiment.name, config)
    if run.finished:
        print(f"{folder} is finished already")
        return 0
    return _execute(experiment, run)


def _execute(experiment: Experiment, run: Run) -> int:
    rows = experiment.run(run.config, run)
    run.finish(rows)
    for row in rows:
        print(f"{row['variant']:<16} {row['metric']:<28} {row['value']:.4g}")
    print(f"finished: {run.folder}")
    return 0


def _find(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise UsageError(f"no experiment {name!r}: choose one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


def _read_fields(experiment: Experiment, scale: str, extra: list[str]) -> dict[str, Any]:
    """Turn `--field value` and `--field=value` into the configuration's fields."""
    preset = experiment.config(scale)
    allowed = [field.name for field in dataclasses.fields(preset)]
    values: dict[str, Any] = {}
    rest = list(extra)
    while rest:
        word = rest.pop(0)
        flag, equals, text = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in allowed:
            raise UsageError(
                f"{experiment.name} has no option {flag!r}: choose one of "
                + ", ".join(f"--{field}" for field in allowed)
            )
        if not equals:
            if not rest:
                raise UsageError(f"{flag} needs a value")
            text = rest.pop(0)
        values[name] = parse_field(preset, name, text)
    return values


def _print_fields(experiment: Experiment, scale: str) -> None:
    print(f"\nfields of {experiment.name} (values at scale {scale}):")
    preset = experiment.config(scale)
    for field in dataclasses.fields(preset):
        value = getattr(preset, field.name)
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        print(f"  --{field.name:<18} {field.metadata['help']} ({shown})")


def _refuse(extra: list[str]) -> None:
    if extra:
        raise UsageError(f"unknown argument {extra[0]!r}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
