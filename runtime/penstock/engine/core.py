"""The step loop's body: schedule → submit → (pipeline full?) wait for the oldest → apply → outputs per front-end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.config import EngineConfig
from penstock.core.applied import Applied, keep_logprobs
from penstock.core.backlog import num_tokens_left
from penstock.core.plan import StepPlan, TokenLogprobs
from penstock.core.request import FinishReason, Request, RequestKey
from penstock.core.scheduler import Scheduler
from penstock.core.trace import RecordingScheduler, TraceHead, build_scheduler
from penstock.engine.messages import PromptLogprobsOf, SchedulerStats, StepOutputs
from penstock.engine.prefill_rate import PrefillRate
from penstock.kv_transfer.connector import KVConnector, NoConnector

if TYPE_CHECKING:
    from penstock.worker.capacity import Capacity
    from penstock.worker.executor import Executor
    from penstock.worker.step import StepHandle

Connect = Callable[[Scheduler, PrefillRate], KVConnector]

BAD_NUMBERS = "the model produced numbers that are not finite for this request"


class EngineCore:
    """Scheduler and executor joined by a pipeline of `executor.depth` steps; the same in a process and in `LLM`."""

    def __init__(
        self,
        config: EngineConfig,
        executor: Executor,
        capacity: Capacity,
        max_model_len: int,
        connect: Connect | None = None,
    ) -> None:
        """`connect` makes what moves KV in and out; without one nothing does."""
        head = TraceHead(
            scheduler=config.scheduler,
            num_blocks=capacity.num_blocks,
            block_size=config.cache.block_size,
            max_model_len=max_model_len,
            has_prefix_cache=config.cache.enable_prefix_caching,
        )
        trace_file = config.scheduler.trace_file
        self._recording = Path(trace_file).open("wb") if trace_file else None
        self.scheduler = RecordingScheduler(head, self._recording) if self._recording else build_scheduler(head)
        self._pool = self.scheduler.kv.pool
        self._executor = executor
        self._in_flight: deque[tuple[StepHandle, int]] = deque()  # with its prompt tokens
        self._rate = PrefillRate()
        self._connector: KVConnector = connect(self.scheduler, self._rate) if connect else NoConnector()
        self._num_barren = 0  # attempts in a row that planned nothing while nothing was in flight
        self._num_steps = self._num_waits = 0
        self._integrity_failures = 0

    def add(self, request: Request, output_ids: bytes = b"", lend_from: int | None = None) -> None:
        """Queue a request, or one that continues after `output_ids` (int32, little-endian).

        `lend_from`: its blocks from that one on are held for a peer as they are computed.
        """
        self._connector.match(request, output_ids, lend_from)
        self.scheduler.add(request, output_ids)
        self._num_barren = 0

    def abort(self, keys: Collection[RequestKey]) -> None:
        """Forget requests; nothing more is said about them."""
        self.scheduler.abort(keys)
        self._connector.finished(keys)
        self._num_barren = 0

    def abort_client(self, client: int) -> None:
        """Forget all requests of a front-end process that is gone."""
        self.scheduler.abort_client(client)
        self._connector.finished_client(client)
        self._num_barren = 0

    @property
    def has_work(self) -> bool:
        """True while any request waits or runs, a step is in flight, or there is something to take in."""
        return self.scheduler.has_work or self._connector.has_news

    @property
    def is_waiting(self) -> bool:
        """True if `step` would do nothing before something comes from outside, or (`has_leases`) time passes."""
        is_stuck = self._num_barren > 1  # the scheduler makes more room at its second attempt
        return not self._connector.has_news and (is_stuck or not self.scheduler.has_work)

    @property
    def has_leases(self) -> bool:
        """True while `step` must be called now and then, also without work."""
        return self._connector.has_leases

    def step(self) -> dict[int, StepOutputs]:
        """Run the pipeline by one step; returns news by front-end (empty while the pipeline fills)."""
        self._connector.plan(is_stuck=self._num_barren > 1)
        plan: StepPlan | None = self.scheduler.schedule()
        if plan is not None:
            num_prompt_tokens = int(plan.num_tokens[plan.num_tokens > 1].sum())
            self._in_flight.append((self._executor.submit(plan), num_prompt_tokens))
        self._num_barren = 0 if self._in_flight else self._num_barren + 1
        self._num_waits += not self._in_flight and self.scheduler.tickets.has_arrivals
        if not self._in_flight or (plan is not None and len(self._in_flight) < self._executor.depth):
            return {}
        handle, num_prompt_tokens = self._in_flight.popleft()
        result = handle.wait()
        self._num_steps += 1
        self._rate.observe(num_prompt_tokens, result.elapsed)
        applied = self.scheduler.apply(result)
        applied.started[:] = [(key, self._connector.num_cached(key, found)) for key, found in applied.started]
        self._connector.computed(ended_of(applied))
        return split_by_client(applied)

    def close(self) -> None:
        """End the recording, if there is one; the executor is its owner's to close."""
        if self._recording:
            self._recording.close()

    def check_integrity(self) -> str | None:
        """A sentence about the first broken invariant of the idle engine's block accounting, counted; or None."""
        problem = self._pool.check_integrity()
        num_held = self._pool.num_blocks - 1 - self._pool.num_free
        if problem is None and not self.has_work and num_held > self.scheduler.tickets.num_blocks:
            problem = f"{self._pool.usage:.1%} of the blocks are held by nobody"
        self._integrity_failures += problem is not None
        return problem

    def stats(self) -> SchedulerStats:
        """Gauges and totals as of now."""
        scheduler, totals, moved = self.scheduler, self.scheduler.totals, self._connector.counts
        return SchedulerStats(
            num_running=scheduler.running.size,
            num_waiting=len(scheduler.waiting),
            num_waiting_tokens=max(0, num_tokens_left(scheduler) - moved.num_arriving_tokens),
            kv_usage=self._pool.usage,
            num_preemptions=totals.num_preemptions,
            num_prefix_queries=totals.num_prefix_queries,
            num_prefix_hits=totals.num_prefix_hits,
            num_prompt_tokens=totals.num_prompt_tokens,
            num_output_tokens=totals.num_output_tokens,
            num_steps=self._num_steps,
            integrity_failures=self._integrity_failures,
            prefill_rate=self._rate.value,
            num_leases=moved.num_leases,
            num_pulls=moved.num_pulls,
            num_pulled_bytes=moved.num_pulled_bytes,
            num_failed_pulls=moved.num_failed_pulls,
            num_fallbacks=moved.num_fallbacks,
            num_waits=self._num_waits,
        )


