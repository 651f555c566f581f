"""The book in a real browser, with the network off: as a reader sees it, on a screen and a phone.

Every page is visited once, and what was seen there is judged test by test. A machine without a
browser skips these tests.
"""

import re
import shutil
import threading
from collections.abc import Iterable, Iterator
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
from metarl_lib.figures.stepper import WORLDS

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed; the extra 'test' brings it"
)

pytestmark = pytest.mark.xdist_group("book")
SCREEN = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
PATIENCE = 180_000  # milliseconds, for a machine that does much else

# The theme says this on a first visit, and then does what is right.
THEME_SAYS = "Got invalid theme mode: . Resetting to auto."
SEARCH = "search.html"  # a page that is in no table of contents
SERIOUS = ("serious", "critical")
# What axe finds around the text, and the book cannot mend: axe's rule and the theme's selector,
# each with the reason. A fault that is not here fails, and so does an entry that nothing bears out.
THEME_LEAVES: dict[tuple[str, str], str] = {}

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
# Boxes that scroll, and that no key reaches. Browsers differ in what they do about them.
UNREACHED = """() => [...document.body.querySelectorAll("*")].filter((e) => {
  const { overflowX, overflowY } = getComputedStyle(e);
  const scrolls = (how, more) => (how === "auto" || how === "scroll") && more > 1;
  return e.clientWidth && e.tabIndex < 0 &&
    (scrolls(overflowX, e.scrollWidth - e.clientWidth) ||
      scrolls(overflowY, e.scrollHeight - e.clientHeight)) &&
    !e.querySelector("a[href], button, input, summary, [tabindex='0']");
}).map((e) => e.outerHTML.slice(0, 100))"""
# What is written in a drawing, and shrinks with it.
TINY = """() => [...document.querySelectorAll("article svg text")].filter((e) =>
  e.getScreenCTM()?.a * parseFloat(getComputedStyle(e).fontSize) < 9).map((e) => e.outerHTML)"""
# What a reader unfolds is judged unfolded. Nothing moves, so nothing is judged on its way.
UNFOLD = """() => {
  document.head.append(Object.assign(document.createElement("style"),
    { textContent: "* { transition: none !important; animation: none !important; }" }));
  document.querySelectorAll("article button.toggle-button-hidden").forEach((e) => e.click());
}"""
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
# Typeset formulas, coloured code and signatures have thousands of elements that no page writes.
# They become plain text before axe looks, except on AS_THEY_STAND.
FLATTEN = """() => {
  document.querySelectorAll("article mjx-container").forEach((e) => e.replaceWith("formula"));
  document.querySelectorAll("article :is(pre, dt.sig)").forEach((e) =>
    e.replaceChildren(e.textContent));
}"""
AS_THEY_STAND = ("book/metods/01_the_layer.html", "book/api/cores.html")
AXE = """async (known) => {
  const found = await axe.run({ resultTypes: ["violations"], elementRef: true,
    preload: false, runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] });
  return found.violations.flatMap((v) => v.nodes.map((node) => ({
    impact: v.impact, rule: v.id, html: node.html.slice(0, 150),
    known: node.element.closest("article") ? [] : known.filter(([rule, selector]) =>
      rule === v.id && node.element.matches(selector)) })));
}"""


