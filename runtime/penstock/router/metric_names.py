"""The metrics contract of the router: every name, its labels, and what it counts."""

from __future__ import annotations

from penstock.server.metric_table import Family

STATUSES = (200, 400, 401, 404, 405, 413, 422, 429, 500, 503)
REJECTIONS = ("tenant", "capacity", "unavailable", "draining", "unauthorized")
ADDED_BOUNDS = (0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
WAIT_BOUNDS = (0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)

COUNTERS = {
    "penstock_router_completed_total": "Requests whose answer went out to its end",
    "penstock_router_resumes_total": "Times that a running answer went on at a pod that was told it again",
    "penstock_router_losses_total": "Times that a pod, or the way to it, was lost with a request in flight",
    "penstock_router_moves_total": "Times that a pod gave up a request unharmed, to be told to another",
    "penstock_router_retries_total": "Times that a pod would not take a request, which then went elsewhere",
    "penstock_router_disconnects_total": "Requests whose client left before the end",
    "penstock_router_repeats_total": "Answers to an Idempotency-Key that was known, and generated nothing",
}
GAUGES = {
    "penstock_router_requests_in_flight": "Requests of clients that are not answered to their end",
    "penstock_router_requests_held": "Requests that wait for a place at a pod, or for a pod",
    "penstock_router_body_bytes": "Bytes of the bodies of requests that are not answered to their end",
}


def build_families(version: str) -> tuple[Family, ...]:
    """What the workers of a router count."""
    codes = (*((str(status),) for status in STATUSES), ("other",))
    return (
        Family(
            name="penstock_router_http_responses_total",
            kind="counter",
            text="HTTP answers by status code",
            labels=("code",),
            values=codes,
        ),
        Family(
            name="penstock_router_rejections_total",
            kind="counter",
            text="Requests that the router refused itself: tenant over its limit, no capacity, no pod at all, "
            "draining, no valid key",
            labels=("reason",),
            values=tuple((reason,) for reason in REJECTIONS),
        ),
        *(Family(name=name, kind="counter", text=text) for name, text in COUNTERS.items()),
        *(Family(name=name, kind="gauge", text=text) for name, text in GAUGES.items()),
        Family(
            name="penstock_router_added_ttft_seconds",
            kind="histogram",
            text="What the router added to the time to the first byte of an answer, without waits for a place",
            bounds=ADDED_BOUNDS,
        ),
        Family(
            name="penstock_router_wait_seconds",
            kind="histogram",
            text="How long requests that were answered had waited for a place at a pod",
            bounds=WAIT_BOUNDS,
        ),
        Family(
            name="penstock_router_build_info",
            kind="gauge",
            text="Always 1; what is running",
            merge="max",
            labels=("version",),
            values=((version,),),
        ),
    )


ENDPOINT_LABELS = ("endpoint", "role")
ENDPOINT_GAUGES = {
    "penstock_router_endpoint_up": "1 if the pod takes new requests",
    "penstock_router_endpoint_num_requests_running": "Requests that run at the pod",
    "penstock_router_endpoint_num_requests_waiting": "Requests that wait at the pod, those on their way included",
    "penstock_router_endpoint_requests_in_flight": "Requests that this router has at the pod",
    "penstock_router_endpoint_kv_cache_usage_ratio": "Share of the pod's KV blocks held by requests, 0 to 1",
    "penstock_router_endpoint_waiting_tokens": "Uncached prompt tokens of requests that wait at the pod",
}