def ended_of(applied: Applied) -> list[RequestKey]:
    """The requests that ended with this step."""
    ended = applied.finish != FinishReason.NONE
    if not ended.any():
        return []
    pairs = zip(applied.clients[ended].tolist(), applied.handles[ended].tolist(), strict=True)
    return [RequestKey(client, handle) for client, handle in pairs]


def split_by_client(applied: Applied) -> dict[int, StepOutputs]:
    """One message per front-end that has news; with a single front-end no column is copied."""
    clients = {key.client for key, _ in applied.prompt_logprobs}
    if len(applied.clients):
        clients.add(int(applied.clients[0]))
    if len(clients) <= 1 and all((applied.clients == client).all() for client in clients):
        return {client: outputs_of(applied, client) for client in clients}
    split = {}
    clients.update(applied.clients.tolist())
    for client in clients:
        mine = applied.clients == client
        split[client] = outputs_of(
            Applied(
                clients=applied.clients[mine],
                handles=applied.handles[mine],
                token_ids=applied.token_ids[mine],
                finish=applied.finish[mine],
                started=applied.started,
                logprobs=keep_logprobs(applied.logprobs, mine),
                prompt_logprobs=applied.prompt_logprobs,
            ),
            client,
        )
    return split


def outputs_of(applied: Applied, client: int) -> StepOutputs:
    """The message for one front-end; `applied`'s columns are already its own, its lists may hold others' entries."""
    failed: tuple[tuple[int, str], ...] = ()
    if (bad := applied.finish == FinishReason.ERROR).any():
        failed = tuple((handle, BAD_NUMBERS) for handle in applied.handles[bad].tolist())
    return StepOutputs(
        epoch=0,
        handles=applied.handles,
        token_ids=applied.token_ids,
        finish=applied.finish,
        started=tuple((key.handle, cached) for key, cached in applied.started if key.client == client),
        failed=failed,
        logprobs=applied.logprobs if has_entries(applied.logprobs) else None,
        prompt_logprobs=tuple(
            PromptLogprobsOf(handle=key.handle, start=p.start, token=p.token, rank=p.rank, top_ids=p.top_ids, top=p.top)
            for key, p in applied.prompt_logprobs
            if key.client == client
        ),
    )


def has_entries(logprobs: TokenLogprobs | None) -> bool:
    """True if any sampled token has log-probabilities."""
    return logprobs is not None and len(logprobs.index) > 0
