"""The book's alphabet: 97 symbols, fixed, so that every model and every table in hardware agrees.

Symbol 0 is the newline, 1 to 95 are the printable ASCII characters in their order, and 96 stands
both for the end of a story and for any character outside the alphabet. The report builds its
vocabulary from the training text; its 65 symbols are Tiny Shakespeare's, and such a vocabulary
would change with every sample of TinyStories.
"""

from __future__ import annotations

from typing import Iterable

import numpy as np

from lib.errors import BookError

ALPHABET = "\n" + "".join(chr(code) for code in range(32, 127))  # 96 characters
END = len(ALPHABET)  # 96: end of text, or unknown
SIZE = END + 1  # 97
END_MARK = "<|endoftext|>"  # how TinyStories files separate stories

# One table look-up turns UTF-8 bytes into symbols. A character outside ASCII becomes one END for
# its leading byte, and its continuation bytes (10xxxxxx) are dropped by ``encode_bytes``.
_FROM_BYTE = np.full(256, END, dtype=np.uint16)
_FROM_BYTE[[ord(character) for character in ALPHABET]] = np.arange(END)


def encode_bytes(data: bytes) -> np.ndarray:
    """Map UTF-8 text to symbols, uint16 (N,); characters outside the alphabet become END."""
    raw = np.frombuffer(data, dtype=np.uint8)
    if not data.isascii():
        raw = raw[(raw & 0xC0) != 0x80]
    return _FROM_BYTE[raw]


def encode(text: str) -> np.ndarray:
    """Map text to symbols, uint16 (N,); ``<|endoftext|>`` becomes END, as does any stranger."""
    return encode_bytes(text.replace(END_MARK, "\x00").encode())


def encode_prompt(text: str) -> list[int]:
    """Map a reader's prompt to symbols; BookError if it is empty or holds a stranger (says which)."""
    if not text:
        raise BookError("the prompt is empty; give at least one character")
    strangers = sorted(set(text) - set(ALPHABET))
    if strangers:
        named = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in strangers)
        raise BookError(f"the prompt holds {named}, outside the alphabet of newline and printable ASCII; replace it")
    return encode(text).tolist()


def decode(symbols: Iterable[int]) -> str:
    """Map symbols back to text; END becomes ``<|endoftext|>``."""
    return "".join(ALPHABET[symbol] if symbol != END else END_MARK for symbol in symbols)
