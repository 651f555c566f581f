"""The book in a real browser, with the network off: as a reader sees it, on a screen and a phone.

Every page is visited once, and what was seen there is judged test by test. A machine without a
browser skips these tests.
"""

import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

import pages
import pytest
import yaml
from build import Book
from pages import ROOT
from test_toc import entries

from metarl_lib.doctor import BROWSERS

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed; the extra 'test' brings it"
)

pytestmark = pytest.mark.xdist_group("book")
SCREEN = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
PATIENCE = 180_000  # milliseconds, for a machine that does much else

# The theme says this on a first visit, and then does what is right.
THEME_SAYS = "Got invalid theme mode: . Resetting to auto."
# Sphinx makes the reference pages, all alike and with thousands of elements; axe judges two.
JUDGED_REFERENCE = ("book/api/index.html", "book/api/rules.html")
SERIOUS = ("serious", "critical")

# What sticks out of the window, unless a box around it scrolls or hides what is too wide.
STICKING_OUT = """() => {
  const boxed = (e) => e.parentElement && e.parentElement !== document.body &&
    (getComputedStyle(e.parentElement).overflowX !== "visible" || boxed(e.parentElement));
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  if (wide <= 0) return [];
  const out = [...document.body.querySelectorAll("*")].filter((e) =>
    e.getBoundingClientRect().right > window.innerWidth + 1 && !boxed(e));
  return [`${wide} px too wide`, ...out.slice(0, 3).map((e) => e.outerHTML.slice(0, 100))];
}"""
# Formulas that MathJax has not typeset, or has typeset as an error.
RAW_MATHS = """() => [...document.querySelectorAll("article .math")].filter((e) =>
  !e.querySelector("mjx-container svg, mjx-container mjx-math") ||
  e.querySelector("mjx-merror, [data-mjx-error]")).map((e) => e.textContent.slice(0, 100))"""
# What pages cannot change is left out of what axe judges, by putting plain text in its place; to
# name it as excluded takes axe a minute a page:
# - typeset formulas: they are MathJax's, with MathML for those who listen;
# - the colours of code: one style for all pages, made for high contrast;
# - signatures on the reference pages, which are Sphinx's, and the role of its list of citations.
AXE = """async () => {
  document.querySelectorAll("article mjx-container").forEach((e) => e.replaceWith("formula"));
  document.querySelectorAll("article :is(pre, dt.sig)").forEach((e) =>
    e.replaceChildren(e.textContent));
  document.querySelectorAll("article div.citation-list").forEach((e) => e.removeAttribute("role"));
  const found = await axe.run("article", { resultTypes: ["violations"], preload: false,
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] });
  return found.violations.map((v) =>
    [v.impact, v.id, v.nodes.length, v.nodes[0].html.slice(0, 150)]);
}"""


@dataclass
class Visit:
    """What a browser met on one page."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    raw_maths: list[str] = field(default_factory=list)
    sticking_out: list[str] = field(default_factory=list)
    barriers: list[str] = field(default_factory=list)
    formulas: int = 0
    before: str | None = None
    after: str | None = None


@pytest.fixture(scope="session")
def browser() -> Iterator["sync_api.Browser"]:
    """Chromium or Chrome; no name but that of this machine leads anywhere."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium or Chrome is installed (Debian, Ubuntu: apt install chromium)")
    network_off = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--no-proxy-server", network_off]
        )
        yield browser
        browser.close()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def site(browser: "sync_api.Browser", book: Book) -> Iterator[str]:
    """The address of the book on a port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=book.html))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def page(browser: "sync_api.Browser") -> Iterator["sync_api.Page"]:
    page = browser.new_page(viewport=SCREEN)
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


def listed_pages() -> list[str]:
    """The pages in the order of the table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [f"{name}.html" for name in entries(toc)]


