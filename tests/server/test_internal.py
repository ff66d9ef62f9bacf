"""The internal port: who gets in, what a pod says of itself, and how it is taken out of service."""

from __future__ import annotations

import asyncio
import json
import secrets

import msgspec
import pytest

from penstock.engine.messages import SchedulerStats
from penstock.errors import ConfigError
from penstock.internal.credentials import ClusterKeys, query_claims
from penstock.internal.fleet import Fleet
from penstock.internal.protocol import (
    DRAIN_PATH,
    KV_PATH,
    LOAD_PATH,
    RENEW_PATH,
    ROUTE_PATH,
    UNDRAIN_PATH,
    KvEndpoint,
    Load,
    Renewal,
)
from penstock.kv_transfer.lease_table import LeaseTable
from penstock.server.internal.app import ENDPOINTS
from support.kv_endpoint import ENDPOINT
from support.routed import COMPLETIONS, call_of, token_for
from support.sites import open_site

REFUSALS = "penstock_internal_refused_total"


@pytest.fixture
def key_file(tmp_path):
    file = tmp_path / "key"
    file.write_text("a-key-that-is-long-enough\n")
    return file


@pytest.fixture
async def guarded(key_file, tmp_path):
    async with open_site(cluster_key_file=str(key_file), run_path=tmp_path, endpoint=ENDPOINT) as site:
        yield site


async def load_of(site, headers=None) -> Load:
    reply = await site.internal.get(LOAD_PATH, headers=headers)
    assert reply.status_code == 200, reply.text
    return msgspec.json.decode(reply.content, type=Load)


async def test_what_is_not_open_needs_a_token_and_every_refusal_is_counted(guarded):
    closed = [endpoint for endpoint in ENDPOINTS if not endpoint.is_open]
    assert len(closed) == 9
    for number, endpoint in enumerate(closed):
        reply = await guarded.internal.request(endpoint.method, endpoint.path, content=b"anything")
        assert reply.status_code == 401, endpoint.path
        assert await guarded.metric(REFUSALS) == number + 1
    assert (await guarded.internal.get("/internal/v1/nothing")).status_code == 401
    for path in ("/livez", "/readyz", "/healthz", "/metrics", "/version", "/fleet"):
        assert (await guarded.internal.get(path)).status_code == 200
    assert not guarded.engine.seen


async def test_a_token_is_good_for_one_call_in_one_life_of_the_pod_and_not_for_long(guarded, key_file):
    keys, body = ClusterKeys(key_file), call_of(COMPLETIONS, {"prompt": "a", "max_tokens": 1})

    async def status(path=ROUTE_PATH, content=body, **claims) -> int:
        headers = token_for(guarded, keys, ROUTE_PATH, body, **claims)
        return (await guarded.internal.post(path, content=content, headers=headers)).status_code

    assert await status() == 200
    assert await status(content=body + b" ") == 401
    assert await status(path=RENEW_PATH) == 401
    assert await status(session="session-0") == 401
    assert await status(expires=guarded.serving.clock() - 0.1) == 401
    assert await status(expires=guarded.serving.clock() + 1000) == 401
    assert await guarded.metric(REFUSALS) == 5
    other = key_file.parent / "other"
    other.write_text("another-key-long-enough")
    forged = token_for(guarded, ClusterKeys(other), ROUTE_PATH, body)
    assert (await guarded.internal.post(ROUTE_PATH, content=body, headers=forged)).status_code == 401


async def test_routed_calls_survive_a_new_engine_and_prefill_calls_do_not(guarded, key_file):
    keys, renewal = ClusterKeys(key_file), msgspec.msgpack.encode(Renewal(leases=[]))
    body = call_of(COMPLETIONS, {"prompt": "a", "max_tokens": 1})
    routed, renewing = token_for(guarded, keys, ROUTE_PATH, body), token_for(guarded, keys, RENEW_PATH, renewal)
    guarded.engine.die()
    guarded.engine.begin_life()
    assert (await guarded.internal.post(ROUTE_PATH, content=body, headers=routed)).status_code == 200
    assert (await guarded.internal.post(RENEW_PATH, content=renewal, headers=renewing)).status_code == 401


