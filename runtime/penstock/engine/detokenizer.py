"""Token ids to text as they come: no half characters, and the pieces join to the same text however they came."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from penstock.tokenizer import Tokenizer


class Detokenizer:
    """The text of one choice. A character whose bytes are spread over tokens appears with its last byte.

    The text goes on from the prompt, so a SentencePiece space in front of the first word is kept.
    """

    __slots__ = ("_decoder", "_pieces", "_skipped")

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        self._pieces = tokenizer.table.pieces
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        """The text that is certain after this token and was not before; bytes that are no UTF-8 become U+FFFD."""
        if token_id in self._skipped or token_id >= len(self._pieces):
            return ""
        return self._decoder.decode(self._pieces[token_id])

    def finish(self) -> str:
        """What was still waiting for the rest of a character: U+FFFD, or nothing."""
        return self._decoder.decode(b"", True)


class StopStrings:
    """Finds the stop string that is complete first, and holds back text that may be the beginning of one.

    One Knuth-Morris-Pratt automaton per stop string: constant work per character, however the strings repeat. The
    answer depends on the characters only, not on how they were cut into pieces.
    """

    __slots__ = ("_beginnings", "_failures", "_held", "_states", "_stops")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._failures = [failure_table(stop) for stop in stops]
        self._states = [0] * len(self._stops)  # characters of each stop string that the text ends with
        self._beginnings = frozenset(stop[0] for stop in stops)
        self._held = ""  # the end of the text that is not given out yet

    def feed(self, text: str, *, is_active: bool = True) -> tuple[str, str | None]:
        """Take more text; returns the text that may go out, and the stop string if one is complete (then the text
        is all that comes before it). While not `is_active`, complete stop strings are ordinary text."""
        if not self._held and self._beginnings.isdisjoint(text):
            return text, None
        for position, character in enumerate(text):
            stop = self._step(character)
            if stop is not None and is_active:
                return (self._held + text[: position + 1])[: -len(stop)], stop
        whole = self._held + text
        num_held = max(self._states)
        self._held = whole[len(whole) - num_held :]
        return whole[: len(whole) - num_held], None

    def finish(self) -> str:
        """The text that was held back: no stop string came of it."""
        return self._held

    def _step(self, character: str) -> str | None:
        """Advance every automaton by one character; the longest stop string that is complete with it, or None."""
        complete = None
        for number, stop in enumerate(self._stops):
            state, failure = self._states[number], self._failures[number]
            while state and character != stop[state]:
                state = failure[state - 1]
            if character == stop[state]:
                state += 1
            if state == len(stop):
                complete = stop if complete is None or len(stop) > len(complete) else complete
                state = failure[state - 1]
            self._states[number] = state
        return complete


def failure_table(stop: str) -> list[int]:
    """For each beginning of `stop`, the length of the longest proper beginning that it also ends with. # [len(stop)]"""
    table = [0] * len(stop)
    length = 0
    for position in range(1, len(stop)):
        while length and stop[position] != stop[length]:
            length = table[length - 1]
        length += stop[position] == stop[length]
        table[position] = length
    return table
