"""Each numbered page has the parts of the template, in order, and its figures can be understood."""

import re
from pathlib import Path

import pages
import pytest
from myst_nb.core.read import read_myst_markdown_notebook
from pages import ROOT

PAGES = pages.numbered_pages()
OPENING = ["What you will learn", "What you need", "What it costs"]
CLOSING = ["Exercises", "Summary", "References"]


def outside_fences(text: str) -> str:
    """The text without what stands between fences, be it code or a directive."""
    kept, fence = [], ""
    for line in text.splitlines():
        mark = re.match(r"(`{3,}|~{3,})(.*)", line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
        elif mark:
            fence = mark[1]
        else:
            kept.append(line)
    return "\n".join(kept)


def headings(text: str) -> list[tuple[int, str]]:
    """The level and the words of each heading."""
    found = re.findall(r"^(#+) (.+)$", outside_fences(text), re.MULTILINE)
    return [(len(signs), words.strip()) for signs, words in found]


def solutions(text: str) -> dict[str, str]:
    """The body of each gated solution, by the label of its exercise."""
    opening, closing = r"^(`{3,})\{solution-start\} *(\S+)", r"^`{3,}\{solution-end\}"
    return {
        match.group(2): match.group(3)
        for match in re.finditer(rf"{opening}(.*?){closing}", text, flags=re.DOTALL | re.MULTILINE)
    }


def faults(text: str) -> list[str]:
    """What a page lacks of the template."""
    found = []
    all_headings = headings(text)
    if [level for level, _ in all_headings].count(1) != 1:
        found.append("a page has one title")
    levels = [level for level, _ in all_headings]
    if any(after > before + 1 for before, after in zip(levels, levels[1:], strict=False)):
        found.append("a heading skips a level")
    sections = [words for level, words in all_headings if level == 2]
    if sections[: len(OPENING)] != OPENING:
        found.append(f"the first sections are {OPENING}")
    if sections[-len(CLOSING) :] != CLOSING:
        found.append(f"the last sections are {CLOSING}")
    if len(sections) <= len(OPENING) + len(CLOSING):
        found.append("there is no section between the opening and the exercises")

    cells = read_myst_markdown_notebook(text).cells
    first = next((i for i, cell in enumerate(cells) if cell.cell_type == "code"), len(cells))
    before = "\n".join(cell.source for cell in cells[:first])
    if [words for level, words in headings(before) if level == 2] != OPENING:
        found.append("the setup cell follows 'What it costs'")
    costs = text.partition("## What it costs")[2].partition("```")[0]
    found += [
        f"'What it costs' does not name the scale '{scale}'"
        for scale in ("smoke", "book", "full")
        if scale not in costs.lower()
    ]

    exercises = re.findall(r"^`{3,}\{exercise(?:-start)?\}.*\n:label: *(\S+)", text, re.MULTILINE)
    solved = solutions(text)
    if len(exercises) < 2:
        found.append("there are two exercises at least")
    for label in exercises:
        if label not in solved:
            found.append(f"exercise {label} has no solution")
        elif "{code-cell}" not in solved[label]:
            found.append(f"the solution of {label} is not executed")
    return found + figure_faults(text)


def figure_faults(text: str) -> list[str]:
    """Figures without a caption, a name or alternative text."""
    found = []
    for i, cell in enumerate(read_myst_markdown_notebook(text).cells):
        options = cell.metadata.get("mystnb", {})
        if figure := options.get("figure"):
            for part in ("caption", "name"):
                if not str(figure.get(part, "")).strip():
                    found.append(f"cell {i}: the figure has no {part}")
        if ("figure" in options or "image" in options) and not str(
            options.get("image", {}).get("alt", "")
        ).strip():
            found.append(f"cell {i}: the image has no alt text")
    for kind, body in re.findall(
        r"^`{3,}\{(figure|image|glue:figure)\}[^\n]*\n(.*?)^`{3,}", text, re.DOTALL | re.MULTILINE
    ):
        if not re.search(r"^:alt: *\S", body, re.MULTILINE):
            found.append(f"a {kind} directive has no :alt:")
    found += [f"an image has no alt text: {link}" for link in re.findall(r"!\[\]\([^)]*\)", text)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_page_follows_the_template(page: Path) -> None:
    assert faults(page.read_text(encoding="utf-8")) == []


GOOD = """---
kernelspec:
  display_name: Python 3
  name: python3
---

# A title

## What you will learn

This.

## What you need

That.

## What it costs

Seconds at smoke, a minute at book, an hour at full.

```{code-cell} ipython3
# Setup is not a heading
```

## Theory

```{code-cell} ipython3
---
mystnb:
  figure:
    caption: A line.
    name: fig-line
  image:
    alt: A line.
---
plot()
```

## Exercises

```{exercise-start}
:label: ex-1
```
Why?
```{exercise-end}
```

```{solution-start} ex-1
:class: dropdown
```

```{code-cell} ipython3
1
```

```{solution-end}
```

```{exercise-start}
:label: ex-2
```
How?
```{exercise-end}
```

```{solution-start} ex-2
:class: dropdown
```

```{code-cell} ipython3
2
```

```{solution-end}
```

## Summary

Done.

## References

None.
"""


def test_a_good_page_passes() -> None:
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("## What you need\n", "## Needs\n", "first sections"),
        ("## Summary\n", "## The end\n", "last sections"),
        ("## Theory\n", "### Theory\n", "no section between"),
        ("# A title\n", "## A title\n", "one title"),
        ("## Theory\n", "## Theory\n\n#### Deep\n", "skips a level"),
        ("an hour at full", "an hour", "scale 'full'"),
        ("caption: A line.", "caption: ''", "no caption"),
        ("    name: fig-line\n", "", "no name"),
        ("    alt: A line.", "    alt: ''", "no alt text"),
        ("Done.", "![](a.png)", "no alt text"),
        ("Done.", "```{figure} a.png\n```", "no :alt:"),
        ("{solution-start} ex-2", "{solution-start} ex-3", "ex-2 has no solution"),
        ("```{code-cell} ipython3\n2\n```", "Two.", "solution of ex-2 is not executed"),
        (
            "## What you will learn",
            "```{code-cell}\n1\n```\n\n## What you will learn",
            "setup cell",
        ),
    ],
)
def test_a_fault_is_found(old: str, new: str, words: str) -> None:
    assert old in GOOD
    assert any(words in fault for fault in faults(GOOD.replace(old, new, 1)))


def words_of(page: str) -> int:
    """Words of a page's prose; code, formulas and what stands in directives do not count."""
    text = outside_fences((ROOT / page).read_text().split("\n---\n", 1)[1])
    prose = re.sub(r"\$[^$]+\$", "", re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL))
    return len(re.findall(r"[A-Za-z][A-Za-z'-]+", prose))


def test_the_landing_page_says_how_long_the_pages_are() -> None:
    """At a hundred words a minute: all pages, and the short path through four of them."""
    text = (ROOT / "book" / "index.md").read_text()
    promise = re.search(r"about (\d+) hours.*?In (\d+) minutes, the(.+?)\n\n", text, re.DOTALL)
    assert promise, "the landing page names the hours of the reader's path"
    hours = [words_of(page) / 100 / 60 for page in PAGES]
    assert int(promise[1]) == pytest.approx(sum(hours), rel=0.1)
    path = [f"book/{page}" for page in re.findall(r"\((\w+/?\w*\.md)\)", promise[3])]
    assert len(path) == 4
    assert int(promise[2]) == pytest.approx(sum(words_of(p) for p in path) / 100, rel=0.1)
