"""Text on disk, ready to train on: where it comes from, how it is encoded, how it is read back.

A prepared corpus is a folder with ``train.bin`` and ``val.bin`` (uint16, one symbol a character,
see ``lib.text``) and ``meta.json``. It is made from one of three sources:

* ``builtin``  the story generator of ``lib.stories``: always there, nothing to fetch;
* ``dir``      a folder of text or parquet files, named by TINYSTORIES_DIR or WIKITEXT_DIR;
* ``hub``      the data sets roneneldan/TinyStories and Salesforce/wikitext, only when asked for.

``auto`` takes the folder when its variable is set, else ``builtin``; it never uses the network.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import lzma
import os
import re
import shutil
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Iterable, Iterator

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from lib import ROOT, stories, text
from lib.errors import BookError
from lib.files import atomic_write, read_json, write_json

DATA = ROOT / "_build" / "data"
SOURCES = ("auto", "hub", "dir", "builtin")
FORMAT = 1  # of meta.json and the .bin files; a folder of another format is prepared again
CHUNK = 4 << 20  # bytes of text in flight: memory stays flat however long the file
TEXT_SUFFIXES = (".raw", ".txt", ".tokens")  # in order of preference
BUILTIN_SEED = 2026
BUILTIN_STORIES = {"val": 500, "train": 5000}  # validation first, so that more training moves nothing


@dataclass(frozen=True)
class Collection:
    """A body of text the book knows: its folder variable, hub name and what separates its rows."""

    name: str
    variable: str
    hub: tuple[str, ...]
    row_end: str  # put after each row of a parquet file or hub data set
    needs_train: bool


STORIES = Collection("tinystories", "TINYSTORIES_DIR", ("roneneldan/TinyStories",), text.END_MARK, True)
# In wikitext's rows a blank line is an empty string; in the file it is a blank and a newline.
WIKITEXT = Collection("wikitext2", "WIKITEXT_DIR", ("Salesforce/wikitext", "wikitext-2-raw-v1"), "", False)


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus. ``train`` and ``val`` are read-only memory maps, uint16 (N,)."""

    folder: Path
    meta: dict[str, Any]

    @property
    def name(self) -> str:
        """``builtin``, ``tinystories`` or ``wikitext2``."""
        return self.meta["corpus"]

    @property
    def source(self) -> str:
        """Where the text came from: ``builtin``, ``dir`` or ``hub``."""
        return self.meta["source"]

    @property
    def train(self) -> np.ndarray:
        return self._split("train")

    @property
    def val(self) -> np.ndarray:
        return self._split("val")

    def _split(self, name: str) -> np.ndarray:
        if name not in self.meta["splits"]:
            raise BookError(f"the corpus {self.folder} has no {name} text; prepare it from a source that has")
        return np.memmap(self.folder / f"{name}.bin", dtype=np.uint16, mode="r")

    def describe(self) -> str:
        """One sentence for a page: which text this is, where it came from, how long it is."""
        sizes = ", ".join(f"{s['characters']:,} characters of {name}" for name, s in self.meta["splits"].items())
        origin = {"builtin": "the built-in story generator", "dir": "a local folder", "hub": "the hub"}[self.source]
        return f"{self.name} from {origin}: {sizes}"


def open_corpus(folder: str | os.PathLike[str]) -> Corpus:
    """Open a prepared folder and check it against its ``meta.json``, whole files included.

    Raises BookError when it is missing, of another alphabet, or when a ``.bin`` is truncated or foreign.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BookError(f"the data folder {folder} does not exist; prepare it with `python data/prepare.py`")
    meta = read_json(folder / "meta.json", "the corpus description")
    if not isinstance(meta, dict) or meta.get("format") != FORMAT or not {"splits", "origin"} <= meta.keys():
        raise BookError(
            f"{folder / 'meta.json'} is not a corpus description of format {FORMAT}; prepare the data again"
        )
    if meta.get("alphabet") != text.ALPHABET:
        raise BookError(f"{folder / 'meta.json'} was made with another alphabet; prepare the data again")
    for name, split in meta["splits"].items():
        if not {"characters", "stories", "sha256"} <= split.keys():
            raise BookError(f"{folder / 'meta.json'} says too little of {name}.bin; prepare the data again")
        _check_split(folder / f"{name}.bin", split)
    return Corpus(folder, meta)


def _check_split(path: Path, split: dict[str, Any]) -> None:
    if not path.is_file():
        raise BookError(f"{path} is missing; prepare the data again")
    expected = 2 * split["characters"]
    if path.stat().st_size != expected:
        raise BookError(
            f"{path} has {path.stat().st_size} bytes where meta.json promises {expected}: "
            "it is truncated or of another corpus; prepare the data again"
        )
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != split["sha256"]:
            raise BookError(f"{path} does not match the checksum in meta.json; prepare the data again")


# ---- Choosing a source. ----


def load_stories(source: str = "auto") -> Corpus:
    """Return the corpus the book trains on, TinyStories or built-in, preparing it when needed."""
    return _load(STORIES, _resolve(STORIES, source) or "builtin")


def load_builtin() -> Corpus:
    """Return the built-in corpus, which every machine has."""
    return _load(STORIES, "builtin")


def load_wikitext(source: str = "auto") -> Corpus | None:
    """Return WikiText-2, or None where neither its folder nor the hub was asked for."""
    resolved = _resolve(WIKITEXT, source)
    return _load(WIKITEXT, resolved) if resolved else None


def load_all(source: str = "auto") -> dict[str, Corpus]:
    """Return every corpus at hand by its name: the book's stories first, the built-in ones, WikiText-2."""
    corpora = (load_stories(source), load_builtin(), load_wikitext(source))
    return {corpus.name: corpus for corpus in corpora if corpus}


