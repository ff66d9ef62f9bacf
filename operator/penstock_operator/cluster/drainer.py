"""Tells pods to take no new requests, or to take some again, on their internal port with the service's key."""

from __future__ import annotations

import http.client
import logging
from collections.abc import Callable

import msgspec

from penstock.errors import Unauthorized
from penstock.internal.credentials import Caller, ClusterKeys, query_claims
from penstock.internal.protocol import DRAIN_PATH, LOAD_PATH, UNDRAIN_PATH, Load
from penstock.logs import event
from penstock_operator.desired.identity import service_key
from penstock_operator.plan.actions import Drain

SECONDS = 3.0  # for one call to a pod
MOST_REMEMBERED = 10_000  # pods
LOAD = msgspec.json.Decoder(Load)  # made before there are threads, see `parse.py`

_log = logging.getLogger(__name__)


class Drainer:
    """Speaks to pods of every service, from many threads."""

    def __init__(self, master_key: Callable[[], bytes]) -> None:
        """`master_key`: the operator's, asked for at each call."""
        self._master_key = master_key
        self._heard: dict[str, tuple[str, bool]] = {}  # by UID of a pod: what it was told last, and if it heard

    def tell(self, uid: str, drain: Drain) -> None:
        """Have a pod of the service with that UID drain or undrain; that it did not hear is logged.

        A pod that does not answer takes no requests either, so nothing waits for it.
        """
        verb = "undrain" if drain.is_undrain else "drain"
        keys = ClusterKeys.of(service_key(self._master_key(), uid))
        try:
            self._tell(keys, drain.address, UNDRAIN_PATH if drain.is_undrain else DRAIN_PATH)
        except (OSError, http.client.HTTPException, msgspec.DecodeError, Unauthorized) as error:
            if self._is_new(drain.uid, (verb, False)):
                event(_log, f"{verb}.failed", level=logging.WARNING, pod=drain.pod, address=drain.address, why=error)
            return
        if self._is_new(drain.uid, (verb, True)):
            event(_log, f"{verb}.told", pod=drain.pod)

    def _is_new(self, pod: str, outcome: tuple[str, bool]) -> bool:
        """For the log: a plan tells a pod again until it is gone, because its process may have begun anew."""
        if self._heard.get(pod) == outcome:
            return False
        if len(self._heard) >= MOST_REMEMBERED:
            self._heard.clear()
        self._heard[pod] = outcome
        return True

    def _tell(self, keys: ClusterKeys, address: str, path: str) -> None:
        host, _, port = address.rpartition(":")
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=SECONDS)
        try:
            told = _ask(connection, "GET", LOAD_PATH, keys.sign(query_claims(LOAD_PATH)))
            load = LOAD.decode(told)
            caller = Caller(keys)
            caller.learn(load.session, load.now, load.now)  # the token's clock is the pod's own
            _ask(connection, "POST", path, keys.sign(caller.claims(path, b"", load.now)))
        finally:
            connection.close()


def _ask(connection: http.client.HTTPConnection, method: str, path: str, token: str) -> bytes:
    connection.request(method, path, headers={"Authorization": token})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise Unauthorized(f"{method} {path}: HTTP {answer.status} {body[:200].decode(errors='replace')}")
    return body