@dataclass
class Visit:
    """What a browser met on one page."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    raw_maths: list[str] = field(default_factory=list)
    sticking_out: list[str] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)
    tiny: list[str] = field(default_factory=list)
    barriers: list[str] = field(default_factory=list)
    known: set[tuple[str, str]] = field(default_factory=set)
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


def judge(page: "sync_api.Page", seen: Visit, known: Iterable[tuple[str, str]]) -> None:
    """Note what axe-core finds serious or critical, and what of it is known."""
    screen = page.evaluate(
        "() => `${window.innerWidth} px, ${document.documentElement.dataset.theme}`"
    )
    faults: dict[str, list[str]] = {}
    for fault in page.evaluate(AXE, [list(entry) for entry in known]):
        if fault["known"]:
            seen.known |= {(rule, selector) for rule, selector in fault["known"]}
        elif fault["impact"] in SERIOUS:
            faults.setdefault(fault["rule"], []).append(fault["html"])
    seen.barriers += [
        f"{rule} ({screen}), {len(html)} times, such as {html[0]}" for rule, html in faults.items()
    ]


def visit(
    page: "sync_api.Page", site: str, name: str, known: Iterable[tuple[str, str]] = THEME_LEAVES
) -> Visit:
    """A page on a phone in the dark, and on a screen in the light."""
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
    page.evaluate(UNFOLD)
    for size in (SCREEN, PHONE):
        page.set_viewport_size(size)
        page.evaluate(DRAWN)
        for kind, asked in (
            ("sticking_out", STICKING_OUT),
            ("unreached", UNREACHED),
            ("tiny", TINY),
        ):
            getattr(seen, kind).extend(f"{size['width']} px: {e}" for e in page.evaluate(asked))
    page.evaluate(AXE_SOURCE)
    if name not in AS_THEY_STAND:
        page.evaluate(FLATTEN)
    for size, theme in ((PHONE, "dark"), (SCREEN, "light")):
        page.set_viewport_size(size)
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
        page.evaluate(DRAWN)
        judge(page, seen, known)
    return seen


AXE_SOURCE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def visits(browser: "sync_api.Browser", site: str) -> dict[str, Visit]:
    """Every page of the book, visited, and the page of the search."""
    found = {}
    context = browser.new_context(viewport=PHONE)
    context.set_default_timeout(PATIENCE)
    for name in [*listed_pages(), SEARCH]:
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


def test_no_page_is_wider_than_its_window(visits: dict[str, Visit]) -> None:
    assert listed(visits, "sticking_out") == []


def test_keys_reach_whatever_scrolls(visits: dict[str, Visit]) -> None:
    assert listed(visits, "unreached") == []


def test_drawings_can_be_read(visits: dict[str, Visit]) -> None:
    assert listed(visits, "tiny") == []


def test_no_page_shuts_readers_out(visits: dict[str, Visit]) -> None:
    """axe-core finds nothing serious or critical but what the theme is known to leave."""
    assert listed(visits, "barriers") == []


def test_what_the_theme_leaves_is_still_there(visits: dict[str, Visit]) -> None:
    assert set(THEME_LEAVES) - {entry for seen in visits.values() for entry in seen.known} == set()


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


# The control that has the focus, and whether a reader sees that it has it.
FOCUSED = """() => {
  const e = document.activeElement, { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(e);
  return { stepper: !!e.closest("#stepper"), to: e.dataset.to ?? e.tagName.toLowerCase(),
    seen: (outlineStyle !== "none" && parseFloat(outlineWidth) > 0) || boxShadow !== "none" };
}"""
# Where the keyboard starts, without a click; and the stops that it can make from there.
AT_THE_TOP = """() => {
  const article = document.querySelector("article");
  article.tabIndex = -1;
  article.focus();
  return article.querySelectorAll("a, button, input, summary, [tabindex]").length;
}"""
CONTROLS = ["start", "back", "on", "next", "play", "input"]


def press(page: "sync_api.Page", *keys: str) -> dict:
    """What has the focus after these keys."""
    for key in keys:
        page.keyboard.press(key)
    return page.evaluate(FOCUSED)


def shown(page: "sync_api.Page") -> int:
    """The step that the figure shows, counted from 1, in words as in its slider."""
    said = re.match(r"Step (\d+) of ", page.locator("#stepper .said").inner_text())
    assert said
    assert page.locator("#stepper input").input_value() == str(int(said[1]) - 1)
    return int(said[1])


def test_keys_alone_reach_and_move_the_figure(page: "sync_api.Page", site: str, book: Book) -> None:
    """From the top of the page with Tab; then Enter, Space and arrows; and out again."""
    worlds = set()
    for name in stepping_pages(book):
        page.goto(f"{site}/{name}")
        page.evaluate("() => window.MathJax?.startup?.promise")
        title = page.locator("#stepper").get_attribute("aria-label") or ""
        worlds |= {world for world, words in WORLDS.items() if title.startswith(words)}

        stops = page.evaluate(AT_THE_TOP)
        first = next((f for _ in range(stops) if (f := press(page, "Tab"))["stepper"]), None)
        assert first, f"{name}: {stops} times Tab do not reach the figure"
        controls = [first, *(press(page, "Tab") for _ in CONTROLS[1:])]
        assert [control["to"] for control in controls] == CONTROLS, name
        assert all(control["seen"] for control in controls), f"{name}: {controls}"
        assert not press(page, "Tab")["stepper"], f"{name}: the figure does not let go"

        # And back, from control to control.
        assert press(page, "Shift+Tab")["to"] == "input"
        assert shown(page) == 1
        press(page, "ArrowRight")
        assert shown(page) == 2
        press(page, "End")
        assert shown(page) == 1 + int(page.locator("#stepper input").get_attribute("max") or 0)
        press(page, "Home")
        assert shown(page) == 1

        assert press(page, "Shift+Tab")["to"] == "play"
        press(page, "Space")
        page.wait_for_function("() => Number(document.querySelector('#stepper input').value) >= 2")
        press(page, "Space")
        assert page.locator('[data-to="play"]').get_attribute("aria-pressed") == "false"

        press(page, "Home")
        assert press(page, "Shift+Tab")["to"] == "next"
        press(page, "Enter")
        assert shown(page) > 1

        press(page, "Home")
        assert press(page, "Shift+Tab")["to"] == "on"
        press(page, "Enter", "Space")
        assert shown(page) == 3
        assert press(page, "Shift+Tab")["to"] == "back"
        press(page, "Enter")
        assert shown(page) == 2
        assert press(page, "Shift+Tab")["to"] == "start"
        press(page, "Space")
        assert shown(page) == 1
    assert worlds == set(WORLDS)


TWISTED = """<!doctype html><html lang="en"><title>t</title><body><nav>
<details><summary></summary></details><button class="known"></button><button></button></nav>
<article><div style="width: 800px">wide</div>
<div style="overflow-x: auto"><p style="width: 900px">boxed</p></div>
<svg viewBox="0 0 680 20" width="300"><text style="font-size: 11px">small</text></svg>
<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><span class="math">\\\\(x\\\\)</span>
<script>console.error("broken")</script></article></body></html>"""


def test_a_twisted_page_is_found(browser: "sync_api.Browser", tmp_path: Path) -> None:
    (tmp_path / "twisted.html").write_text(TWISTED, encoding="utf-8")
    page = browser.new_page(viewport=PHONE)
    page.add_init_script("window.MathJax = { startup: { promise: 0 } }")
    known = [("button-name", ".known"), ("image-alt", "img"), ("button-name", ".gone")]
    seen = visit(page, tmp_path.as_uri(), "twisted.html", known)
    page.close()
    assert seen.errors == ["broken"]
    assert len(seen.raw_maths) == 1
    assert [fault.split(": ")[0] for fault in seen.sticking_out] == ["390 px", "390 px"]
    assert "wide" in seen.sticking_out[-1]
    assert all("overflow-x" in fault for fault in seen.unreached)
    assert len(seen.unreached) == 1
    assert len(seen.tiny) == 2
    # What stands in the text is never the theme's, and of two buttons one is known.
    assert [fault.split(" px")[0] for fault in seen.barriers] == [
        f"{rule} ({width}"
        for width in (390, 1280)
        for rule in ("button-name", "image-alt", "summary-name")
    ]
    assert seen.known == {known[0]}
