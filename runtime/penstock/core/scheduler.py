"""One scheduler for all work: each row's `num_computed` chases its `num_tokens` under one token budget.

Chunked prefill, prefix hits, resuming after preemption and replay after an engine death are all that same subtraction.
The order of `add`, `abort`, `schedule` and `apply`, with the results, determines every decision: no clock, no dice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.config import SchedulerConfig
from penstock.core.applied import Applied, keep_logprobs
from penstock.core.chunk_size import ChunkSize
from penstock.core.departures import Departures
from penstock.core.kv.kv_cache import Appended, KVCache
from penstock.core.kv.tickets import Tickets
from penstock.core.plan import Ints, NewRow, StepPlan, StepResult, no_ints
from penstock.core.policy import POLICIES, cheapest, choose_victim, fill_in_order, share_budget
from penstock.core.prefix_cache import PrefixCache
from penstock.core.request import FinishReason, Request, RequestKey
from penstock.core.request_table import RequestTable, Resident
from penstock.core.waiting import Waiting, WaitingQueue


@dataclass(slots=True, kw_only=True)
class Totals:
    """Running counts since the engine started."""

    num_preemptions: int = 0
    num_prefix_queries: int = 0  # prompt tokens looked up
    num_prefix_hits: int = 0
    num_prompt_tokens: int = 0  # computed
    num_output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A step that was submitted and not applied yet."""

    step: int
    chunks: list[tuple[int, Resident, int]]  # rows that computed prompt tokens: (row, its resident, computed after it)
    num_chunk_tokens: int
    num_decodes: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Rows that run in a step, with the tokens of each. # both [n]"""

    rows: Ints
    tokens: Ints
    new_rows: tuple[NewRow, ...] = ()


