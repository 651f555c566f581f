"""Every symbol in a formula of a page is listed in `book/notation.md`, in a table for that page."""

import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pages
import pytest
import yaml
from myst_nb.core.read import read_myst_markdown_notebook
from pages import ROOT

BOOK = ROOT / "book"
NOTATION = BOOK / "notation.md"
PAGES = [path for path in pages.text_pages() if path != NOTATION and path.parent.name != "api"]
PARTS = {
    part["caption"]: {Path(chapter["file"]).parent.name for chapter in part["chapters"]}
    for part in yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
}

# What needs no row, each with the reason. Digits, brackets, and signs such as = are no symbols.
PLAIN = {
    "e^": "Euler's number, when it has an exponent",
    r"\mathrm{d}": "the d of an integral",
    **dict.fromkeys(
        [r"\sum", r"\prod", r"\int", r"\partial", r"\infty", r"\dots"],
        "how sums, products, integrals and derivatives are written everywhere",
    ),
    **dict.fromkeys(
        [r"\exp", r"\log", r"\ln", r"\sin", r"\cos", r"\arcsin", r"\tanh", r"\sinh", r"\sqrt"],
        "functions that one meets at school, or in a first course",
    ),
    **dict.fromkeys(
        [r"\min", r"\max", r"\arg"],
        "the least, the greatest, and where it is: they say it themselves",
    ),
    **dict.fromkeys(
        [
            r"\le",
            r"\ge",
            r"\approx",
            r"\in",
            r"\subseteq",
            r"\to",
            r"\mapsto",
            r"\Longleftrightarrow",
        ],
        "relations and arrows",
    ),
    **dict.fromkeys([r"\cdot", r"\times", r"\pm", r"\mp"], "arithmetic"),
}
LAYOUT = {
    *(r"\big", r"\Big", r"\bigg", r"\Bigg", r"\left", r"\right", r"\quad", r"\qquad"),
    *(r"\frac", r"\tfrac", r"\underbrace", r"\textstyle", r"\mathrel"),
    *(r"\lvert", r"\rvert", r"\rVert", r"\Vert"),
}
ACCENTS = {r"\hat", r"\bar", r"\tilde", r"\dot", r"\vec", r"\widehat", r"\overline"}
FONTS = {r"\mathcal", r"\mathbb", r"\mathsf", r"\mathbf", r"\boldsymbol"}
NAMES = {r"\operatorname", r"\mathrm"}
SHORT = {r"\E": r"\mathbb{E}", r"\R": r"\mathbb{R}", r"\cN": r"\mathcal{N}", r"\tr": "tr"}
SHORT |= {r"\Var": "Var", r"\norm": "norm", r"\lVert": "norm"}  # most are of `_config.yml`
# As a subscript these say what a symbol belongs to ($W_x$, $c_H$); other Latin letters count.
LABELS = set("hoxyHV")

FORMULA = re.compile(
    r"^`{3,}\{math\}[^\n]*\n(?::[^\n]*\n)*(?P<directive>.*?)^`{3,}[ ]*$"
    r"|\$\$(?P<display>.+?)\$\$"
    r"|(?<!\\)\$(?P<inline>(?:(?!\n\n)[^$])+?)(?<!\\)\$",
    re.DOTALL | re.MULTILINE,
)
WORDS = re.compile(r"\\(?:text|textrm|begin|end)\{(?:[^{}]|\{[^{}]*\})*\}|\\\\")
TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|[A-Za-z]|\d+|\S", re.DOTALL)


