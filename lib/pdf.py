"""The book as one PDF: every page printed by the browser, joined, with bookmarks by chapter and section.

``python -m lib.pdf [OUTPUT]``, after ``make book``. No LaTeX: it is the rendered page on paper.
"""

from __future__ import annotations

import argparse
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pypdf import PdfReader, PdfWriter
from pypdf.generic import Destination

from lib import ROOT, book
from lib.browser import HTML, chromium, open_page, rendered_pages, serving
from lib.errors import run_command
from lib.files import atomic_write

OUTPUT = ROOT / "_build" / "from-pytorch-to-fpga.pdf"
MARGIN = {"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}
FOOTER = '<div style="width: 100%; font-size: 8px; text-align: center">{title}, <span class="pageNumber"></span></div>'


@dataclass(frozen=True)
class Printed:
    """One page of the book on paper: its title and the PDF that the browser made of it."""

    title: str
    pdf: bytes


def print_pages(folder: Path = HTML) -> list[Printed]:
    """Print the pages that ``_toc.yml`` names, in its order. BookError without a rendered book or Chromium."""
    rendered = set(rendered_pages(folder))
    names = [f"{name}.html" for name in book.pages_of_contents() if f"{name}.html" in rendered]
    printed = []
    with serving(folder) as address, chromium() as browser:
        page = browser.new_page(color_scheme="light")
        for name in names:
            open_page(page, address + name)
            title = page.evaluate("() => document.querySelector('h1').firstChild.textContent.trim()")
            footer = FOOTER.format(title=title.replace("&", "&amp;").replace("<", "&lt;"))
            pdf = page.pdf(
                format="A4", margin=MARGIN, display_header_footer=True, header_template="<span></span>",
                footer_template=footer, print_background=True, outline=True, tagged=True,
            )  # fmt: skip
            printed.append(Printed(title, pdf))
    return printed


def join(printed: list[Printed]) -> bytes:
    """Join printed pages into one PDF: a bookmark for each, and below it those of its sections."""
    writer = PdfWriter()
    for page in printed:
        first = len(writer.pages)
        reader = PdfReader(io.BytesIO(page.pdf))
        writer.append(reader, import_outline=False)
        chapter = writer.add_outline_item(title=page.title, page_number=first)
        for section in sections(reader.outline):
            number = first + reader.get_destination_page_number(section)
            writer.add_outline_item(title=heading(section.title), page_number=number, parent=chapter)
    writer.add_metadata({"/Title": book.title()})
    joined = io.BytesIO()
    writer.write(joined)
    return joined.getvalue()


def sections(outline: list[Any]) -> list[Destination]:
    """Return the second level of a printed page's outline, below its title; pypdf nests it as lists."""
    below = [items for items in outline if isinstance(items, list)]
    return [item for items in below for item in items if isinstance(item, Destination)]


def heading(title: str) -> str:
    """Undo what Chromium does to a heading that it moves to the next sheet: it names it twice."""
    half = title[: len(title) // 2]
    return half if half * 2 == title else title


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.pdf", description="Print the rendered book as one PDF.")
    parser.add_argument("output", nargs="?", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    pdf = join(print_pages())
    with atomic_write(output) as file:
        file.write(pdf)
    print(f"{os.path.relpath(output)}: {len(PdfReader(output).pages)} pages, {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(main)