def _resolve(collection: Collection, source: str) -> str | None:
    """Turn ``auto`` into ``dir`` or None, and check that ``dir`` has its variable."""
    if source not in SOURCES:
        raise BookError(f"the source {source!r} is unknown; choose one of {', '.join(SOURCES)}")
    given = bool(os.environ.get(collection.variable))
    if source == "auto":
        return "dir" if given else None
    if source == "dir" and not given:
        if collection.needs_train:
            raise BookError(f"the source is 'dir' but {collection.variable} is not set; set it to a folder of text")
        return None
    if source == "builtin" and collection is WIKITEXT:
        return None
    return source


def _load(collection: Collection, source: str) -> Corpus:
    """Open the prepared corpus if it was made from the same input, else prepare it."""
    name = "builtin" if source == "builtin" else collection.name
    folder = DATA / (name if source == "builtin" else f"{name}-{source}")
    origin = _origin(collection, source)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # of several processes one prepares
        try:
            corpus = open_corpus(folder)
            if corpus.meta["origin"] == origin:
                return corpus
        except BookError:
            pass  # never prepared, or damaged: both are mended by preparing it
        return _prepare(folder, collection, name, source, origin)


def _origin(collection: Collection, source: str) -> dict[str, Any]:
    """Describe the input well enough to notice when it changes, without naming local paths."""
    if source == "builtin":
        return {"generator": stories.VERSION, "seed": BUILTIN_SEED, "stories": BUILTIN_STORIES}
    if source == "hub":
        return {"hub": list(collection.hub)}
    files = [path for split in _split_files(collection).values() for path in split]
    return {"files": [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]}


# ---- Streams of UTF-8 text, one per source. ----


def _split_files(collection: Collection) -> dict[str, list[Path]]:
    """Sort a folder's files into validation ('sample' or 'valid' in the name), training, or neither."""
    folder = Path(os.environ[collection.variable])
    if not folder.is_dir():
        raise BookError(f"{collection.variable} names {folder}, which is not a folder; correct the variable")
    splits: dict[str, list[Path]] = {"train": [], "val": []}
    chosen: set[str] = set()
    for path, stem, _ in sorted(_text_files(folder), key=lambda item: (item[1], item[2])):
        if stem in chosen or re.search(r"(?<![a-z])test(?![a-z])", stem.lower()):
            continue  # wiki.valid.raw and wiki.valid.tokens are one text; a test set stays unseen
        chosen.add(stem)
        held_out = "sample" in stem.lower() or "valid" in stem.lower()
        splits["val" if held_out else "train"].append(path)
    required = ("train", "val") if collection.needs_train else ("val",)
    for name in required:
        if not splits[name]:
            rule = "with 'sample' or 'valid' in its name" if name == "val" else "besides the validation files"
            raise BookError(
                f"{folder} holds no {name} text: add a .txt, .raw, .tokens (plain, .xz or .gz) or .parquet file {rule}"
            )
    return {name: paths for name, paths in splits.items() if paths}


def _text_files(folder: Path) -> Iterator[tuple[Path, str, int]]:
    """Yield each text or parquet file with its stem and its suffix's place in the order of preference."""
    for path in folder.iterdir():
        bare = path.with_suffix("") if path.suffix in (".xz", ".gz") else path
        if bare.suffix in TEXT_SUFFIXES:
            yield path, bare.stem, TEXT_SUFFIXES.index(bare.suffix)
        elif path.suffix == ".parquet":
            yield path, path.stem, len(TEXT_SUFFIXES)


def _read_file(path: Path, row_end: str) -> Iterator[bytes]:
    """Yield a file's text in chunks; BookError if it cannot be read to its end."""
    if path.suffix == ".parquet":
        yield from _read_parquet(path, row_end)
        return
    opener = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    try:
        with opener(path, "rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise BookError(f"{path} cannot be read ({error}); replace it with a whole copy") from None


def _read_parquet(path: Path, row_end: str) -> Iterator[bytes]:
    import pyarrow.parquet as parquet  # only readers with parquet files pay for the import

    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024, columns=["text"]):
            yield _join_rows(batch.column("text").to_pylist(), row_end)
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's own errors derive from these
        raise BookError(f"{path} is not a parquet file with a 'text' column ({error}); replace it") from None


