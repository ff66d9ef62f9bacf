"""Requests of the simulation: few prompts that share beginnings, made once and used by all runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import msgspec
import numpy as np

from penstock.core.kv.block_hash import hash_blocks, root_hash
from penstock.core.request import Request
from penstock.sampling.params import SamplingParams
from simulation.device import BLOCK_SIZE, EOS, answer_to, contents_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A request, its answer, and what its blocks must hold."""

    request: Request
    hashes: list[bytes]  # of the prompt's full blocks
    answer: list[int]
    contents: dict[bytes, list[int]]  # of each full block of prompt and answer, by hash


def prompt_of(family: int, length: int) -> list[int]:
    """Prompts of one family share their first ten tokens, so two and a half blocks."""
    return [(20 + position) if position < 10 else (30 + position * (family + 1)) % 53 + 1 for position in range(length)]


@cache
def told(family: int, length: int, max_tokens: int, salt: str) -> Told:
    """The request with handle 0."""
    prompt = prompt_of(family, length)
    root, answer = root_hash(salt), answer_to(prompt, max_tokens)
    known = [*prompt, *answer]
    hashes, contents = hash_blocks(root, np.array(known, dtype=np.int32), BLOCK_SIZE), contents_of(known)
    own = hashes[: length // BLOCK_SIZE]
    request = Request(
        client=0,
        handle=0,
        request_id="r",
        prompt_ids=np.array(prompt, dtype="<i4").tobytes(),
        block_hashes=b"".join(own),
        root_hash=root,
        sampling=SamplingParams(max_tokens=max_tokens, temperature=0.0, seed=0),
        stop_ids=(EOS,),
        max_total=length + max_tokens,
    )
    parts = {name: contents[i * BLOCK_SIZE : (i + 1) * BLOCK_SIZE] for i, name in enumerate(hashes)}
    return Told(request=request, hashes=own, answer=answer, contents=parts)


@cache
def prefill_of(token_ids: bytes, root: bytes) -> Told:
    """What the prefill pod makes of a call: a request for one token after these whole blocks."""
    tokens = np.frombuffer(token_ids, dtype="<i4").tolist()
    hashes, contents = hash_blocks(root, np.array(tokens, dtype=np.int32), BLOCK_SIZE), contents_of(tokens)
    request = Request(
        client=0,
        handle=0,
        request_id="p",
        prompt_ids=token_ids,
        block_hashes=b"".join(hashes),
        root_hash=root,
        sampling=SamplingParams(max_tokens=1, temperature=0.0, seed=0),
        stop_ids=(),
        max_total=len(tokens) + 1,
    )
    parts = {name: contents[i * BLOCK_SIZE : (i + 1) * BLOCK_SIZE] for i, name in enumerate(hashes)}
    return Told(request=request, hashes=hashes, answer=[], contents=parts)


def named(request: Request, handle: int, arrival: float, **changes) -> Request:
    """The request under a handle of its own."""
    return msgspec.structs.replace(request, handle=handle, arrival=arrival, **changes)
