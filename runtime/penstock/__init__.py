"""Penstock: serve large language models. `from penstock import LLM, SamplingParams`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.sampling.params import SamplingParams
from penstock.version import VERSION

if TYPE_CHECKING:
    from penstock.engine.llm import LLM

__version__ = VERSION
__all__ = ["LLM", "SamplingParams", "__version__"]


def __getattr__(name: str) -> object:
    """Import the engine (and torch) only when `LLM` is first used, so that `import penstock.core` stays light."""
    if name == "LLM":
        from penstock.engine.llm import LLM

        return LLM
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")
