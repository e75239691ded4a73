"""The rendered pages as a reader meets them: every page in a browser, wide and narrow, light and dark.

``python -m lib.pages [FOLDER]`` prints what it finds, adds its counts to ``_build/results.json``, and
fails if it finds anything. Nothing outside this machine is asked for: a page that needs the network is a finding.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from lib import book
from lib.browser import HTML, PATIENCE, chromium, open_page, rendered_pages, serving
from lib.errors import BookError, run_command
from lib.results import Result

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}  # CSS pixels
SCHEMES = ("light", "dark")
ALT_TEXT_LIMIT = 250  # characters
SEARCH_TERM = "perplexity"  # chapter 2 defines it
KINDS = {  # kind of finding: the name and unit of its count
    "image": ("book.images_without_alt", "images"),
    "link": ("book.broken_links", "links"),
    "console": ("book.console_errors", "messages"),
    "axe": ("book.axe_violations", "elements"),
    "width": ("book.pages_too_wide", "pages"),
    "network": ("book.network_needs", "requests"),
    "search": ("book.searches_failed", "searches"),
    "copy": ("book.copies_failed", "buttons"),
}

FACTS = """() => ({
  links: [...document.querySelectorAll("a[href]")].map(a => a.href),
  anchors: [...document.querySelectorAll("[id], a[name]")].map(e => e.id || e.name),
  images: [...document.images].map(i => [i.src.split("/").pop().slice(-60), i.getAttribute("alt") || ""]),
})"""

# What sticks out of the page, unless a box around it scrolls or cuts it off; the innermost elements only.
STICKS_OUT = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const cuts = e => /auto|scroll|hidden|clip/.test(getComputedStyle(e).overflowX);
  const contained = e => e && (cuts(e) || contained(e.parentElement));
  const out = [...document.body.querySelectorAll("*")].filter(
    e => e.getBoundingClientRect().right > width + 1 && !contained(e.parentElement));
  const inner = out.filter(e => !out.some(o => o !== e && e.contains(o)));
  return (inner.length ? inner : [document.body]).map(e => e.outerHTML.slice(0, 120));
}"""

SCROLLS_BY_KEYBOARD = """() =>
  [...document.querySelectorAll("[tabindex='-1']")].every(e => e.scrollWidth <= e.clientWidth)"""

RUN_AXE = """async options =>
  (await axe.run({exclude: [["[data-known]"]]}, {...options, preload: false})).violations"""

# Contrast takes most of the time, and most of what is judged looks like something judged before: words of code of a few
# colours, rows of tables. What shows nothing new is left out; all pages have one style sheet.
LEAVE_OUT_KNOWN = """known => {
  const seen = new Set(known);
  const look = e => [e.localName, e.className, e.getAttribute("style"), e.parentElement.className].join(" ");
  for (const part of document.querySelectorAll("pre, tbody tr, p.result")) {
    const around = part.closest("div")?.className + " " + part.parentElement.localName + " ";
    const looks = [part, ...part.querySelectorAll("*")].map(e => around + look(e));
    if (looks.every(l => seen.has(l))) part.dataset.known = "";
    looks.forEach(l => seen.add(l));
  }
  return [...seen];
}"""


@dataclass(frozen=True)
class Finding:
    """Something a reader would stumble over: its kind (see KINDS), the page, and one line that says what."""

    kind: str
    page: str
    what: str


@dataclass
class Survey:
    """What was seen of a rendered book: per page its links and anchors, and all findings, each once."""

    folder: Path
    address: str
    links: dict[str, list[str]] = field(default_factory=dict)
    anchors: dict[str, set[str]] = field(default_factory=dict)
    findings: dict[Finding, None] = field(default_factory=dict)  # a dict keeps their order
    looks: list[str] = field(default_factory=list)  # of what was judged for contrast, in both schemes
    seconds: float = 0.0

    def find(self, kind: str, page: str, what: str) -> None:
        self.findings[Finding(kind, page, what)] = None


def survey(folder: Path = HTML, patience: float = 10_000) -> Survey:
    """Look at every page of a rendered book; ``patience``, in milliseconds, is what a search may take.

    BookError if there is no book, or no Chromium.
    """
    pages = rendered_pages(folder)
    start = time.perf_counter()
    with serving(folder) as address, chromium() as browser:
        seen = Survey(folder, address)
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
        page = watched_page(context, seen)
        for name in pages:
            look_at(page, name, seen)
        check_links(seen)
        check_search(page, seen, patience)
    seen.seconds = time.perf_counter() - start
    return seen


def watched_page(context: BrowserContext, seen: Survey) -> Page:
    """Open a page whose errors and whose requests to other machines become findings."""

    def local_only(request: Request) -> None:
        if not request.url.startswith((seen.address, "data:", "blob:")):
            seen.find("network", name_of(page.url, seen), request.url)

    def note(message: ConsoleMessage) -> None:
        where = message.location.get("url", "")
        if message.type == "error" and where.startswith(seen.address):  # another machine's is a finding already
            seen.find("console", name_of(page.url, seen), f"{message.text} ({where})")

    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("request", local_only)
    page.on("console", note)
    page.on("pageerror", lambda error: seen.find("console", name_of(page.url, seen), str(error)))
    return page


