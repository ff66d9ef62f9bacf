"""What clients of a service ask in fault tests, and a run of them while something happens."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence

from support.fleet_client import ask
from support.fleet_service import Service
from support.history import Asked, Heard, History

STREAM = {"model": "m", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0}
SENTENCE = "The mill stands by the river and the wheel turns slowly in the water. "
TOPICS = ("tea", "glass", "bees", "bread", "tides", "maps", "clocks", "salt", "wool", "iron", "chess", "kites", "coal")
SAMPLED = {"temperature": 1.0, "top_p": 0.9}


def notes_about(topic: str, sentences: int) -> str:
    """A prompt of about 15 tokens for each sentence."""
    return f"Notes about {topic}. {SENTENCE * sentences}What I learnt about {topic}:"


def long_prompts(count: int = 6, *, sentences: int = 24, max_tokens: int = 40) -> list[Asked]:
    """Prompts that are worth prefilling elsewhere; greedy."""
    body = STREAM | {"max_tokens": max_tokens, "ignore_eos": True}
    return [
        Asked(name=f"long-{topic}-{sentences}-{max_tokens}", body=body | {"prompt": notes_about(topic, sentences)})
        for topic in (TOPICS * 8)[:count]
    ]


def all_kinds(max_tokens: int = 60) -> list[Asked]:
    """Every kind of request that must survive its pod."""
    body = STREAM | {"max_tokens": max_tokens, "ignore_eos": True}
    chat = {"messages": [{"role": "user", "content": notes_about("salt", 2)}]}
    kinds = {
        "greedy": {},
        "greedy, long": {"prompt": notes_about("iron", 24)},
        "sampled": SAMPLED | {"seed": 7},
        "penalised": SAMPLED | {"seed": 8, "presence_penalty": 1.0, "repetition_penalty": 1.2},
        "several choices": SAMPLED | {"seed": 9, "n": 3},
        "logprobs": {"logprobs": 3},
        "sampled logprobs": SAMPLED | {"seed": 10, "logprobs": 2, "n": 2},
        "running usage": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        "stop string": {"stop": [" the wheel turns"], "prompt": SENTENCE * 2 + "The mill stands by the river and"},
        "at once": {"stream": False, "stream_options": None, "seed": 11} | SAMPLED,
    }
    asked = [
        Asked(name=f"{name} {max_tokens}", body=body | {"prompt": notes_about("ferns", 2)} | kind)
        for name, kind in kinds.items()
    ]
    asked.append(Asked(name=f"chat {max_tokens}", body=body | chat, path="/v1/chat/completions"))
    return asked


def with_key(requests: Sequence[Asked], key: str) -> list[Asked]:
    return [dataclasses.replace(asked, key=key) for asked in requests]


async def refer(service: Service, requests: Sequence[Asked]) -> None:
    """Have each answered in peace, once in the life of the service, by a tenant of its own."""
    gate, key = asyncio.Semaphore(2), service.new_key()

    async def one(asked: Asked) -> None:
        async with gate:
            service.references.refer(await ask(service.url, asked))

    missing = {asked.name: asked for asked in requests if not service.references.knows(asked.name)}
    await asyncio.gather(*(one(asked) for asked in with_key(list(missing.values()), key)))


async def while_asked(
    service: Service, requests: Sequence[Asked], happen: Callable[[list[asyncio.Task[Heard]]], Awaitable[None]]
) -> History:
    """Ask all at once as a tenant for whom nothing is cached, let something happen, and check the whole run.

    `happen` gets the running requests. Afterwards every pod must be up again and hold nothing.
    """
    await refer(service, requests)
    history = service.references.begin()
    tasks = [asyncio.create_task(ask(service.url, asked)) for asked in with_key(requests, service.new_key())]
    try:
        await happen(tasks)
    finally:
        for heard in await asyncio.gather(*tasks):
            history.add(heard)
    await service.settle()
    history.check()
    await service.check_quiet()
    return history


async def nothing(tasks: list[asyncio.Task[Heard]]) -> None:
    """Happens while clients ask in peace."""


async def be_trusted(service: Service) -> None:
    """Until a decode pod, which may have been disappointed by it before, asks the prefill pod again."""
    probes = long_prompts(12, sentences=22, max_tokens=2)
    for attempt in range(90):
        before = service.transfers("count")
        await while_asked(service, [probes[attempt % len(probes)]], nothing)
        if service.transfers("count") > before:
            return
        await asyncio.sleep(1)
    raise AssertionError(f"the prefill pod is not asked any more:\n{service.tails()}")
