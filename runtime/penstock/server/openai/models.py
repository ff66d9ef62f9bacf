"""GET /v1/models and /v1/models/{id}"""

from __future__ import annotations

from typing import Any

from penstock.server.pod_exchange import PodExchange
from penstock.server.serving import Serving

MODELS_PATH = "/v1/models"


async def list_models(serving: Serving, exchange: PodExchange) -> None:
    """The one model that is served."""
    await exchange.respond_json({"object": "list", "data": [model_value(serving)]})


async def show_model(serving: Serving, exchange: PodExchange) -> None:
    """The model that the path names; its name may hold slashes."""
    serving.check_model(exchange.path.removeprefix(f"{MODELS_PATH}/"))
    await exchange.respond_json(model_value(serving))


def model_value(serving: Serving) -> dict[str, Any]:
    """A model in OpenAI's shape, with the context length that vLLM adds."""
    return {
        "id": serving.model,
        "object": "model",
        "created": serving.created,
        "owned_by": "penstock",
        "root": serving.model,
        "parent": None,
        "max_model_len": serving.llm.input.max_model_len,
    }
