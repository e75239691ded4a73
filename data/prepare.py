"""Prepare the book's text: ``python data/prepare.py --source auto|hub|dir|builtin``.

Writes one folder per corpus under ``_build/data`` (train.bin, val.bin, meta.json; see lib.corpus) and
ends with what it made. Nothing is written twice: a corpus made from the same input is kept.
"""

from __future__ import annotations

import argparse

from lib.corpus import DATA, SOURCES, Corpus, load_all
from lib.errors import run_command


def show(corpus: Corpus) -> None:
    print(corpus.describe())
    for name, split in corpus.meta["splits"].items():
        print(
            f"  {name + '.bin':10} {split['stories']:>9,} stories, {split['outside']:,} characters "
            f"outside the alphabet ({split['outside_share']:.3%}), sha256 {split['sha256'][:16]}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Prepare the book's text.")
    parser.add_argument("--source", choices=SOURCES, default="auto", help="where the text comes from (default: auto)")
    for corpus in load_all(parser.parse_args().source).values():
        show(corpus)
    print(f"prepared in {DATA}")


if __name__ == "__main__":
    run_command(main)
