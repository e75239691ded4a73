"""What the book does to its pages while Sphinx renders them; ``_config.yml`` names this extension.

The notebooks stay as they were executed: what is known only after a run is put in here.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

from lib import book
from lib.status import Run, run_of, status_table

STATUS = "chapters/status"
MARK = "<!-- the table of runs, put here when the page is rendered -->"
MENDED = {  # what Sphinx writes, and what a screen reader understands
    '<th class="head"><p></p></th>': "<td></td>",  # the empty corner of a table is not a head
    'role="doc-biblioentry"': 'role="listitem"',  # the first is deprecated, and the list around it needs the second
}
GLOSSARY = "chapters/glossary"
# Words of the glossary that also have an everyday sense, or another one in this book: a link could mislead.
UNLINKED = {"block", "stream", "lane", "cascade", "stride", "calibration"}
NOT_PROSE = (nodes.reference, nodes.title, nodes.literal, nodes.caption, nodes.table)


@cache
def runs() -> dict[str, Run]:
    return {f"chapters/{path.stem}": run_of(path) for path in book.executed_chapters()}


def fill_status(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the table of runs into the page *Status*."""
    if name == STATUS:
        source[0] = source[0].replace(MARK, status_table())


def link_first_uses(app: Sphinx, tree: nodes.document, name: str) -> None:
    """Link each term of the glossary where a chapter's prose first uses it: in Jupyter the text stays plain."""
    if name not in runs():
        return
    terms = app.env.get_domain("std").objects
    anchors = {term: anchor for (kind, term), (_, anchor) in terms.items() if kind == "term" and term not in UNLINKED}
    for text in list(prose(tree)):
        replaced: list[nodes.Node] = []
        rest = text.astext()
        while anchors and (found := re.search(pattern_of(tuple(anchors)), rest)):
            anchor = anchors.pop(term_of(found[1], tuple(anchors)))
            link = make_refnode(app.builder, name, GLOSSARY, anchor, nodes.Text(found[1]))
            replaced += [nodes.Text(rest[: found.start()]), link]
            rest = rest[found.end() :]
        if replaced:
            text.parent.replace(text, [*replaced, nodes.Text(rest)])


def prose(tree: nodes.document) -> Iterator[nodes.Text]:
    """Yield the pieces of text in paragraphs, but not those in links, headings, code, captions or tables."""
    for paragraph in tree.findall(nodes.paragraph):
        for text in paragraph.findall(nodes.Text):
            parents, node = [], text.parent
            while node is not None:
                parents.append(node)
                node = node.parent
            if not any(isinstance(parent, NOT_PROSE) for parent in parents):
                yield text


@cache
def pattern_of(terms: tuple[str, ...]) -> str:
    """Match any of the terms as a whole word, its plural too; long ones first, one with capitals only so written."""
    ordered = sorted(terms, key=len, reverse=True)
    either = [re.escape(term) if term != term.lower() else f"(?i:{re.escape(term)})" for term in ordered]
    return rf"(?<![\w-])({'|'.join(either)})(?=s?(?![\w-]))"


def term_of(written: str, terms: tuple[str, ...]) -> str:
    return written if written in terms else written.lower()


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
    app.connect("doctree-resolved", link_first_uses)
    app.connect("html-page-context", finish_page, priority=900)  # after the theme's own
    return {"parallel_read_safe": True, "parallel_write_safe": True}
