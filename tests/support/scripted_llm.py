"""A real `AsyncLLM` whose engine is a script: it repeats the prompt, token by token, over no model at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from penstock.config import EngineConfig, ModelConfig, SchedulerConfig
from penstock.core.plan import TokenLogprobs
from penstock.core.request import FinishReason, Request
from penstock.engine.async_llm import AsyncLLM
from penstock.engine.drain_flag import DrainFlag
from penstock.engine.messages import (
    AddRequest,
    ClientBatch,
    EngineDown,
    EngineInput,
    EngineOutput,
    EngineReady,
    PromptLogprobsOf,
    SchedulerStats,
    StepOutputs,
)
from penstock.internal.protocol import Announcement, KvEndpoint
from penstock.kv_transfer.front_end_messages import LendNews
from support.embedded_text import embedded_spec, embedded_tokenizer

CONTEXT = 512
TOP = 20
FINGERPRINT = "f1"
LOGPROB = -0.25  # of every token


@dataclass
class Running:
    request: Request
    num_outputs: int = 0
    is_started: bool = False

    def next_token(self) -> tuple[int, FinishReason]:
        prompt = self.request.prompt_array()
        token = int(prompt[self.num_outputs % len(prompt)])
        self.num_outputs += 1
        if token in self.request.stop_ids:
            return token, FinishReason.STOP
        is_full = len(prompt) + self.num_outputs == self.request.max_total
        return token, FinishReason.LENGTH if is_full else FinishReason.NONE


@dataclass
class ScriptedEngine:
    """In the place of `EngineClient`: one step per turn of the event loop while `is_running`."""

    number: int = 0
    num_dropped: int = 0
    pause: float = 0.0  # seconds between steps
    is_running: bool = True
    fail_after: int | None = None  # outputs after which every request fails
    running: dict[int, Running] = field(default_factory=dict)
    aborted: list[int] = field(default_factory=list)
    seen: list[Request] = field(default_factory=list)
    adds: list[AddRequest] = field(default_factory=list)
    endpoint: KvEndpoint | None = None
    epoch: int = 0
    num_cached: int = 0
    num_steps: int = 0

    def start(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[EngineOutput], None]) -> None:
        self.loop, self.deliver = loop, deliver
        self.begin_life()
        loop.call_soon(self.turn)

    def begin_life(self) -> None:
        """An engine that serves, with what it says of itself."""
        self.epoch += 1
        self.deliver(
            EngineReady(
                epoch=self.epoch,
                num_blocks=101,
                block_size=16,
                max_model_len=CONTEXT,
                session=f"session-{self.epoch}",
                fingerprint=FINGERPRINT,
                endpoint=self.endpoint,
            )
        )

    def die(self) -> None:
        """Lose everything, and have the front-end told."""
        self.running.clear()
        self.deliver(EngineDown(epoch=self.epoch))

    def tell(self, handle: int, news: Announcement | None) -> None:
        """Say something of blocks that are lent."""
        self.deliver(LendNews(epoch=self.epoch, handle=handle, news=news))

    def send(self, message: EngineInput) -> None:
        if isinstance(message, ClientBatch):
            for add in message.add:
                self.take(add)
            for handle in message.abort:
                self.aborted.append(handle)
                self.running.pop(handle, None)

    def take(self, add: AddRequest) -> None:
        self.seen.append(add.request)
        self.adds.append(add)
        self.running[add.request.handle] = Running(add.request, len(add.output_ids) // 4)

    def close(self) -> None:
        self.is_running = False

    def turn(self) -> None:
        if self.is_running and self.running:
            self.deliver(self.step())
        self.loop.call_later(self.pause or 0.001, self.turn)

    def step(self) -> StepOutputs:
        self.num_steps += 1
        states = list(self.running.values())
        if self.fail_after is not None and states[0].num_outputs >= self.fail_after:
            self.running.clear()
            return self.outputs([], [], failed=tuple((s.request.handle, "its numbers went bad") for s in states))
        news = [state.next_token() for state in states]
        for state, (_, reason) in zip(states, news, strict=True):
            if reason:
                del self.running[state.request.handle]
        started = [state for state in states if not state.is_started]
        for state in started:
            state.is_started = True
        return self.outputs(states, news, started=started)

    def outputs(self, states, news, *, started=(), failed=()) -> StepOutputs:
        token_ids = np.array([token for token, _ in news], np.int32)
        return StepOutputs(
            epoch=self.epoch,
            handles=np.array([state.request.handle for state in states], np.int64),
            token_ids=token_ids,
            finish=np.array([reason for _, reason in news], np.uint8),
            started=tuple((state.request.handle, self.num_cached) for state in started),
            failed=failed,
            logprobs=logprobs_of(token_ids),
            prompt_logprobs=tuple(prompt_logprobs_of(state.request) for state in started),
            stats=SchedulerStats(
                num_running=len(self.running), num_steps=self.num_steps, num_output_tokens=self.num_steps * 2
            ),
        )


def alternatives(token_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each token itself, then those with the next higher ids, at falling log-probabilities."""
    ids = (token_ids[:, None] + np.arange(TOP)) % 49152
    return ids.astype(np.int32), np.tile(LOGPROB - np.arange(TOP, dtype=np.float32), (len(token_ids), 1))


def logprobs_of(token_ids: np.ndarray) -> TokenLogprobs:
    count = len(token_ids)
    ids, values = alternatives(token_ids)
    return TokenLogprobs(
        index=np.arange(count, dtype=np.int32),
        sampled=np.full(count, LOGPROB, np.float32),
        rank=np.ones(count, np.int32),
        top_ids=ids,
        top=values,
    )


def prompt_logprobs_of(request: Request) -> PromptLogprobsOf:
    tokens = request.prompt_array()[1:]
    ids, values = alternatives(tokens)
    return PromptLogprobsOf(
        handle=request.handle,
        start=1,
        token=np.full(len(tokens), LOGPROB, np.float32),
        rank=np.ones(len(tokens), np.int32),
        top_ids=ids,
        top=values,
    )


def build_scripted_llm(engine: ScriptedEngine, max_waiting: int = 64, run_path: Path | None = None) -> AsyncLLM:
    config = EngineConfig(
        model=ModelConfig(served_model_name="org/echo"),
        scheduler=SchedulerConfig(max_num_seqs=32, max_waiting=max_waiting),
    )
    return AsyncLLM(
        config=config,
        spec=embedded_spec(),
        tokenizer=embedded_tokenizer(),
        client=engine,
        max_model_len=CONTEXT,
        drain_flag=DrainFlag(run_path),
    )
