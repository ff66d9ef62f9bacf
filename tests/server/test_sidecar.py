"""The hop that llm-d's sidecar makes from a prefill pod to a decode pod."""

from __future__ import annotations

import pytest

from support.routed import COMPLETIONS
from support.sites import open_site

TEXT = "The quick brown fox jumps over the lazy dog"


@pytest.fixture
async def trusting(tmp_path):
    key = tmp_path / "key"
    key.write_text("a-key-that-is-long-enough\n")
    async with open_site(api_keys=("client",), cluster_key_file=str(key), trust_sidecar=True) as site:
        yield site


async def ask(site, headers: dict | None = None, **body):
    headers = {"authorization": "Bearer client"} if headers is None else headers
    return await site.internal.post(COMPLETIONS, json={"prompt": TEXT, **body}, headers=headers)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_what_a_prefill_pod_answers_leads_a_decode_pod_to_it(trusting, path):
    prompt = {"prompt": TEXT} if "chat" not in path else {"messages": [{"role": "user", "content": TEXT}]}
    asked = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None}
    headers = {"authorization": "Bearer client"}
    reply = await trusting.internal.post(
        path, json={**prompt, "max_tokens": 1, "stream": False, "kv_transfer_params": asked}, headers=headers
    )
    assert reply.status_code == 200, reply.text
    params = reply.json()["kv_transfer_params"]
    assert params == {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_host": "127.0.0.1",
        "remote_port": trusting.internal_port,
        "remote_engine_id": "session-1",
        "remote_block_ids": [],
        "tp_size": 1,
    }
    decoded = await trusting.internal.post(
        path, json={**prompt, "max_tokens": 3, "kv_transfer_params": params}, headers=headers
    )
    assert "kv_transfer_params" not in decoded.json()
    assert [each.prefiller for each in trusting.engine.seen] == ["", f"127.0.0.1:{trusting.internal_port}"]


async def test_a_sidecar_may_name_the_prefill_pod_in_a_header(trusting):
    headers = {"authorization": "Bearer client", "x-prefiller-host-port": "prefill-0.pods:8001"}
    assert (await ask(trusting, headers, max_tokens=1)).status_code == 200
    assert trusting.engine.seen[-1].prefiller == "prefill-0.pods:8001"
    for evil in ("http://a:1", "a", "a:1,b:2"):
        assert (await ask(trusting, headers | {"x-prefiller-host-port": evil})).status_code == 400


async def test_the_client_behind_a_sidecar_still_needs_its_own_key(trusting):
    for headers in ({}, {"authorization": "Bearer other"}):
        assert (await ask(trusting, headers)).status_code == 401
    await ask(trusting, max_tokens=1)
    public = await trusting.http.post(
        COMPLETIONS, json={"prompt": TEXT, "max_tokens": 1}, headers={"authorization": "Bearer client"}
    )
    assert public.status_code == 200
    assert len({each.root_hash for each in trusting.engine.seen}) == 1


@pytest.mark.parametrize("params", ["text", 7, {"do_remote_prefill": "yes"}, {"remote_host": 5}])
async def test_parameters_that_are_wrong_are_refused(trusting, params):
    reply = await ask(trusting, kv_transfer_params=params)
    assert reply.status_code == 400
    assert "kv_transfer_params" in reply.json()["error"]["message"]


async def test_everything_else_is_checked_as_ever(trusting):
    assert "nonsense" in (await ask(trusting, nonsense=1, kv_transfer_params=None)).text
    broken = await trusting.internal.post(
        COMPLETIONS, content=b'{"prompt": "kv_transfer_params', headers={"authorization": "Bearer client"}
    )
    assert "not valid JSON" in broken.json()["error"]["message"]


async def test_without_trust_it_needs_the_token_of_the_service(tmp_path):
    key = tmp_path / "key"
    key.write_text("a-key-that-is-long-enough\n")
    async with open_site(cluster_key_file=str(key)) as site:
        assert (await ask(site, kv_transfer_params={"do_remote_decode": True})).status_code == 401
