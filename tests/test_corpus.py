"""Whatever form the text comes in, the same symbols reach the disk, or one sentence says why not."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib import ROOT, corpus, text
from lib.corpus import encode_stream, load_stories, load_wikitext, open_corpus
from lib.errors import BookError
from lib.text import ALPHABET, END, END_MARK, decode, encode

TALES = ["Tom had a café.\nHe smiled.", 'Ann said, "Hi!"', "\nOne day — 中文 😀 — it ended."]
SYMBOLS = np.concatenate([np.append(encode(tale), END) for tale in TALES])
OUTSIDE = 1 + 5  # é, and in the last tale two dashes, two ideographs and a face


@pytest.fixture(autouse=True)
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep prepared corpora apart from the book's own, and forget the variables of the machine."""
    for collection in (corpus.STORIES, corpus.WIKITEXT):
        monkeypatch.delenv(collection.variable, raising=False)
    monkeypatch.setattr(corpus, "DATA", tmp_path / "prepared")
    monkeypatch.setitem(corpus.BUILTIN_STORIES, "val", 5)
    monkeypatch.setitem(corpus.BUILTIN_STORIES, "train", 20)
    return corpus.DATA


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that both variables name."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for collection in (corpus.STORIES, corpus.WIKITEXT):
        monkeypatch.setenv(collection.variable, str(folder))
    return folder


def write(path: Path, content: str) -> None:
    """Write a text in the form its suffix asks for: plain, .xz or .gz."""
    opener: Callable = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    with opener(path, "wb") as file:
        file.write(content.encode())


def write_rows(path: Path, rows: list[Any], column: str = "text") -> None:
    pyarrow.parquet.write_table(pyarrow.table({column: rows}), path, row_group_size=2)


def write_tales(folder: Path, suffix: str) -> None:
    """Write all tales for training and the first for validation, with the marks on lines of their own."""
    for name, tales in (("a.train", TALES), ("a.valid", TALES[:1])):
        if suffix == ".parquet":
            write_rows(folder / f"{name}.parquet", tales)
        else:
            write(folder / f"{name}{suffix}", "".join(f"{tale}\n{END_MARK}\n" for tale in tales))


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file of a folder but its locks, with what changes when it is written again."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in files}


# ---- Encoding. ----

