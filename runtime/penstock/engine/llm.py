"""The engine in this process, `LLM(...).generate(prompts)`: the scheduler, worker and checks of a server."""

from __future__ import annotations

import dataclasses
import itertools
import signal
import threading
import typing
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType, TracebackType
from typing import Any, Self

from penstock.config import EngineConfig
from penstock.core.request import Request, RequestKey
from penstock.engine.context import fit_context, wanted_context
from penstock.engine.core import EngineCore
from penstock.engine.input import InputProcessor
from penstock.engine.messages import SchedulerStats
from penstock.engine.output import OutputDelta, OutputProcessor
from penstock.engine.request_output import OutputCollector, RequestOutput
from penstock.errors import ConfigError, InvalidRequest, PenstockError
from penstock.flags import parse_bytes, plain_type
from penstock.loader.progress import is_terminal, progress_bar
from penstock.loader.sources import resolve
from penstock.models.spec import ModelSpec
from penstock.sampling.params import SamplingParams
from penstock.tokenizer import Tokenizer
from penstock.worker.executor import InlineExecutor

Prompt = str | Sequence[int]
Conversation = Sequence[Mapping[str, Any]]


class LLM:
    """A loaded model and its engine, for one thread at a time. Close it, or use it in a `with` statement."""

    def __init__(self, model: str | None = None, **settings: Any) -> None:
        """Load `model` (default: the embedded one). `settings` are fields of the sections of `penstock.config`, such as
        `max_model_len=2048`; raises `ConfigError`, `ModelError` or `OutOfMemory`."""
        self.config = build_config(model, settings)
        resolved = resolve(self.config.model.model, revision=self.config.model.revision)
        self.spec = ModelSpec.from_folder(resolved.folder)
        self.tokenizer = Tokenizer.from_folder(resolved.folder)
        self.name = self.config.model.served_model_name or resolved.name
        self._executor = InlineExecutor(self.config, resolved.folder)
        capacity = self._executor.start()
        self.max_model_len = fit_context(self.config, wanted_context(self.config, self.spec), capacity)
        self._core = EngineCore(self.config, self._executor, capacity, self.max_model_len)
        self._input = InputProcessor(
            self.spec, self.tokenizer, max_model_len=self.max_model_len, block_size=self.config.cache.block_size
        )
        self._output = OutputProcessor(self.tokenizer)
        self._request_numbers = itertools.count()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the model's memory; may be called twice."""
        self._is_closed = True
        self._core.close()
        self._executor.close()

    def default_params(self, **given: Any) -> SamplingParams:
        """Sampling parameters with the model's own defaults where nothing is given."""
        return self._input.default_params(**given)

    def stats(self) -> SchedulerStats:
        """Gauges and totals of the engine as of now."""
        return self._core.stats()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        priority: int | Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Continue one or many prompts (texts or token ids); outputs come in the order of the prompts.

        One set of parameters and one priority serve all prompts, or a list has one of each per prompt. All prompts
        are checked before any of them runs: `InvalidRequest` for the first that is wrong.
        """
        return self._generate(as_prompts(prompts), sampling_params, use_tqdm=use_tqdm, priority=priority)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        **template_options: Any,
    ) -> list[RequestOutput]:
        """Answer one or many conversations, through the model's chat template; otherwise as `generate`.

        `template_options` go to `Tokenizer.render_chat`: `add_generation_prompt`, `tools` and what a template knows.
        """
        conversations: Sequence[Any] = [messages] if not messages or isinstance(messages[0], Mapping) else messages
        prompts = [self.tokenizer.render_chat(conversation, **template_options) for conversation in conversations]
        return self._generate(prompts, sampling_params, use_tqdm=use_tqdm, is_chat=True)

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, add_special_tokens: bool = True
    ) -> Generator[OutputDelta]:
        """Continue one prompt, delta by delta; whoever stops iterating (Ctrl-C too) leaves an idle engine behind."""
        params = sampling_params or self.default_params()
        requests = self._input.build(
            prompt,
            params,
            request_id=f"request-{next(self._request_numbers)}",
            add_special_tokens=add_special_tokens,
        )
        deltas: list[OutputDelta] = []
        self._start(requests, deltas.append)
        try:
            while self._core.has_work:
                self._step()
                yield from deltas
                deltas.clear()
        finally:
            self._abort_all()

    def _generate(
        self,
        prompts: Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        *,
        use_tqdm: bool,
        priority: int | Sequence[int] | None = None,
        is_chat: bool = False,
    ) -> list[RequestOutput]:
        if self._is_closed:
            raise PenstockError("this LLM is closed")
        chosen = self.default_params() if sampling_params is None else sampling_params
        params = one_each(chosen, SamplingParams, len(prompts), "sampling_params")
        priorities = one_each(0 if priority is None else priority, int, len(prompts), "priority")
        batches = [
            self._input.build(
                prompt,
                params[index],
                request_id=f"request-{next(self._request_numbers)}",
                priority=priorities[index],
                add_special_tokens=not is_chat,
                field="messages" if is_chat else "prompt",
            )
            for index, prompt in enumerate(prompts)
        ]
        bar = progress_bar("generating", len(prompts)) if use_tqdm and is_terminal() else nullcontext(lambda: None)
        with bar as advance, interrupts_between_steps() as check_interrupt:
            collectors = [
                OutputCollector(requests, prompt if isinstance(prompt, str) else None, self.tokenizer, advance)
                for requests, prompt in zip(batches, prompts, strict=True)
            ]
            self._run(batches, collectors, check_interrupt)
        return [collector.build() for collector in collectors]

    def _run(
        self,
        batches: Sequence[Sequence[Request]],
        collectors: Sequence[OutputCollector],
        check_interrupt: Callable[[], None],
    ) -> None:
        """Make steps until every request has ended; an interrupt leaves an idle engine behind, a failed step none."""
        try:
            for requests, collector in zip(batches, collectors, strict=True):
                self._start(requests, collector.take)
            while self._core.has_work:
                self._step()
                check_interrupt()
        except KeyboardInterrupt:
            self._abort_all()
            raise
        finally:
            if len(self._output):  # a step failed, and the engine's state is unknown
                self.close()

    def _start(self, requests: Sequence[Request], sink: Callable[[OutputDelta], None]) -> None:
        for request in requests:
            self._output.add(request, sink)
            self._core.add(request)

    def _step(self) -> None:
        for outputs in self._core.step().values():
            if stopped := self._output.process(outputs):
                self._core.abort([RequestKey(0, handle) for handle in stopped])

    def _abort_all(self) -> None:
        """Forget all requests and let the engine come to rest."""
        handles = [add.request.handle for add in self._output.in_flight()]
        for handle in handles:
            self._output.drop(handle)
        self._core.abort([RequestKey(0, handle) for handle in handles])
        while self._core.has_work:
            self._core.step()


def build_config(model: str | None, settings: Mapping[str, Any]) -> EngineConfig:
    """The configuration with each setting in the section that has a field of its name; raises `ConfigError`."""
    wanted = dict(settings) if model is None else {"model": model, **settings}
    # Without a client that watches tokens come there is no latency to protect: whole chunks, for throughput.
    wanted.setdefault("target_itl_ms", 0.0)
    sections: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(EngineConfig).items():
        hints = typing.get_type_hints(kind)
        given = [field for field in dataclasses.fields(kind) if field.name in wanted]
        sections[name] = kind(**{f.name: typed(f, hints[f.name], wanted.pop(f.name)) for f in given})
    for name in wanted:
        raise ConfigError(name, "there is no such setting")
    return EngineConfig(**sections)


def typed(field: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    """A setting's value, sizes such as "2GiB" as bytes; raises `ConfigError` for another type than the setting's."""
    if isinstance(value, str) and field.metadata["kind"] == "bytes":
        return parse_bytes(field.name, value)
    kind = plain_type(hint)
    is_right = type(value) is kind or (kind is float and type(value) is int) or (value is None and kind is not hint)
    if not is_right:
        raise ConfigError(field.name, f"{value!r} is not of type {kind.__name__}")
    return value


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> Sequence[Prompt]:
    """A list of prompts, also from a single text or a single list of token ids; raises `InvalidRequest` for none."""
    if isinstance(prompts, str):
        return [prompts]
    if len(prompts) == 0:
        raise InvalidRequest("prompts is empty", "prompts")
    if isinstance(prompts[0], str) or not isinstance(prompts[0], int):
        return prompts  # type: ignore[return-value]
    return [prompts]  # type: ignore[list-item]


def one_each(value: Any, kind: type, count: int, field: str) -> Sequence[Any]:
    """`count` values, from one for all or from a list of as many; raises `InvalidRequest` for another number."""
    if isinstance(value, kind):
        return [value] * count
    if len(value) != count:
        raise InvalidRequest(f"{field} has {len(value)} entries for {count} prompts", field)
    return list(value)


@contextmanager
def interrupts_between_steps() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back until the function that this yields is called, so that no step is torn in the middle.

    A second Ctrl-C acts at once. Other threads than the main one get no signals, and need nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    pending: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if pending:
            raise KeyboardInterrupt
        pending.append(number)

    def check() -> None:
        if pending:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