def visit(page: "sync_api.Page", site: str, name: str) -> Visit:
    seen = Visit()

    def heard(said: "sync_api.ConsoleMessage") -> None:
        # Files that are not there are counted below, with their names.
        if (
            said.type == "error"
            and THEME_SAYS not in said.text
            and "Failed to load" not in said.text
        ):
            seen.errors.append(said.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("requestfailed", lambda request: seen.errors.append(f"no answer: {request.url}"))
    page.on("response", lambda r: r.status >= 400 and seen.errors.append(f"{r.status}: {r.url}"))
    page.goto(f"{site}/{name}")
    seen.formulas = page.locator("article .math").count()
    page.evaluate("() => window.MathJax?.startup?.promise")
    seen.raw_maths = page.evaluate(RAW_MATHS)
    seen.before, seen.after = (
        link.first.evaluate("a => a.pathname.slice(1)") if link.count() else None
        for link in (page.locator("a.left-prev"), page.locator("a.right-next"))
    )
    seen.sticking_out = page.evaluate(STICKING_OUT)
    if name.startswith("book/api/") and name not in JUDGED_REFERENCE:
        return seen
    page.evaluate(AXE_SOURCE)
    seen.barriers = [
        f"{rule}, {count} times, such as {html}"
        for impact, rule, count, html in page.evaluate(AXE)
        if impact in SERIOUS
    ]
    return seen


AXE_SOURCE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def visits(browser: "sync_api.Browser", site: str) -> dict[str, Visit]:
    """Every page of the book, visited."""
    found = {}
    context = browser.new_context(viewport=PHONE)
    context.set_default_timeout(PATIENCE)
    for name in listed_pages():
        page = context.new_page()
        found[name] = visit(page, site, name)
        page.close()
    context.close()
    return found


def listed(visits: dict[str, Visit], kind: str) -> list[str]:
    return [f"{name}: {fault}" for name, seen in visits.items() for fault in getattr(seen, kind)]


def test_no_page_reports_an_error(visits: dict[str, Visit]) -> None:
    assert listed(visits, "errors") == []


def test_no_request_leaves_the_machine(visits: dict[str, Visit], site: str) -> None:
    asked = [url for seen in visits.values() for url in seen.requests]
    assert len(asked) > len(visits)
    assert [url for url in asked if not url.startswith((f"{site}/", "data:", "blob:"))] == []


def test_every_formula_is_typeset(visits: dict[str, Visit]) -> None:
    assert listed(visits, "raw_maths") == []
    chapters = [p.relative_to(ROOT).with_suffix(".html").as_posix() for p in pages.numbered_pages()]
    assert all(visits[name].formulas > 10 for name in chapters)


def test_no_page_is_wider_than_a_phone(visits: dict[str, Visit]) -> None:
    assert listed(visits, "sticking_out") == []


def test_no_page_shuts_readers_out(visits: dict[str, Visit]) -> None:
    """axe-core finds nothing serious or critical in what the pages themselves hold."""
    assert listed(visits, "barriers") == []


def test_next_and_previous_lead_through_the_whole_book(visits: dict[str, Visit]) -> None:
    order = listed_pages()
    assert [visits[name].after for name in order] == [*order[1:], None]
    assert [visits[name].before for name in order] == [None, *order[:-1]]


def test_a_reader_turns_pages(page: "sync_api.Page", site: str) -> None:
    order = listed_pages()
    page.goto(f"{site}/index.html")
    page.wait_for_url(f"{site}/{order[0]}")
    page.locator("a.right-next").click()
    page.wait_for_url(f"{site}/{order[1]}")
    page.locator("a.left-prev").click()
    page.wait_for_url(f"{site}/{order[0]}")


def test_the_search_finds_a_term(page: "sync_api.Page", site: str) -> None:
    page.goto(f"{site}/{listed_pages()[0]}")
    page.locator("button.search-button-field:visible").first.click()
    page.locator("#pst-search-dialog input[type=search]").fill("backpropagation")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/search\.html\?q=backpropagation"))
    hits = page.locator("#search-results ul.search li > a")
    hits.first.wait_for()
    found = [hit.get_attribute("href") or "" for hit in hits.all()]
    assert any("01_networks_and_backpropagation" in href for href in found)


def test_a_solution_opens(page: "sync_api.Page", site: str) -> None:
    page.goto(f"{site}/book/learning_rules/01_gradient_and_perturbation.html")
    solution = page.locator("div.solution").first
    hidden = solution.locator(".cell, .section, p:not(.admonition-title)").first
    assert not hidden.is_visible()
    solution.locator("button.toggle-button, .admonition-title").first.click()
    hidden.wait_for(state="visible")


def stepping_pages(book: Book) -> list[str]:
    """The pages that hold the figure to step through."""
    return [
        path.relative_to(book.html).as_posix()
        for path in sorted((book.html / "book").rglob("*.html"))
        if 'id="stepper"' in path.read_text(encoding="utf-8")
    ]


def test_the_figure_to_step_through_responds(page: "sync_api.Page", site: str, book: Book) -> None:
    names = stepping_pages(book)
    assert names
    for name in names:
        page.goto(f"{site}/{name}")
        figure = page.locator("#stepper")
        slider, said = figure.locator("input"), figure.locator(".said")
        assert figure.locator(".on").is_visible()
        assert not figure.locator(".off").is_visible()
        assert said.inner_text().startswith("Step 1 of ")
        figure.locator('[data-to="on"]').click()
        assert said.inner_text().startswith("Step 2 of ")
        page.keyboard.press("ArrowRight")
        assert said.inner_text().startswith("Step 3 of ")
        page.keyboard.press("ArrowLeft")
        assert slider.input_value() == "1"
        slider.fill("4")
        assert said.inner_text().startswith("Step 5 of ")
        figure.locator('[data-to="start"]').click()
        figure.locator('[data-to="play"]').click()
        page.wait_for_function("() => Number(document.querySelector('#stepper input').value) >= 2")
        figure.locator('[data-to="play"]').click()
        assert figure.locator('[data-to="play"]').get_attribute("aria-pressed") == "false"


TWISTED = """<!doctype html><html lang="en"><title>t</title><body><article>
<div style="width: 800px">wide</div>
<div style="overflow-x: auto"><p style="width: 900px">boxed</p></div>
<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><span class="math">\\\\(x\\\\)</span>
<script>console.error("broken")</script></article></body></html>"""


def test_a_twisted_page_is_found(browser: "sync_api.Browser", tmp_path: Path) -> None:
    (tmp_path / "twisted.html").write_text(TWISTED, encoding="utf-8")
    page = browser.new_page(viewport=PHONE)
    page.add_init_script("window.MathJax = { startup: { promise: 0 } }")
    seen = visit(page, tmp_path.as_uri(), "twisted.html")
    page.close()
    assert seen.errors == ["broken"]
    assert len(seen.raw_maths) == 1
    assert "wide" in seen.sticking_out[-1]
    assert len(seen.sticking_out) == 2
    assert [fault.split(",")[0] for fault in seen.barriers] == ["image-alt"]
