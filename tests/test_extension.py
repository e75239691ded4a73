"""What is put into pages while they are rendered, and that the glossary defines what chapters use."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from types import SimpleNamespace

import pytest
from docutils import nodes
from docutils.frontend import get_default_settings
from docutils.utils import new_document

from lib import ROOT, extension

# Names that need no entry: firms, units, libraries, data sets, numerals.
NAMES = {
    "AMD", "CPU", "GPU", "GB", "MB", "MHz", "RAM", "NumPy", "PyTorch", "TinyStories", "WikiText", "IV",
    "AI", "EQ", "KV", "ViT", "UltraScale",
}  # fmt: skip


def test_what_three_chapters_abbreviate_the_glossary_defines() -> None:
    used = defaultdict(set)
    for path in (ROOT / "chapters").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        text = " ".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        for word in re.findall(r"\b[A-Z][A-Za-z0-9]*[A-Z][A-Za-z0-9]*\b", re.sub(r"`[^`]*`|\$[^$]*\$", "", text)):
            used[word if word in NAMES else word.removesuffix("s")].add(path.stem)
    glossary = (ROOT / "chapters" / "glossary.md").read_text()
    defined = set(re.findall(r"^(\S.*)$", glossary, re.MULTILINE))
    assert sorted(w for w, chapters in used.items() if len(chapters) > 2 and w not in defined | NAMES) == []


def paragraph(*children: nodes.Node) -> nodes.paragraph:
    return nodes.paragraph("", "", *children)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(extension, "runs", lambda: {"chapters/01_model": None})
    objects = {("term", term): ("chapters/glossary", f"term-{term}") for term in ("MAC", "logit", "KV cache", "block")}
    domain = SimpleNamespace(objects=objects | {("label", "fault"): ("x", "y")})
    builder = SimpleNamespace(get_relative_uri=lambda start, to: "glossary.html")
    return SimpleNamespace(env=SimpleNamespace(get_domain=lambda name: domain), builder=builder)


def test_a_term_is_linked_where_prose_first_uses_it(app: SimpleNamespace) -> None:
    tree = new_document("", get_default_settings())
    tree += nodes.title("", "Logits and MACs")
    block, logits = nodes.Text(" A block of MACs, mac; "), nodes.Text("logits of the KV cache. ")
    tree += paragraph(nodes.literal("", "logit"), block, logits)
    tree += paragraph(nodes.Text("A logit and a MAC again."))
    before = tree.astext()
    extension.link_first_uses(app, tree, "chapters/01_model")
    links = [(link.astext(), link["refuri"], link.parent.astext()[:9]) for link in tree.findall(nodes.reference)]
    assert [link[:2] for link in links] == [
        ("MAC", "glossary.html#term-MAC"),
        ("logit", "glossary.html#term-logit"),
        ("KV cache", "glossary.html#term-KV cache"),
    ]
    assert tree.astext() == before
    other = new_document("", get_default_settings())
    other += paragraph(nodes.Text("A logit."))
    extension.link_first_uses(app, other, "chapters/start")
    assert not list(other.findall(nodes.reference))


def test_a_page_gets_its_head_and_loses_what_screen_readers_stumble_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "runs", lambda: {"chapters/01_model": SimpleNamespace(head="<p>its run</p>")})
    body = '<h1>Title</h1><th class="head"><p></p></th><div role="doc-biblioentry">'
    scripts = [SimpleNamespace(filename=name, attributes={}) for name in ("sphinx-thebe.js", "a.js")]
    context = {"body": body, "script_files": scripts}
    extension.finish_page(None, "chapters/01_model", "page.html", context, None)
    assert context["body"] == '<h1>Title</h1>\n<p>its run</p><td></td><div role="listitem">'
    assert context["script_files"] == scripts[1:]
