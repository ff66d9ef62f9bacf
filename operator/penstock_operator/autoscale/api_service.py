"""The APIService that leads HPAs to the operator: whether it is ours, and the certificates that it makes be believed.

It belongs to the chart. Of it the operator writes `spec.caBundle` alone, and only where the chart's annotation asks for
that: not where the chart's user gave a bundle, or something else injects one.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable
from pathlib import Path

from penstock.logs import event
from penstock_operator.cluster.kube import Kube
from penstock_operator.errors import ApiError
from penstock_operator.kinds import API_SERVICE
from penstock_operator.service import Manifest

NAME = "v1beta1.external.metrics.k8s.io"
ASKED = ("penstock.dev/ca-bundle", "operator")  # annotation of an APIService whose caBundle is ours to write
OVERLAP_SECONDS = 600.0  # for which certificates before ours stay believed: kubelets bring new ones at their own pace
CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_log = logging.getLogger(__name__)


class ApiServiceKeeper:
    """Looks at the APIService. Every replica does, since each is asked and has to be believed."""

    def __init__(self, kube: Kube, *, namespace: str, folder: Path, clock: Callable[[], float]) -> None:
        """`namespace`: of this operator. `folder`: with the certificate that is served. `clock` is monotonic."""
        self._kube, self._namespace, self._folder, self._clock = kube, namespace, folder, clock
        self._own: tuple[bytes, ...] = ()
        self._since = 0.0  # when our certificates became these

    def look(self) -> str:
        """Have our certificates believed; what keeps the API server from asking us, as a sentence, empty: nothing.

        Raises `ApiError`, and `OSError` if there is no certificate.
        """
        try:
            there = self._kube.get(API_SERVICE, "", NAME)
        except ApiError as error:
            if error.status != 404:
                raise
            return f"there is no APIService {NAME}: install the operator's chart with externalMetrics.enabled=true"
        service = there["spec"].get("service") or {}
        if service.get("namespace") != self._namespace:
            owner = f"{service.get('namespace')}/{service.get('name')}"
            return (
                f"the APIService {NAME} leads to {owner}: only one can serve external metrics, so use Builtin or KEDA"
            )
        if there["metadata"].get("annotations", {}).get(ASKED[0]) == ASKED[1]:
            self._keep_believed(there)
        return unavailability(there)

    def _keep_believed(self, there: Manifest) -> None:
        own = read_authorities(self._folder)
        believed = certificates(base64.b64decode(there["spec"].get("caBundle", "")))
        if own != self._own:
            self._own, self._since = own, self._clock()
        wanted = wanted_bundle(own, believed, is_settled=self._clock() - self._since >= OVERLAP_SECONDS)
        if wanted == believed:
            return
        # With its version: another replica that writes at the same time has to see what we wrote, and so have we.
        metadata = {word: there["metadata"][word] for word in ("uid", "resourceVersion")}
        bundle = base64.b64encode(b"\n".join(wanted) + b"\n").decode()
        self._kube.merge(API_SERVICE, "", NAME, {"metadata": metadata, "spec": {"caBundle": bundle}})
        event(_log, "ca_bundle.written", certificates=len(wanted), before=len(believed))


def wanted_bundle(own: tuple[bytes, ...], believed: tuple[bytes, ...], *, is_settled: bool) -> tuple[bytes, ...]:
    """Ours first, and until we have settled whatever was believed before: another replica may still show it."""
    if is_settled:
        return own
    if set(own) <= set(believed):
        return believed
    return own + tuple(one for one in believed if one not in own)


def read_authorities(folder: Path) -> tuple[bytes, ...]:
    """Who vouches for the certificate that is served: ca.crt, else that certificate itself. Raises `OSError`."""
    file = folder / "ca.crt"
    found = certificates(file.read_bytes()) if file.exists() else ()
    return found or certificates((folder / "tls.crt").read_bytes())


def certificates(text: bytes) -> tuple[bytes, ...]:
    """Each certificate of a PEM file, with lines as they are written on every system."""
    return tuple(
        b"\n".join(found.split()).replace(b"\nCERTIFICATE-----", b" CERTIFICATE-----")
        for found in CERTIFICATE.findall(text)
    )


def unavailability(there: Manifest) -> str:
    """What the API server says if it cannot use the APIService, as a sentence."""
    for one in there.get("status", {}).get("conditions", ()):
        if one.get("type") == "Available" and one.get("status") == "False":
            return f"the API server gets no answer through the APIService {NAME}: {one.get('message', '')}"
    return ""
