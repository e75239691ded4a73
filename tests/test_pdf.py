"""The PDF: pages in the order of the contents, every one found by its bookmark."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pypdf import PdfReader

from lib import book, pdf
from tests.test_pages import PAGE, needs_chromium


@needs_chromium
def test_pages_are_printed_in_order_and_bookmarked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index.html").write_text("")
    for name in ("a", "b"):
        (tmp_path / f"{name}.html").write_text(PAGE.replace("<h1>Page", f"<h1>Page {name}") + f"<h2>Part {name}</h2>")
    monkeypatch.setattr(book, "pages_of_contents", lambda: ["b", "a", "absent"])
    joined = PdfReader(io.BytesIO(pdf.join(pdf.print_pages(tmp_path))))
    titles = [[i.title for i in item] if isinstance(item, list) else item.title for item in joined.outline]
    assert titles == ["Page b", ["Part b"], "Page a", ["Part a"]]
    assert ["Page b" in joined.pages[0].extract_text(), "Page a" in joined.pages[1].extract_text()] == [True, True]
    assert joined.metadata.title == book.title()


def test_a_heading_named_twice_is_named_once() -> None:
    assert [pdf.heading(t) for t in ("ResultsResults", "Results", "")] == ["Results", "Results", ""]