def formulas(text: str) -> Iterator[str]:
    """The mathematics of a page, in order: of its prose and of its captions, not of its code."""
    for cell in read_myst_markdown_notebook(text).cells:
        if cell.cell_type == "code":
            prose = str(cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", ""))
        else:
            prose = re.sub(r"(?<!`)`[^`\n]+`(?!`)", "", cell.source)
        for match in FORMULA.finditer(prose):
            yield " ".join((match[match.lastgroup or 0]).split())


def argument(tokens: deque[str]) -> list[str]:
    """Take the next argument: what stands in braces, or a single token with what it needs."""
    token = tokens.popleft() if tokens else ""
    if token in ACCENTS | FONTS | NAMES:
        return [token, "{", *argument(tokens), "}"]
    if token != "{":
        return [token]
    taken: list[str] = []
    depth = 1
    while tokens:
        token = tokens.popleft()
        depth += (token == "{") - (token == "}")
        if not depth:
            break
        taken.append(token)
    return taken


def head(token: str, tokens: deque[str]) -> str:
    """The symbol that opens here, without what is written above and below it; '' if none does."""
    if token in ACCENTS:
        inner = deque(argument(tokens))
        return f"{token} {head(inner.popleft(), inner)}" if inner else ""
    if token in FONTS | NAMES:
        word = "".join(argument(tokens))
        return word if token in NAMES and len(word) > 1 else f"{token}{{{word}}}"
    if token in SHORT:
        return SHORT[token]
    is_symbol = re.fullmatch(r"\\?[A-Za-z]+", token) and token not in LAYOUT
    return token if is_symbol else ""


def read(tokens: deque[str]) -> list[str]:
    """The symbols among these tokens, in order.

    A symbol is a letter with its font, accent, primes, star or circle; or a sign or an operator
    that has a name. An exponent, and what stands below an operator, is a formula of its own. The
    subscript of a letter is none: of it only Greek letters are read, as in $\\pi_\\theta$, and a
    label becomes part of the name.
    """
    found = []
    while tokens:
        token = tokens.popleft()
        name = head(token, tokens)
        if not name:
            if token in (")", "]", "}", "|", r"\rVert") and tokens and tokens[0] == "_":
                tokens.popleft()  # which of the entries of what is in brackets
                argument(tokens)
            continue
        operator = name in PLAIN or "{E}" in name or (len(name) > 1 and name.isalpha())
        around: list[str] = []
        while tokens and tokens[0] in ("'", "^", "_"):
            mark = tokens.popleft()
            if mark == "'":
                name += mark
                continue
            script = argument(tokens)
            if mark == "^" and script in (["*"], [r"\circ"]):
                name += mark + script[0]
            elif mark == "^" or operator:
                name += mark if name == "e" else ""
                around += read(deque(script))
            elif len(script) == 1 and script[0] in LABELS:
                name += mark + script[0]
            else:
                around += [symbol for symbol in read(deque(script)) if symbol[0] == "\\"]
        found += [name, *around]
    return found


def symbols(formula: str) -> list[str]:
    tokens = deque(TOKEN.findall(WORDS.sub(" ", formula)))
    return [symbol for symbol in read(tokens) if symbol not in PLAIN]


def tables(text: str) -> dict[str, tuple[set[str], set[str]]]:
    """For each section of the notation: the pages that it is for, and the symbols that it lists.

    A section opens with a sentence that begins with *For*. It names parts, in italics, and links
    pages; or it says *every page*. In the first column of the table each formula lists the symbol
    that it opens with, and a cell without formulas lists its words.
    """
    found = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0]
        scope = re.search(r"^For (.+?)(?:\n\n|\Z)", section, re.DOTALL | re.MULTILINE)
        assert scope, f"the section {title} does not say for which pages it is"
        names = {"*"} if "every page" in scope[1] else set(re.findall(r"\]\((\S+?)\)", scope[1]))
        for caption in re.findall(r"\*([^*]+)\*", scope[1]):
            names |= {f"{folder}/*" for folder in PARTS[caption]}
        listed: set[str] = set()
        for cell in re.findall(r"^\| (.+?) \|", section, re.MULTILINE):
            inside = re.findall(r"\$([^$]+)\$", cell)
            words = [] if inside or cell == "symbol" else cell.split(",")
            listed |= {word.strip() for word in words}
            listed |= {named[0] for formula in inside if (named := symbols(formula))}
        found[title] = (names, listed)
    return found


def for_page(page: str, names: set[str]) -> bool:
    return not names.isdisjoint({"*", page, f"{Path(page).parent.name}/*"})


def unlisted(page: str, text: str, notation: str) -> list[str]:
    """A line for each symbol without a row: where it first stands."""
    known: set[str] = set()
    for names, listed in tables(notation).values():
        known |= listed if for_page(page, names) else set()
    found: dict[str, str] = {}
    for formula in formulas(text):
        for symbol in symbols(formula):
            if symbol not in known:
                found.setdefault(symbol, formula)
    return [f"{page}: {symbol} in {shortened(formula)}" for symbol, formula in found.items()]


def shortened(formula: str, length: int = 90) -> str:
    return formula if len(formula) <= length else f"{formula[:length]} …"


