"""Penstock: serve large language models. `from penstock import LLM, SamplingParams`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.version import VERSION

if TYPE_CHECKING:
    from penstock.engine.llm import LLM
    from penstock.sampling.params import SamplingParams

__version__ = VERSION
__all__ = ["LLM", "SamplingParams", "__version__"]


def __getattr__(name: str) -> object:
    """Import the engine (and torch) only when `LLM` is first used, so that `import penstock.core` stays light; and
    msgspec with `SamplingParams`, so that the kernels' benchmark runs where torch, Triton and rich are all there is."""
    if name == "LLM":
        from penstock.engine.llm import LLM

        return LLM
    if name == "SamplingParams":
        from penstock.sampling.params import SamplingParams

        return SamplingParams
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")
