"""The book as a reader gets it: read offline, every link leads somewhere, nothing raw shows."""

import posixpath
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pages
import pytest
from bs4 import BeautifulSoup
from build import Book
from pages import ROOT

pytestmark = pytest.mark.xdist_group("book")

LEDGER = "book/claims.md"  # starts as every page does, and then shows a table
TIMES_THE_LEDGER = 6.0  # of processor time that a page takes at smoke scale, on any machine
BYTES_A_PAGE = 2_000_000  # of its HTML and its pictures; the theme's files come once
COLAB = "https://colab.research.google.com/github/"
FOREIGN_FILE = re.compile(r"""(?:https?:)?//[^\s"'<>]+\.(?:m?js|css|woff2?|ttf)\b""")
FOREIGN_STYLE = re.compile(r"""@import\s+["'](?:https?:)?//|url\(\s*["']?(?:https?:)?//""")
RAW = re.compile(r"`{3,}\{|(?:^|\s):{3,}(?:\{|\s|$)|\{(?:code-cell|cite|term|func|eq|numref)[:}]")


def foreign_resources(soup: BeautifulSoup) -> list[str]:
    """What the browser would load from elsewhere. A link that a reader clicks is no such thing."""
    found = []
    for tag in soup.find_all(["script", "img", "iframe", "source", "video", "audio", "embed"]):
        if re.match(r"(?:https?:)?//", tag.get("src", "")):
            found.append(f"{tag.name} {tag['src']}")
    for tag in soup.find_all("link"):
        kind = " ".join(tag.get("rel", []))
        passive = kind in ("canonical", "author", "license", "search", "index", "next", "prev")
        if not passive and re.match(r"(?:https?:)?//", tag.get("href", "")):
            found.append(f"link {kind} {tag['href']}")
    for tag in soup.find_all("script"):
        found += [f"in a script: {name}" for name in FOREIGN_FILE.findall(tag.string or "")]
    for tag in soup.find_all("style"):
        found += ["in a style: a foreign file"] * bool(FOREIGN_STYLE.search(tag.string or ""))
    return found


def tracebacks(soup: BeautifulSoup) -> list[str]:
    """Errors and warnings that a cell printed."""
    found = []
    for output in soup.select("div.cell_output"):
        if "Traceback (most recent call last)" in output.get_text():
            found.append("a cell shows a traceback")
        found += [f"a cell warns: {e.get_text()[:200]}" for e in output.select(".stderr")]
    if soup.select(".traceback, .system-message, .problematic"):
        found.append("the page shows an error of the build")
    return found


def raw_text(soup: BeautifulSoup) -> list[str]:
    """Markup that was not understood and is shown as it stands."""
    body = BeautifulSoup(str(soup.select_one("article") or soup.body or soup), "html.parser")
    for code in body.select("pre, code, script, style"):
        code.decompose()
    return RAW.findall(body.get_text(" "))


def images_without_words(soup: BeautifulSoup) -> list[str]:
    """Images without alternative text; a file's name is none."""
    found = []
    for image in soup.find_all("img"):
        alt = image.get("alt", "").strip()
        if not alt or re.search(r"\.(png|svg|jpe?g|gif)$", alt):
            found.append(image.get("src", "")[:80])
    return found


def broken_links(documents: dict[str, BeautifulSoup], root: Path) -> list[str]:
    """Links within the book to a file or a place in a page that is not there."""
    names = {
        name: {tag["id"] for tag in soup.find_all(id=True)}
        | {tag["name"] for tag in soup.find_all("a", attrs={"name": True})}
        for name, soup in documents.items()
    }
    found = []
    for name, soup in documents.items():
        for tag in soup.find_all("a", href=True):
            link = urlsplit(tag["href"])
            if link.scheme or link.netloc or tag["href"] == "#":
                continue
            here = posixpath.join(posixpath.dirname(name), unquote(link.path))
            target = posixpath.normpath(here) if link.path else name
            anchor = unquote(link.fragment)
            if not (root / target).is_file():
                found.append(f"{name}: no file {tag['href']}")
            elif anchor and target in names and anchor not in names[target]:
                found.append(f"{name}: no place {tag['href']}")
    return found


