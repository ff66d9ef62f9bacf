"""From a `tokenizer.json` to the bytes of each token, so that text is plain concatenation.

Two families cover the models served here: byte-level BPE, where each character of a token stands for one byte, and
SentencePiece, where `▁` stands for a space and `<0x0A>` for a byte. Their decoders become a table; others are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.errors import ModelError

SPACE_MARK = "▁"
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTable:
    """Bytes of every token, and what happens at the beginning of a text."""

    pieces: tuple[bytes, ...]  # token id -> bytes; ids without a token have none
    strips_first_space: bool  # SentencePiece puts a space before the first word of a whole text


def build_token_table(vocabulary: Mapping[str, int], decoder: Mapping[str, Any] | None) -> TokenTable:
    """The table for a vocabulary (token -> id) and the `decoder` of its `tokenizer.json`; `ModelError` for others."""
    steps = [decoder or {}]
    if steps[0].get("type") == "Sequence":
        steps = list(steps[0].get("decoders", []))
    kinds = {str(step.get("type")) for step in steps}
    pieces = [b""] * (max(vocabulary.values(), default=-1) + 1)
    if kinds == {"ByteLevel"}:
        fill(pieces, byte_level_pieces(vocabulary))
        return TokenTable(pieces=tuple(pieces), strips_first_space=False)
    if kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"} and kinds & {"Replace", "Metaspace"}:
        fill(pieces, sentencepiece_pieces(vocabulary, has_byte_tokens="ByteFallback" in kinds))
        return TokenTable(pieces=tuple(pieces), strips_first_space=any(is_stripping(step) for step in steps))
    raise ModelError(
        f"the tokenizer's decoder {'+'.join(sorted(kinds))} is not supported; byte-level BPE and SentencePiece are"
    )


def fill(pieces: list[bytes], entries: Iterable[tuple[int, bytes]]) -> None:
    """Put each (id, bytes) where it belongs."""
    for token_id, piece in entries:
        pieces[token_id] = piece


def is_stripping(step: Mapping[str, Any]) -> bool:
    """True for a decoder step that removes the space in front of a whole text."""
    if step.get("type") == "Metaspace":
        return str(step.get("prepend_scheme", "always")) != "never" and step.get("add_prefix_space", True) is not False
    return step.get("type") == "Strip" and step.get("content") == " " and int(step.get("start", 0)) > 0


def byte_level_pieces(vocabulary: Mapping[str, int]) -> Iterable[tuple[int, bytes]]:
    """GPT-2's alphabet undone: printable Latin-1 characters stand for themselves, the rest was moved above U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in set(printable)]
    # A character outside the alphabet marks an added token that is plain text; U+FFFF makes Latin-1 refuse it.
    to_byte = dict.fromkeys(moved, 0xFFFF) | {256 + rank: byte for rank, byte in enumerate(moved)}
    for token, token_id in vocabulary.items():
        try:
            yield token_id, token.translate(to_byte).encode("latin-1")
        except UnicodeEncodeError:
            yield token_id, token.encode()


def sentencepiece_pieces(vocabulary: Mapping[str, int], *, has_byte_tokens: bool) -> Iterable[tuple[int, bytes]]:
    """`▁` is a space, and `<0x0A>` a byte where the decoder says so."""
    for token, token_id in vocabulary.items():
        byte = BYTE_TOKEN.fullmatch(token) if has_byte_tokens else None
        yield token_id, bytes([int(byte[1], 16)]) if byte else token.replace(SPACE_MARK, " ").encode()
