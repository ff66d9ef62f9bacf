"""The embedded default model, fetched and converted once per machine."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from hypothesis import strategies as st

from penstock.config import EMBEDDED_MODEL
from penstock.loader.sources import resolve
from penstock.models.spec import ModelSpec
from penstock.tokenizer import Tokenizer


@cache
def embedded_folder() -> Path:
    return resolve(EMBEDDED_MODEL).folder


@cache
def embedded_spec() -> ModelSpec:
    return ModelSpec.from_folder(embedded_folder())


@cache
def embedded_tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(embedded_folder())


# Characters all of whose bytes the embedded model knows: its vocabulary lacks seven control characters, F1 and F2.
KNOWN_CHARACTERS = st.characters(max_codepoint=0x1FFFF, exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\t\r")