def colab_faults(soup: BeautifulSoup, url: str, root: Path) -> list[str]:
    """Colab links that would not open a notebook of this repository."""
    slug = url.removeprefix("https://github.com/")
    found = []
    for tag in soup.find_all("a", href=re.compile("^https://colab")):
        match = re.fullmatch(re.escape(f"{COLAB}{slug}/blob/main/") + r"(.+\.ipynb)", tag["href"])
        if not match or not (root / match.group(1)).is_file():
            found.append(tag["href"])
    return found


def weight(name: str, soup: BeautifulSoup, root: Path) -> int:
    """The bytes of a page: its HTML, and the pictures that it shows."""
    here = root / posixpath.dirname(name)
    shown = {
        (here / unquote(image["src"])).resolve()
        for image in soup.find_all("img", src=True)
        if not image["src"].startswith("data:")
    }
    return sum(path.stat().st_size for path in [root / name, *shown])


def download_faults(name: str, soup: BeautifulSoup, root: Path, source: list[str]) -> list[str]:
    """Why a reader would not get the notebook of a page, with these code cells, from its button."""
    button = soup.select_one("a.btn-download-notebook-button[href]")
    if button is None:
        return [f"{name} has no button to download its notebook"]
    path = root / posixpath.dirname(name) / unquote(button["href"])
    if not path.is_file() or path.suffix != ".ipynb":
        return [f"{name} offers {button['href']}, which is no notebook"]
    notebook = nbformat.read(path, as_version=4)
    if [cell.source for cell in notebook.cells if cell.cell_type == "code"] != source:
        return [f"{name} offers a notebook with other code"]
    return []


@pytest.fixture(scope="session")
def documents(book: Book) -> dict[str, BeautifulSoup]:
    """Every HTML file of the book, by its path."""
    return {
        path.relative_to(book.html).as_posix(): BeautifulSoup(
            path.read_text(encoding="utf-8"), "html.parser"
        )
        for path in sorted(book.html.rglob("*.html"))
        if "_static" not in path.relative_to(book.html).parts
    }


def listed(faults: dict[str, list[str]]) -> list[str]:
    return [f"{name}: {fault}" for name, found in faults.items() for fault in found]


def test_every_page_is_there(documents: dict[str, BeautifulSoup]) -> None:
    wanted = {p.relative_to(ROOT).with_suffix(".html").as_posix() for p in pages.text_pages()}
    assert wanted <= set(documents)


def test_nothing_is_loaded_from_elsewhere(book: Book, documents: dict[str, BeautifulSoup]) -> None:
    assert listed({name: foreign_resources(soup) for name, soup in documents.items()}) == []
    for path in book.html.rglob("*.css"):
        assert not FOREIGN_STYLE.search(path.read_text(encoding="utf-8")), path.name


def test_no_page_shows_an_error(documents: dict[str, BeautifulSoup]) -> None:
    assert listed({name: tracebacks(soup) for name, soup in documents.items()}) == []


def test_no_page_shows_raw_markup(documents: dict[str, BeautifulSoup]) -> None:
    ours = {name: soup for name, soup in documents.items() if name.startswith("book/")}
    assert listed({name: raw_text(soup) for name, soup in ours.items()}) == []


def test_every_image_is_put_into_words(documents: dict[str, BeautifulSoup]) -> None:
    assert listed({name: images_without_words(soup) for name, soup in documents.items()}) == []


def test_every_link_leads_somewhere(book: Book, documents: dict[str, BeautifulSoup]) -> None:
    assert broken_links(documents, book.html) == []


def test_every_notebook_opens_in_colab(documents: dict[str, BeautifulSoup]) -> None:
    url = pages.repository_url()
    assert listed({name: colab_faults(soup, url, ROOT) for name, soup in documents.items()}) == []
    for page in pages.notebook_pages():
        soup = documents[page.relative_to(ROOT).with_suffix(".html").as_posix()]
        assert soup.find("a", href=re.compile("^https://colab")), f"{page.name} has no Colab link"


def test_no_page_takes_long(book: Book) -> None:
    assert set(book.seconds) == {p.relative_to(ROOT).as_posix() for p in pages.notebook_pages()}
    most = TIMES_THE_LEDGER * book.seconds[LEDGER]
    slow = {name: s for name, s in book.seconds.items() if s > most}
    assert slow == {}, "at smoke scale a page takes seconds"


