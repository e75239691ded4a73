"""Files that are either whole or absent, whatever interrupts their writing."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Iterator

from lib.errors import BookError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that appears at ``path`` only once the block has ended without error.

    The bytes go to a temporary file in the same folder, are flushed to the disk and then renamed,
    so a reader, or a run resumed after a crash, sees the old file or the new one, never half of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes private files; these are ordinary ones
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN is refused because JSON has none."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_json_if_changed(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as ``write_json`` does, but leave a file alone that says the same already."""
    try:
        same = read_json(path, "the file") == value
    except BookError:  # absent, or damaged
        same = False
    if not same:
        write_json(path, value)


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """Read a JSON file; ``what`` names it in the BookError raised when it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BookError(f"{what} {path} does not exist; check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise BookError(f"{what} {path} is not valid JSON; make it again") from None


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):  # not file_digest: boards and containers have older Pythons
            digest.update(block)
    return digest.hexdigest()
