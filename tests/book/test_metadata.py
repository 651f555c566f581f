"""What is said in several files is said alike: versions, extras, the address of the repository."""

import re
import shutil
import tomllib
from pathlib import Path

import pages
import pytest
import repo
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Keys of the Citation File Format: those it asks for, and those of the others that are in use.
CITATION_NEEDS = {"cff-version", "message", "title", "authors"}
CITATION_MAY = {"type", "abstract", "version", "license", "repository-code", "keywords"}
UNPINNED_EXTRAS = {"bench"}  # peers, which neither the book nor the tests need


def pins(text: str) -> dict[str, str]:
    """The exact versions in a constraints file."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (li.split("==") for li in lines)}


def requirements(project: dict) -> list[Requirement]:
    """Every direct dependency, of the project itself and of its extras."""
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [
        line for name, of in extras.items() if name not in UNPINNED_EXTRAS for line in of
    ]
    found = [Requirement(line) for line in lines]
    return [r for r in found if canonicalize_name(r.name) != canonicalize_name(project["name"])]


def pin_faults(project: dict, pinned: dict[str, str]) -> list[str]:
    found = []
    for requirement in requirements(project):
        version = pinned.get(canonicalize_name(requirement.name))
        if version is None:
            found.append(f"{requirement.name} has no pin")
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement} does not allow {version}")
    return found


def constraints() -> str:
    return (ROOT / "constraints.txt").read_text(encoding="utf-8")


def test_every_dependency_is_pinned_within_its_range() -> None:
    assert pin_faults(PROJECT, pins(constraints())) == []


def test_constraints_are_plain() -> None:
    assert constraints().startswith("#")
    assert not re.search(r"==\S*\+|^-e|@|\s;", re.sub(r"#.*", "", constraints()), re.MULTILINE)


def test_core_dependencies_are_lower_bounds() -> None:
    for requirement in map(Requirement, PROJECT["dependencies"]):
        operators = [s.operator for s in requirement.specifier]
        assert operators == [">="], f"{requirement} would change what Colab has"


def test_the_two_parts_of_stable_baselines_agree() -> None:
    pair = ("stable-baselines3", "sb3-contrib")
    bounds = {r.name: str(r.specifier) for r in map(Requirement, PROJECT["dependencies"])}
    assert len({bounds[name] for name in pair}) == 1
    pinned = pins(constraints())
    assert len({tuple(pinned[name].split(".")[:2]) for name in pair}) == 1


def test_jupyter_book_is_version_1() -> None:
    assert pins(constraints())["jupyter-book"].split(".")[0] == "1"
    book = {Requirement(line).name: line for line in PROJECT["optional-dependencies"]["book"]}
    assert not Requirement(book["jupyter-book"]).specifier.contains("2.1.7")


def test_the_test_extra_holds_every_optional_part_but_bench() -> None:
    extras = PROJECT["optional-dependencies"]
    own = [r for r in map(Requirement, extras["test"]) if r.name == PROJECT["name"]]
    covered = {extra for requirement in own for extra in requirement.extras}
    assert covered == set(extras) - {"test", "bench"}


def test_the_conda_environment_is_thin_and_agrees() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    plain = [item for item in environment["dependencies"] if isinstance(item, str)]
    (by_pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert by_pip == ["-c constraints.txt", "-e .[book,test]"]
    python = next(item for item in plain if item.startswith("python")).split("=")[1]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{python}.0")
    assert "defaults" not in environment["channels"]


def test_the_address_of_the_repository_agrees() -> None:
    url = pages.repository_url()
    assert repo.clean(url) == url
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"]["url"] == url
    for name in ("README.md", "CONTRIBUTING.md"):
        path = ROOT / name
        if path.exists():
            text = path.read_text(encoding="utf-8")
            own = url.removeprefix("https://github.com/")
            name_only = own.split("/")[1]
            for slug in re.findall(r"github(?:\.com)?/([\w.-]+/[\w.-]*\w)", text):
                assert slug == own or slug.split("/")[1] != name_only, f"{path.name} links {slug}"


def citation_faults(citation: dict, project: dict) -> list[str]:
    """Where a citation file departs from version 1.2.0 of its format, or from the project."""
    found = [f"{key} is missing" for key in sorted(CITATION_NEEDS - set(citation))]
    found += [f"{key} is no key" for key in sorted(set(citation) - CITATION_NEEDS - CITATION_MAY)]
    wanted = {
        "cff-version": "1.2.0",
        "type": "software",
        "version": project["version"],
        "license": project["license"],
        "repository-code": project["urls"]["Repository"],
        "authors": project["authors"],
        "keywords": project["keywords"],
    }
    for key, value in wanted.items():
        if key in citation and citation[key] != value:
            found.append(f"{key} is {citation[key]!r}, not {value!r}")
    return found


def test_the_citation_agrees_with_the_project() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation_faults(citation, PROJECT) == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("version", "9.9.9", "version is '9.9.9'"),
        ("cff-version", 1.2, "cff-version is 1.2"),
        ("title", None, "title is missing"),
        ("licence", "MIT", "licence is no key"),
    ],
)
def test_a_bad_citation_is_found(key: str, value: object, words: str) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    bad = {k: v for k, v in {**citation, key: value}.items() if v is not None}
    (fault,) = citation_faults(bad, PROJECT)
    assert words in fault


def test_the_changelog_has_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert releases[:2] == ["Unreleased", PROJECT["version"]]
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_readme_shows_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("make book", "make test"):
        assert re.search(rf"^\s*(?:\$ )?{command}\b", readme, re.MULTILINE), command


@pytest.mark.parametrize(
    ("dependency", "version", "words"),
    [("torch>=2.6", "2.5.1", "does not allow"), ("scipy>=1", None, "no pin")],
)
def test_a_bad_pin_is_found(dependency: str, version: str | None, words: str) -> None:
    project = {"name": "x", "dependencies": [dependency], "optional-dependencies": {}}
    pinned = {"torch": version} if version else {}
    (fault,) = pin_faults(project, pinned)
    assert words in fault


@pytest.mark.parametrize(
    "url",
    [
        "",
        "owner/name",
        "https://gitlab.com/a/b",
        "https://github.com/a",
        "https://github.com/a/b/c",
    ],
)
def test_a_bad_address_is_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in (ROOT / "pyproject.toml", ROOT / "_config.yml")}
    assert repo.main([url]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "https://github.com/owner/name" in lines[0]
    assert all(path.read_bytes() == text for path, text in before.items())


def test_the_address_is_changed_everywhere(tmp_path: Path) -> None:
    old, new = pages.repository_url(), "https://github.com/new-owner/other.name"
    for name in ("pyproject.toml", "_config.yml", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path / name)
    part = tmp_path / "book" / "part"
    part.mkdir(parents=True)
    (part / "01_page.md").write_text(f"{pages.setup_cell(old)}\n", encoding="utf-8")
    colab = old.replace("https://github.com/", "https://colab.research.google.com/github/")
    readme = f"[here]({old}), {old}.git, {colab}/blob/main/x.ipynb, but {old}-else\n"
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")

    assert repo.clean(new + ".git") == repo.clean(new + "/") == new
    assert len(repo.set_url(new, tmp_path)) == 5

    assert pages.repository_url(tmp_path) == new
    config = yaml.safe_load((tmp_path / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"]["url"] == new
    assert f"repository-code: {new}\n" in (tmp_path / "CITATION.cff").read_text(encoding="utf-8")
    assert (part / "01_page.md").read_text(encoding="utf-8") == f"{pages.setup_cell(new)}\n"
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text.count("new-owner/other.name") == 3
    assert f"{old}-else" in text
    assert repo.set_url(new, tmp_path) == []