def test_no_page_is_heavy(book: Book, documents: dict[str, BeautifulSoup]) -> None:
    bytes_of = {name: weight(name, soup, book.html) for name, soup in documents.items()}
    assert {name: n for name, n in bytes_of.items() if n > BYTES_A_PAGE} == {}


def test_every_notebook_can_be_downloaded(book: Book, documents: dict[str, BeautifulSoup]) -> None:
    for page in pages.notebook_pages():
        name = page.relative_to(ROOT).with_suffix(".html").as_posix()
        cells = nbformat.read(page.with_suffix(".ipynb"), as_version=4).cells
        source = [cell.source for cell in cells if cell.cell_type == "code"]
        assert download_faults(name, documents[name], book.html, source) == []


def parse(html: str) -> BeautifulSoup:
    return BeautifulSoup(html, "html.parser")


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<script src="//cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<link rel="preconnect" href="https://fonts.example">',
        '<script>load("https://cdn.example/thebe.js")</script>',
        "<style>@import url(https://fonts.example)</style>",
        '<img src="https://example/a.png" alt="a">',
    ],
)
def test_a_foreign_resource_is_found(html: str) -> None:
    assert foreign_resources(parse(html))


def test_a_traceback_is_found() -> None:
    text = "Traceback (most recent call last)"
    assert tracebacks(parse(f'<div class="cell_output"><pre>{text}</pre></div>'))
    assert tracebacks(parse('<div class="cell_output"><div class="stderr">hm</div></div>'))
    assert not tracebacks(parse(f'<div class="cell_input"><pre>{text}</pre></div>'))


@pytest.mark.parametrize("text", ["```{note}", "::: ", ":::{note}", "see {cite:t}`a`", "{term}`x`"])
def test_raw_markup_is_found(text: str) -> None:
    assert raw_text(parse(f"<article><p>{text}</p></article>"))
    assert not raw_text(parse(f"<article><pre>{text}</pre></article>"))


def test_an_image_without_words_is_found() -> None:
    assert images_without_words(parse('<img src="a"><img src="b" alt="../b.png">')) == ["a", "b"]
    assert not images_without_words(parse('<img src="a" alt="A line that falls">'))


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").touch()
    links = ["gone.html", "a.html#gone", "#gone", "a.html#here", "#here", "https://example.org"]
    body = "".join(f'<a href="{link}">x</a>' for link in links)
    found = broken_links({"a.html": parse(f'<p id="here">{body}</p>')}, tmp_path)
    assert [fault.split()[-1] for fault in found] == links[:3]


def test_a_bad_colab_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "page.ipynb").touch()
    (tmp_path / "page.md").touch()
    url = "https://github.com/owner/name"
    good = f"{COLAB}owner/name/blob/main/page.ipynb"
    bad = [
        good.replace(".ipynb", ".md"),
        good.replace("page", "gone"),
        good.replace("owner", "other"),
    ]
    body = "".join(f'<a href="{link}">Colab</a>' for link in [good, *bad])
    assert colab_faults(parse(body), url, tmp_path) == bad


def test_the_weight_counts_pictures_once(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "picture.png").write_bytes(bytes(300))
    html = '<img src="../picture.png"><img src="../picture.png"><img src="data:,x">'
    (tmp_path / "book" / "a.html").write_text(html, encoding="utf-8")
    assert weight("book/a.html", parse(html), tmp_path) == 300 + len(html)


def test_a_bad_download_is_found(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_markdown_cell("# A"), nbformat.v4.new_code_cell("1 + 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    (tmp_path / "a.md").touch()
    button = '<a class="btn-download-notebook-button" href="{}">notebook</a>'

    def found(href: str, source: list[str]) -> list[str]:
        return download_faults("p.html", parse(button.format(href)), tmp_path, source)

    assert found("a.ipynb", ["1 + 1"]) == []
    assert "other code" in found("a.ipynb", ["2 + 2"])[0]
    assert "no notebook" in found("a.md", ["1 + 1"])[0]
    assert "no notebook" in found("gone.ipynb", ["1 + 1"])[0]
    assert "no button" in download_faults("p.html", parse("<p></p>"), tmp_path, [])[0]
