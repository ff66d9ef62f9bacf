"""An answer that is cut anywhere goes on at another pod, byte for byte as if nothing had happened."""

from __future__ import annotations

import pytest

from penstock.internal.frames import FrameKind
from support.routed import CHAT, COMPLETIONS, payload_of, route
from support.sites import open_site

TEXT = "The quick brown fox jumps over the lazy dog and runs away"
MESSAGES = [{"role": "user", "content": "Say hé 🦊 and more"}]
USAGE = {"stream_options": {"include_usage": True}}
RUNNING = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}

BODIES = {
    "completion": (COMPLETIONS, {"prompt": TEXT, "max_tokens": 9}),
    "chat": (CHAT, {"messages": MESSAGES, "max_tokens": 24}),
    "usage": (COMPLETIONS, {"prompt": TEXT, "max_tokens": 5} | USAGE),
    "running usage": (COMPLETIONS, {"prompt": TEXT, "max_tokens": 5} | RUNNING),
    "choices": (COMPLETIONS, {"prompt": ["one two three", "two"], "n": 2, "max_tokens": 4} | USAGE),
    "chat choices": (CHAT, {"messages": MESSAGES, "n": 3, "max_tokens": 6, "logprobs": True, "top_logprobs": 2}),
    "stop string": (COMPLETIONS, {"prompt": TEXT, "max_tokens": 30, "stop": ["umps over th", "never"]} | USAGE),
    "stop shown": (COMPLETIONS, {"prompt": TEXT, "max_tokens": 30, "stop": "fox", "include_stop_str_in_output": True}),
    "logprobs": (COMPLETIONS, {"prompt": TEXT, "max_tokens": 6, "logprobs": 3}),
    "echo": (COMPLETIONS, {"prompt": TEXT, "max_tokens": 6, "echo": True, "logprobs": 2, "n": 2}),
    "prompt logprobs": (CHAT, {"messages": MESSAGES, "max_tokens": 6, "prompt_logprobs": 2}),
    "characters": (COMPLETIONS, {"prompt": "é🦊ü🦊", "max_tokens": 14} | USAGE),
}


@pytest.fixture
async def sites():
    async with open_site() as first, open_site() as second:
        for site in (first, second):
            site.engine.num_cached = 3
        yield first, second


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", BODIES)
async def test_an_answer_that_is_cut_after_any_frame_goes_on_exactly(sites, name, is_stream):
    first, second = sites
    path, body = BODIES[name]
    body = {key: value for key, value in body.items() if is_stream or key != "stream_options"} | {"stream": is_stream}
    frames = await route(first, path, body)
    whole = payload_of(frames)
    assert frames[-1].kind == FrameKind.END
    assert whole.endswith(b"data: [DONE]\n\n" if is_stream else b"}")
    assert len(frames) > 4, frames
    for cut in range(1, len(frames)):
        rest = await route(second, path, body, [frame.record for frame in frames[:cut]])
        assert payload_of(frames[:cut]) + payload_of(rest) == whole, cut
    again = await route(second, path, body, [frame.record for frame in frames[:2]])
    third = await route(first, path, body, [frame.record for frame in frames[:2] + again[:2]])
    assert payload_of(frames[:2] + again[:2] + third) == whole
