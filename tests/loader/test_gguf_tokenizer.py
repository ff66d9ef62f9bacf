"""The tokenizer that is built from a GGUF file: words, digits, special tokens, bytes, and the way back to the text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from penstock.errors import ModelError
from penstock.loader.gguf_tokenizer import GgufTokenizer
from support.embedded import embedded_folder

BYTES = [chr(0x21 + index) for index in range(94)] + [chr(0xA1 + index) for index in range(12)]
BYTES += [chr(0xAE + index) for index in range(82)] + [chr(0x100 + index) for index in range(68)]  # GPT-2's alphabet
SMOLLM2_SYSTEM = [
    1,
    9690,
    198,
    2683,
    359,
    253,
    5356,
    5646,
    11173,
    3365,
    3511,
    308,
    34519,
    28,
    7018,
    411,
    407,
    19712,
    8182,
]
SMOLLM2_SYSTEM += [2, 198]


def built(metadata: Mapping[str, Any]) -> Tokenizer:
    full = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    return Tokenizer.from_str(json.dumps(GgufTokenizer(full).tokenizer_json()))


def byte_level(pre: str, **changes: Any) -> Tokenizer:
    """A tokenizer with `pre`'s words, the bytes, one merge and two control tokens."""
    tokens = ["<s>", "</s>", *BYTES, "hi", "yo", "1\u0031", "<tool>"]
    types = np.array([3, 3, *[1] * (len(tokens) - 3), 4], np.int32)
    metadata = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types, "merges": ["h i", "1 1"]}
    return built(metadata | {"bos_token_id": 0, "eos_token_id": 1} | changes)


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    return Tokenizer.from_file(str(embedded_folder() / "tokenizer.json"))


def test_the_embedded_models_tokens_are_the_published_ones(smollm2: Tokenizer) -> None:
    text = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    assert smollm2.encode(text).ids == SMOLLM2_SYSTEM


def test_the_embedded_model_splits_numbers_into_digits(smollm2: Tokenizer) -> None:
    assert smollm2.encode("in 2024, 17").tokens == ["in", "Ġ", "2", "0", "2", "4", ",", "Ġ", "1", "7"]


# The vocabulary was made without the bytes of some control characters and of the planes above 1.
@given(
    text=st.text(
        st.characters(codec="utf-8", max_codepoint=0x1FFFF, exclude_categories=("Cc",), include_characters="\n\t")
    )
)
def test_every_text_comes_back_from_its_tokens(smollm2: Tokenizer, text: str) -> None:
    assert smollm2.decode(smollm2.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["It", "'s", "Ġ12345", "ĠIT", "'", "S", "Ġ!!", "ĊĊ"]),
        ("smollm", ["It", "'s", "Ġ", "1", "2", "3", "4", "5", "ĠIT", "'", "S", "Ġ!!", "ĊĊ"]),
        ("llama-bpe", ["It", "'s", "Ġ", "123", "45", "ĠIT", "'S", "Ġ!!ĊĊ"]),
        ("qwen2", ["It", "'s", "Ġ", "1", "2", "3", "4", "5", "ĠIT", "'S", "Ġ!!ĊĊ"]),
        ("tekken", ["It", "'s", "Ġ", "1", "2", "3", "4", "5", "ĠIT", "'S", "Ġ!!ĊĊ"]),
    ],
)
def test_splits_words_as_the_named_rule_does(pre: str, words: list[str]) -> None:
    split = byte_level(pre).pre_tokenizer.pre_tokenize_str("It's 12345 IT'S !!\n\n")
    assert [word for word, _ in split] == words


def test_an_unknown_rule_is_gpt2s_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    tokens = byte_level("brand-new").encode("hi 1111").tokens
    assert tokens == ["hi", "Ġ", "11", "11"]
    assert "unknown pre-tokenizer 'brand-new'" in capsys.readouterr().err


def test_words_of_the_vocabulary_are_taken_whole_where_the_rule_says_so() -> None:
    assert byte_level("llama-bpe", add_bos_token=False).encode("yo").tokens == ["yo"]
    assert byte_level("gpt-2").encode("yo").tokens == ["y", "o"]


def test_adds_bos_and_eos_where_the_model_wants_them() -> None:
    assert byte_level("llama-bpe").encode("hi").tokens == ["<s>", "hi"]
    assert byte_level("gpt-2").encode("hi").tokens == ["hi"]
    both = byte_level("gpt-2", add_bos_token=True, add_eos_token=True)
    assert both.encode("hi").tokens == ["<s>", "hi", "</s>"]
    assert both.encode("hi", add_special_tokens=False).tokens == ["hi"]


def test_control_tokens_are_special_and_user_defined_ones_are_text() -> None:
    tokenizer = byte_level("gpt-2")
    ids = tokenizer.encode("hi</s><tool>").ids
    assert tokenizer.decode(ids) == "hi<tool>"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "hi</s><tool>"


PIECES = {
    "▁": -1.0,
    "a": -5.0,
    "b": -6.0,
    "c": -7.0,
    "ab": -2.0,
    "bc": -1.5,
    "cc": -1.8,
    "▁b": -2.5,
    "ca": -3.0,
    "cab": -1.1,
}
BYTE_PIECES = [f"<0x{value:02X}>" for value in range(256)]


def sentencepiece(**changes: Any) -> Tokenizer:
    tokens = ["<unk>", "<s>", "</s>", *BYTE_PIECES, *PIECES]
    metadata = {
        "model": "llama",
        "tokens": tokens,
        "scores": np.array([0.0] * 259 + list(PIECES.values()), np.float32),
        "token_type": np.array([2, 3, 3] + [6] * 256 + [1] * len(PIECES), np.int32),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    return built(metadata | changes)


def best_pairs_first(text: str) -> list[str]:
    """SentencePiece's algorithm, directly: join the neighbours whose joint piece has the best score, leftmost first."""
    pieces = list(text)
    while True:
        joined = [(PIECES[a + b], -index) for index, (a, b) in enumerate(itertools.pairwise(pieces)) if a + b in PIECES]
        if not joined:
            return pieces
        index = -max(joined)[1]
        pieces[index : index + 2] = [pieces[index] + pieces[index + 1]]


@given(st.text("abc ", max_size=30))
def test_sentencepiece_joins_the_best_scores_first(text: str) -> None:
    expected = best_pairs_first("▁" + text.replace(" ", "▁")) if text else []
    assert sentencepiece().encode(text, add_special_tokens=False).tokens == expected


@given(st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=20))
def test_sentencepiece_spells_unknown_characters_as_bytes_and_back(text: str) -> None:
    tokenizer = sentencepiece()
    ids = tokenizer.encode(text).ids
    assert ids[0] == 1
    assert 0 not in ids
    assert tokenizer.decode(ids) == text


def test_sentencepiece_without_the_space_in_front() -> None:
    tokenizer = sentencepiece(add_space_prefix=False, add_bos_token=False)
    assert tokenizer.encode("ab bc").tokens == ["ab", "▁", "bc"]
    assert tokenizer.decode(tokenizer.encode("abc a").ids) == "abc a"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merges": ["h zz"]}, "merges"),
        ({"model": "rwkv"}, "rwkv"),
        ({"token_type": np.ones(3, np.int32)}, "3 token types"),
    ],
)
def test_refuses_broken_vocabularies(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        byte_level("gpt-2", **change)