PIECES = [END_MARK, f"\n{END_MARK}\n", "<|endof", "text|>", "\n", "\r\n", "\r", " ", "a", "é", "中", "😀", "\x00"]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=40).map("".join), st.data(), st.integers(1, 50))
@example(f"a\r\n{END_MARK}\r\n b\n{END_MARK}\n{END_MARK}\n", None, 1)
def test_symbols_do_not_depend_on_how_the_stream_is_cut(
    tmp_path_factory: pytest.TempPathFactory, content: str, data: st.DataObject | None, chunk: int
) -> None:
    raw = content.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw))))) if data else range(len(raw))
    chunks = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)])]
    path = tmp_path_factory.getbasetemp() / "cut.bin"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "CHUNK", chunk)
        counts = encode_stream(chunks, path)
    normal = content.replace("\r\n", "\n").replace(f"\n{END_MARK}\n", END_MARK)
    assert np.fromfile(path, np.uint16).tolist() == encode(normal).tolist()
    assert counts["characters"] == len(encode(normal))
    assert counts["bytes"] == len(raw)
    assert counts["stories"] == normal.count(END_MARK)
    assert counts["outside"] == sum(character not in ALPHABET for character in normal)
    assert counts["outside_share"] == counts["outside"] / counts["characters"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to read the peak memory")
def test_a_long_file_is_encoded_in_flat_memory(folder: Path, prepared: Path) -> None:
    """256 MB are encoded in less than 500 MB, the interpreter and NumPy included."""
    tale = (f"Tom had a café. He smiled.\n{END_MARK}\n" * 10_000).encode()
    with (folder / "valid.txt").open("wb") as file:
        for _ in range(256_000_000 // len(tale)):
            file.write(tale)
    # VmHWM is this process's own peak; getrusage would begin at the peak of the process that started it.
    script = (
        "import sys; from pathlib import Path; from lib import corpus\n"
        "corpus.DATA = Path(sys.argv[1])\n"
        "print(corpus.load_wikitext('dir').meta['splits']['val']['bytes'])\n"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    try:
        done = subprocess.run([sys.executable, "-c", script, prepared], capture_output=True, text=True)
        encoded, peak_kb = map(int, done.stdout.split())
        assert encoded == 256_000_000 // len(tale) * len(tale)
        assert peak_kb < 500_000
    finally:
        for path in (folder, prepared):
            shutil.rmtree(path)


# ---- Folders of text. ----


@pytest.mark.parametrize("suffix", [".txt", ".raw", ".tokens", ".txt.xz", ".raw.gz", ".parquet"])
def test_every_form_gives_the_same_symbols(folder: Path, suffix: str) -> None:
    write_tales(folder, suffix)
    found = load_stories()
    assert (found.name, found.source) == ("tinystories", "dir")
    assert found.train.tolist() == SYMBOLS.tolist()
    assert found.val.tolist() == SYMBOLS[: len(TALES[0]) + 1].tolist()
    split = found.meta["splits"]["train"]
    assert (split["characters"], split["stories"], split["outside"]) == (len(SYMBOLS), 3, OUTSIDE)
    assert f"{len(SYMBOLS)} characters of train" in found.describe()


def test_windows_line_ends_change_nothing(folder: Path) -> None:
    write_tales(folder, ".txt")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_stories().train.tolist() == SYMBOLS.tolist()


def test_names_sort_files_into_splits(folder: Path) -> None:
    """'sample' and 'valid' are held out, 'test' is left alone, and files meet in the order of their names."""
    names = ("1.txt", "2.raw.gz", "3.parquet", "My-Sample.txt", "z-valid.txt", "a-test.txt", "notes.md")
    for name in names:
        path = folder / name
        write_rows(path, [name]) if path.suffix == ".parquet" else write(path, name)
    found = load_stories("dir")
    assert decode(found.train) == f"1.txt{END_MARK}2.raw.gz{END_MARK}3.parquet{END_MARK}"
    assert decode(found.val) == f"My-Sample.txt{END_MARK}z-valid.txt"


def test_wikitext_prefers_raw_and_reads_rows_as_the_file(folder: Path) -> None:
    rows = ["", " = Café = \n", "", " It opened in 1901 . \n"]
    file = " \n = Café = \n \n It opened in 1901 . \n"
    for name, content in (("valid.tokens", " = <unk> = \n"), ("valid.raw", file), ("test.raw", "unseen")):
        write(folder / f"wiki.{name}", content)
    from_file = load_wikitext()
    assert from_file.val.tolist() == encode(file).tolist()
    assert list(from_file.meta["splits"]) == ["val"]
    with pytest.raises(BookError, match="has no train text"):
        from_file.train
    shutil.rmtree(folder)
    folder.mkdir()
    write_rows(folder / "validation-00000-of-00001.parquet", rows)
    assert load_wikitext().val.tolist() == encode(file).tolist()


def test_a_corpus_is_kept_until_its_input_changes(folder: Path, prepared: Path) -> None:
    write_tales(folder, ".txt")
    first = load_stories()
    before = snapshot(prepared)
    assert load_stories().meta == first.meta
    assert snapshot(prepared) == before

    text_file = folder / "a.train.txt"
    text_file.write_text(text_file.read_text().replace("Tom", "Tim"))  # of the same length
    assert decode(load_stories().train).startswith("Tim had")


def test_a_damaged_corpus_is_mended(folder: Path, prepared: Path) -> None:
    write_tales(folder, ".txt")
    path = load_stories().folder / "train.bin"
    path.write_bytes(path.read_bytes()[:-2])
    assert load_stories().train.tolist() == SYMBOLS.tolist()


# ---- The choice of a source. ----


def test_without_variables_auto_is_builtin_and_never_the_hub(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it would raise
    found = load_stories("auto")
    assert (found.name, found.source) == ("builtin", "builtin")
    assert [load_wikitext(source) for source in ("auto", "builtin", "dir")] == [None, None, None]
    before = snapshot(prepared)
    assert corpus.load_builtin().meta == found.meta
    assert snapshot(prepared) == before


def test_with_the_variable_auto_is_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    write_tales(folder, ".txt")
    assert load_stories("auto").source == "dir"
    assert load_wikitext("auto").source == "dir"
    assert load_stories("builtin").source == "builtin"


def test_builtin_validation_is_unseen_and_stays_when_training_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = load_stories("builtin")
    train, val = (decode(split).split(END_MARK) for split in (found.train, found.val))
    assert (len(train), len(val)) == (21, 6)  # an END after each of 20 and 5
    assert set(train) & set(val) == {""}
    assert min(len(story) for story in train[:-1]) > 100
    monkeypatch.setitem(corpus.BUILTIN_STORIES, "train", 30)
    grown = load_stories("builtin")
    assert decode(grown.val).split(END_MARK) == val
    assert decode(grown.train).split(END_MARK)[:20] == train[:20]


def test_the_hub_gives_the_same_symbols_as_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    splits = {"train": TALES, "validation": TALES[:1]}
    asked = []

    def load_dataset(*name: str, split: str) -> datasets.Dataset:
        asked.append((*name, split))
        return datasets.Dataset.from_dict({"text": splits[split]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_stories("hub").train.tolist() == SYMBOLS.tolist()
    assert load_wikitext("hub").val.tolist() == encode(TALES[0]).tolist()
    assert load_stories("hub").source == "hub"  # already prepared: nothing is asked again
    assert asked == [
        ("roneneldan/TinyStories", "train"),
        ("roneneldan/TinyStories", "validation"),
        ("Salesforce/wikitext", "wikitext-2-raw-v1", "validation"),
    ]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_hub_out_of_reach_is_told_and_leaves_the_disk_alone(
    folder: Path, prepared: Path, tmp_path: Path, earlier: bool
) -> None:
    """The sentence names the other sources; an older corpus stays, and no half of a new one."""
    if earlier:
        write_tales(folder, ".txt")
        load_stories().folder.rename(prepared / "tinystories-hub")
    before = snapshot(prepared)
    script = (
        "import sys; from pathlib import Path; from lib import corpus, errors\n"
        "corpus.DATA = Path(sys.argv[1])\n"
        "errors.run_command(lambda: corpus.load_stories('hub'))"
    )
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "huggingface")}
    done = subprocess.run([sys.executable, "-c", script, prepared], capture_output=True, text=True, env=offline)
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: the hub did not deliver roneneldan/TinyStories \(\w+\); "
        "check the network, or use --source builtin, or --source dir with TINYSTORIES_DIR set",
        done.stderr.splitlines()[-1],
    )
    assert snapshot(prepared) == before
    assert [path.name for path in prepared.glob("*") if path.is_dir()] == ["tinystories-hub"] * earlier


# ---- Bad input. ----


def test_a_source_that_is_unknown_or_not_set_is_told() -> None:
    with pytest.raises(BookError, match="'ftp' is unknown; choose one of auto, hub, dir, builtin"):
        load_stories("ftp")
    with pytest.raises(BookError, match="TINYSTORIES_DIR is not set"):
        load_stories("dir")


def test_prepare_ends_with_one_line_when_its_variable_is_not_set() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "data" / "prepare.py", "--source", "dir"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"error: .*TINYSTORIES_DIR is not set; .*\n", done.stderr)


def broken_gzip(content: bytes) -> bytes:
    """Spoil the compressed bytes, not the length."""
    whole = bytearray(gzip.compress(content))
    whole[20:40] = b"\xff" * 20
    return bytes(whole)


NUMBERS = b"".join(b"%d " % number for number in range(9999))

BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: shutil.rmtree(f), "TINYSTORIES_DIR names .*, which is not a folder"),
    "a file": (lambda f: (shutil.rmtree(f), f.write_text("a")), "which is not a folder"),
    "empty": (lambda f: [path.unlink() for path in f.iterdir()], "holds no train text"),
    "only training": (lambda f: (f / "a.valid.txt").unlink(), "holds no val text: .* with 'sample' or 'valid'"),
    "only validation": (lambda f: (f / "a.train.txt").unlink(), "holds no train text"),
    "empty text": (lambda f: (f / "a.train.txt").write_text(""), "is empty"),
    "truncated xz": (lambda f: (f / "b.txt.xz").write_bytes(lzma.compress(NUMBERS)[:-50]), "b.txt.xz cannot be read"),
    "no xz": (lambda f: (f / "b.txt.xz").write_bytes(NUMBERS), "b.txt.xz cannot be read"),
    "truncated gz": (lambda f: (f / "b.txt.gz").write_bytes(gzip.compress(NUMBERS)[:-50]), "b.txt.gz cannot be read"),
    "broken gz": (lambda f: (f / "b.txt.gz").write_bytes(broken_gzip(NUMBERS)), "b.txt.gz cannot be read"),
    "no parquet": (lambda f: (f / "b.parquet").write_bytes(NUMBERS), "b.parquet is not a parquet file"),
    "other column": (lambda f: write_rows(f / "b.parquet", ["a"], "story"), "parquet file with a 'text' column"),
    "numbers": (lambda f: write_rows(f / "b.parquet", [1, 2]), "parquet file with a 'text' column"),
}


