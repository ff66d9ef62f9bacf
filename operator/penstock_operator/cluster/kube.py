"""Calls to the API server, each with a timeout. Objects are what JSON has; what goes wrong is an `ApiError`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

import kubernetes.client
import kubernetes.config
import msgspec
import urllib3
from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION

from penstock_operator.errors import ApiError, OperatorError
from penstock_operator.kinds import Kind, kind_of
from penstock_operator.names import FIELD_MANAGER
from penstock_operator.service import Manifest

JSON, MERGE, APPLY = "application/json", "application/merge-patch+json", "application/apply-patch+yaml"
PAGE = 200  # objects in one answer of a list

Tell = Callable[[str, int, float], None]  # verb, HTTP status (0: no answer), seconds


class Kube:
    """The API server, for many threads at once. Nothing is tried again here: whoever calls knows better when."""

    def __init__(self, client: kubernetes.client.ApiClient, *, seconds: float, tell: Tell) -> None:
        """`seconds`: after which a call has failed. `tell` hears of every call."""
        self._configuration = client.configuration
        self._pool: urllib3.PoolManager = client.rest_client.pool_manager
        self._seconds, self._tell = seconds, tell

    def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        """The object as it is now; `ApiError` 404 if there is none."""
        return self._call("get", "GET", path_of(kind, namespace, name))

    def list(self, kind: Kind, namespace: str | None = None, selector: str = "") -> tuple[Iterable[Manifest], str]:
        """Every object with these labels (of all namespaces for None), and the resource version of that moment.

        Further pages are fetched while the objects are gone through, so that never all of them are in memory.
        """
        query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
        first = self._call("list", "GET", path_of(kind, namespace), query)
        return self._items(kind, path_of(kind, namespace), query, first), first["metadata"]["resourceVersion"]

    def _items(self, kind: Kind, path: str, query: dict[str, str], page: Manifest) -> Iterator[Manifest]:
        while True:
            for item in page["items"]:
                yield {"apiVersion": kind.api_version, "kind": kind.kind, **item}
            if not (after := page["metadata"].get("continue")):
                return
            page = self._call("list", "GET", path, {**query, "continue": after})

    def create(self, manifest: Manifest) -> Manifest:
        """POST; `ApiError` 409 if the name is taken, 400 for a field that the API server does not know."""
        path = path_of(kind_of(manifest), manifest["metadata"].get("namespace"))
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}  # else it would be dropped in silence
        return self._call("create", "POST", path, query, body=manifest)

    def apply(self, manifest: Manifest, *, is_forced: bool = True) -> Manifest:
        """Server-side apply. With metadata.uid: `ApiError` 409 if it is not that object; not forced: 409 if somebody
        else has set a field to another value.
        """
        return self._apply(manifest, "", is_forced)

    def apply_status(self, manifest: Manifest) -> Manifest:
        """Server-side apply of the part `status`, by force."""
        return self._apply(manifest, "status", True)

    def merge(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        """A merge patch; with metadata.uid in it: `ApiError` 409 if it is not that object."""
        path = path_of(kind, namespace, name)
        return self._call("patch", "PATCH", path, {"fieldManager": FIELD_MANAGER}, body=patch, content=MERGE)

    def scale(self, kind: Kind, namespace: str, name: str, replicas: int) -> Manifest:
        """Write its number of replicas, and nothing else; the answer is a Scale."""
        path, patch = path_of(kind, namespace, name, "scale"), {"spec": {"replicas": replicas}}
        return self._call("scale", "PATCH", path, {"fieldManager": FIELD_MANAGER}, body=patch, content=MERGE)

    def replace(self, manifest: Manifest) -> Manifest:
        """PUT; `ApiError` 409 if it has changed since its metadata.resourceVersion."""
        kind, metadata = kind_of(manifest), manifest["metadata"]
        return self._call("update", "PUT", path_of(kind, metadata["namespace"], metadata["name"]), body=manifest)

    def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        """Delete it with everything that it owns, if it is this one; that it is gone already is fine."""
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            self._call("delete", "DELETE", path_of(kind, namespace, name), body=options)
        except ApiError as error:
            if error.status != 404:
                raise

    def resources(self, api_version: str) -> frozenset[str]:
        """Plural names of the kinds that this API version has here; empty if there is no such API."""
        try:
            answer = self._call("discover", "GET", root_of(api_version))
        except ApiError as error:
            if error.status == 404:
                return frozenset()
            raise
        return frozenset(resource["name"] for resource in answer["resources"])

    def _apply(self, manifest: Manifest, part: str, is_forced: bool) -> Manifest:
        metadata = manifest["metadata"]
        path = path_of(kind_of(manifest), metadata["namespace"], metadata["name"], part)
        query = {"fieldManager": FIELD_MANAGER, "force": str(is_forced).lower()}
        return self._call("apply", "PATCH", path, query, body=manifest, content=APPLY)

    def _call(
        self,
        verb: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Manifest | None = None,
        content: str = JSON,
    ) -> Manifest:
        begun, status = time.monotonic(), 0
        try:
            response = self._pool.request(
                method,
                f"{self._configuration.host}{path}" + (f"?{urlencode(query)}" if query else ""),
                body=None if body is None else msgspec.json.encode(body),
                headers=self._headers(content),
                timeout=urllib3.Timeout(total=self._seconds),
                retries=False,
            )
            status = response.status
            if not 200 <= status < 300:
                raise refusal(status, response.data, f"{method} {path}")
            return msgspec.json.decode(response.data, type=Manifest)
        except (urllib3.exceptions.HTTPError, OSError, msgspec.DecodeError) as error:
            raise ApiError(0, f"the API server did not answer {method} {path}: {error}") from None
        finally:
            self._tell(verb, status, time.monotonic() - begun)

    def _headers(self, content: str) -> dict[str, str]:
        """Credentials are asked for at every call, so a token that rotates is read anew."""
        tokens = self._configuration.auth_settings().values()
        headers = {str(token["key"]): str(token["value"]) for token in tokens if token["in"] == "header"}
        return {"accept": JSON, "content-type": content, "user-agent": FIELD_MANAGER, **headers}


def connect() -> kubernetes.client.ApiClient:
    """A client with the credentials of the kubeconfig if there is one, else the pod's own. Raises `OperatorError`."""
    files = KUBE_CONFIG_DEFAULT_LOCATION.split(os.pathsep)  # of KUBECONFIG, or ~/.kube/config
    has_file = any(Path(file).expanduser().exists() for file in files)
    load = kubernetes.config.load_kube_config if has_file else kubernetes.config.load_incluster_config
    try:
        load()
    except kubernetes.config.ConfigException as error:
        told = str(error).rstrip(".")
        raise OperatorError(f"no way to reach a cluster: {told}; run in a pod, or set KUBECONFIG") from None
    return kubernetes.client.ApiClient()


def root_of(api_version: str) -> str:
    """Path of an API version."""
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def path_of(kind: Kind, namespace: str | None = None, name: str = "", part: str = "") -> str:
    """Path of a collection, an object or a part (subresource) of one."""
    inside = f"/namespaces/{namespace}" if namespace else ""
    return "/".join(word for word in (root_of(kind.api_version) + inside, kind.plural, name, part) if word)


def refusal(status: int, body: bytes, what: str) -> ApiError:
    """The error that an answer of the API server tells."""
    try:
        told = msgspec.json.decode(body)
        message, reason = str(told["message"]), str(told.get("reason", ""))
    except (msgspec.DecodeError, TypeError, KeyError):
        message, reason = body[:200].decode(errors="replace"), ""
    return ApiError(status, f"{what}: {message}", reason=reason)
