"""`GET /fleet`: how the pods of a service are doing, as a router or a single pod tells it; `penstock top` shows it."""

from __future__ import annotations

import msgspec

from penstock.internal.protocol import Load, TransferTotals

FLEET_PATH = "/fleet"


class FleetEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One pod. What is not known (the pod is down) is 0 or empty."""

    name: str
    role: str
    url: str  # of its internal port, where /readyz and /metrics are open
    state: str  # ready, draining, loading, down, refused
    why: str = ""  # it is down or refused
    model: str = ""
    revision: str = ""
    running: int = 0
    waiting: int = 0
    queued_tokens: int = 0
    kv_usage: float = 0.0
    prefill_rate: float | None = None  # tokens/s
    prompt_tokens: int = 0  # computed in its life
    output_tokens: int = 0  # likewise
    leases: int = 0
    max_num_seqs: int = 0
    transfers: TransferTotals = TransferTotals()


class RouterTotals(msgspec.Struct, frozen=True, kw_only=True):
    """What a router has done in its life, over all its workers."""

    in_flight: int = 0
    held: int = 0  # waiting for admission or for a pod
    completed: int = 0
    rejected: int = 0
    resumed: int = 0  # streams that went on at another pod


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """The service."""

    endpoints: list[FleetEndpoint]
    router: RouterTotals | None = None


def endpoint_of(load: Load, url: str) -> FleetEndpoint:
    """A pod that has told its load."""
    state = "draining" if load.draining else "ready" if load.ready else "loading"
    return FleetEndpoint(
        name=load.name,
        role=load.role,
        url=url,
        state=state,
        model=load.model,
        revision=load.revision,
        running=load.running,
        waiting=load.waiting,
        queued_tokens=load.queued_tokens,
        kv_usage=load.kv_usage,
        prefill_rate=load.prefill_rate,
        prompt_tokens=load.prompt_tokens,
        output_tokens=load.output_tokens,
        leases=load.leases,
        max_num_seqs=load.max_num_seqs,
        transfers=load.transfers,
    )
