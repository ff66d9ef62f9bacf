"""What watches tell becomes entries of the store and keys on the queue."""

from __future__ import annotations

from penstock_operator.cluster.resync import Resync
from penstock_operator.cluster.store import Store
from penstock_operator.health import Health
from penstock_operator.keyed_queue import KeyedQueue
from penstock_operator.kinds import Kind
from penstock_operator.names import Key
from penstock_operator.service import Manifest


class Feed:
    """Where every watch ends."""

    def __init__(self, store: Store, queue: KeyedQueue[Key], health: Health, resync: Resync) -> None:
        self._store, self._queue, self._health, self._resync = store, queue, health, resync

    @property
    def is_open(self) -> bool:
        """True once everything has been listed: watches that begin before would miss kinds that are not there yet."""
        return not self._health.is_starting

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What has to be watched."""
        return self._resync.kinds

    def tell(self, kind: Kind, what: str | None, manifest: Manifest) -> None:
        """`what`: ADDED, MODIFIED or DELETED; None where a watch begins with a list, which knows not what has gone."""
        self._health.heard(kind)
        if what is None:
            self._resync.soon()
        take = self._store.remove if what == "DELETED" else self._store.put
        if (key := take(kind, manifest)) is not None:
            self._queue.add(key)