def name_of(url: str, seen: Survey) -> str:
    """Return a page's name, relative to the book, from its address."""
    return unquote(urldefrag(url)[0].removeprefix(seen.address).split("?")[0])


def look_at(page: Page, name: str, seen: Survey) -> None:
    """Load one page and look at it at both widths and in both schemes."""
    page.set_viewport_size(dict(zip(("width", "height"), WIDTHS["desktop"])))
    open_page(page, seen.address + name)
    facts = page.evaluate(FACTS)
    seen.links[name], seen.anchors[name] = facts["links"], set(facts["anchors"])
    for source, alt in facts["images"]:
        if not 0 < len(alt) <= ALT_TEXT_LIMIT:
            seen.find("image", name, f"{source} has an alt text of {len(alt)} characters")
    check_copying(page, name, seen)
    page.evaluate(AXE_SCRIPT)
    for width, (pixels, height) in WIDTHS.items():
        page.set_viewport_size({"width": pixels, "height": height})
        wait_for_theme(page)
        for element in page.evaluate(STICKS_OUT):
            seen.find("width", name, f"{width}: {element}")
        for what in axe_violations(page, {"rules": {"color-contrast": {"enabled": False}}}):
            seen.find("axe", name, f"{width}: {what}")
    seen.looks = page.evaluate(LEAVE_OUT_KNOWN, seen.looks)
    page.add_style_tag(content="* { transition: none !important }")  # colours change at once
    for scheme in SCHEMES:  # contrast is judged once a scheme: no colour depends on the width
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
        for what in axe_violations(page, {"runOnly": ["color-contrast"]}):
            seen.find("axe", name, f"{scheme}: {what}")


def wait_for_theme(page: Page) -> None:
    """Give the theme its moment after a change of width: it then lets the keyboard reach what scrolls."""
    with suppress(PlaywrightTimeout):  # if it never does, axe-core says so
        page.wait_for_function(SCROLLS_BY_KEYBOARD, timeout=5_000)


def axe_violations(page: Page, options: dict[str, Any]) -> list[str]:
    """Return a line for every element that breaks a rule of axe-core."""
    violations = page.evaluate(RUN_AXE, options)
    return [f"{v['id']}: {_element(node)}" for v in violations for node in v["nodes"]]


def _element(node: dict[str, Any]) -> str:
    why = [check["message"] for check in (*node["any"], *node["all"], *node["none"])]
    return f"{node['html'][:120]} ({why[0] if why else node['target']})"


def check_copying(page: Page, name: str, seen: Survey) -> None:
    """Press the first copy button of a page; the clipboard must then hold that cell's text."""
    button = page.locator("button.copybtn:visible").first
    if not button.count():
        return
    text = button.evaluate("button => document.querySelector(button.dataset.clipboardTarget).innerText")
    page.evaluate("() => navigator.clipboard.writeText('')")
    button.click()
    copied = page.evaluate("() => navigator.clipboard.readText()")
    if copied.strip() != text.strip():
        seen.find("copy", name, f"the first button copies {copied[:60]!r} and not {text[:60]!r}")


def check_links(seen: Survey) -> None:
    """Every link to a page of this book must lead to a file, and its fragment to an anchor there."""
    internal = [(page, link) for page, links in seen.links.items() for link in links if link.startswith(seen.address)]
    for page, link in internal:
        name, fragment = name_of(link, seen), unquote(urldefrag(link).fragment)
        if not (seen.folder / name).is_file():
            seen.find("link", page, f"{name} does not exist")
        elif fragment and name in seen.anchors and fragment not in seen.anchors[name]:
            seen.find("link", page, f"{name} has no anchor {fragment}")


def check_search(page: Page, seen: Survey, patience: float) -> None:
    """A search for a term of the book must find a chapter."""
    page.goto(f"{seen.address}search.html?q={SEARCH_TERM}")
    try:
        page.wait_for_selector("#search-results li a", timeout=patience)
    except PlaywrightTimeout:
        seen.find("search", "search.html", f"nothing is found for {SEARCH_TERM}")


# ---- The counts, in the book's results. ----


def counts(seen: Survey) -> dict[str, Result]:
    """Return how many pages were looked at, and how many findings of each kind there were."""
    found = Counter(finding.kind for finding in seen.findings)
    results = [Result("book.pages", len(seen.links), "pages", "measured")]
    results += [Result(name, found[kind], unit, "measured") for kind, (name, unit) in KINDS.items()]
    results.append(Result("book.seconds.pages", round(seen.seconds, 1), "s", "measured"))
    return {result.name: result for result in results}


def survey_and_record() -> Survey:
    """Look at the book's own pages, and add the counts to ``_build/results.json``."""
    seen = survey()
    book.add_results(counts(seen), book.PAGES)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.pages", description="Look at every page in a browser.")
    parser.add_argument("folder", nargs="?", type=Path, default=HTML, help="a rendered book, by default this one")
    folder = parser.parse_args().folder
    seen = survey_and_record() if folder.resolve() == HTML else survey(folder)
    for finding in seen.findings:
        print(f"  {finding.kind:8} {finding.page}: {finding.what}")
    if seen.findings:
        raise BookError(f"{len(seen.findings)} things on {len(seen.links)} pages need mending (above)")
    print(f"{len(seen.links)} pages, nothing found, {seen.seconds:.0f} s")


if __name__ == "__main__":
    run_command(main)
