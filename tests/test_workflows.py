"""The workflows of a public host run the project's own targets, pinned, with few permissions."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WANTED = {"lint", "test", "book"}  # what CI runs on any machine


def targets(makefile: str) -> set[str]:
    """The names that can stand behind `make`."""
    (line,) = re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)
    ruled = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    return set(line.split()) & ruled


def steps(workflow: dict) -> Iterator[dict]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def called(workflow: dict) -> list[str]:
    """The target of each `make` that the workflow runs."""
    lines = "\n".join(step.get("run", "") for step in steps(workflow))
    return re.findall(r"\bmake\s+([\w-]+)", lines)


def faults(workflow: dict, makefile: str) -> list[str]:
    """What a reader of the workflow would object to."""
    found = [
        f"make {name}: no such target" for name in called(workflow) if name not in targets(makefile)
    ]
    for step in steps(workflow):
        if "run" in step and not re.fullmatch(r"make [a-z]+( \w+=\S+)*", step["run"].strip()):
            found.append(f"a step is not one call of make: {step['run']}")
        if "uses" in step and not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]):
            found.append(f"an action is not pinned to a commit: {step['uses']}")
    if workflow.get("permissions") != {"contents": "read"}:
        found.append("permissions do not open with reading alone")
    if "group" not in workflow.get("concurrency", {}):
        found.append("there is no concurrency group")
    found += [
        f"job {name} has no time limit"
        for name, job in workflow["jobs"].items()
        if "timeout-minutes" not in job
    ]
    return found


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.name for path in WORKFLOWS])
def test_a_workflow_calls_targets_that_exist(path: Path, makefile: str) -> None:
    assert faults(read(path), makefile) == []


def test_together_they_run_what_ci_runs() -> None:
    assert {name for path in WORKFLOWS for name in called(read(path))} == WANTED
    own = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert set(re.findall(r"\bmake (\w+)", own)) == WANTED


def test_the_tests_run_on_allowed_versions_of_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    allowed = SpecifierSet(project["requires-python"])
    matrix = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["test"]["strategy"]
    versions = matrix["matrix"]["python"]
    assert len(versions) >= 2
    assert all(isinstance(version, str) and f"{version}.0" in allowed for version in versions)
    lowest = min(tuple(map(int, version.split("."))) for version in versions)
    assert f">={lowest[0]}.{lowest[1]}" == project["requires-python"]


def test_only_the_job_that_publishes_may_write() -> None:
    for path in WORKFLOWS:
        for name, job in read(path)["jobs"].items():
            writes = {k for k, v in job.get("permissions", {}).items() if v == "write"}
            assert writes == ({"pages", "id-token"} if name == "publish" else set())


GOOD = """
permissions: {contents: read}
concurrency: {group: tests}
jobs:
  test:
    timeout-minutes: 5
    steps:
      - uses: actions/checkout@0123456789012345678901234567890123456789
      - run: make test PYTHON=python
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("make test", "make tests", "make tests: no such target"),
        ("make test", "python -m pytest # make test", "not one call of make"),
        ("@0123456789012345678901234567890123456789", "@v6", "not pinned"),
        ("{contents: read}", "write-all", "permissions"),
        ("{group: tests}", "{}", "concurrency"),
        ("timeout-minutes: 5", "name: test", "no time limit"),
    ],
)
def test_a_fault_of_a_workflow_is_found(old: str, new: str, words: str, makefile: str) -> None:
    assert faults(yaml.safe_load(GOOD), makefile) == []
    assert old in GOOD
    found = faults(yaml.safe_load(GOOD.replace(old, new)), makefile)
    assert any(words in fault for fault in found)