def unused(texts: dict[str, str], notation: str) -> list[str]:
    """A line for each symbol of a table that no page of this table writes."""
    written = {
        page: {symbol for formula in formulas(text) for symbol in symbols(formula)}
        for page, text in texts.items()
    }
    found = []
    for title, (names, listed) in tables(notation).items():
        used = set().union(*(there for page, there in written.items() if for_page(page, names)))
        found += [f"{title}: no page writes {symbol}" for symbol in sorted(listed - used)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_every_symbol_of_a_page_is_in_the_notation(page: Path) -> None:
    notation = NOTATION.read_text(encoding="utf-8")
    name = page.relative_to(BOOK).as_posix()
    assert unlisted(name, page.read_text(encoding="utf-8"), notation) == []


def test_every_row_of_the_notation_is_of_use() -> None:
    texts = {p.relative_to(BOOK).as_posix(): p.read_text(encoding="utf-8") for p in PAGES}
    assert unused(texts, NOTATION.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("formula", "wanted"),
    [
        ("W", ["W"]),
        (r"x_i + \frac12 y_{i+1}", ["x", "y"]),
        (r"\theta'", [r"\theta'"]),
        (r"\varphi''(Z_l)", [r"\varphi''", "Z"]),
        (r"\hat g, \hat{g}, \bar\gamma^k", [r"\hat g", r"\hat g", r"\bar \gamma", "k"]),
        (
            r"\mathcal{N}(0, 1), \mathsf f_t, \mathbb E",
            [r"\mathcal{N}", r"\mathsf{f}", r"\mathbb{E}"],
        ),
        (r"V^*_k, \pi^\circ, \pi^*_\tau", ["V^*", r"\pi^\circ", r"\pi^*", r"\tau"]),
        (r"\pi_\theta(a_t \mid s_t)", [r"\pi", r"\theta", "a", r"\mid", "s"]),
        (r"\mathbb{E}_{\tau \sim \mu}[r]", [r"\mathbb{E}", r"\tau", r"\sim", r"\mu", "r"]),
        (r"\sum_{k \ge 0} \gamma^k r_{t+k}", ["k", r"\gamma", "k", "r"]),
        (r"\operatorname{clip}(x, 0, 1), \mathrm{KL}", ["clip", "x", "KL"]),
        (r"\int f(x)\, \mathrm{d}x", ["f", "x", "x"]),
        (r"e^{-a}, e_i (e + b)^{(l)}", ["a", "e", "e", "b", "l"]),
        (r"W_x, c_H, W_{\mathsf f}, L_{\max}", ["W_x", "c_H", "W", r"\mathsf{f}", "L"]),
        (r"A^\top B^{(l)\top}", ["A", r"\top", "B", "l", r"\top"]),
        (r"\big(\beta_1\big)^t (W_1 W_0)_{ij}", [r"\beta", "t", "W", "W"]),
        (r"\begin{cases} a & \text{if } b \\ 0 \end{cases}", ["a", "b"]),
        (r"\R, \norm{x}, \lVert x \rVert_2", [r"\mathbb{R}", "norm", "x", "norm", "x"]),
        (r"\log \max_a \tanh 2 \cdot \infty \le \dots", ["a"]),
    ],
)
def test_symbols_are_read(formula: str, wanted: list[str]) -> None:
    assert symbols(formula) == wanted


PAGE = r"""---
kernelspec:
  name: python3
---

# A title

Let $a$ cost `$b$` and \$3, and $$c = 1$$

```{math}
:label: eq-d
d =
2 .
```

```{code-cell} ipython3
---
mystnb:
  figure:
    caption: The slope $e'$.
---
f = "$g$"
```
"""
TABLES = r"""# Notation

## Everywhere

For every page.

| symbol | meaning |
|---|---|
| $a_t$, $c(x)$ | two |
| Gen | a word |

## One part

For *Foundations* and [one](algorithms/01_one.md).
More.

| symbol | shape | meaning |
|---|---|---|
| $d$ | 3 | $x$ |
"""


def test_formulas_are_found() -> None:
    assert list(formulas(PAGE)) == ["a", "c = 1", "d = 2 .", "e'"]


def test_tables_are_read() -> None:
    assert tables(TABLES) == {
        "Everywhere": ({"*"}, {"a", "c", "Gen"}),
        "One part": ({"foundations/*", "algorithms/01_one.md"}, {"d"}),
    }


def test_a_missing_row_and_an_idle_one_are_found() -> None:
    assert unlisted("algorithms/01_one.md", PAGE, TABLES) == ["algorithms/01_one.md: e' in e'"]
    assert unlisted("foundations/02_two.md", PAGE, TABLES) == ["foundations/02_two.md: e' in e'"]
    assert len(unlisted("algorithms/02_two.md", PAGE, TABLES)) == 2
    assert unused({"algorithms/02_two.md": PAGE}, TABLES) == [
        "Everywhere: no page writes Gen",
        "One part: no page writes d",
    ]
