from __future__ import annotations

import httpx
import pytest

from penstock.errors import Unauthorized
from penstock.server.app import ENDPOINTS
from penstock.server.auth import ApiKeys
from support.sites import open_site

OPEN = ("/", "/fleet", "/livez", "/readyz", "/healthz", "/metrics", "/version")


@pytest.fixture
async def guarded():
    async with open_site(api_keys=("first", "zweiter-schlüssel")) as site:
        yield site


def bearer(key: str) -> dict[str, bytes]:
    return {"authorization": f"Bearer {key}".encode()}


async def test_what_is_not_open_needs_a_key(guarded):
    closed = [endpoint.path for endpoint in ENDPOINTS if endpoint.path not in OPEN]
    assert len(closed) >= 6
    closed += ["/v1/models/x", "/v1/nothing", "/docs", "/openapi.json", "/metrics/", "/metrics%0a"]
    for path in closed:
        for method in ("GET", "POST", "DELETE"):
            reply = await guarded.http.request(method, path)
            assert reply.status_code == 401, (method, path)
            assert reply.json()["error"]["type"] == "authentication_error"
            assert reply.headers["www-authenticate"] == "Bearer"
    for path in OPEN:
        assert (await guarded.http.get(path)).status_code == 200


@pytest.mark.parametrize("header", ["Bearer first", "bearer first", "Bearer zweiter-schlüssel"])
async def test_each_key_opens(guarded, header):
    reply = await guarded.http.get("/v1/models", headers={"authorization": header.encode()})
    assert reply.status_code == 200


@pytest.mark.parametrize("header", ["", "first", "Bearer", "Bearer firs", "Basic first", "Bearer first,x"])
async def test_nothing_else_opens(guarded, header):
    reply = await guarded.http.get("/v1/models", headers={"authorization": header})
    assert reply.status_code == 401


async def test_the_key_is_checked_before_the_body(guarded):
    reply = await guarded.http.post("/v1/completions", content=b"not JSON")
    assert reply.status_code == 401


async def test_each_key_has_a_prefix_cache_of_its_own(guarded):
    for key in ("first", "first", "zweiter-schlüssel"):
        body = {"prompt": "a " * 40, "max_tokens": 1}
        reply: httpx.Response = await guarded.http.post("/v1/completions", json=body, headers=bearer(key))
        assert reply.status_code == 200
    roots = [request.root_hash for request in guarded.engine.seen]
    assert roots[0] == roots[1] != roots[2]
    assert guarded.engine.seen[0].block_hashes != guarded.engine.seen[2].block_hashes


async def test_without_keys_everyone_shares(site):
    await site.complete("a", max_tokens=1)
    await site.http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}, headers=bearer("any"))
    assert site.engine.seen[0].root_hash == site.engine.seen[1].root_hash


def test_a_salt_does_not_show_its_key():
    salt = ApiKeys(("secret",)).salt(b"Bearer secret")
    assert salt is not None
    assert "secret" not in salt
    with pytest.raises(Unauthorized):
        ApiKeys(("secret",)).salt(None)
