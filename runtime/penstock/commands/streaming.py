"""A model in this process, one text at a time, delta by delta: what `generate` and `chat` show in the terminal."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from penstock import LLM, SamplingParams, envs
from penstock.engine.output import OutputDelta
from penstock.logs import configure

Conversation = Sequence[Mapping[str, Any]]


@contextmanager
def quiet_llm(settings: Mapping[str, Any]) -> Iterator[LLM]:
    """A loaded model that says nothing on its own; closed at the end."""
    configure("penstock", envs.log_level() if envs.log_level() != "info" else "warning")
    warnings.simplefilter("ignore")
    with LLM(**settings) as llm:
        yield llm


def stream_chat(llm: LLM, messages: Conversation, params: SamplingParams) -> Generator[OutputDelta]:
    """The answer to a conversation, delta by delta."""
    prompt = llm.tokenizer.render_chat(list(messages))
    return llm.stream(prompt, params, add_special_tokens=False)
