"""How this pod is doing, from memory: a router asks twice a second and takes whoever is slow to answer for dead."""

from __future__ import annotations

from penstock import __version__
from penstock.internal.fleet import Fleet, endpoint_of
from penstock.internal.protocol import Load, TransferTotals
from penstock.listener import base_url
from penstock.server.pod_exchange import PodExchange
from penstock.server.serving import Serving


def load_of(serving: Serving) -> Load:
    """The pod's load. Totals are over all its engines, gauges as the engine last told them."""
    llm, transfer = serving.llm, serving.llm.config.transfer
    stats, known = llm.stats, llm.known_engine
    totals = serving.metrics.totals(llm)
    running = stats.num_running  # up to half a second old: what has ended since is known here, but for peers' prompts
    if transfer.role != "prefill":
        running = min(running, int(totals["penstock_num_requests_in_flight"]))
    return Load(
        name=transfer.pod_name or "",
        role=transfer.role,
        model=serving.model,
        version=__version__,
        revision=transfer.pod_revision,
        fingerprint="" if known is None else known.fingerprint,
        session="" if known is None else known.session,
        now=serving.clock(),
        ready=llm.is_ready,
        draining=llm.is_draining,
        stalled=llm.stalled_seconds,
        running=running,
        waiting=int(totals["penstock_num_requests_waiting"]),
        queued_tokens=stats.num_waiting_tokens,
        prefill_rate=stats.prefill_rate or None,
        prompt_tokens=int(totals["penstock_engine_prompt_tokens_total"]),
        output_tokens=int(totals["penstock_engine_output_tokens_total"]),
        kv_usage=stats.kv_usage,
        capacity_tokens=0 if known is None else known.num_blocks * known.block_size,
        max_model_len=llm.input.max_model_len,
        max_num_seqs=llm.config.scheduler.max_num_seqs,
        leases=stats.num_leases,
        transfers=TransferTotals(
            count=int(totals["penstock_kv_transfers_total"]),
            bytes=int(totals["penstock_kv_transfer_bytes_total"]),
            failed=int(totals["penstock_kv_transfer_failures_total"]),
            fallbacks=int(totals["penstock_kv_transfer_fallbacks_total"]),
        ),
    )


async def show_load(serving: Serving, exchange: PodExchange) -> None:
    """How this pod is doing."""
    await exchange.respond_json(load_of(serving))


async def show_fleet(serving: Serving, exchange: PodExchange) -> None:
    """The pods of the service, as far as this one knows: itself."""
    config = serving.config
    url = base_url(config.host, config.port)
    if config.internal_port is not None:
        url = base_url(config.internal_host, config.internal_port)
    await exchange.respond_json(Fleet(endpoints=[endpoint_of(load_of(serving), url)]))
