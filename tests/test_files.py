"""Files are whole or absent."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lib.errors import BookError
from lib.files import atomic_write, read_json, sha256, write_json


def test_a_block_that_raises_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        with atomic_write(path) as file:
            file.write(b"new")
            raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    script = (
        "import sys, time; from lib.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'new' * 100_000); file.flush(); print('half', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"half\n"
        assert any(other.stat().st_size == 300_000 for other in tmp_path.iterdir())  # it was writing
        writer.kill()
    assert writer.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_written_file_is_whole_ordinary_and_in_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert sha256(path) == hashlib.sha256(b"new").hexdigest()


def test_json_comes_back_and_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    value = {"text": "café\n", "numbers": [1, 0.1, None]}
    write_json(path, value)
    with pytest.raises(ValueError):
        write_json(path, {"bpc": float("nan")})
    assert read_json(path, "the value") == value
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content, complaint",
    [(None, "does not exist"), (b'{"a": 1', "is not valid JSON"), (b"\xff\xfe", "is not valid JSON")],
)
def test_json_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    path = tmp_path / "value.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BookError, match=f"^the card .*value.json {complaint}"):
        read_json(path, "the card")
