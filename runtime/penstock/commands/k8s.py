"""Look at services in a Kubernetes cluster: how they are, why one is not ready, why it has as many pods as it has."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from penstock.commands.k8s_case import Case, Section
from penstock.commands.k8s_explanation import build_explanation
from penstock.commands.k8s_status import build_overview, build_status
from penstock.errors import PenstockError
from penstock.flags import Parser
from penstock_operator import kinds, names
from penstock_operator.errors import ApiError, OperatorError

if TYPE_CHECKING:
    from penstock_operator.cluster.kube import Kube

SECONDS = 10.0  # for one call to the API server
NARROWEST, WIDEST = 60, 160  # characters of a line on a terminal
UNBROKEN = 10_000  # elsewhere: one line stays one
EPILOG = """
examples:
  penstock k8s status                    every service of the namespace
  penstock k8s status -A                 … of all namespaces
  penstock k8s status chat               pods, numbers and conditions of one
  penstock k8s explain chat -n demo      what is wrong, what to do, and who scaled it why
  until penstock k8s status chat; do sleep 5; done

exit code: 0; 3 if the service that is named is not ready; 1 if that cannot be said, and why

The cluster is that of your kubeconfig. Nothing is changed in it. Of what you may not list (pods, rolescalers, events)
nothing is told.
"""
NOT_READY = 3  # exit code


def add_arguments(parser: Parser) -> None:
    """What to look at, and where."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("action", choices=("status", "explain"), metavar="status|explain", help="how it is, or why it is so")
    add("name", nargs="?", metavar="NAME", help="of an InferenceService; status without it lists all")
    add("-n", "--namespace", metavar="NS", help="default: that of the kubeconfig's context")
    add("-A", "--all-namespaces", action="store_true", help="status without NAME: of all namespaces")
    add("--context", metavar="NAME", help="of the kubeconfig; default: the current one")
    add("--kubeconfig", metavar="FILE", help="default: KUBECONFIG, or ~/.kube/config")


def run(args: argparse.Namespace) -> int:
    """Show it; returns the exit code, `NOT_READY` for a service that is not.

    Raises `PenstockError` if the cluster does not answer or has no such service.
    """
    if args.action == "explain" and args.name is None:
        raise PenstockError("explain what? give the name of an InferenceService; `penstock k8s status` lists them")
    try:
        kube, namespace = connect(args.kubeconfig, args.context)
        if args.name is None:
            show(read_all(kube, None if args.all_namespaces else args.namespace or namespace))
            return 0
        case = read_case(kube, read_service(kube, args.namespace or namespace, args.name))
    except OperatorError as error:
        raise PenstockError(str(error)) from None
    show(build_status(case) if args.action == "status" else build_explanation(case))
    return 0 if case.is_ready else NOT_READY


def connect(kubeconfig: str | None, context: str | None) -> tuple[Kube, str]:
    """The cluster, and the namespace that its context names. Raises `PenstockError`."""
    try:
        import kubernetes.config

        from penstock_operator.cluster.kube import Kube
    except ImportError:
        raise PenstockError("this needs the Kubernetes client: pip install 'penstock[operator]'") from None
    try:
        contexts, current = kubernetes.config.list_kube_config_contexts(kubeconfig)  # type: ignore[no-untyped-call]
        chosen = next((one for one in contexts if one["name"] == context), None) if context else current
        if chosen is None:
            names = ", ".join(one["name"] for one in contexts)
            raise PenstockError(f"--context: there is no {context!r} in the kubeconfig; there are {names}")
        client = kubernetes.config.new_client_from_config(kubeconfig, chosen["name"])  # type: ignore[no-untyped-call]
    except (kubernetes.config.ConfigException, OSError) as error:
        told = str(error).rstrip(".")
        raise PenstockError(f"no cluster: {told}; set KUBECONFIG or give --kubeconfig") from None
    kube = Kube(client, seconds=SECONDS, tell=lambda verb, status, seconds: None)
    return kube, chosen["context"].get("namespace", "default")


def read_all(kube: Kube, namespace: str | None) -> list[Section]:
    """Every service of a namespace, or of all for None. Raises `OperatorError`, and `PenstockError` without our API."""
    try:
        found, _ = kube.list(kinds.INFERENCE_SERVICE, namespace)
        return build_overview(list(found), time.time(), where=namespace or "any namespace")
    except ApiError as error:
        if error.status != 404:
            raise
        raise PenstockError("this cluster knows no InferenceServices: helm install penstock-crds") from None


def read_service(kube: Kube, namespace: str, name: str) -> dict[str, Any]:
    """One of them. Raises `OperatorError`, and `PenstockError` if there is none."""
    try:
        return kube.get(kinds.INFERENCE_SERVICE, namespace, name)
    except ApiError as error:
        if error.status != 404:
            raise
        raise PenstockError(
            f"there is no InferenceService {name} in namespace {namespace}; `penstock k8s status -A` lists all"
        ) from None


def read_case(kube: Kube, service: dict[str, object]) -> Case:
    """A service with all that belongs to it. What the reader has no right to see is left out, and said to be."""
    metadata = service["metadata"]
    assert isinstance(metadata, dict), "an object has metadata"
    namespace, selector = metadata["namespace"], f"{names.SERVICE}={metadata['name']}"
    lists: dict[str, list[dict[str, object]]] = {}
    hidden: list[str] = []
    for kind, labels in ((kinds.POD, selector), (kinds.ROLE_SCALER, selector), (kinds.EVENT, "")):
        try:
            found, _ = kube.list(kind, namespace, labels)
            lists[kind.plural] = list(found)
        except ApiError as error:
            if error.status != 403:
                raise
            lists[kind.plural] = []
            hidden.append(kind.plural)
    return Case(
        service=service,
        pods=lists["pods"],
        scalers=lists["rolescalers"],
        events=lists["events"],
        hidden=hidden,
        now=time.time(),
    )


def show(sections: list[Section]) -> None:
    """On the terminal, in colour where it has any."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.width = min(WIDEST, max(NARROWEST, console.width)) if console.is_terminal else UNBROKEN
    for number, section in enumerate(sections):
        if number:
            console.print()
        console.print(Text(section.heading, style="bold"))
        for line in section.lines:
            console.print(Padding(Text(line.text, style=line.style), (0, 0, 0, 2), expand=False))
        if section.rows:
            table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
            for heading in section.columns:
                table.add_column("  " * (heading == section.columns[0]) + heading, overflow="fold")
            for row in section.rows:
                table.add_row("  " + row.cells[0], *row.cells[1:], style=row.style)
            console.print(table)
