"""The pieces of a partitioned graph as a host finds them: a folder of files, and the manifest that orders them.

``lib.segments`` cuts the graph and writes the folder. This half needs Python's standard library and
``lib.gpt`` alone, since it also runs on the board.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib.errors import BookError
from lib.files import read_json, sha256
from lib.gpt import GPTConfig

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Piece:
    """One segment: its device, its file's stem, and the tensors it takes from and gives to the others.

    points: of the integer tensors among these, the fix point f, the scale being 2^-f.
    """

    device: str
    name: str
    inputs: list[str]
    outputs: list[str]
    points: dict[str, int]


def read(folder: Path, config: GPTConfig | None = None) -> tuple[list[Piece], GPTConfig]:
    """Read a manifest and check every file against it.

    Raises BookError for a folder without one, one of something else, a file that is missing or is not the one that
    was written, or a model of another configuration than ``config``.
    """
    manifest = read_json(folder / MANIFEST, "the manifest")
    try:
        found = GPTConfig(**manifest["config"])
        digests = [entry.pop("sha256") for entry in manifest["pieces"]]
        pieces = [Piece(**entry) for entry in manifest["pieces"]]
    except (AttributeError, KeyError, TypeError):
        raise BookError(f"{folder / MANIFEST} is no manifest of a model's pieces; build {folder} again") from None
    if config is not None and found != config:
        raise BookError(f"{folder} holds a model of another configuration ({found}); expected {config}")
    for piece, digest in zip(pieces, digests):
        path = folder / f"{piece.name}.onnx"
        if not path.is_file() or sha256(path) != digest:
            raise BookError(
                f"{path} is missing, or is not the file that the manifest was written with; build {folder} again"
            )
    return pieces, found
