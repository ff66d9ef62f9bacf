"""What operators and machines ask: is it alive, ready, making progress; which version, which numbers, what is this."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from penstock import __version__
from penstock.server.pod_exchange import PodExchange
from penstock.server.serving import Serving

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Penstock</title>
<body style="font:16px/1.6 system-ui;max-width:40em;margin:4em auto;padding:0 1em">
<h1>Penstock</h1><p>This is the OpenAI API of a language model, <code>{model}</code>, version {version}.</p>
<p>Point an OpenAI client at <code>/v1</code>. There is also:</p><ul>{links}</ul></body></html>
"""
LINKS = ("/docs", "/v1/models", "/version", "/metrics", "/livez", "/readyz", "/healthz")


async def livez(serving: Serving, exchange: PodExchange) -> None:
    """200 while this process answers at all."""
    await exchange.respond_json({"status": "alive"})


async def readyz(serving: Serving, exchange: PodExchange) -> None:
    """200 while requests are taken: the engine serves and nothing drains. Never 503 for load."""
    if serving.llm.is_draining:
        await exchange.respond_json({"status": "draining"}, status=503)
    elif not serving.llm.is_ready:
        await exchange.respond_json({"status": "the engine is not ready"}, status=503)
    else:
        await exchange.respond_json({"status": "ready"})


async def healthz(serving: Serving, exchange: PodExchange) -> None:
    """503 while work is pending and the engine has made no step for a while."""
    if serving.llm.is_healthy:
        await exchange.respond_json({"status": "healthy"})
    else:
        await exchange.respond_json({"status": "the engine makes no progress"}, status=503)


async def version(serving: Serving, exchange: PodExchange) -> None:
    """Which Penstock this is."""
    await exchange.respond_json({"version": __version__})


async def metrics(serving: Serving, exchange: PodExchange) -> None:
    """Prometheus' text format."""
    await exchange.respond(serving.metrics.page(serving.llm), CONTENT_TYPE_PLAIN_0_0_4.encode())


async def root(serving: Serving, exchange: PodExchange) -> None:
    """A page for a person who opens the address in a browser."""
    links = "".join(f'<li><a href="{link}">{link}</a></li>' for link in LINKS)
    model = serving.model.replace("&", "&amp;").replace("<", "&lt;")
    page = PAGE.format(model=model, version=__version__, links=links)
    await exchange.respond(page.encode(), b"text/html; charset=utf-8")
