"""Who may write: whoever holds the Lease. Losing it stops the writes, not the process."""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable

from penstock.logs import event
from penstock_operator.cluster.kube import Kube
from penstock_operator.errors import ApiError
from penstock_operator.kinds import LEASE
from penstock_operator.service import Manifest

LEASE_SECONDS = 15  # after which a Lease that nobody renews may be taken
RENEW_SECONDS = 3.0
MARGIN = 4.0  # seconds that we stop earlier than others may begin: clocks differ in speed, calls take time

_log = logging.getLogger(__name__)


class Leader:
    """Competes for one Lease. `is_leading` is by our own monotonic clock, so a thread that hangs leads nothing."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        *,
        identity: str,
        clock: Callable[[], float],
        on_lead: Callable[[], None],
    ) -> None:
        """`on_lead` is called, by the competing thread, each time the Lease becomes ours."""
        self._kube, self._namespace, self._name, self._identity = kube, namespace, name, identity
        self._clock, self._on_lead = clock, on_lead
        self._until = float("-inf")  # until when we lead
        self._was_leading = False
        self._seen: tuple[str, str] = ("", "")  # holder and renewTime of the Lease, and since when they are like that
        self._seen_at = 0.0

    @property
    def is_leading(self) -> bool:
        """True while nobody else can hold the Lease."""
        return self._clock() < self._until

    def compete(self, stop: threading.Event) -> None:
        """Take and renew the Lease until told to stop; then give it up, so that the next one need not wait."""
        while not stop.is_set():
            self.turn()
            stop.wait(RENEW_SECONDS)
        self.release()

    def turn(self) -> None:
        """One attempt to take or renew it."""
        begun = self._clock()
        try:
            if self._take(begun):
                self._was_leading &= self.is_leading  # a renewal that took too long is a Lease lost and taken again
                self._until = begun + LEASE_SECONDS - MARGIN
        except ApiError as error:
            level = logging.DEBUG if error.status in (0, 409) else logging.WARNING
            event(_log, "lease.failed", level=level, why=error)
        if self.is_leading != self._was_leading:
            self._was_leading = self.is_leading
            event(_log, "lease.taken" if self._was_leading else "lease.lost", lease=self._name, identity=self._identity)
            if self._was_leading:
                self._on_lead()

    def release(self) -> None:
        """Give it up if it is ours."""
        if not self.is_leading:
            return
        self._until = float("-inf")
        try:
            lease = self._kube.get(LEASE, self._namespace, self._name)
            spec = lease.get("spec") or {}
            if spec.get("holderIdentity") == self._identity:
                self._kube.replace({**lease, "spec": {**spec, "holderIdentity": "", "leaseDurationSeconds": 1}})
        except ApiError as error:
            event(_log, "lease.not_released", level=logging.WARNING, why=error)

    def _take(self, now: float) -> bool:
        try:
            lease = self._kube.get(LEASE, self._namespace, self._name)
        except ApiError as error:
            if error.status != 404:
                raise
            self._kube.create(self._lease({}, {}))
            return True
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and not self._has_expired(spec, holder, now):
            return False
        self._kube.replace(self._lease(lease["metadata"], spec))
        return True

    def _has_expired(self, spec: Manifest, holder: str, now: float) -> bool:
        """Judged by how long *we* have seen no renewal: wall clocks of other machines prove nothing."""
        seen = (holder, str(spec.get("renewTime")))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        return now - self._seen_at > float(spec.get("leaseDurationSeconds") or LEASE_SECONDS)

    def _lease(self, metadata: Manifest, spec: Manifest) -> Manifest:
        time = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        is_ours = spec.get("holderIdentity") == self._identity
        kept = {
            word: metadata[word] for word in ("resourceVersion", "uid", "labels", "annotations") if word in metadata
        }
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {**kept, "namespace": self._namespace, "name": self._name},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": LEASE_SECONDS,
                "acquireTime": spec.get("acquireTime") if is_ours else time,
                "renewTime": time,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (not is_ours and bool(spec)),
            },
        }
