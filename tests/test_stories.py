"""The built-in stories are the same for everyone, all different, in plain letters and in order."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from string import Formatter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import stories
from lib.errors import BookError
from lib.stories import BEASTS, CHILDREN, FOLKS, FRAME, PHRASES, PLOTS, SEASONS, VERSION, story
from lib.text import ALPHABET

SAMPLE = list(stories.stories(seed=5, count=2000))
OPENING = re.compile(r"[^\n]*")
SENTENCE = re.compile(r"[^.!?\n]{20,}[.!?]")
NUMBERS = st.integers(0, 2**70)


def test_a_story_depends_on_nothing_but_its_two_numbers() -> None:
    """If the hash has changed on purpose, raise VERSION: data made of older stories is stale."""
    text = "\n\n".join(stories.stories(0, 100))
    assert (VERSION, hashlib.sha256(text.encode()).hexdigest()[:16]) == (1, "ef876087f4635cda")


@given(NUMBERS, NUMBERS)
def test_a_story_is_six_or_seven_paragraphs_of_plain_text(seed: int, index: int) -> None:
    text = story(seed, index)
    assert text == story(seed, index)
    assert set(text) <= set(ALPHABET)
    paragraphs = text.split("\n")
    assert len(paragraphs) in (6, 7)
    assert all(p == p.strip() and p[-1] in '.!?"' for p in paragraphs)
    assert 700 <= len(text) <= 1500


@given(NUMBERS, NUMBERS, st.integers(0, 5), st.integers(0, 5))
def test_stories_can_be_told_in_parts(seed: int, first: int, some: int, more: int) -> None:
    parts = [*stories.stories(seed, some, first), *stories.stories(seed, more, first + some)]
    assert parts == list(stories.stories(seed, some + more, first))


def test_all_stories_and_most_of_their_sentences_differ() -> None:
    count = 5000
    texts = list(stories.stories(0, count))
    assert len(set(texts)) == count
    assert set(texts).isdisjoint(stories.stories(1, count))
    sentences = Counter(sentence for text in texts for sentence in SENTENCE.findall(text))
    assert len(sentences) > 30_000
    assert sentences.most_common(1)[0][1] < count / 20
    assert all(max(Counter(SENTENCE.findall(text)).values()) == 1 for text in texts)


def test_the_words_are_those_of_a_small_child() -> None:
    words = {word for text in SAMPLE for word in re.findall(r"\b[a-z]+\b", text)}  # so without the names
    assert 1300 < len(words) < 1450
    assert max(map(len, words)) <= 11


SLIPS = {
    "an unfilled slot": r"[{}\[\]|]",
    "two spaces": r"  ",
    "a owl": r"\b[Aa] [aeiouAEIOU]",
    "an bear": r"\b[Aa]n [^aeiouAEIOU]",
    "the the": r"\b(\w+) \1\b",
    "two stops": r"[ .,!?][.,!?]",
    "a small letter at the start": r'^"?[a-z]|[.!?] [a-z]|\. "[a-z]',
}


@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS.keys())
def test_the_grammar_does_not_slip(slip: str) -> None:
    found = [match[0] for text in SAMPLE for match in re.finditer(slip, text, re.MULTILINE)]
    assert found == []


def test_the_hero_goes_through_the_whole_story() -> None:
    """The name that comes first is in four paragraphs or more, and a boy is never called she."""
    pronoun = {name: he for folk in FOLKS for he, names in folk.names.items() for name in names}
    for text in SAMPLE:
        opening = OPENING.match(text)[0]
        hero = next(word for word in re.findall(r"\w+", opening) if word in pronoun)
        assert sum(hero in paragraph for paragraph in text.split("\n")) >= 4
        kinds = set(re.findall(r"\b(?:boy|girl)\b", opening))
        assert kinds <= {*CHILDREN.kinds[pronoun[hero]]}
        wrong = {"he": r"\b[Ss]he\b", "she": r"\b[Hh]e\b"}[pronoun[hero]]
        assert not re.search(wrong, opening)


def test_every_slot_of_every_template_is_a_word_of_its_story() -> None:
    pronouns = {f"{role}{form}" for role in ("", "friend_", "elder_", "helper_") for form in ("he", "him", "his")}
    common = {"hero", "kind", "friend", "friend_kind", *pronouns, *PHRASES}
    for tables in (CHILDREN.page.tables, FRAME.tables, SEASONS["spring"]):
        common |= {slot for rows in tables for slot in rows[0]}
    for plot in PLOTS:
        own = {slot for rows in plot.tables for slot in rows[0]}
        cells = [word for rows in plot.tables for row in rows for word in row.values()]
        templates = [*cells, *(template for ways in (*plot.beats, *FRAME.beats) for template in ways)]
        slots = {slot.lower() for template in templates for _, slot, _, _ in Formatter().parse(template) if slot}
        assert slots - own - common == set()


def test_the_word_lists_keep_their_two_habits() -> None:
    """No name ends in s, and no two beings of a story can share a name or a kind."""
    names = Counter(name for folk in FOLKS for group in folk.names.values() for name in group)
    assert not [name for name, count in names.items() if name.endswith("s") or count > 1]
    helpers = {row["helper_kind"] for rows in FRAME.tables for row in rows if "helper_kind" in row}
    assert len(helpers) == 18 and helpers.isdisjoint(BEASTS)


@pytest.mark.parametrize(("count", "first"), [(-1, 0), (1, -1)])
def test_a_negative_number_is_refused_at_the_call(count: int, first: int) -> None:
    with pytest.raises(BookError, match=f"cannot tell {count} stories from number {first} on"):
        stories.stories(0, count, first)
    with pytest.raises(BookError, match="there is no story -1"):
        story(0, -1)
