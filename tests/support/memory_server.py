"""A `MemoryApi` over real HTTP: discovery, objects, patches, watches with history. It can be away for a while."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import yaml

from penstock_operator.cluster.kube import root_of
from penstock_operator.errors import ApiError
from penstock_operator.kinds import Kind
from support.memory_api import MemoryApi
from support.serving import free_port

SCANNED = (  # what kopf wants to find
    Kind("v1", "Namespace", "namespaces"),
    Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions"),
)
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


class MemoryServer:
    """`stop` cuts everybody off; `start` begins anew on the same port, without the history of before."""

    def __init__(self, api: MemoryApi) -> None:
        self.api, self.port = api, free_port()
        self.changed = threading.Condition()
        self.history: list[tuple[int, str, Kind, dict]] = []
        self.first_version = 0  # of the history: older ones are 410 Gone
        self.is_up = False
        api.watchers.append(self._note)
        self.start()

    def start(self) -> None:
        self._server = type("Server", (ThreadingHTTPServer,), {"daemon_threads": True, "block_on_close": False})(
            ("127.0.0.1", self.port), Handler
        )
        self._server.site = self
        self.is_up = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        with self.changed:
            self.is_up = False
            self.first_version = self.history[-1][0] if self.history else 0
            self.history.clear()
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self) -> str:
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        user = {"name": "u", "user": {"token": "t"}}
        contexts = [{"name": "c", "context": {"cluster": "c", "user": "u"}}]
        return yaml.safe_dump({"clusters": [cluster], "users": [user], "contexts": contexts, "current-context": "c"})

    def _note(self, what: str, kind: Kind, manifest: dict) -> None:
        with self.changed:
            self.history.append((int(manifest["metadata"]["resourceVersion"]), what, kind, manifest))
            self.changed.notify_all()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *words):
        pass

    def handle_any(self):
        url = urlparse(self.path)
        query = {word: values[0] for word, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.close_connection = not self.site.is_up
        if self.close_connection:
            return None
        try:
            found = self.discover(url.path)
            if found is None:
                kind, namespace, name, part = self.parse(url.path)
                if query.get("watch"):
                    return self.watch(kind, namespace, query)
                found = self.do(kind, namespace, name, part, query | {"body": json.loads(body) if body else None})
            status = 201 if self.command == "POST" else 200
        except ApiError as error:
            status, found = error.status, {"kind": "Status", "message": str(error), "reason": error.reason}
        data = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    @property
    def site(self) -> MemoryServer:
        return self.server.site

    def discover(self, path: str) -> dict | None:
        kinds = (*self.site.api.kinds, *SCANNED)
        if path == "/api":
            return {"versions": ["v1"]}
        if path == "/apis":
            groups = {kind.group: kind.api_version.rpartition("/")[2] for kind in kinds if kind.group}
            versions = {
                name: {"groupVersion": f"{name}/{version}", "version": version} for name, version in groups.items()
            }
            return {"groups": [{"name": n, "versions": [v], "preferredVersion": v} for n, v in versions.items()]}
        here = [kind for kind in kinds if root_of(kind.api_version) == path]
        if not here:
            return None
        return {
            "resources": [
                {"name": one.plural, "singularName": "", "kind": one.kind, "namespaced": True, "verbs": VERBS}
                for one in here
            ]
        }

    def parse(self, path: str) -> tuple[Kind, str | None, str, str]:
        for kind in self.site.api.kinds:
            rest = path.removeprefix(root_of(kind.api_version) + "/")
            words = rest.split("/")
            namespace = words[1] if words[0] == "namespaces" and len(words) > 2 else None
            words = words[2:] if namespace else words
            if rest != path and words[0] == kind.plural:
                return kind, namespace, *[*words[1:], "", ""][:2]
        raise ApiError(404, f"{path} not found", reason="NotFound")

    def do(self, kind: Kind, namespace: str | None, name: str, part: str, query: dict) -> dict:
        api, body = self.site.api, query["body"]
        match self.command, self.headers.get("Content-Type"):
            case "GET", _ if name:
                return api.get(kind, namespace, name)
            case "GET", _:
                items, version = api.list(kind, namespace, query.get("labelSelector", ""))
                begin = int(query.get("continue", 0))
                end = begin + int(query.get("limit", len(items)))
                more = {"continue": str(end)} if end < len(items) else {}
                return {"metadata": {"resourceVersion": version, **more}, "items": items[begin:end]}
            case "POST", _:
                return api.create(body)
            case "PUT", _:
                return api.replace(body)
            case "DELETE", _:
                api.delete(kind, namespace, name, uid=body["preconditions"]["uid"])
                return {}
            case "PATCH", "application/apply-patch+yaml":
                return api.apply_status(body) if part == "status" else api.apply(body)
            case "PATCH", _ if part == "scale":
                return api.scale(kind, namespace, name, body["spec"]["replicas"])
            case "PATCH", _:
                return api.merge(kind, namespace, name, body)
        raise ApiError(405, self.command)

    def watch(self, kind: Kind, namespace: str | None, query: dict) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.close_connection = True
        since, (label, _, value) = int(query["resourceVersion"]), query.get("labelSelector", "").partition("=")
        if since < self.site.first_version:
            return self.tell("ERROR", {"code": 410, "message": "too old resource version"})
        while self.site.is_up:
            with self.site.changed:
                news = [one for one in self.site.history if one[0] > since]
                if not news:
                    self.site.changed.wait(0.5)
                    continue
            for version, what, its_kind, manifest in news:
                since = version
                is_selected = not label or manifest["metadata"].get("labels", {}).get(label) == value
                if its_kind == kind and namespace in (None, manifest["metadata"]["namespace"]) and is_selected:
                    self.tell(what, manifest)
        return None

    def tell(self, what: str, manifest: dict) -> None:
        self.wfile.write(json.dumps({"type": what, "object": manifest}).encode() + b"\n")
        self.wfile.flush()
