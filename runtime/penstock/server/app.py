"""The front-end as a FastAPI application: the table of endpoints, and how it is put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from penstock import __version__
from penstock.errors import MethodNotAllowed, PathUnknown
from penstock.internal.fleet import FLEET_PATH
from penstock.server import probes
from penstock.server.document import TITLE, build_document
from penstock.server.endpoint import Endpoint
from penstock.server.gate import Gate
from penstock.server.internal.load import show_fleet
from penstock.server.openai.chat import create_chat_completion
from penstock.server.openai.completions import create_completion
from penstock.server.openai.models import MODELS_PATH, list_models, show_model
from penstock.server.openai.protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from penstock.server.openai.tokenize import detokenize, tokenize
from penstock.server.serving import Serving

ENDPOINTS = (
    Endpoint("POST", "/v1/completions", create_completion, CompletionRequest),
    Endpoint("POST", "/v1/chat/completions", create_chat_completion, ChatRequest),
    Endpoint("GET", MODELS_PATH, list_models),
    Endpoint("GET", MODELS_PATH + "/{name:path}", show_model),
    Endpoint("POST", "/tokenize", tokenize, TokenizeRequest),
    Endpoint("POST", "/detokenize", detokenize, DetokenizeRequest),
    Endpoint("GET", "/version", probes.version, is_open=True),
    Endpoint("GET", "/metrics", probes.metrics, is_open=True),
    Endpoint("GET", "/livez", probes.livez, is_open=True),
    Endpoint("GET", "/readyz", probes.readyz, is_open=True),
    Endpoint("GET", "/healthz", probes.healthz, is_open=True),
    Endpoint("GET", FLEET_PATH, show_fleet, is_open=True),
    Endpoint("GET", "/", probes.root, is_open=True),
)


class Application(FastAPI):
    """FastAPI, with the document of our endpoints in the place of the one that it makes from pydantic models."""

    def openapi(self) -> dict[str, Any]:
        """What is served as /openapi.json."""
        if self.openapi_schema is None:
            self.openapi_schema = build_document(ENDPOINTS)
        return self.openapi_schema


def build_app(serving: Serving) -> FastAPI:
    """The application over one engine."""
    open_paths = frozenset(endpoint.path for endpoint in ENDPOINTS if endpoint.is_open)

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        yield
        serving.threads.shutdown(wait=False, cancel_futures=True)

    return Application(
        title=TITLE,
        version=__version__,
        routes=[endpoint.build_route(serving) for endpoint in ENDPOINTS],
        middleware=[Middleware(Gate, serving=serving, open_paths=open_paths)],
        exception_handlers={HTTPException: refuse},
        lifespan=live,
        redirect_slashes=False,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )


async def refuse(request: Request, error: Exception) -> Response:
    """Say in our own errors what the router refuses, so that the gate answers these like all others."""
    assert isinstance(error, HTTPException), f"registered for HTTPException, got {error!r}"
    path = request.scope["path"][:100]
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {})["Allow"].split(", ")))
        raise MethodNotAllowed(f"{path} is served with {allowed} only", allowed) from None
    raise PathUnknown(f"nothing is served under {path!r}") from None
