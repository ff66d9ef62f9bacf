from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.detokenizer import Detokenizer, StopStrings
from support.embedded_text import KNOWN_CHARACTERS, embedded_tokenizer

token_ids = st.lists(st.integers(0, 49151), max_size=40)


def stream(ids, **options):
    detokenizer = Detokenizer(embedded_tokenizer(), **{"skip_special_tokens": True, **options})
    return [*map(detokenizer.feed, ids), detokenizer.finish()]


@given(ids=token_ids, skip=st.booleans())
@settings(deadline=None, max_examples=300)
def test_pieces_of_random_tokens_join_to_the_whole_text(ids, skip):
    whole = embedded_tokenizer().decode(ids, skip_special_tokens=skip)
    assert "".join(stream(ids, skip_special_tokens=skip)) == whole


@given(text=st.text(KNOWN_CHARACTERS, max_size=60))
@settings(deadline=None, max_examples=300)
def test_pieces_of_encoded_text_join_to_that_text_without_replacement_characters(text):
    ids = embedded_tokenizer().encode(text)
    pieces = stream(ids, skip_special_tokens=False)
    assert "".join(pieces) == text
    assert pieces[-1] == ""
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_spread_over_tokens_appears_with_its_last_byte():
    ids = embedded_tokenizer().encode("🌊")
    assert len(ids) > 1
    assert stream(ids) == ["", *[""] * (len(ids) - 2), "🌊", ""]


def test_half_a_character_at_the_end_becomes_one_replacement_character():
    ids = embedded_tokenizer().encode("🌊")[:-1]
    assert "".join(stream(ids)) == "\ufffd"


def test_special_tokens_are_skipped_or_shown():
    assert "".join(stream([2])) == ""
    assert "".join(stream([2], skip_special_tokens=False)) == "<|im_end|>"


def test_ids_without_a_token_are_no_text():
    assert "".join(stream([1 << 20])) == ""


def cut_at_first_complete(text, stops):
    """What StopStrings promises, written the slow way."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


def feed_all(stops, pieces):
    """(pieces given out, the stop string found)"""
    checker, given_out = StopStrings(stops), []
    for piece in pieces:
        text, stop = checker.feed(piece)
        given_out.append(text)
        if stop is not None:
            return given_out, stop
    return [*given_out, checker.finish()], None


@pytest.mark.parametrize("stops", [["STOP"], ["abab", "ba"], ["aaab"], ["\n\nQ", "\n\n\n"], ["b", "abc"]])
def test_a_stop_string_is_found_at_every_split_and_never_leaks(stops):
    texts = ["say STOP now", "ababab abab", "aaaaaab", "x\n\n\nQ\n\nQ", "abc b", "nothing here"]
    for text in texts:
        expected, stop = cut_at_first_complete(text, stops)
        for first in range(len(text) + 1):
            for second in range(first, len(text) + 1):
                given_out, found = feed_all(stops, [text[:first], text[first:second], text[second:]])
                assert ("".join(given_out), found) == (expected, stop)


@given(
    text=st.text("abc", max_size=40),
    stops=st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=4),
    size=st.integers(1, 7),
)
@settings(deadline=None, max_examples=500)
def test_repetitive_stop_strings_are_found_in_repetitive_text(text, stops, size):
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    given_out, found = feed_all(stops, pieces)
    assert ("".join(given_out), found) == cut_at_first_complete(text, stops)


def test_only_what_may_begin_a_stop_string_is_held_back():
    checker = StopStrings(["\n\nUser:"])
    assert checker.feed("Hello\n") == ("Hello", None)
    assert checker.feed("\nUs") == ("", None)
    assert checker.feed("ed") == ("\n\nUsed", None)


def test_inactive_stop_strings_are_text_but_may_begin_there():
    checker = StopStrings(["end"])
    assert checker.feed("end of", is_active=False) == ("end of", None)
    assert checker.feed(" en", is_active=False) == (" ", None)
    assert checker.feed("d") == ("", "end")


def test_a_stop_string_may_overlap_one_that_was_inactive():
    checker = StopStrings(["aa"])
    assert checker.feed("aa", is_active=False) == ("a", None)
    assert checker.feed("a") == ("", "aa")
