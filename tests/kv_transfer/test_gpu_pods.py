"""A prefill and a decode pod whose KV lies on devices that threads play, with overlapped steps and real NIXL."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
import torch

from penstock.kv_transfer.transfers import split_hashes
from penstock.sampling.params import SamplingParams
from support.gpu_sharing import BLOCK_BYTES, CHUNK, gpu_pods, save_model
from support.lives import BLOCK_SIZE, tokens_of

PROMPT = [7 + n * n % 300 for n in range(43)]
NUM_WHOLE = (len(PROMPT) - 1) // BLOCK_SIZE
NUM_BLOCKS = 22  # the dummy one, and less than two prompts need
COUNT = 5
SECONDS = 120.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="there test_pd.py does it in processes"),
]


def expected(reference, prompt: list[int]) -> list[int]:
    """What the model says, computed without a cache."""
    known = list(prompt)
    for _ in range(COUNT):
        known.append(int(reference(torch.tensor([known])).logits[0, -1].argmax()))
    return known[len(prompt) :]


async def answer(pod, prompt: list[int], max_tokens: int = COUNT, **changes) -> list[int]:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    [request] = pod.llm.input.build(prompt, sampling, request_id="r")
    async with asyncio.timeout(SECONDS):
        stream = pod.llm.submit([msgspec.structs.replace(request, **changes)])
        return tokens_of([delta async for deltas in stream for delta in deltas])


def num_cached(pod) -> int:
    """Blocks of the prompt that the KV cache of an idle pod still has."""
    [request] = pod.llm.input.build(PROMPT, SamplingParams(max_tokens=1), request_id="r")
    return len(pod.life.core.scheduler.kv.pool.find(split_hashes(request)))


async def test_blocks_go_from_device_to_device_and_out_to_the_tier_and_back(tmp_path):
    """One test, since engines take their time to start: from a GPU, from a CPU, and to the tier and back."""
    (tmp_path / "model").mkdir()
    reference = save_model(tmp_path / "model")
    async with gpu_pods(tmp_path, tmp_path / "model", NUM_BLOCKS) as (prefill, decode, on_cpu):
        assert decode.life.device.depth == 2
        wanted = expected(reference, PROMPT)
        assert await answer(decode, PROMPT) == wanted
        stats = decode.stats
        assert (stats.num_pulls, stats.num_fallbacks) == (1, 0)
        assert stats.num_pulled_bytes == NUM_WHOLE * BLOCK_BYTES
        assert stats.num_prompt_tokens == len(PROMPT) - NUM_WHOLE * BLOCK_SIZE
        assert prefill.stats.num_prompt_tokens == NUM_WHOLE * BLOCK_SIZE > 2 * CHUNK

        await decode.settle()  # what is still on its way to the tier takes room
        other = [400, *PROMPT[1:]]
        assert await answer(decode, other, prefiller=on_cpu.peer.address) == expected(reference, other)
        assert (decode.stats.num_pulls, decode.stats.num_fallbacks) == (2, 0)

        await decode.settle()
        await answer(decode, [401, *PROMPT[1:]], 1, is_remote_prefill_allowed=False)
        await decode.settle()
        assert num_cached(decode) < NUM_WHOLE // 2
        before = decode.stats.num_prompt_tokens
        assert await answer(decode, PROMPT, is_remote_prefill_allowed=False) == wanted
        assert decode.stats.num_prompt_tokens - before == len(PROMPT) - NUM_WHOLE * BLOCK_SIZE
        assert (decode.stats.num_pulls, decode.stats.num_fallbacks) == (2, 0)
        for pod in (prefill, decode, on_cpu):
            await pod.settle()
