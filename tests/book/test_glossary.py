"""Every entry of the glossary is a word that the pages use.

That every `{term}` has an entry, and none has two, is asked by the strict build: there, a term that
is not in the glossary is a warning, and a warning is an error.
"""

import re

import pages
from myst_nb.core.read import read_myst_markdown_notebook
from pages import ROOT

GLOSSARY = ROOT / "book" / "glossary.md"
ROLE_OR_CODE = re.compile(r"(\{[\w:]+\})?`([^`]+)`")
NOT_READ = {"glossary.md", "notation.md"}  # the lists themselves


def entries(glossary: str) -> list[str]:
    """The terms: what is not indented between the fences."""
    blocks = re.findall(r"^```\{glossary\}\n(.*?)^```$", glossary, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if re.match(r"\S", line)]


def prose(page: str) -> str:
    """What is read of a page: its text and its captions, without emphasis, and no code."""
    parts = []
    for cell in read_myst_markdown_notebook(page).cells:
        if cell.cell_type == "code":
            parts.append(str(cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")))
        else:
            text = re.sub(r"^[`:]{3,}.*$", "", cell.source, flags=re.MULTILINE)  # fences
            parts.append(ROLE_OR_CODE.sub(lambda m: m[2] if m[1] else "", text))
    return " ".join(" ".join(parts).replace("*", "").split())


def uses(term: str, text: str) -> bool:
    """Whether the text has the term, in the singular or in the plural."""
    plural = f"{re.escape(term[:-1])}ies" if term.endswith("y") else f"{re.escape(term)}e?s"
    words = rf"(?<!\w)(?:{re.escape(term)}|{plural})(?!\w)"
    return re.search(words, text, re.IGNORECASE) is not None


def unused(glossary: str, texts: list[str]) -> list[str]:
    read = [prose(text) for text in texts]
    return [term for term in entries(glossary) if not any(uses(term, text) for text in read)]


def test_every_entry_is_used_by_a_page() -> None:
    texts = [
        path.read_text(encoding="utf-8")
        for path in pages.text_pages()
        if path.name not in NOT_READ and path.parent.name != "api"
    ]
    assert unused(GLOSSARY.read_text(encoding="utf-8"), texts) == []


def test_an_entry_without_use_is_found() -> None:
    page = """---
kernelspec:
  name: python3
---

# Two *policies*

The {term}`Inner step <inner step>` and `a run`, in a *truncated* loop.

```{code-cell}
draw = 1
```
"""
    terms = ["policy", "inner step", "run", "truncated loop", "draw", "loop"]
    text = "\n\n".join(f"{term}\n  What it is, and a draw." for term in terms)
    glossary = f"# Glossary\n\n```{{glossary}}\n{text}\n```\n"
    assert entries(glossary) == terms
    assert unused(glossary, [page]) == ["run", "draw"]
