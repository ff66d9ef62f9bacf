"""The seam between the step loop and everything that moves KV in or out: remote prefill, leases, the offload tier."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from penstock.core.request import Request, RequestKey


@dataclass(slots=True, kw_only=True)
class TransferCounts:
    """Running counts since the engine started, and gauges."""

    num_leases: int = 0  # of blocks held for peers, now
    num_pulls: int = 0
    num_pulled_bytes: int = 0
    num_failed_pulls: int = 0
    num_fallbacks: int = 0
    num_arriving_tokens: int = 0  # prompt tokens that wait but need not be computed here, now


class KVConnector(Protocol):
    """What the step loop calls, always on its own thread; nothing in here waits for anybody."""

    @property
    def has_news(self) -> bool:
        """True if `plan` has something to take in."""

    @property
    def has_leases(self) -> bool:
        """True while `plan` must be called now and then, because time matters."""

    @property
    def counts(self) -> TransferCounts:
        """As of now."""

    def match(self, request: Request, output_ids: bytes, lend_from: int | None) -> None:
        """A request is about to be queued: see whether blocks can come from elsewhere, or are to be held for a peer."""

    def num_cached(self, key: RequestKey, num_found: int) -> int:
        """Of the prompt tokens that were found when a request started, those that were here when it came."""

    def plan(self, *, is_stuck: bool) -> None:
        """Before a step is planned: take in what happened. `is_stuck`: the last one could not be planned."""

    def computed(self, ended: Collection[RequestKey]) -> None:
        """After a step was applied: more blocks can be found, and these requests ended by themselves."""

    def finished(self, keys: Collection[RequestKey]) -> None:
        """These requests were aborted."""

    def finished_client(self, client: int) -> None:
        """All requests of that front-end were aborted: it has died."""


class NoConnector:
    """For a pod that shares nothing: every call does nothing."""

    has_news = False
    has_leases = False

    @property
    def counts(self) -> TransferCounts:
        """Nothing."""
        return TransferCounts()

    def match(self, request: Request, output_ids: bytes, lend_from: int | None) -> None:
        """Nothing."""

    def num_cached(self, key: RequestKey, num_found: int) -> int:
        """All of them."""
        return num_found

    def plan(self, *, is_stuck: bool) -> None:
        """Nothing."""

    def computed(self, ended: Collection[RequestKey]) -> None:
        """Nothing."""

    def finished(self, keys: Collection[RequestKey]) -> None:
        """Nothing."""

    def finished_client(self, client: int) -> None:
        """Nothing."""
