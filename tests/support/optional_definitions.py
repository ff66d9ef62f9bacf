"""Definitions of APIs that a cluster may have: the real ones of `cluster-tools`, and our own where none can be had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from penstock_operator.kinds import OPTIONAL, Kind
from support.kube_cluster import Cluster, wait_until
from support.local_cluster import ROOT, find_tools

OWN = ROOT / "tests/support/definitions"
ESTABLISHED = "--for=condition=Established"


def definition_of(kind: Kind) -> Path | None:
    """The file with the definition of an optional kind; None if there is none here."""
    own, tools = OWN / f"{kind.plural}.yaml", find_tools()
    if own.exists():
        return own
    real = None if tools is None else tools / "crds" / f"{kind.group}_{kind.plural}.yaml"
    return real if real is not None and real.exists() else None


def installable(kinds: Sequence[Kind] = OPTIONAL) -> tuple[Kind, ...]:
    """Those kinds whose definition is at hand."""
    return tuple(kind for kind in kinds if definition_of(kind) is not None)


@contextmanager
def installed(cluster: Cluster, *kinds: Kind) -> Iterator[None]:
    """The API server knows these kinds meanwhile. Those that it knew before stay afterwards."""
    there = {one["metadata"]["name"] for one in cluster.items("crd", "default")}
    new = [kind for kind in kinds if name_of(kind) not in there]
    for kind in new:
        cluster.kubectl("apply", "--server-side", "-f", str(definition_of(kind)))
    for kind in new:
        cluster.kubectl("wait", ESTABLISHED, f"crd/{name_of(kind)}", "--timeout=30s")
        wait_until(lambda kind=kind: is_served(cluster, kind), 30, f"{kind.plural} are not served")
    try:
        yield
    finally:
        for kind in new:
            cluster.kubectl("delete", "crd", name_of(kind), "--ignore-not-found", "--timeout=60s")


def is_served(cluster: Cluster, kind: Kind) -> bool:
    """True if objects of the kind can be listed."""
    return cluster.run("kubectl", "get", name_of(kind), "-A").returncode == 0


def name_of(kind: Kind) -> str:
    """Of its definition; kubectl takes it for the kind as well."""
    return f"{kind.plural}.{kind.group}"
