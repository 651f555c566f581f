"""The commands of `metarl` that open runs: run, sweep, eval."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from metarl_lib.execution import execute, find_experiment, recorded
from metarl_lib.experiments import EXPERIMENTS, Experiment
from metarl_lib.experiments.base import parse_field
from metarl_lib.files import StorageError, damaged, read_json
from metarl_lib.folder import check_finished, stage_tensors
from metarl_lib.jobs import Job, parse_seeds
from metarl_lib.runs import SCALES, Run, config_hash
from metarl_lib.sweeps import sweep

TRIAL_FIELDS = ("test_trials", "test_tasks", "test_lives", "test_episodes")
"""The first of them that there is, is what `--trials` sets."""


class UsageError(Exception):
    """Something on the command line is wrong; its text is the one line that is shown."""


def add_commands(commands: Any) -> None:
    """Declare `run`, `sweep` and `eval`, with their options."""
    fields = "Fields of the experiment are options too; see `metarl run NAME --help`."
    options: dict[str, Any] = {"description": fields, "allow_abbrev": False, "add_help": False}
    running = commands.add_parser("run", help="run one experiment with one seed", **options)
    running.add_argument("name", nargs="?", help="an experiment of `metarl list`")
    running.add_argument("--scale", choices=SCALES, help="the preset (default: book)")
    running.add_argument("--seed", type=int, help="the root seed (default: 0)")
    running.add_argument("--out", type=Path, help="the run folder (default: runs/NAME/SCALE-sSEED)")
    running.add_argument("--resume", type=Path, metavar="DIR", help="continue an unfinished run")
    running.add_argument("-h", "--help", action="store_true", help="show this and the fields")
    running.set_defaults(action=run_experiment, parser=running)

    sweeping = commands.add_parser("sweep", help="run one experiment with many seeds", **options)
    sweeping.add_argument("name", nargs="?", help="an experiment of `metarl list`")
    sweeping.add_argument("--seeds", help="such as 0-9 or 0,3,5-7")
    sweeping.add_argument("--scale", choices=SCALES, help="the preset (default: book)")
    sweeping.add_argument(
        "--out",
        type=Path,
        help="where the run folders s0, s1, … go (default: runs/NAME/SCALE-s0, …)",
    )
    sweeping.add_argument(
        "--backend", choices=("local", "ray"), default="local",
        help="processes of this machine (default), or a Ray cluster whose nodes share the folders",
    )  # fmt: skip
    sweeping.add_argument("--jobs", type=int, help="seeds at once (default: as many as CPUs)")
    sweeping.add_argument(
        "--address", help="of the Ray cluster; auto: the one that runs here (default: start one)"
    )
    sweeping.add_argument("-h", "--help", action="store_true", help="show this and the fields")
    sweeping.set_defaults(action=run_sweep, parser=sweeping)

    evaluating = commands.add_parser(
        "eval", help="evaluate a finished run's checkpoint again", allow_abbrev=False
    )
    evaluating.add_argument("run", type=Path, metavar="RUN_DIR")
    evaluating.add_argument("--trials", type=int, help="how many test tasks, instead of the run's")
    evaluating.set_defaults(action=evaluate_run)


def run_experiment(options: argparse.Namespace, extra: list[str]) -> int:
    """Run or resume one experiment.

    Raises:
        UsageError: for a name, an option or a value that does not fit.
    """
    if options.resume is not None and not (options.help and options.name is None):
        return _resume(options, extra)
    experiment = _chosen(options, extra)
    if experiment is None:
        return 0
    seed = options.seed if options.seed is not None else 0
    if seed < 0:
        raise UsageError(f"--seed {seed}: must be a whole number >= 0")
    scale = options.scale or "book"
    config = experiment.config(scale, _read_fields(experiment, scale, extra))
    folder = options.out or Path("runs") / experiment.name / f"{scale}-s{seed}"
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder}: is a file; name a folder that is empty or not there yet")
    new = not folder.exists()
    run = Run.create(folder, experiment.name, config, scale=scale, seed=seed)
    try:
        return _execute(experiment, run)
    except ValueError:  # bad input that only the run itself noticed
        if run.discard() and new:
            folder.rmdir()
        raise


def run_sweep(options: argparse.Namespace, extra: list[str]) -> int:
    """Run one experiment with many seeds.

    Raises:
        UsageError: for a name, an option or a value that does not fit, or without `--seeds`.
    """
    experiment = _chosen(options, extra)
    if experiment is None:
        return 0
    if options.seeds is None:
        raise UsageError("sweep needs --seeds, such as --seeds 0-9")
    if options.jobs is not None and options.jobs < 1:
        raise UsageError(f"--jobs {options.jobs}: must be a whole number >= 1")
    if options.address is not None and options.backend != "ray":
        raise UsageError(f"--address {options.address}: only with --backend ray")
    seeds, scale = parse_seeds(options.seeds), options.scale or "book"
    fields = _read_fields(experiment, scale, extra)
    experiment.config(scale, fields)  # refuses what does not fit, before anything starts
    jobs = []
    for seed in seeds:
        folder = Path("runs") / experiment.name / f"{scale}-s{seed}"
        if options.out is not None:
            folder = options.out / f"s{seed}"
        jobs.append(Job(experiment.name, scale, seed, folder, fields, tuple(extra)))
    failed = sweep(jobs, backend=options.backend, parallel=options.jobs, address=options.address)
    return 1 if failed else 0


def evaluate_run(options: argparse.Namespace, extra: list[str]) -> int:
    """Evaluate a finished run's checkpoint again, and print each row beside the run's.

    Raises:
        UsageError: for an option that does not fit, or a run of another version.
        ValueError: for a run that is not finished, or a damaged file.
    """
    if extra:
        raise UsageError(f"unknown argument {extra[0]!r}")
    folder, trials = options.run, options.trials
    experiment, config, header = recorded(folder)
    if header["hash"] != config_hash(experiment.name, config):
        raise UsageError(f"{folder} was made by another version of {experiment.name!r}")
    check_finished(folder)
    path = folder / "results.json"
    try:
        before = {(row["variant"], row["metric"]): row["value"] for row in read_json(path)}
    except (KeyError, TypeError):
        raise damaged(path, "holds no results") from None
    if trials is not None:
        names = [field.name for field in dataclasses.fields(config)]
        name = next((name for name in TRIAL_FIELDS if name in names), None)
        if name is None:
            raise UsageError(
                f"--trials {trials}: {experiment.name} has no number of test tasks to set, which "
                f"is a field {' or '.join(TRIAL_FIELDS)}"
            )
        if trials < 1:
            raise UsageError(f"--trials {trials}: must be a whole number >= 1")
        config = dataclasses.replace(config, **{name: trials})
    rows = experiment.evaluate(config, header["seed"], stage_tensors(folder))
    print(f"{'variant':<16} {'metric':<28} {'results.json':>12} {'evaluated':>12}")
    for row in rows:
        then = before.get((row["variant"], row["metric"]))
        shown = "-" if then is None else f"{then:.6g}"
        note = "" if then == row["value"] else "  differs"
        print(f"{row['variant']:<16} {row['metric']:<28} {shown:>12} {row['value']:>12.6g}{note}")
    same = sum(before.get((row["variant"], row["metric"])) == row["value"] for row in rows)
    print(f"{same} of {len(rows)} rows are the same to the last bit")
    return 0


def _chosen(options: argparse.Namespace, extra: list[str]) -> Experiment | None:
    """The experiment that the words name; None when only help was wanted, which is printed."""
    command = options.command
    if options.help and options.name is None:
        options.parser.print_help()
        return None
    if options.name is None:
        raise UsageError(f"{command} needs the name of an experiment: {', '.join(EXPERIMENTS)}")
    if options.name not in EXPERIMENTS and any(word.startswith("--") for word in extra):
        raise UsageError(
            f"no experiment {options.name!r}: write the experiment's name before its fields, as in "
            f"metarl {command} {next(iter(EXPERIMENTS))} {extra[0]} …"
        )
    experiment = find_experiment(options.name)
    if options.help:
        options.parser.print_help()
        _print_fields(experiment, options.scale or "book")
        return None
    return experiment


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
    experiment, config, _ = recorded(folder)
    run = Run.resume(folder, experiment.name, config)
    if run.finished:
        print(f"{folder} is finished already")
        return 0
    return _execute(experiment, run)


def _execute(experiment: Experiment, run: Run) -> int:
    try:
        rows = execute(experiment, run)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"--resume {run.folder}") from None
    except StorageError as error:
        raise StorageError(
            f"{error}; what was saved is intact: continue with metarl run --resume {run.folder}"
        ) from error
    for row in rows:
        print(f"{row['variant']:<16} {row['metric']:<28} {row['value']:.4g}")
    print(f"finished: {run.folder}")
    return 0


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
