"""Keys, limits, idempotency and overload, over real sockets."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.router_site import router_site, until


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}-key"}


@pytest.fixture
def keys_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text("ann:ann-key\nbob:bob-key\n")
    return str(file)


async def test_without_a_key_nothing_is_served_or_read(keys_file):
    async with router_site({}, api_keys_file=keys_file) as site:
        for path in ("/v1/models", "/v1/nothing", "/v1/models/scripted"):
            assert (await site.http.get(path)).status_code == 401
        assert (await site.complete("x")).status_code == 401
        assert (await site.http.post("/v1/completions", content=b"x" * (18 << 20))).status_code == 401
        for path in ("/livez", "/readyz", "/healthz", "/metrics", "/fleet", "/version"):
            assert (await site.http.get(path)).status_code == 200
        assert (await site.http.get("/v1/models", headers=key("ann"))).status_code == 200


async def test_the_salt_comes_from_the_key_and_not_from_the_client(keys_file):
    async with router_site({}, api_keys_file=keys_file) as site:
        for name in ("ann", "bob", "ann"):
            await site.text("x", max_tokens=1, headers=key(name), cache_salt="mine")
        salts = [call.salt for call in site.pods[0].calls]
        assert salts[0] == salts[2] != salts[1]
        assert None not in salts


async def test_a_tenant_over_its_limit_gets_429_and_others_do_not(keys_file):
    async with router_site({"token_seconds": 0.1}, api_keys_file=keys_file, tenant_max_requests=3) as site:
        running = [asyncio.create_task(site.complete(f"{n}", max_tokens=8, headers=key("ann"))) for n in range(3)]
        await until(lambda: site.pods[0].running == 3)
        refused = await site.complete("x", max_tokens=1, headers=key("ann"))
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await site.complete("x", max_tokens=1, headers=key("bob"))).status_code == 200
        await asyncio.gather(*running)
        assert (await site.complete("x", max_tokens=1, headers=key("ann"))).status_code == 200


async def test_a_flood_of_one_tenant_does_not_starve_another(keys_file):
    async with router_site({"token_seconds": 0.02, "max_num_seqs": 2}, api_keys_file=keys_file) as site:
        flood = [asyncio.create_task(site.complete(f"{n}", max_tokens=5, headers=key("ann"))) for n in range(120)]
        await until(lambda: site.service.door.num_waiting > 90)
        began = time.monotonic()
        assert (await site.complete("x", max_tokens=5, headers=key("bob"))).status_code == 200
        took = time.monotonic() - began
        assert sum(task.done() for task in flood) < 60, "bob waited for ann's requests"
        assert took < 2
        replies = await asyncio.gather(*flood)
        assert {reply.status_code for reply in replies} == {200}


async def test_ten_times_overload_stays_in_the_router_and_goodput_stays_up():
    script = {"first_seconds": 0.2, "token_seconds": 0.2, "max_num_seqs": 2}
    async with router_site(script, queue_seconds=2.0, max_held=20) as site:
        places, seconds = 6, 2.0  # two rows and a short queue, which a scripted pod serves as well; 1 s each
        completed = 0

        async def ask(number: int) -> int:
            nonlocal completed
            status = (await site.complete(f"{number}", max_tokens=5)).status_code
            completed += status == 200
            return status

        async def ask_for_ever(number: int) -> None:
            while True:
                await ask(number)

        clients = [asyncio.create_task(ask_for_ever(number)) for number in range(places)]
        await asyncio.sleep(seconds)
        peak, completed = completed, 0
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        tasks, began = [], time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            while len(tasks) < 10 * peak * now / seconds:
                tasks.append(asyncio.create_task(ask(len(tasks))))
            await asyncio.sleep(0.01)
        assert completed >= 0.9 * peak
        assert site.service.door.num_waiting <= 20
        statuses = await asyncio.gather(*tasks)
        assert set(statuses) == {200, 503}
        assert site.pods[0].most_running < 2 * places
        refused = await site.metric('penstock_router_rejections_total{reason="capacity"}')
        assert refused == statuses.count(503)


async def test_bodies_in_flight_are_bounded_in_memory():
    async with router_site({"token_seconds": 1.0}, max_body_memory=1 << 20, max_body_bytes=1 << 20) as site:
        first = asyncio.create_task(site.complete("x" * 700_000, max_tokens=3))
        await until(lambda: site.pods[0].running)
        assert (await site.complete("y" * 700_000, max_tokens=1)).status_code == 503
        assert await site.metric("penstock_router_body_bytes") > 700_000
        assert (await first).status_code == 200
        assert await site.metric("penstock_router_body_bytes") == 0


async def test_a_retry_with_the_same_key_gets_the_first_answer():
    async with router_site({"token_seconds": 0.02}, {"token_seconds": 0.02}) as site:
        headers = {"Idempotency-Key": "once"}
        first = asyncio.create_task(site.complete("x", max_tokens=20, stream=True, headers=headers))
        await until(lambda: site.pods[0].running + site.pods[1].running)
        joined = await site.complete("x", max_tokens=20, stream=True, headers=headers)
        later = await site.complete("x", max_tokens=20, stream=True, headers=headers)
        assert joined.text == later.text == (await first).text
        assert sum(len(pod.calls) for pod in site.pods) == 1
        assert await site.metric("penstock_router_repeats_total") == 2
        other = await site.complete("y", max_tokens=20, stream=True, headers=headers)
        assert (other.status_code, other.json()["error"]["type"]) == (422, "invalid_request_error")


async def test_a_retry_after_the_client_was_cut_off_finds_the_generation_going_on():
    async with router_site({"token_seconds": 0.02}) as site:
        headers, body = {"Idempotency-Key": "k"}, {"prompt": "x", "stream": True, "max_tokens": 30}
        async with site.http.stream("POST", "/v1/completions", json=body, headers=headers) as reply:
            async for _ in reply.aiter_lines():
                break
        await asyncio.sleep(0.1)
        assert site.pods[0].running == 1
        assert len((await site.stream("x", max_tokens=30, headers=headers)).split()) == 30
        assert len(site.pods[0].calls) == 1


async def test_keys_of_tenants_are_apart_and_failures_are_not_kept(keys_file):
    async with router_site({}, api_keys_file=keys_file) as site:
        for name in ("ann", "bob"):
            await site.text("x", max_tokens=2, headers=key(name) | {"Idempotency-Key": "k"})
        assert len(site.pods[0].calls) == 2
        site.pods[0].refusals = [(400, b'{"error":{}}')]
        headers = key("ann") | {"Idempotency-Key": "second"}
        assert (await site.complete("x", max_tokens=2, headers=headers)).status_code == 400
        assert (await site.complete("x", max_tokens=2, headers=headers)).status_code == 200


async def test_kept_answers_are_bounded():
    async with router_site({}, idempotency_memory=80_000) as site:
        assert (await site.complete("x", max_tokens=1000, headers={"Idempotency-Key": "long"})).status_code == 413
        for number in range(40):
            await site.text(f"{number}", max_tokens=200, headers={"Idempotency-Key": f"{number}"})
        assert site.service.answers.num_bytes <= 80_000
        await site.text("39", max_tokens=200, headers={"Idempotency-Key": "39"})
        await site.text("0", max_tokens=200, headers={"Idempotency-Key": "0"})
        assert len(site.pods[0].calls) == 1 + 40 + 1