async def test_a_key_that_is_replaced_is_taken_up_and_the_former_one_still_opens(guarded, key_file):
    former = key_file.parent / "former"
    former.write_text(key_file.read_text())
    key_file.write_text("a-new-key-that-is-long\na-key-that-is-long-enough\n")
    for file in (former, key_file):
        headers = {"authorization": ClusterKeys(file).sign(query_claims(LOAD_PATH))}
        assert (await load_of(guarded, headers)).ready


@pytest.mark.parametrize("size", [1, 50, 5000])
async def test_random_bytes_are_dropped_and_counted_and_nothing_else_happens(guarded, size):
    refused = 0
    for _ in range(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", guarded.internal_port)
        writer.write(b"\x16\x03" + secrets.token_bytes(size))
        writer.write_eof()
        answer = await reader.read()
        refused += answer.startswith(b"HTTP/1.1 400")
        writer.close()
    assert refused == 5
    assert await guarded.metric(REFUSALS) == 5
    assert not guarded.engine.seen
    assert (await guarded.complete("ok", max_tokens=1))["choices"][0]["text"] == "ok"


@pytest.mark.parametrize("path", [ROUTE_PATH, RENEW_PATH, "/internal/v1/prefill"])
async def test_a_good_token_over_a_body_of_nonsense_is_one_400(guarded, key_file, path):
    body = secrets.token_bytes(200)
    reply = await guarded.internal.post(
        path, content=body, headers=token_for(guarded, ClusterKeys(key_file), path, body)
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


async def test_the_load_tells_what_a_router_and_a_peer_need(site):
    site.engine.is_running = False
    load = await load_of(site)
    assert (load.role, load.model, load.session, load.fingerprint) == ("both", "org/echo", "session-1", "f1")
    assert (load.ready, load.draining, load.stalled, load.prefill_rate) == (True, False, 0.0, None)
    assert (load.capacity_tokens, load.max_model_len, load.max_num_seqs) == (101 * 16, 512, 32)
    assert abs(load.now - site.serving.clock()) < 1
    stream = site.llm.submit(site.llm.input.build("a", site.llm.input.default_params(), request_id="x"))
    site.llm._progress.last -= 7
    assert 7 <= (await load_of(site)).stalled < 8
    await stream.aclose()
    site.engine.die()
    dead = await load_of(site)
    assert not dead.ready
    assert dead.session == "session-1"  # tokens for it stay good for what waits here for the next engine


async def test_totals_of_the_load_do_not_fall_when_an_engine_dies(site):
    def say(**numbers) -> None:
        outputs = site.engine.outputs([], [])
        site.engine.deliver(msgspec.structs.replace(outputs, stats=SchedulerStats(**numbers)))

    say(num_steps=10, num_output_tokens=70, num_pulls=3, num_pulled_bytes=3000, num_failed_pulls=1, num_fallbacks=1)
    site.engine.die()
    site.engine.begin_life()
    load = await load_of(site)
    assert (load.output_tokens, load.transfers.count, load.transfers.bytes) == (70, 3, 3000)
    say(num_steps=2, num_output_tokens=5, num_pulls=1, num_pulled_bytes=10, num_leases=2, prefill_rate=88.0)
    load = await load_of(site)
    assert (load.output_tokens, load.transfers.count, load.transfers.bytes) == (75, 4, 3010)
    assert (load.transfers.failed, load.transfers.fallbacks, load.leases, load.prefill_rate) == (1, 1, 2, 88.0)
    assert await site.metric("penstock_kv_transfers_total") == 4
    assert await site.metric("penstock_kv_leases") == 2


async def test_the_fleet_of_a_pod_is_the_pod(site):
    for port in (site.http, site.internal):
        fleet = msgspec.json.decode((await port.get("/fleet")).content, type=Fleet)
        [endpoint] = fleet.endpoints
        assert (endpoint.role, endpoint.state, endpoint.model) == ("both", "ready", "org/echo")
    site.llm.drain()
    assert (await site.http.get("/fleet")).json()["endpoints"][0]["state"] == "draining"


async def test_peers_learn_where_blocks_are_and_can_tell_who_says_so(guarded, key_file):
    keys, claims = ClusterKeys(key_file), query_claims(KV_PATH)
    reply = await guarded.internal.get(KV_PATH, headers={"authorization": keys.sign(claims)})
    assert msgspec.msgpack.decode(reply.content, type=KvEndpoint) == ENDPOINT
    mac = bytes.fromhex(reply.headers["x-penstock-mac"])
    assert keys.is_mac(mac, claims.nonce, 0, reply.content)
    assert not keys.is_mac(mac, claims.nonce, 0, reply.content + b" ")


async def test_a_pod_whose_blocks_nobody_can_read_says_so(site):
    assert (await site.internal.get(KV_PATH)).status_code == 409
    site.engine.die()
    assert (await site.internal.get(KV_PATH)).status_code == 503


async def test_a_renewal_goes_straight_into_the_lease_table(guarded, key_file, tmp_path):
    keys, table = ClusterKeys(key_file), LeaseTable(tmp_path / "leases", is_new=True)
    row, epoch = table.grant(0.0)
    body = msgspec.msgpack.encode(Renewal(leases=[(row, epoch), (row, epoch + 1), (-1, 1), (1 << 40, 1)]))
    reply = await guarded.internal.post(RENEW_PATH, content=body, headers=token_for(guarded, keys, RENEW_PATH, body))
    assert reply.status_code == 204
    assert table.renewed_at(row) > guarded.serving.clock() - 5
    guarded.engine.die()
    guarded.engine.begin_life()
    successor = LeaseTable(tmp_path / "leases", is_new=True)
    row, epoch = successor.grant(0.0)
    body = msgspec.msgpack.encode(Renewal(leases=[(row, epoch)]))
    await guarded.internal.post(RENEW_PATH, content=body, headers=token_for(guarded, keys, RENEW_PATH, body))
    assert successor.renewed_at(row) > 0


async def test_a_drain_is_for_all_front_ends_and_lets_streams_finish(tmp_path):
    async with open_site(run_path=tmp_path) as first, open_site(run_path=tmp_path) as second:
        first.engine.pause = 0.01
        running = asyncio.create_task(first.complete("one two three", max_tokens=30))
        while not first.engine.running:
            await asyncio.sleep(0.005)
        for _ in range(2):
            assert (await second.internal.post(DRAIN_PATH)).status_code == 200
        for site in (first, second):
            for port in (site.http, site.internal):
                assert (await port.get("/readyz")).status_code == 503
            refused = await site.post("/v1/completions", prompt="a")
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            load = await load_of(site)
            assert load.draining
            assert not load.ready
        assert (await running)["usage"]["completion_tokens"] == 30
        async with open_site(run_path=tmp_path) as third:  # a front-end that is started again meanwhile
            assert (await third.http.get("/readyz")).status_code == 503
        for _ in range(2):
            assert (await first.internal.post(UNDRAIN_PATH)).status_code == 200
        for site in (first, second):
            assert (await site.http.get("/readyz")).status_code == 200
            await site.complete("a", max_tokens=1)


async def test_nothing_internal_is_served_on_the_public_port(site):
    for endpoint in ENDPOINTS:
        if endpoint.path.startswith("/internal"):
            assert (await site.http.request(endpoint.method, endpoint.path)).status_code == 404
    body = {"prompt": "a", "kv_transfer_params": {"do_remote_prefill": True}}
    refused = await site.http.post("/v1/completions", content=json.dumps(body))
    assert refused.status_code == 400
    assert "kv_transfer_params" in refused.json()["error"]["message"]
    await site.http.post("/v1/completions", json={"prompt": "a"}, headers={"x-prefiller-host-port": "evil:1"})
    assert site.engine.seen[-1].prefiller == ""


def test_a_key_file_that_is_missing_or_short_is_refused(tmp_path):
    short = tmp_path / "short"
    short.write_text("abc\n")
    for file in (short, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="cluster-key-file"):
            ClusterKeys(file)
