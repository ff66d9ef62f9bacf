"""A model in this process, one text at a time, delta by delta: what `generate` and `chat` show in the terminal."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from penstock import LLM, SamplingParams, envs
from penstock.core.request import RequestKey
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
    """The answer to a conversation, as `stream_text`."""
    prompt = llm.tokenizer.render_chat(list(messages))
    yield from stream_text(llm, prompt, params, add_special_tokens=False)


def stream_text(
    llm: LLM, prompt: str, params: SamplingParams, *, add_special_tokens: bool = True
) -> Generator[OutputDelta]:
    """The continuation of `prompt`, delta by delta; whoever stops iterating (Ctrl-C too) leaves an idle engine."""
    core, output = llm._core, llm._output
    requests = llm._input.build(prompt, params, request_id="terminal", add_special_tokens=add_special_tokens)
    deltas: list[OutputDelta] = []
    for request in requests:
        output.add(request, deltas.append)
        core.add(request)
    try:
        while core.has_work:
            for outputs in core.step().values():
                core.abort([RequestKey(0, handle) for handle in output.process(outputs)])
            yield from deltas
            deltas.clear()
    finally:
        if len(output):
            llm._abort_all()
