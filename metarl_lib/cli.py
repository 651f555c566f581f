"""`metarl`: list the experiments, run them, publish their results, look the machine over."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch

from metarl_lib import __version__, doctor
from metarl_lib.cli_run import UsageError, add_commands
from metarl_lib.experiments import EXPERIMENTS
from metarl_lib.publishing import publish
from metarl_lib.report import results_folder
from metarl_lib.runs import SCALES


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing a usage block.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when all went well, 1 for a failed run, 2 for bad input."""
    torch.set_num_threads(1)  # small matrices: more threads only wait for each other
    try:
        options, extra = build_parser().parse_known_args(arguments)
        action: Callable[[argparse.Namespace, list[str]], int] = options.action
        return action(options, extra)
    except (RuntimeError, ArithmeticError, ConnectionError, ImportError) as error:
        print(f"metarl: {_one_line(error)}", file=sys.stderr)
        return 1
    except (UsageError, ValueError, OSError) as error:
        print(f"metarl: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:  # says how to go on, where that is known
        print(f"metarl: stopped; continue with {str(stop) or '--resume'}", file=sys.stderr)
        return 130


def build_parser() -> Parser:
    """The commands and their options."""
    parser = Parser(prog="metarl", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"metarl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)

    listing = commands.add_parser("list", help="each experiment: page, claim, cost at each scale")
    listing.set_defaults(action=list_experiments)

    add_commands(commands)

    publishing = commands.add_parser(
        "publish", help="copy the small results of finished runs to book/_results"
    )
    publishing.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    publishing.add_argument(
        "--add", action="store_true", help="join the seeds that are published already"
    )
    publishing.set_defaults(action=publish_runs)

    looking = commands.add_parser("doctor", help="what is installed, and what this machine can do")
    looking.set_defaults(action=look_over)
    return parser


def list_experiments(options: argparse.Namespace, extra: list[str]) -> int:
    """Print every experiment."""
    _refuse(extra)
    for experiment in EXPERIMENTS.values():
        cost = ", ".join(f"{scale} {experiment.cost[scale]}" for scale in SCALES)
        print(f"{experiment.name}\n  {experiment.claim}\n  page  {experiment.page}\n  cost  {cost}")
    print("\nCost is for one seed on one core.")
    return 0


def publish_runs(options: argparse.Namespace, extra: list[str]) -> int:
    """Publish finished runs of one experiment."""
    _refuse(extra)
    target = publish(options.runs, results_folder(), add=options.add)
    print(f"published {len(options.runs)} run(s) to {target}")
    return 0


def look_over(options: argparse.Namespace, extra: list[str]) -> int:
    """Print what is installed and what is not; exit status 1 when a needed package is missing."""
    _refuse(extra)
    lines, complete = doctor.examine()
    print("\n".join(lines))
    return 0 if complete else 1


def _refuse(extra: list[str]) -> None:
    if extra:
        raise UsageError(f"unknown argument {extra[0]!r}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
