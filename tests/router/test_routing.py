"""A router in front of scripted pods, over real sockets: what a client sees, whatever the pods do."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.internal.fleet import Fleet, RouterTotals
from support.router_site import expected_text, open_router, router_site, text_of, until


@pytest.fixture
async def site():
    async with router_site({"token_seconds": 0.005}, {"token_seconds": 0.005}) as site:
        yield site


async def reference(site, prompt: str, num_tokens: int) -> str:
    return await site.text(prompt, max_tokens=num_tokens)


async def test_a_stream_has_the_text_of_the_answer_that_comes_at_once(site):
    assert await site.stream("one", max_tokens=12) == await site.text("one", max_tokens=12)


@pytest.mark.parametrize("fault", ["cut", "move", "death", "garbage"])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_answer_goes_on_elsewhere_without_gap_or_repeat(site, fault, is_stream):
    whole = await reference(site, "a story", 20)
    for pod in site.pods:
        pod.calls.clear()
        pod.faults = {7: fault}
    if fault != "death":  # which the first pod survives
        site.pods[1].faults = {} if await _is_first(site, "a story") == 0 else {7: fault}
        site.pods[0].faults = {} if await _is_first(site, "a story") == 1 else {7: fault}
    ask = site.stream if is_stream else site.text
    assert await ask("a story", max_tokens=20) == whole
    told = [call for pod in site.pods for call in pod.calls if call.records]
    assert len(told) == (0 if fault == "death" else 1)
    for call in told:
        assert [int(record) for record in call.records] == list(range(7))
        assert call.num_deaths == (0 if fault == "move" else 1)


async def _is_first(site, prompt: str) -> int:
    """The pod that a prompt goes to."""
    await site.text(prompt, max_tokens=1)
    return max(range(2), key=lambda number: len(site.pods[number].calls))


async def test_a_request_that_was_with_two_deaths_ends_with_an_error_and_goes_nowhere_else():
    async with router_site({}, {}, {}) as site:
        for pod in site.pods:
            pod.faults = {3: "cut"}
        reply = await site.complete("poison", max_tokens=8)
        assert reply.status_code == 500
        assert "2 engines died" in reply.json()["error"]["message"]
        assert sum(len(pod.calls) for pod in site.pods) == 2
        assert sum(len(pod.faults) for pod in site.pods) == 1  # the third pod never saw it


async def test_a_stream_that_was_with_two_deaths_ends_with_an_error_event():
    async with router_site({}, {}) as site:
        for pod in site.pods:
            pod.faults = {3: "cut", 5: "cut"}
        reply = await site.complete("poison", max_tokens=8, stream=True)
        assert reply.text.endswith("data: [DONE]\n\n")
        assert json.loads(reply.text.split("\n\n")[-3].removeprefix("data: "))["error"]["type"] == "internal_error"


async def test_a_move_is_no_death(site):
    for pod in site.pods:
        pod.faults = {2: "move", 4: "move", 6: "move"}
    assert await site.stream("moving", max_tokens=10) == await reference(site, "moving", 10)


async def test_what_a_pod_says_of_a_bad_request_reaches_the_client_unchanged(site):
    body = b'{"error":{"message":"temperature: too hot","type":"invalid_request_error"}}'
    for pod in site.pods:
        pod.refusals = [(400, body)]
    reply = await site.complete("x")
    assert (reply.status_code, reply.content) == (400, body)


async def test_a_pod_without_room_is_passed_over(site):
    first = await _is_first(site, "busy")
    site.pods[first].refusals = [(503, b'{"error":{"message":"full"}}')]
    site.pods[first].calls.clear()
    assert await site.text("busy", max_tokens=4)
    assert not site.pods[first].calls
    assert await site.metric("penstock_router_retries_total") == 1


async def test_pods_that_never_have_room_are_believed_in_the_end():
    async with router_site({}, hold_seconds=1.0) as site:
        body = b'{"error":{"message":"full"}}'
        site.pods[0].refusals = [(503, body)] * 100
        reply = await site.complete("x")
        assert (reply.status_code, reply.content) == (503, body)


async def test_an_error_of_the_pod_in_the_middle_of_a_stream_ends_it(site):
    for pod in site.pods:
        pod.faults = {3: "error"}
    reply = await site.complete("x", max_tokens=8, stream=True)
    assert "bad numbers" in reply.text
    assert reply.text.endswith("data: [DONE]\n\n")
    for pod in site.pods:
        pod.faults = {3: "error"}
    assert (await site.complete("y", max_tokens=8)).status_code == 500


async def test_a_client_that_leaves_ends_the_work_at_the_pod_at_once():
    async with router_site({"token_seconds": 0.05}) as site:
        async with site.http.stream(
            "POST", "/v1/completions", json={"prompt": "x", "max_tokens": 1000, "stream": True}
        ) as reply:
            async for _ in reply.aiter_lines():
                break
            assert site.pods[0].running == 1
        await until(lambda: site.pods[0].running == 0, 1.0)
        await until(lambda: site.service.num_in_flight == 0, 1.0)


async def test_requests_are_held_while_no_pod_is_there(tmp_path):
    file = tmp_path / "pods"
    file.write_text("# none yet\n")
    async with router_site({}) as there, open_router([], decode=f"file:{file}", hold_seconds=10.0) as site:
        assert (await site.http.get("/readyz")).status_code == 200
        asking = asyncio.create_task(site.text("x", max_tokens=3))
        await asyncio.sleep(0.2)
        assert not asking.done()
        assert await site.metric("penstock_router_requests_held") == 1
        file.write_text(f"127.0.0.1:{there.pods[0].port}\n")
        assert await asking


async def test_a_request_is_not_held_for_ever():
    async with router_site(decode="127.0.0.1:1", hold_seconds=0.3) as site:
        reply = await site.complete("x")
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) >= 1
        assert await site.metric('penstock_router_rejections_total{reason="unavailable"}') == 1


async def test_a_pod_that_leaves_the_list_keeps_what_it_runs(tmp_path):
    file = tmp_path / "pods"
    async with router_site({"token_seconds": 0.05}, {}) as other:
        first, second = (f"127.0.0.1:{pod.port}\n" for pod in other.pods)
        file.write_text(first)
        async with open_router(other.pods, decode=f"file:{file}") as site:
            running = asyncio.create_task(site.stream("x", max_tokens=50))
            await until(lambda: other.pods[0].running)
            file.write_text(second)
            await until(lambda: len(site.service.table) == 2)
            await site.text("y", max_tokens=1)
            assert len(other.pods[1].calls) == 1
            assert len((await running).split()) == 50
            await until(lambda: len(site.service.table) == 1)


async def test_a_draining_pod_gets_nothing_new(site):
    site.pods[0].load_changes["draining"] = True
    await until(lambda: _has_state(site, "draining"))
    for number in range(6):
        await site.text(f"{number}", max_tokens=1)
    assert not site.pods[0].calls


async def _has_state(site, state: str) -> bool:
    return state in (await site.states()).values()


async def test_a_pod_that_is_silent_is_left_within_ten_seconds():
    async with router_site({"token_seconds": 0.01}, {"token_seconds": 0.01}) as site:
        whole = await reference(site, "silent", 10)
        for pod in site.pods:
            pod.faults = {4: "silence"}
        first = await _is_first(site, "silent")
        site.pods[1 - first].faults = {}
        began = asyncio.get_running_loop().time()
        assert await site.stream("silent", max_tokens=10) == whole
        assert 7 < asyncio.get_running_loop().time() - began < 10
        assert [call.num_deaths for pod in site.pods for call in pod.calls if call.records] == [0]


async def test_the_streams_of_a_pod_that_answers_no_poll_move():
    async with router_site({"token_seconds": 0.1}, {"token_seconds": 0.1}) as site:
        running = [asyncio.create_task(site.stream(f"{number}", max_tokens=50)) for number in range(4)]
        await until(lambda: sum(pod.running for pod in site.pods) == 4)
        lost = site.pods[0]
        lost.is_hanging = True
        began = asyncio.get_running_loop().time()
        await until(lambda: site.pods[1].running == 4, 8.0)
        assert 2 < asyncio.get_running_loop().time() - began < 8
        lost.is_hanging = False
        texts = await asyncio.gather(*running)
        assert texts == [expected_text(f"{number}", 50) for number in range(4)]


async def test_a_request_leaves_a_pod_that_stalls_once_and_no_more():
    async with router_site({"token_seconds": 0.1}, {"token_seconds": 0.1}) as site:
        running = asyncio.create_task(site.stream("x", max_tokens=40))
        await until(lambda: sum(pod.running for pod in site.pods) == 1)
        first, second = sorted(site.pods, key=lambda pod: -pod.running)
        first.load_changes["stalled"] = 21.0
        await until(lambda: second.running)
        first.load_changes["stalled"], second.load_changes["stalled"] = 0.0, 21.0
        await until(lambda: _has_state(site, "down"))
        assert len((await running).split()) == 40
        assert [call.num_deaths for pod in (first, second) for call in pod.calls] == [0, 0]


async def test_a_pod_that_has_stalled_for_long_is_lost_even_if_it_is_the_only_one():
    async with router_site({"token_seconds": 0.1}) as site:
        running = asyncio.create_task(site.stream("x", max_tokens=30))
        await until(lambda: site.pods[0].running)
        site.pods[0].load_changes["stalled"] = 61.0
        await until(lambda: not site.pods[0].running)
        site.pods[0].load_changes["stalled"] = 0.0
        assert len((await running).split()) == 30
        assert [call.num_deaths for call in site.pods[0].calls] == [0, 1]


async def test_many_streams_at_once_all_end_well():
    async with router_site({"token_seconds": 0.02}, {"token_seconds": 0.02}) as site:
        texts = await asyncio.gather(*(site.stream(f"{number}", max_tokens=20) for number in range(150)))
        assert [len(text.split()) for text in texts] == [20] * 150
        busy = [len(pod.calls) for pod in site.pods]
        assert min(busy) > 40, busy


async def test_slow_readers_do_not_hold_up_others():
    async with router_site({"max_num_seqs": 8}) as site:
        slow = []
        for _ in range(20):  # more than the pod has places; their answers fit into the router's buffers
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1)
            body = json.dumps({"prompt": "slow", "max_tokens": 1000, "stream": True}).encode()
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            slow.append((reader, writer))
        async with asyncio.timeout(10):
            assert await site.text("quick", max_tokens=4)
        for _, writer in slow:
            writer.close()


async def test_plain_questions_go_to_any_pod_that_answers(site):
    site.pods[0].refusals = [(503, b"{}")]
    site.pods[1].refusals = [(503, b"{}")]
    reply = await site.http.post("/tokenize", content=b'{"prompt": "x"}')
    assert reply.json() == {"prompt": "x"}
    assert [call.is_plain for pod in site.pods for call in pod.calls] == [True]


async def test_models_and_errors_look_like_a_single_server(site):
    assert (await site.http.get("/v1/models")).json()["data"][0]["id"] == "scripted"
    assert (await site.http.get("/v1/models/scripted")).json()["max_model_len"] == 1 << 16
    assert (await site.http.get("/v1/models/other")).status_code == 404
    assert (await site.http.get("/v1/nothing")).status_code == 404
    reply = await site.http.get("/v1/chat/completions")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    reply = await site.http.post("/v1/completions", content=b"x" * (17 << 20))
    assert reply.status_code == 413
    assert reply.json()["error"]["type"] == "invalid_request_error"


async def test_the_header_that_names_a_prefill_pod_counts_only_from_a_gateway(site):
    headers = {"x-prefiller-host-port": "10.0.0.1:8001"}
    await site.text("x", max_tokens=1, headers=headers)
    async with open_router(site.pods, trust_gateway=True) as trusting:
        await trusting.text("y", max_tokens=1, headers=headers)
    assert sorted(call.prefiller for pod in site.pods for call in pod.calls) == ["", "10.0.0.1:8001"]


@pytest.mark.parametrize(
    ("answer", "status", "why"),
    [
        (b"\x00\xffgarbage", 200, "does not answer like a pod"),
        (b'{"name": 1}', 200, "does not answer like a pod"),
        (b"x" * 100_000, 200, "does not answer like a pod"),
        (b"", 404, "is this the internal port of a pod?"),
    ],
)
async def test_what_does_not_speak_like_a_pod_is_not_used(answer, status, why):
    async with router_site({}, {}) as site:
        site.pods[0].load_answer, site.pods[0].load_status = answer, status
        await until(lambda: _has_state(site, "down"))
        found = (await site.http.get("/fleet")).json()["endpoints"]
        assert [why in one["why"] for one in found if one["state"] == "down"] == [True]
        assert len((await site.stream("x", max_tokens=3)).split()) == 3
        assert not site.pods[0].calls


async def test_a_pod_that_does_not_take_our_key_is_refused():
    async with router_site({}, {}) as site:
        site.pods[0].load_status = 401
        await until(lambda: _has_state(site, "refused"))
        site.pods[0].load_status = 200
        await until(lambda: _is_all_ready(site))


async def _is_all_ready(site) -> bool:
    return set((await site.states()).values()) == {"ready"}


async def test_a_token_that_a_pod_in_a_new_life_does_not_know_is_made_anew(site):
    first = await _is_first(site, "x")
    site.pods[first].refusals = [(401, b'{"error":{"message":"expired"}}')]
    assert len((await site.stream("x", max_tokens=3)).split()) == 3


async def test_a_port_that_says_random_bytes_is_not_used():
    async def babble(reader, writer):
        writer.write(bytes(range(256)) * 100)
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server, router_site({}) as there:
        port = server.sockets[0].getsockname()[1]
        decode = f"127.0.0.1:{port},127.0.0.1:{there.pods[0].port}"
        async with open_router(there.pods, decode=decode) as site:
            assert (await site.states())[str(port)] == "down"
            assert len((await site.stream("x", max_tokens=3)).split()) == 3


async def test_metrics_are_a_contract(site):
    await site.stream("x", max_tokens=3)
    families = list(text_string_to_metric_families((await site.http.get("/metrics")).text))
    assert all(family.documentation for family in families)
    assert len({family.name for family in families if family.name.startswith("penstock_")}) >= 15
    samples = {sample.name: sample.value for family in families for sample in family.samples}
    assert samples["penstock_router_added_ttft_seconds_count"] == 1
    assert [samples[f"penstock_router_endpoint_num_requests_{name}"] for name in ("running", "waiting")] == [0, 0]


async def test_a_fleet_tells_pods_and_router(site):
    await site.stream("x", max_tokens=3)
    fleet = msgspec.json.decode((await site.http.get("/fleet")).content, type=Fleet)
    assert {one.name for one in fleet.endpoints} == {"pod-0", "pod-1"}
    assert fleet.router == RouterTotals(completed=1)
    assert sum(one.output_tokens for one in fleet.endpoints) == 3, "of now, not of the last poll"


async def test_text_of_streams_is_checked():
    with pytest.raises(AssertionError):
        text_of("data: {}\n\n")