def _join_rows(rows: Iterable[str], row_end: str) -> bytes:
    return "".join((row if row or row_end else " \n") + row_end for row in rows).encode()


def _dir_stream(paths: list[Path], row_end: str) -> Iterator[bytes]:
    mark, chunk = text.END_MARK.encode(), b""
    for index, path in enumerate(paths):
        if index and not chunk.rstrip().endswith(mark):
            yield mark  # one file's last story is not the next one's beginning
        for chunk in _read_file(path, row_end):
            yield chunk


def _hub_stream(collection: Collection, split: str) -> Iterator[bytes]:
    import datasets  # imported here: slow, and only the hub needs it

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; the sentence below says it all
    try:
        rows = datasets.load_dataset(*collection.hub, split={"train": "train", "val": "validation"}[split])
    except Exception as error:  # the hub's client raises dozens of types for "not reachable"
        raise BookError(
            f"the hub did not deliver {collection.hub[0]} ({type(error).__name__}); check the network, "
            f"or use --source builtin, or --source dir with {collection.variable} set"
        ) from None
    for batch in rows.iter(batch_size=1024):
        yield _join_rows(batch["text"], collection.row_end)


def _builtin_stream(split: str) -> Iterator[bytes]:
    first = 0 if split == "val" else BUILTIN_STORIES["val"]
    for story in stories.stories(BUILTIN_SEED, BUILTIN_STORIES[split], first):
        yield (story + text.END_MARK).encode()


# ---- Encoding. ----


def _prepare(folder: Path, collection: Collection, name: str, source: str, origin: dict[str, Any]) -> Corpus:
    """Encode every split into a staging folder that takes ``folder``'s place only when it is whole."""
    if source == "dir":
        streams = {s: _dir_stream(p, collection.row_end) for s, p in _split_files(collection).items()}
    elif source == "hub":
        wanted = ("train", "val") if collection.needs_train else ("val",)
        streams = {split: _hub_stream(collection, split) for split in wanted}
    else:
        streams = {split: _builtin_stream(split) for split in BUILTIN_STORIES}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        staging = Path(scratch) / folder.name
        splits = {split: encode_stream(stream, staging / f"{split}.bin") for split, stream in streams.items()}
        meta = {"format": FORMAT, "corpus": name, "source": source, "alphabet": text.ALPHABET}
        write_json(staging / "meta.json", meta | {"origin": origin, "splits": splits})
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    return open_corpus(folder)


def encode_stream(chunks: Iterable[bytes], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Encode UTF-8 text to a ``.bin`` file and return its counts.

    The counts: ``characters`` written; ``stories`` ended by a mark; ``outside`` characters that were
    not in the alphabet, and ``outside_share`` of all; ``bytes`` read; ``mb_per_s``; ``sha256``.
    BookError if the text is empty.
    """
    counts = {"characters": 0, "stories": 0, "outside": 0, "bytes": 0}
    digest, start = hashlib.sha256(), time.perf_counter()
    with atomic_write(path) as file, tqdm(unit="B", unit_scale=True, desc=Path(path).name, leave=False) as bar:
        for piece in _whole_marks(chunks):
            _encode_piece(piece, file, digest, counts)
            bar.update(len(piece))
        if not counts["characters"]:
            raise BookError(f"the text for {path} is empty; give a source that holds some")
    seconds = time.perf_counter() - start
    return counts | {
        "outside_share": counts["outside"] / counts["characters"],
        "mb_per_s": round(counts["bytes"] / 1e6 / seconds, 1),
        "sha256": digest.hexdigest(),
    }


def _encode_piece(piece: bytes, file: BinaryIO, digest: Any, counts: dict[str, int]) -> None:
    mark = text.END_MARK.encode()
    marks = piece.count(mark)
    counts["bytes"] += len(piece)
    piece = piece.replace(b"\r\n", b"\n")
    piece = piece.replace(b"\n" + mark + b"\n", mark).replace(mark, b"\x00")  # the mark's own line ends go with it
    symbols = text.encode_bytes(piece)
    counts["characters"] += len(symbols)
    counts["stories"] += marks
    counts["outside"] += int(np.count_nonzero(symbols == text.END)) - marks
    data = symbols.tobytes()
    digest.update(data)
    file.write(data)


def _whole_marks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Regroup chunks so that each piece ends at a blank: no end mark, nor a line end, is cut in two.

    Small chunks are gathered first, since NumPy pays off on long arrays only.
    """
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= CHUNK:
            data = b"".join(held)
            cut = data.rfind(b" ") + 1  # end marks hold no blank
            if cut:
                yield data[:cut]
            held, size = [data[cut:]], len(data) - cut
    if size:
        yield b"".join(held)
