"""Events on an InferenceService: what `kubectl describe` tells a person, one sentence each."""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable

from penstock.logs import event
from penstock_operator.cluster.kube import Kube
from penstock_operator.errors import ApiError
from penstock_operator.kinds import EVENT, INFERENCE_SERVICE
from penstock_operator.names import MANAGER
from penstock_operator.service import Service

AGAIN_SECONDS = 600.0  # the same sentence about the same service is not said again before
LONGEST_NOTE = 1000  # characters; the API takes 1024 bytes
MOST_REMEMBERED = 10_000

_log = logging.getLogger(__name__)


class Events:
    """Posts Events, for many threads. One that cannot be posted is logged and lost: the status tells the same."""

    def __init__(self, kube: Kube, *, instance: str, clock: Callable[[], float]) -> None:
        """`instance`: which process reports. `clock` is monotonic."""
        self._kube, self._instance, self._clock = kube, instance, clock
        self._lock = threading.Lock()
        self._said: dict[tuple[str, str, str], float] = {}

    def say(
        self, service: Service, reason: str, note: str, *, action: str = "Reconcile", is_warning: bool = False
    ) -> None:
        """Post it, unless it was said within the last ten minutes."""
        if not self._is_new((service.uid, reason, note)):
            return
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        key = service.key
        try:
            self._kube.create(
                {
                    "apiVersion": EVENT.api_version,
                    "kind": EVENT.kind,
                    "metadata": {"generateName": f"{key.name}-", "namespace": key.namespace},
                    "eventTime": now,
                    "reportingController": f"penstock.dev/{MANAGER}",
                    "reportingInstance": self._instance[:128],
                    "action": action,
                    "reason": reason,
                    "type": "Warning" if is_warning else "Normal",
                    "note": note[:LONGEST_NOTE].encode()[:LONGEST_NOTE].decode(errors="ignore"),
                    "regarding": {
                        "apiVersion": INFERENCE_SERVICE.api_version,
                        "kind": INFERENCE_SERVICE.kind,
                        "namespace": key.namespace,
                        "name": key.name,
                        "uid": service.uid,
                    },
                }
            )
        except ApiError as error:
            event(_log, "event.lost", level=logging.DEBUG, service=key, reason=reason, why=error)

    def _is_new(self, what: tuple[str, str, str]) -> bool:
        now = self._clock()
        with self._lock:
            if self._said.get(what, float("-inf")) > now - AGAIN_SECONDS:
                return False
            self._said[what] = now
            if len(self._said) > MOST_REMEMBERED:
                self._said = {said: at for said, at in self._said.items() if at > now - AGAIN_SECONDS}
            return True
