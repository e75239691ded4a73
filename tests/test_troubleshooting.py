"""The page Troubleshooting quotes as this book's own only messages that the code really has."""

from __future__ import annotations

import ast
import re
from typing import Iterator

from lib import ROOT

OWN = re.split(r"^## Traps", (ROOT / "chapters" / "troubleshooting.md").read_text(), flags=re.MULTILINE)[0]
QUOTED = re.findall(r"^\| `(.+?)` \|", OWN, re.MULTILINE)
VARIES = "…"


def messages() -> Iterator[str]:
    """Yield the message of every BookError in lib, with … for what varies."""
    for path in (ROOT / "lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "BookError":
                yield written(node.args[0])


def written(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value
    parts = node.values if isinstance(node, ast.JoinedStr) else []
    return "".join(part.value if isinstance(part, ast.Constant) else VARIES for part in parts)


def test_every_quoted_message_is_in_the_code() -> None:
    known = set(messages())
    assert len(QUOTED) > 25
    assert [quoted for quoted in QUOTED if quoted not in known] == []
