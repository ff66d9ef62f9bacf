"""APIServices as the chart makes them, and what the API server believes by them."""

from __future__ import annotations

import base64

from penstock_operator.autoscale.api_service import ASKED, NAME, certificates
from penstock_operator.kinds import API_SERVICE
from support.memory_api import MemoryApi


def api_service(namespace: str, *, name: str = "penstock", is_ours: bool = True) -> dict:
    """One that leads to that Service; `is_ours`: the operator is asked to write its caBundle."""
    annotations = {"annotations": dict([ASKED])} if is_ours else {}
    return {
        "apiVersion": API_SERVICE.api_version,
        "kind": API_SERVICE.kind,
        "metadata": {"name": NAME, "namespace": "", **annotations},
        "spec": {"service": {"namespace": namespace, "name": name}},
    }


def believed(api: MemoryApi) -> list[str]:
    """The certificates of caBundle."""
    there = api.find(API_SERVICE, NAME, "")
    assert there is not None
    return [one.decode() + "\n" for one in certificates(base64.b64decode(there["spec"].get("caBundle", "")))]