@pytest.mark.parametrize("spoil, complaint", BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_a_bad_folder_is_told_and_leaves_the_disk_alone(
    folder: Path, prepared: Path, spoil: Callable[[Path], object], complaint: str
) -> None:
    """One sentence, no half-written corpus, and the one of an earlier, better folder is still there."""
    write_tales(folder, ".txt")
    load_stories()
    before = snapshot(prepared)
    spoil(folder)
    with pytest.raises(BookError, match=complaint) as told:
        load_stories()
    assert "\n" not in str(told.value)
    assert snapshot(prepared) == before
    assert [path.name for path in prepared.iterdir() if path.is_dir()] == ["tinystories-dir"]


def change_meta(folder: Path, **changes: Any) -> None:
    meta = json.loads((folder / "meta.json").read_text()) | changes
    (folder / "meta.json").write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))


def flip(path: Path) -> None:
    """Change one character, and keep the size."""
    raw = bytearray(path.read_bytes())
    raw[0] ^= 1
    path.write_bytes(raw)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda f: shutil.rmtree(f), "does not exist; prepare it"),
    "no meta": (lambda f: (f / "meta.json").unlink(), "meta.json does not exist"),
    "meta no json": (lambda f: (f / "meta.json").write_text("{"), "meta.json is not valid JSON"),
    "meta a list": (lambda f: (f / "meta.json").write_text("[]"), "not a corpus description of format 1"),
    "other format": (lambda f: change_meta(f, format=2), "not a corpus description of format 1"),
    "other alphabet": (lambda f: change_meta(f, alphabet=text.ALPHABET[::-1]), "made with another alphabet"),
    "no splits": (lambda f: change_meta(f, splits=None), "not a corpus description"),
    "no bin": (lambda f: (f / "val.bin").unlink(), "val.bin is missing"),
    "truncated": (lambda f: os.truncate(f / "train.bin", 10), f"train.bin has 10 bytes where .* {2 * len(SYMBOLS)}"),
    "foreign": (lambda f: flip(f / "val.bin"), "val.bin does not match the checksum"),
}


@pytest.mark.parametrize("damage, complaint", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_corpus_is_not_opened(folder: Path, damage: Callable[[Path], object], complaint: str) -> None:
    write_tales(folder, ".txt")
    found = load_stories().folder
    damage(found)
    with pytest.raises(BookError, match=complaint) as told:
        open_corpus(found)
    assert "\n" not in str(told.value)
