"""Log-probabilities in OpenAI's two shapes, and in vLLM's for prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from penstock.engine.output import TokenLogprob
from penstock.tokenizer import Tokenizer

LOWEST = -9999.0  # OpenAI's stand-in for minus infinity, which JSON cannot say


class LogprobWriter:
    """Names tokens for one model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def chat(self, entries: Iterable[TokenLogprob], width: int) -> list[dict[str, Any]]:
        """For `choices[].logprobs.content` of a chat: each token with its `width` best alternatives."""
        return [
            self._chat_token(entry.token_id, entry.logprob)
            | {"top_logprobs": [self._chat_token(token_id, value) for token_id, value in entry.top[:width]]}
            for entry in entries
        ]

    def _chat_token(self, token_id: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token_id)
        return {"token": data.decode(errors="replace"), "logprob": max(logprob, LOWEST), "bytes": list(data)}

    def completion(
        self, token_ids: Sequence[int], entries: Sequence[TokenLogprob | None], width: int, offset: int
    ) -> tuple[dict[str, Any], int]:
        """For `choices[].logprobs` of a completion, and where the next token begins.

        `offset` counts characters of the choice's text. A prompt's first token has no entry, and so None twice.
        """
        names, offsets = [], []
        for token_id in token_ids:
            names.append(self.token_name(token_id))
            offsets.append(offset)
            offset += num_characters(self._tokenizer.token_bytes(token_id))
        return {
            "tokens": names,
            "token_logprobs": [None if entry is None else max(entry.logprob, LOWEST) for entry in entries],
            "top_logprobs": [None if entry is None else self._alternatives(entry, width) for entry in entries],
            "text_offset": offsets,
        }, offset

    def _alternatives(self, entry: TokenLogprob, width: int) -> dict[str, float]:
        """The best alternatives by name, and the token itself if it is not among them."""
        ranked = {self.token_name(token_id): max(logprob, LOWEST) for token_id, logprob in entry.top[:width]}
        return ranked | {self.token_name(entry.token_id): max(entry.logprob, LOWEST)}

    def token_name(self, token_id: int) -> str:
        """A token's text; part of a character as OpenAI writes it, `bytes:\\xf0\\x9f`, so that names do not clash."""
        data = self._tokenizer.token_bytes(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def prompt(self, entries: Sequence[TokenLogprob | None], width: int) -> list[dict[str, dict[str, Any]] | None]:
        """vLLM's `prompt_logprobs`: for each prompt token the token itself, then the alternatives, by token id."""
        return [None if entry is None else self._prompt_token(entry, width) for entry in entries]

    def _prompt_token(self, entry: TokenLogprob, width: int) -> dict[str, dict[str, Any]]:
        ranked = [(entry.token_id, entry.logprob, entry.rank)]
        ranked += [(token_id, value, rank) for rank, (token_id, value) in enumerate(entry.top[:width], start=1)]
        named: dict[str, dict[str, Any]] = {}
        for token_id, logprob, rank in ranked:
            text = self._tokenizer.token_text(token_id)
            named.setdefault(str(token_id), {"logprob": max(logprob, LOWEST), "rank": rank, "decoded_token": text})
        return named


def num_characters(data: bytes) -> int:
    """Characters that begin in these bytes of UTF-8."""
    return len(data) if data.isascii() else sum(byte & 0xC0 != 0x80 for byte in data)


def join_logprobs(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several completion logprobs, one after the other."""
    return {key: [value for part in parts for value in part[key]] for key in parts[0]}
