"""The embedded model's tokenizer and shape, loaded once."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from penstock.models.spec import ModelSpec
from penstock.tokenizer import Tokenizer
from support.embedded import embedded_folder

# Characters all of whose bytes the embedded model knows: its vocabulary lacks some control characters, F1 and F2.
KNOWN_CHARACTERS = st.characters(max_codepoint=0x1FFFF, exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\t\r")


@cache
def embedded_spec() -> ModelSpec:
    return ModelSpec.from_folder(embedded_folder())


@cache
def embedded_tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(embedded_folder())
