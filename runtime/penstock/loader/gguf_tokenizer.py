"""Build `tokenizer.json` and `tokenizer_config.json` (Hugging Face's forms) from the tokenizer inside a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.errors import ModelError
from penstock.loader.progress import say

Json = dict[str, Any]

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # token types of GGUF
SPACE = "▁"

# How byte-level tokenizers split text into words, by the name that `tokenizer.ggml.pre` gives them. None: GPT-2's way.
WORDS_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
EXPRESSIONS: Mapping[str, str | None] = {
    "default": None,
    "gpt-2": None,
    "smollm": None,
    "llama-bpe": WORDS_LLAMA3,
    "llama3": WORDS_LLAMA3,
    "qwen2": WORDS_QWEN2,
    "deepseek-r1-qwen": WORDS_QWEN2,
    "tekken": WORDS_TEKKEN,
}
SINGLE_DIGITS = ("smollm",)
WHOLE_WORDS = ("llama-bpe", "llama3", "tekken")  # a word that is in the vocabulary is not merged from bytes
BEGINS_WITH_BOS = ("llama-bpe", "llama3", "tekken")  # unless the file says otherwise
NORMALIZED = ("qwen2", "deepseek-r1-qwen")  # NFC first


class GgufTokenizer:
    """The tokenizer of a GGUF file. Raises `ModelError` where it is of an unknown kind or incomplete."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.model = metadata.get("tokenizer.ggml.model")
        if self.model not in ("gpt2", "llama"):
            raise ModelError(
                f"the GGUF file has a tokenizer of kind {self.model!r}; supported are 'gpt2' (BPE) and 'llama'"
            )
        self.metadata = metadata
        self.tokens: Sequence[str] = self.required("tokens")
        types = metadata.get("tokenizer.ggml.token_type")
        self.types: Sequence[int] = [1] * len(self.tokens) if types is None else types.tolist()
        if len(self.types) != len(self.tokens):
            raise ModelError(f"the GGUF tokenizer has {len(self.tokens)} tokens but {len(self.types)} token types")
        self.vocab = {token: index for index, token in enumerate(self.tokens)}
        self.pre = self.known_pre() if self.model == "gpt2" else ""

    def required(self, key: str) -> Any:
        """The metadata `tokenizer.ggml.<key>`."""
        try:
            return self.metadata[f"tokenizer.ggml.{key}"]
        except KeyError:
            raise ModelError(f"the GGUF file has no tokenizer.ggml.{key}") from None

    def known_pre(self) -> str:
        """The name of the rule that splits text into words; an unknown one becomes GPT-2's, with a warning."""
        pre = str(self.metadata.get("tokenizer.ggml.pre", "default"))
        if pre in EXPRESSIONS:
            return pre
        say(f"unknown pre-tokenizer {pre!r} in the GGUF file, using GPT-2's: text may split differently")
        return "default"

    def token_id(self, role: str) -> int | None:
        """The id of the `bos`, `eos`, `eot`, `unknown` … token, if the file names one that exists."""
        index = self.metadata.get(f"tokenizer.ggml.{role}_token_id")
        return int(index) if index is not None and 0 <= int(index) < len(self.tokens) else None

    def token(self, role: str) -> str | None:
        """The text of that token."""
        index = self.token_id(role)
        return None if index is None else self.tokens[index]

    @property
    def eos_token_ids(self) -> list[int]:
        """Every token that ends a turn, without repeats."""
        ids = (self.token_id(role) for role in ("eos", "eot", "eom"))
        return list(dict.fromkeys(index for index in ids if index is not None))

    @property
    def adds_bos(self) -> bool:
        """Whether text begins with the bos token."""
        default = self.model == "llama" or self.pre in BEGINS_WITH_BOS
        return bool(self.metadata.get("tokenizer.ggml.add_bos_token", default)) and self.token("bos") is not None

    @property
    def adds_eos(self) -> bool:
        """Whether text ends with the eos token."""
        return bool(self.metadata.get("tokenizer.ggml.add_eos_token", False)) and self.token("eos") is not None

    def tokenizer_json(self) -> Json:
        """The content of `tokenizer.json`."""
        parts = self.sentencepiece() if self.model == "llama" else self.byte_level()
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self.added_tokens(),
            "normalizer": parts["normalizer"],
            "pre_tokenizer": parts["pre_tokenizer"],
            "post_processor": self.post_processor(),
            "decoder": parts["decoder"],
            "model": parts["model"],
        }

    def config_json(self, context_length: int) -> Json:
        """The content of `tokenizer_config.json`."""
        config: Json = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context_length,
            "clean_up_tokenization_spaces": False,
            "add_bos_token": self.adds_bos,
            "add_eos_token": self.adds_eos,
        }
        roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
        config |= {key: text for key, role in roles.items() if (text := self.token(role)) is not None}
        if template := self.metadata.get("tokenizer.chat_template"):
            config["chat_template"] = template
        return config

    def added_tokens(self) -> list[Json]:
        """Control tokens, which text never contains by accident, and tokens that are matched before any merging."""
        kinds = (UNKNOWN, CONTROL, USER_DEFINED) if self.model == "llama" else (CONTROL, USER_DEFINED)
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": index, "content": token, **flags, "special": kind != USER_DEFINED}
            for index, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind in kinds
        ]

    def byte_level(self) -> Json:
        """BPE over bytes, as in GPT-2 and its successors."""
        expression = EXPRESSIONS[self.pre]
        byte_level = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": expression is None,
        }
        steps: list[Json] = [byte_level]
        if expression is not None:
            steps.insert(
                0, {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
            )
        if self.pre in SINGLE_DIGITS:
            steps.insert(0, {"type": "Digits", "individual_digits": True})
        merges = [merge_pair(merge) for merge in self.required("merges")]
        if any(a not in self.vocab or b not in self.vocab or a + b not in self.vocab for a, b in merges):
            raise ModelError("the GGUF tokenizer has merges of tokens that are not in its vocabulary")
        return {
            "normalizer": {"type": "NFC"} if self.pre in NORMALIZED else None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": self.bpe(merges, ignore_merges=self.pre in WHOLE_WORDS),
        }

    def sentencepiece(self) -> Json:
        """SentencePiece's BPE: merges follow from the scores, unknown characters fall back to byte tokens."""
        prefix = bool(self.metadata.get("tokenizer.ggml.add_space_prefix", True))
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        normalizers = [{"type": "Prepend", "prepend": SPACE}, replace] if prefix else [replace]
        decoders: list[Json] = [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        if prefix:
            decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        model = self.bpe(self.merges_by_score(), byte_fallback=True, fuse_unk=True, unk_token=self.token("unknown"))
        return {
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": None,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": model,
        }

    def bpe(self, merges: Sequence[tuple[str, str]], **settings: Any) -> Json:
        """The model part, with all tokens."""
        model: Json = {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
        }
        return model | settings | {"vocab": self.vocab, "merges": merges}

    def merges_by_score(self) -> list[tuple[str, str]]:
        """Every way to join two tokens into a third, best score first: the order in which SentencePiece joins them."""
        scores = self.required("scores").tolist()
        if len(scores) != len(self.tokens):
            raise ModelError(f"the GGUF tokenizer has {len(self.tokens)} tokens but {len(scores)} scores")
        merges = []
        for token, index in self.vocab.items():
            if self.types[index] not in (1, USER_DEFINED):
                continue
            for cut in range(1, len(token)):
                left, right = self.vocab.get(token[:cut]), self.vocab.get(token[cut:])
                if left is not None and right is not None:
                    merges.append((-scores[index], left, right))
        merges.sort()
        return [(self.tokens[left], self.tokens[right]) for _, left, right in merges]

    def post_processor(self) -> Json:
        """Adds bos and eos where the model wants them."""
        if not self.adds_bos and not self.adds_eos:
            return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        roles = [role for role, wanted in (("bos", self.adds_bos), ("eos", self.adds_eos)) if wanted]
        special = {str(self.token(role)): self.token_id(role) for role in roles}

        def template(sequence: str, type_id: int) -> list[Json]:
            before = [{"SpecialToken": {"id": self.token("bos"), "type_id": type_id}}] if self.adds_bos else []
            after = [{"SpecialToken": {"id": self.token("eos"), "type_id": type_id}}] if self.adds_eos else []
            return [*before, {"Sequence": {"id": sequence, "type_id": type_id}}, *after]

        return {
            "type": "TemplateProcessing",
            "single": template("A", 0),
            "pair": template("A", 0) + template("B", 1),
            "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in special.items()},
        }


def merge_pair(merge: str) -> tuple[str, str]:
    """The two tokens of a line of a merge list; tokens hold no space except as their first character."""
    cut = merge.find(" ", 1)
    return merge[:cut], merge[cut + 1 :]
