from __future__ import annotations

import penstock
from penstock.engine.messages import EngineDown, EngineReady


async def test_a_server_that_serves_is_alive_ready_and_healthy(site):
    for path in ("/livez", "/readyz", "/healthz"):
        assert (await site.http.get(path)).status_code == 200
        assert (await site.http.head(path)).status_code == 200


async def test_it_is_not_ready_while_the_engine_is_down_but_alive(site):
    site.engine.is_running = False
    site.engine.deliver(EngineDown(epoch=1))
    assert (await site.http.get("/readyz")).status_code == 503
    assert (await site.http.get("/livez")).status_code == 200
    assert (await site.http.get("/healthz")).status_code == 200
    site.engine.deliver(EngineReady(epoch=2, num_blocks=101, block_size=16, max_model_len=512))
    assert (await site.http.get("/readyz")).status_code == 200
    assert await site.metric("penstock_engine_restarts_total") == 1


async def test_it_is_not_ready_while_it_drains_and_refuses_kindly(site):
    site.llm.drain()
    reply = await site.http.get("/readyz")
    assert reply.status_code == 503
    assert reply.json() == {"status": "draining"}
    refused = await site.post("/v1/completions", prompt="a")
    assert refused.status_code == 503
    assert "retry-after" in refused.headers


async def test_it_is_not_healthy_without_progress(site):
    site.engine.is_running = False
    stream = site.llm.submit(site.llm.input.build("a", site.llm.input.default_params(), request_id="x"))
    assert (await site.http.get("/healthz")).status_code == 200
    site.llm._progress.last -= 31
    assert (await site.http.get("/healthz")).status_code == 503
    await stream.aclose()
    assert (await site.http.get("/healthz")).status_code == 200


async def test_version_and_front_page_say_what_this_is(site):
    assert (await site.http.get("/version")).json() == {"version": penstock.__version__}
    page = await site.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "org/echo" in page.text


async def test_models_are_listed_and_found_by_names_with_slashes(site):
    (model,) = (await site.http.get("/v1/models")).json()["data"]
    assert model["id"] == "org/echo"
    assert model["max_model_len"] == 512
    assert (await site.http.get("/v1/models/org/echo")).json() == model
    missing = await site.http.get("/v1/models/other")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"
