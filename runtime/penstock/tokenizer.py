"""Text to token ids and back, and conversations to text. No torch, and no transformers on the serving path."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from penstock.chat_template import ChatTemplate
from penstock.errors import InvalidRequest, ModelError
from penstock.sampling.limits import check_unicode
from penstock.token_bytes import TokenTable, build_token_table

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
PART_CHARACTERS = 1 << 16  # of a prompt that is probably too long, counted part by part
PART_MARGIN = 64  # tokens by which a count may differ because a part was cut out of its text


class AddedToken(msgspec.Struct, frozen=True):
    """A token that `tokenizer.json` adds to the model's vocabulary."""

    id: int
    special: bool = False


class TokenizerFile(msgspec.Struct, frozen=True):
    """The parts of a `tokenizer.json` that we read ourselves; the vocabulary, most of the file, is skipped."""

    decoder: dict[str, Any] | None = None
    added_tokens: tuple[AddedToken, ...] = ()


class Tokenizer:
    """A model's tokenizer. Immutable after loading, so that threads may share it."""

    def __init__(self, source: str, config: Mapping[str, Any], chat_template: str | None) -> None:
        """From the text of `tokenizer.json` and the parsed `tokenizer_config.json`; raises `ModelError`."""
        self._backend = read_backend(source)
        description = msgspec.json.decode(source, type=TokenizerFile)
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        self.table: TokenTable = build_token_table(vocabulary, description.decoder)
        self.special_ids = frozenset(token.id for token in description.added_tokens if token.special)
        self._named = {name: text for name in SPECIAL_TOKENS if (text := token_content(config.get(name)))}
        self.bos_token_id: int | None = vocabulary.get(self._named.get("bos_token", ""))
        eos = vocabulary.get(self._named.get("eos_token", ""))
        self.eos_token_ids: tuple[int, ...] = () if eos is None else (eos,)
        self.chat_template = chat_template
        self._template = ChatTemplate(chat_template, self._named) if chat_template else None
        self._longest = max(map(len, vocabulary), default=1)  # characters of the longest token
        # Some configurations ask for a beginning-of-text token that the tokenizer.json itself does not add.
        adds_itself = self._backend.encode("a").ids[:1] == [self.bos_token_id]
        self._must_add_bos = config.get("add_bos_token") is True and self.bos_token_id is not None and not adds_itself

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """From `tokenizer.json`, `tokenizer_config.json` and the chat template of a folder; raises `ModelError`."""
        config = read_json(folder / "tokenizer_config.json")
        try:
            source = (folder / "tokenizer.json").read_text(encoding="utf-8")
            return cls(source, config, find_chat_template(folder, config))
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{folder.name}: the tokenizer cannot be read: {error}") from error
        except InvalidRequest as error:
            raise ModelError(f"{folder.name}: {error}") from error

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id. The logits may be wider."""
        return len(self.table.pieces)

    def encode(
        self, text: str, *, add_special_tokens: bool = True, max_tokens: int | None = None, field: str = "prompt"
    ) -> list[int]:
        """Token ids of `text`; raises `InvalidRequest` for lone surrogates, and for more than `max_tokens` tokens
        without tokenising all of a text that is surely longer."""
        check_unicode(text, field)
        if max_tokens is not None and self._is_surely_longer(text, max_tokens):
            raise too_long(max_tokens, field)
        token_ids = self._ids(text, add_special_tokens=add_special_tokens)
        if add_special_tokens and self._must_add_bos and self.bos_token_id is not None:
            token_ids.insert(0, self.bos_token_id)
        if max_tokens is not None and len(token_ids) > max_tokens:
            raise too_long(max_tokens, field, len(token_ids))
        return token_ids

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text. The batch call lets other threads run meanwhile, `encode` holds the interpreter lock."""
        ids: list[int] = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        return ids

    def _is_surely_longer(self, text: str, max_tokens: int) -> bool:
        """True if `text` has more than `max_tokens` tokens, found without tokenising much more than that many."""
        if len(text) > self._longest * (max_tokens + 1):
            return True
        count = 0
        if len(text) > 2 * PART_CHARACTERS:
            for start in range(0, len(text), PART_CHARACTERS):
                count += len(self._ids(text[start : start + PART_CHARACTERS], add_special_tokens=False)) - PART_MARGIN
                if count > max_tokens:
                    return True
        return False

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of a whole sequence. Bytes that are no UTF-8 become U+FFFD, unknown ids nothing."""
        pieces, size = self.table.pieces, self.vocab_size
        skipped = self.special_ids if skip_special_tokens else frozenset[int]()
        data = b"".join(pieces[i] for i in token_ids if 0 <= i < size and i not in skipped)
        return data.removeprefix(b" " if self.table.strips_first_space else b"").decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that a token adds to a text; none for an id without a token."""
        return self.table.pieces[token_id] if 0 <= token_id < self.vocab_size else b""

    def token_text(self, token_id: int) -> str:
        """The text of one token on its own; part of a character shows as U+FFFD."""
        return self.token_bytes(token_id).decode(errors="replace")

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        **variables: Any,
    ) -> str:
        """The prompt for a conversation, special tokens included; raises `InvalidRequest` (field `messages`).

        `continue_final_message` ends the prompt inside the last message, for the model to go on with it.
        """
        chosen = ChatTemplate(template, self._named) if template else self._template
        if chosen is None:
            raise InvalidRequest("this model has no chat template; use completions", "messages")
        if continue_final_message and add_generation_prompt:
            raise InvalidRequest(
                "continue_final_message and add_generation_prompt exclude each other", "continue_final_message"
            )
        text = chosen.render(messages, add_generation_prompt=add_generation_prompt, tools=tools, variables=variables)
        return cut_after_final_message(text, messages[-1]) if continue_final_message else text


def cut_after_final_message(text: str, message: Mapping[str, Any]) -> str:
    """`text` up to where the content of its last message ends."""
    content = message.get("content")
    if not isinstance(content, str):
        content = "".join(part["text"] for part in content or ())
    # Templates may strip the content: look for it without spaces around it, then keep those that were written.
    start = text.rfind(content.strip())
    if start < 0 or not content.strip():
        raise InvalidRequest("the final message cannot be continued with this chat template", "messages")
    kept = content.strip() if not text.startswith(content.lstrip(), start) else content.lstrip()
    return text[: start + len(kept)]


def too_long(max_tokens: int, field: str, num_tokens: int | None = None) -> InvalidRequest:
    """The error for a prompt that does not fit."""
    seen = "more than that" if num_tokens is None else f"{num_tokens:,}"
    return InvalidRequest(
        f"{field} is too long for the context: at most {max_tokens:,} prompt tokens fit, this one has {seen}", field
    )


def read_backend(source: str) -> tokenizers.Tokenizer:
    """The tokenizer that a `tokenizer.json` describes, without truncation or padding; raises `ModelError`."""
    try:
        backend = tokenizers.Tokenizer.from_str(source)
    except Exception as error:  # the package raises nothing narrower
        raise ModelError(f"tokenizer.json cannot be read: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is no file. Raises `ModelError` for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{path.parent.name}/{path.name} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path.parent.name}/{path.name} must hold a JSON object")
    return value


def token_content(value: Any) -> str | None:
    """A token's text, which configurations write plainly or as an object with `content`."""
    return value.get("content") if isinstance(value, dict) else value


def find_chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """`chat_template.jinja`, or `chat_template` of the configuration: of several, the one named default."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
