"""The rendered pages in a browser: nothing to stumble over. And the survey itself: it sees what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib import book, pages
from lib.browser import HTML, find_chromium
from lib.errors import BookError

try:
    find_chromium()
    CHROMIUM = True
except BookError:
    CHROMIUM = False
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is on PATH (apt-get install chromium)")
needs_pages = pytest.mark.skipif(not (HTML / "index.html").exists(), reason="no book is rendered (make book)")


@pytest.mark.made
@needs_chromium
@needs_pages
def test_no_page_of_the_book_needs_mending() -> None:
    seen = pages.survey_and_record()
    assert [f"{finding.kind} {finding.page}: {finding.what}" for finding in seen.findings] == []
    results = json.loads(book.RESULTS.read_text())
    assert (results["book.pages"]["value"], results["book.pages"]["chapter"]) == (len(seen.links), "pages")
    assert all(results[name]["value"] == 0 for name, _ in pages.KINDS.values())


PAGE = """<!DOCTYPE html><html lang="en" data-theme="light"><head><title>Page</title>
<style>body {background: #fff}</style>
<script>matchMedia("(prefers-color-scheme: dark)").onchange =
  e => document.documentElement.dataset.theme = e.matches ? "dark" : "light"</script></head><body><main><h1>Page</h1>"""
BAD = """<img src="dot.svg"><img src="dot.svg" alt="{long}"><p style="color: #ccc">pale</p>
<p><a href="other.html">a page that is not there</a> <a href="#nowhere">an anchor that is not there</a></p>
<div style="width: 800px">wide</div><script src="https://example.invalid/x.js"></script>
<pre id="c">print(1)</pre><button class="btn copybtn" data-clipboard-target="#c">copies nothing</button>
<script>console.error("a complaint")</script>"""


@needs_chromium
def test_the_survey_sees_every_kind_of_fault(tmp_path: Path) -> None:
    (tmp_path / "dot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    (tmp_path / "index.html").write_text("")
    (tmp_path / "bad.html").write_text(PAGE + BAD.replace("{long}", "x" * 251))
    (tmp_path / "search.html").write_text(PAGE)
    found = [f"{finding.kind} {finding.what}" for finding in pages.survey(tmp_path, patience=500).findings]
    for expected in (
        "image dot.svg has an alt text of 0 characters",
        "image dot.svg has an alt text of 251 characters",
        "link other.html does not exist",
        "link bad.html has no anchor nowhere",
        "network https://example.invalid/x.js",
        "console a complaint",
        "width phone: <div",
        "axe light: color-contrast: <p",
        "copy the first button copies ''",
        "search nothing is found",
    ):
        assert any(line.startswith(expected) for line in found), (expected, found)


def test_without_a_book_or_a_browser_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BookError, match="no rendered book; make book"):
        pages.survey(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BookError, match="no Chromium is on PATH"):
        find_chromium()
