"""HPAs ask through the API server, which shows a certificate; here a client with that certificate asks."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from penstock_operator.autoscale import metrics_api
from penstock_operator.autoscale.metrics_api import ROOT, MetricsApi
from penstock_operator.autoscale.offer import Offer
from penstock_operator.kinds import CONFIG_MAP
from support.api_services import api_service, believed
from support.certificates import FIRST, FIRST_KEY, SECOND, SECOND_KEY
from support.scaled_service import Scaled
from support.serving import free_port

VALUE = f"{ROOT}/namespaces/default/penstock-pods-needed?labelSelector=role%3Dboth%2Cservice%3Dchat"


def allow(scaled: Scaled, names: list[str]) -> None:
    data = {"requestheader-client-ca-file": FIRST, "requestheader-allowed-names": json.dumps(names)}
    metadata = {"name": "extension-apiserver-authentication", "namespace": "kube-system"}
    if scaled.run.api.find(CONFIG_MAP, metadata["name"], "kube-system") is None:
        scaled.run.api.post({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    else:
        scaled.run.api.update(CONFIG_MAP, "kube-system", metadata["name"], {"data": data})


@pytest.fixture
async def api(scaled: Scaled, tmp_path: Path) -> AsyncIterator[MetricsApi]:
    (tmp_path / "tls.crt").write_text(FIRST)
    (tmp_path / "tls.key").write_text(FIRST_KEY)
    allow(scaled, ["first"])
    one = MetricsApi(
        scaled.run.api,
        Offer(scaled.autoscaler, lambda: scaled.run.now),
        port=free_port(),  # for IPv4 and IPv6 alike
        folder=tmp_path,
        namespace="penstock-system",
    )
    one.start()
    deadline = time.monotonic() + 10
    while one.port is None and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    yield one
    await asyncio.to_thread(one.stop, 5.0)


async def ask(api: MetricsApi, folder: Path, path: str, shown: tuple[str, str] | None = (FIRST, FIRST_KEY)):
    context = ssl.create_default_context(cadata=FIRST)
    if shown is not None:
        (folder / "client.crt").write_text(shown[0])
        (folder / "client.key").write_text(shown[1])
        context.load_cert_chain(folder / "client.crt", folder / "client.key")
    url = f"https://127.0.0.1:{api.port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as reply:
        return reply.status, await reply.json()


async def test_what_a_role_needs_is_told_in_thousandths_of_a_pod(scaled, api, tmp_path):
    await scaled.look(3, kv_usage=0.6, running=8)
    status, found = await ask(api, tmp_path, VALUE)
    assert status == 200
    assert found["kind"] == "ExternalMetricValueList"
    assert [(one["metricName"], one["value"]) for one in found["items"]] == [("penstock-pods-needed", "750m")]
    assert found["items"][0]["metricLabels"] == {"service": "chat", "role": "both"}


async def test_what_is_not_known_is_an_empty_list(scaled, api, tmp_path):
    assert (await ask(api, tmp_path, VALUE))[1]["items"] == []
    await scaled.look(3, kv_usage=0.6, running=8)
    scaled.teller.is_silent = True
    await scaled.look(1)
    assert (await ask(api, tmp_path, VALUE))[1]["items"] == []
    scaled.teller.is_silent = False
    await scaled.look(3, kv_usage=0.6, running=8)
    assert (await ask(api, tmp_path, VALUE))[1]["items"]
    scaled.run.now += 60  # nobody has looked since
    assert (await ask(api, tmp_path, VALUE))[1]["items"] == []


async def test_the_api_describes_itself(api, tmp_path):
    status, found = await ask(api, tmp_path, ROOT)
    assert status == 200
    assert [one["name"] for one in found["resources"]] == ["penstock-pods-needed"]


@pytest.mark.parametrize(
    "path",
    [f"{ROOT}/namespaces/default/other?labelSelector=role%3Dboth", f"{ROOT}/namespaces/default/penstock-pods-needed"],
)
async def test_what_is_not_there_is_refused_in_kubernetes_words(api, tmp_path, path):
    status, found = await ask(api, tmp_path, path)
    assert status in (400, 404)
    assert found["kind"] == "Status"


async def test_only_the_front_proxy_is_answered(scaled, api, tmp_path):
    with pytest.raises(aiohttp.ClientError):
        await ask(api, tmp_path, ROOT, shown=None)
    with pytest.raises(aiohttp.ClientError):
        await ask(api, tmp_path, ROOT, shown=(SECOND, SECOND_KEY))


async def test_a_certificate_of_the_right_authority_with_another_name_is_refused(scaled, tmp_path):
    (tmp_path / "tls.crt").write_text(FIRST)
    (tmp_path / "tls.key").write_text(FIRST_KEY)
    allow(scaled, ["front-proxy-client"])
    api = MetricsApi(
        scaled.run.api,
        Offer(scaled.autoscaler, time.time),
        port=free_port(),
        folder=tmp_path,
        namespace="penstock-system",
    )
    api.start()
    while api.port is None:
        await asyncio.sleep(0.01)
    try:
        assert (await ask(api, tmp_path, ROOT))[0] == 403
    finally:
        await asyncio.to_thread(api.stop, 5.0)


async def test_a_new_certificate_is_served_at_the_same_port_and_believed(scaled, api, tmp_path, monkeypatch):
    scaled.run.api.post(api_service("penstock-system"))
    monkeypatch.setattr(metrics_api, "RETRY_SECONDS", 0.02)
    await asyncio.to_thread(api.stop, 5.0)
    again = MetricsApi(
        scaled.run.api,
        Offer(scaled.autoscaler, lambda: scaled.run.now),
        port=free_port(),
        folder=tmp_path,
        namespace="penstock-system",
    )
    again.start()
    try:
        await until(lambda: believed(scaled.run.api) == [FIRST] and again.port is not None)
        port = again.port
        (tmp_path / "tls.crt").write_text(SECOND)  # a moment later than its key, as it may be seen
        await asyncio.sleep(0.1)
        assert "does not run" in again.problem
        (tmp_path / "tls.key").write_text(SECOND_KEY)
        await until(lambda: shown(port) == SECOND)
        assert believed(scaled.run.api) == [SECOND, FIRST]  # before it was shown, or the API server would not ask on
        assert again.port == port
        assert again.problem == ""
    finally:
        await asyncio.to_thread(again.stop, 5.0)


async def until(is_so: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def shown(port: int | None) -> str:
    """The certificate that a client is shown, who need have none of its own for that; empty while nobody listens."""
    try:
        return ssl.get_server_certificate(("127.0.0.1", port)).strip() + "\n"
    except OSError:
        return ""
