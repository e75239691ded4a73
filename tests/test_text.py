"""The alphabet has 97 symbols, and every character of a text becomes one of them."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lib.errors import BookError
from lib.text import ALPHABET, END, END_MARK, SIZE, decode, encode, encode_bytes, encode_prompt


def test_alphabet_is_the_newline_and_printable_ascii() -> None:
    assert (len(ALPHABET), len(set(ALPHABET)), END, SIZE) == (96, 96, 96, 97)
    assert encode("\n ~").tolist() == [0, 1, 95]
    assert encode("A").tolist() == [ord("A") - 31]
    assert encode(f"a{END_MARK}b").tolist() == [66, 96, 67]


@given(st.lists(st.one_of(st.text(ALPHABET), st.just(END_MARK))).map("".join))
def test_text_of_the_alphabet_comes_back(text: str) -> None:
    assert decode(encode(text)) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("a\x00\x7f\t\rñ中😀\u0300z")
def test_every_character_becomes_one_symbol(text: str) -> None:
    """A stranger is one END, whether UTF-8 spends one byte on it or four."""
    assume(END_MARK not in text)
    expected = [ALPHABET.find(character) % SIZE for character in text]  # not found: -1, that is END
    assert encode(text).tolist() == expected
    assert encode_bytes(text.encode()).tolist() == expected


def test_a_prompt_is_encoded_or_its_strangers_are_named() -> None:
    assert encode_prompt("Hi\n") == [41, 74, 0]
    with pytest.raises(BookError, match=r"'\\t' \(U\+0009\), 'é' \(U\+00E9\), '😀' \(U\+1F600\), outside"):
        encode_prompt("é café\t😀")
    with pytest.raises(BookError, match="the prompt is empty"):
        encode_prompt("")