class Scheduler:
    """Decides each step; owns the waiting queue, the running rows and their blocks."""

    def __init__(
        self, config: SchedulerConfig, kv: KVCache, table: RequestTable, *, tickets: Tickets, has_prefix_cache: bool
    ) -> None:
        self.kv = kv
        self.tickets = tickets
        self.table = table
        self.totals = Totals()
        self.waiting = WaitingQueue()
        self.running = no_ints()  # rows, in order of admission
        self.prefixes = PrefixCache(kv, tickets, is_on=has_prefix_cache)
        self._departures = Departures(kv, table)
        self._budget = config.max_num_batched_tokens
        self._max_skip_ahead = config.max_skip_ahead
        self._rank = POLICIES[config.policy]
        self._chunk_size = ChunkSize(config.target_itl_ms / 1e3, config.max_num_batched_tokens)
        self._row_of: dict[RequestKey, int] = {}
        self._in_flight: deque[Flight] = deque()
        self._is_blocked = False  # the last admission passed over a request for want of rows or blocks
        self._is_stuck = False  # it admitted nobody, and nothing has changed since: chunks need not leave room
        self._step = 0
        self._sequence = 0

    def add(self, request: Request, output_ids: bytes = b"") -> None:
        """Queue a request; with `output_ids` (int32, little-endian), one that continues after those tokens."""
        known = np.frombuffer(request.prompt_ids + output_ids, dtype="<i4")
        hashes = [request.block_hashes[i : i + 16] for i in range(0, len(request.block_hashes), 16)]
        self._sequence += 1
        self._enqueue(request, known, hashes, self._sequence, is_new=not output_ids)

    def abort(self, keys: Collection[RequestKey]) -> None:
        """Forget requests wherever they are; unknown keys are ignored."""
        keys = set(keys)
        self.waiting.remove([entry for entry in self.waiting if entry.request.key in keys])
        for row in [self._row_of[key] for key in keys if key in self._row_of]:
            self._leave(row)

    def abort_client(self, client: int) -> None:
        """Forget every request of one front-end process."""
        keys = {key for key in self._row_of if key.client == client}
        self.abort(keys | {entry.request.key for entry in self.waiting if entry.request.client == client})

    @property
    def has_work(self) -> bool:
        """True while any request waits or runs, or a step is in flight."""
        return bool(self.running.size or len(self.waiting) or self._in_flight)

    def schedule(self) -> StepPlan | None:
        """The next step, or None if no row can run before a result is applied (or nothing is there to run)."""
        self._preempt_for_urgent()
        want = self._tokens_left(self.running)
        is_decode = want == 1
        chunk_budget = self._chunk_size.limit(bool(is_decode.any()))
        others_wait = bool(len(self.waiting)) and not self._is_stuck
        tokens = share_budget(want, self._budget, chunk_budget, others_wait)
        grant, appended = self._claim_blocks(Grant(self.running, tokens))
        num_decodes = int((grant.tokens == 1).sum())
        room = min(self._budget - num_decodes, chunk_budget) - (int(grant.tokens.sum()) - num_decodes)
        grant = self._admit(grant, room)
        if not grant.rows.size:
            return None
        self._step += 1
        self._advance(grant, num_decodes)
        return StepPlan(
            step=self._step,
            freed_rows=np.array(self._departures.take_freed_rows(), dtype=np.int32),
            new_rows=grant.new_rows,
            block_rows=appended.rows,
            block_ids=appended.block_ids,
            rows=grant.rows,
            num_tokens=grant.tokens,
        )

    def apply(self, result: StepResult) -> Applied:
        """Take in a step's tokens, oldest step first: append, find who is done, return rows and blocks."""
        flight = self._in_flight.popleft()
        assert flight.step == result.step, f"result of step {result.step} while step {flight.step} is the oldest"
        self._chunk_size.observe(flight.num_chunk_tokens, flight.num_decodes, result.elapsed)
        for row, resident, num_computed in flight.chunks:  # prompt blocks can be found while their row still runs
            if self.table.residents[row] is resident:
                self.prefixes.remember(row, resident, num_computed)
        table, rows, tokens, logprobs = self.table, result.rows, result.token_ids, result.logprobs
        if not (live := table.is_live[rows]).all():  # rows that ended or were preempted while this step ran
            rows, tokens, logprobs = rows[live], tokens[live], keep_logprobs(logprobs, live)
        num_known = table.num_known[rows]
        table.token_ids[rows, num_known] = tokens
        num_known += 1
        table.num_known[rows] = num_known
        finish = self._finish_reasons(rows, tokens, num_known, result.failed_rows)
        applied = Applied(
            clients=table.client[rows],
            handles=table.handle[rows],
            token_ids=tokens,
            finish=finish,
            started=self._started(rows),
            logprobs=logprobs,
            prompt_logprobs=[
                (table.resident(p.row).request.key, p) for p in result.prompt_logprobs if table.is_live[p.row]
            ],
        )
        self.totals.num_output_tokens += len(rows)
        for row in rows[finish != 0].tolist():
            self._leave(row)
        self._give_back(result.step)
        return applied

    def _tokens_left(self, rows: Ints) -> Ints:
        """Tokens each row could compute now: what is known or in flight, but never the last one of the request."""
        table = self.table
        return np.minimum(table.num_tokens[rows], table.max_total[rows] - 1) - table.num_computed[rows]

    def _claim_blocks(self, grant: Grant) -> tuple[Grant, Appended]:
        """Blocks for what is granted, preempting while there are too few; rows that get nothing drop out."""
        rows, tokens, kv, table = grant.rows, grant.tokens, self.kv, self.table
        while True:
            missing = kv.missing(rows, table.num_computed[rows] + tokens)
            if (appended := kv.grow(rows, missing)) is not None:
                break
            victim = None
            if not self._departures:  # else blocks return with the next result, and the later rows wait for those
                redo = table.num_computed[rows] - table.num_reusable[rows]
                victim = choose_victim(table.priority[rows], table.sequence[rows], redo)
            if victim is None:
                fits = fill_in_order(missing, kv.pool.num_free) == missing
                tokens = np.where(fits, tokens, 0)
            else:
                self._preempt(int(rows[victim]))
                rows, tokens = np.delete(rows, victim), np.delete(tokens, victim)
        if rows.size and not tokens.all():
            rows, tokens = rows[tokens > 0], tokens[tokens > 0]
        return Grant(rows, tokens), appended

    def _admit(self, grant: Grant, room: int) -> Grant:
        """Give rows to waiting requests, in order, while tokens, rows and blocks remain; a few may be overtaken."""
        self._is_blocked = False
        if not len(self.waiting):
            return grant
        reserve = self.num_reserved
        admitted: list[Waiting] = []
        passed: list[Waiting] = []
        new_rows: list[NewRow] = []
        tokens: list[int] = []
        for entry in self.waiting:
            if room <= 0 or not self.table.num_free:
                break
            hits = self.prefixes.find(entry)
            if hits is None:  # its prefix is being computed right now: soon it will be a hit
                continue
            if not self._has_room(entry, hits, reserve):
                passed.append(entry)
                if len(passed) > self._max_skip_ahead or entry.num_overtaken >= self._max_skip_ahead:
                    break
                continue
            num_tokens = min(room, len(entry.known) - len(hits) * self.kv.group.block_size)
            new_rows.append(self._take_row(entry, hits, num_tokens))
            tokens.append(num_tokens)
            admitted.append(entry)
            reserve += self.kv.blocks_for(len(entry.known)) - len(new_rows[-1].block_ids)
            room -= num_tokens
            for overtaken in passed:
                overtaken.num_overtaken += 1
        self.waiting.remove(admitted)
        self._is_blocked = bool(passed) or not self.table.num_free
        self._is_stuck = not admitted and (self._is_stuck or room > 0)
        rows = np.array([row.row for row in new_rows], dtype=np.int32)
        self.running = np.concatenate([self.running, rows])
        return Grant(
            np.concatenate([grant.rows, rows]),
            np.concatenate([grant.tokens, np.array(tokens, dtype=np.int32)]),
            tuple(new_rows),
        )

    def _advance(self, grant: Grant, num_decodes: int) -> None:
        """Count the step as done ahead of its result: the device gets there before any later step."""
        table, rows = self.table, grant.rows
        computed = table.num_computed[rows] + grant.tokens
        table.num_computed[rows] = computed
        table.num_tokens[rows] += computed == table.num_tokens[rows]
        num_chunk_tokens = int(grant.tokens.sum()) - num_decodes
        self.totals.num_prompt_tokens += num_chunk_tokens
        chunks = [] if not num_chunk_tokens else self._chunks(grant, computed)
        self._in_flight.append(
            Flight(step=self._step, chunks=chunks, num_chunk_tokens=num_chunk_tokens, num_decodes=num_decodes)
        )

    def _chunks(self, grant: Grant, computed: Ints) -> list[tuple[int, Resident, int]]:
        is_chunk = grant.tokens > 1
        is_chunk[len(is_chunk) - len(grant.new_rows) :] = True
        pairs = zip(grant.rows[is_chunk].tolist(), computed[is_chunk].tolist(), strict=True)
        return [(row, self.table.resident(row), end) for row, end in pairs]

    @property
    def num_reserved(self) -> int:
        """Blocks that running rows will still need for known tokens, plus a margin so that they can grow."""
        if not self.running.size:
            return 0
        table, pool = self.table, self.kv.pool
        outstanding = int(self.kv.missing(self.running, table.num_tokens[self.running]).sum())
        return outstanding + min(self.running.size, pool.num_blocks // 50)

    def _has_room(self, entry: Waiting, hits: list[int], reserve: int) -> bool:
        pool = self.kv.pool
        total = min(len(entry.known) + 1, entry.request.max_total)
        return self.kv.blocks_for(total) - len(hits) + pool.count_free(hits) + reserve <= pool.num_free

    def _take_row(self, entry: Waiting, hits: list[int], num_tokens: int) -> NewRow:
        request, num_hit = entry.request, len(hits) * self.kv.group.block_size
        resident = Resident(
            request=request, hashes=entry.hashes, num_remembered=len(hits), num_admitted=len(entry.known)
        )
        row = self.table.take(resident, entry, num_hit)
        self._row_of[request.key] = row
        self.prefixes.announce(row, entry.hashes[len(hits) :])
        if entry.is_new and request.is_cache_read_allowed:
            self.totals.num_prefix_queries += len(entry.known)
            self.totals.num_prefix_hits += num_hit
        return NewRow(
            row=row,
            token_ids=entry.known,
            num_prompt=request.num_prompt,
            num_computed=num_hit,
            block_ids=self.kv.admit(row, hits, num_hit + num_tokens),
            sampling=request.sampling,
            stop_ids=request.stop_ids,
        )

    def _preempt_for_urgent(self) -> None:
        """If a waiting request found no room and less urgent rows run, take one of them back."""
        if not self._is_blocked or not len(self.waiting) or self._departures:
            return
        urgency, table = next(iter(self.waiting)).rank[0], self.table
        rows = self.running[table.priority[self.running] > urgency]
        if rows.size:
            rows = rows[table.priority[rows] == table.priority[rows].max()]
            redo = table.num_computed[rows] - table.num_reusable[rows]
            self._preempt(int(rows[cheapest(table.sequence[rows], redo)]))

    def _preempt(self, row: int) -> None:
        """Back to the queue with what is known; row and blocks are freed, the request never is."""
        resident, known = self.table.resident(row), self.table.known_tokens(row)
        sequence, is_new = int(self.table.sequence[row]), bool(self.table.is_new[row])
        self._leave(row)
        self.totals.num_preemptions += 1
        self._enqueue(resident.request, known, resident.hashes, sequence, is_new=is_new)

    def _enqueue(self, request: Request, known: Ints, hashes: list[bytes], sequence: int, *, is_new: bool) -> None:
        self._is_stuck = False
        self.prefixes.extend(hashes, request, known)
        self.waiting.push(
            Waiting(
                request=request,
                known=known,
                hashes=hashes,
                rank=self._rank(request),
                sequence=sequence,
                is_new=is_new,
            )
        )

    def _leave(self, row: int) -> None:
        """Take a row out of the running set; it and its blocks come back when no step in flight names them."""
        table, resident = self.table, self.table.resident(row)
        self.prefixes.leave(row, resident, table.token_ids[row, : table.num_known[row]])
        del self._row_of[resident.request.key]
        self.running = self.running[self.running != row]
        self._departures.leave(row, self._in_flight[-1].step if self._in_flight else 0)
        if not self._in_flight:
            self._give_back(self._step)

    def _give_back(self, applied_step: int) -> None:
        if self._departures:
            self._departures.give_back(applied_step)
            self._is_stuck = False

    def _finish_reasons(self, rows: Ints, tokens: Ints, num_known: Ints, failed_rows: Ints) -> NDArray[np.uint8]:
        table = self.table
        is_stop = (table.stop_ids[rows] == tokens[:, None]).any(axis=1) & (num_known > table.min_total[rows])
        finish = np.where(num_known >= table.max_total[rows], FinishReason.LENGTH, FinishReason.NONE)
        finish = np.where(is_stop, FinishReason.STOP, finish)
        if failed_rows.size:
            finish = np.where(np.isin(rows, failed_rows), FinishReason.ERROR, finish)
        return finish.astype(np.uint8)

    def _started(self, rows: Ints) -> list[tuple[RequestKey, int]]:
        table = self.table
        fresh = rows[table.is_new[rows]]
        table.is_new[fresh] = False
        return [(table.resident(row).request.key, int(table.num_reusable[row])) for row in fresh.tolist()]
