"""Every citation has its entry, and every entry is cited."""

import re
from collections import Counter

import pages
from pages import ROOT

CITATION = re.compile(r"\{cite(?::\w+)?\}`([^`]+)`")
ENTRY = re.compile(r"^@\w+\{([^,\s]+)\s*,", re.MULTILINE)


def cited(text: str) -> set[str]:
    return {key.strip() for group in CITATION.findall(text) for key in group.split(",")}


def mismatches(texts: dict[str, str], bibliography: str) -> list[str]:
    entries = Counter(ENTRY.findall(bibliography))
    used: set[str] = set()
    found = []
    for name, text in texts.items():
        keys = cited(text)
        used |= keys
        found += [f"{name} cites {key}: no such entry" for key in sorted(keys - set(entries))]
    found += [f"{key} is not cited" for key in sorted(set(entries) - used)]
    found += [f"{key} has {n} entries" for key, n in entries.items() if n > 1]
    return found


def test_citations_and_entries_agree() -> None:
    texts = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in pages.text_pages()
    }
    bibliography = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    assert mismatches(texts, bibliography) == []


def test_mismatches_are_found() -> None:
    texts = {"a.md": "See {cite:t}`one, two` and {cite:p}`three`."}
    found = mismatches(texts, "@book{one,\n}\n@book{two,\n}\n@book{four,\n}\n@book{one,\n}\n")
    assert found == [
        "a.md cites three: no such entry",
        "four is not cited",
        "one has 2 entries",
    ]
