"""What the book does to its pages while Sphinx renders them; ``_config.yml`` names this extension.

The notebooks stay as they were executed: what is known only after a run is put in here.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sphinx.application import Sphinx

from lib import book
from lib.status import Run, run_of, status_table

STATUS = "chapters/status"
MARK = "<!-- the table of runs, put here when the page is rendered -->"
MENDED = {  # what Sphinx writes, and what a screen reader understands
    '<th class="head"><p></p></th>': "<td></td>",  # the empty corner of a table is not a head
    'role="doc-biblioentry"': 'role="listitem"',  # the first is deprecated, and the list around it needs the second
}


@cache
def runs() -> dict[str, Run]:
    return {f"chapters/{path.stem}": run_of(path) for path in book.executed_chapters()}


def fill_status(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the table of runs into the page *Status*."""
    if name == STATUS:
        source[0] = source[0].replace(MARK, status_table())


def finish_page(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Put its run at the head of a chapter's page, and mend what the theme leaves wrong."""
    body = context.get("body", "")
    for written, meant in MENDED.items():
        body = body.replace(written, meant)
    if name in runs():
        body = body.replace("</h1>", "</h1>\n" + runs()[name].head, 1)
    context["body"] = body
    # Live cells, which this book does not offer: their scripts declare a constant twice, and would ask a CDN.
    context["script_files"] = [script for script in context["script_files"] if not is_thebe(script)]


def is_thebe(script: Any) -> bool:
    return "thebe" in f"{script.filename} {script.attributes.get('body', '')}".lower()


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", fill_status)
    app.connect("html-page-context", finish_page, priority=900)  # after the theme's own
    return {"parallel_read_safe": True, "parallel_write_safe": True}
