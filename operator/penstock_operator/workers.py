"""Threads that take keys from the queue and look at their services."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from penstock.logs import event
from penstock_operator.errors import ApiError, NotLeading
from penstock_operator.keyed_queue import LAST_RETRY, SOON, KeyedQueue
from penstock_operator.metrics import Metrics
from penstock_operator.names import Key

IDLE_SECONDS = 1.0  # between two looks at whether we still lead

_log = logging.getLogger(__name__)


class Workers:
    """A number of threads; whatever goes wrong with one service is tried again and keeps no other waiting."""

    def __init__(
        self,
        queue: KeyedQueue[Key],
        reconcile: Callable[[Key], float | None],
        metrics: Metrics,
        *,
        may_work: Callable[[], bool],
        count: int,
    ) -> None:
        """`reconcile` returns the seconds until another look, or None; while not `may_work`, keys are dropped."""
        self._queue, self._reconcile, self._metrics, self._may_work = queue, reconcile, metrics, may_work
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True) for number in range(count)
        ]
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> None:
        """Finish what is being worked on, for at most that time."""
        self._stop.set()
        self._queue.close()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while not self._stop.is_set():
            if (key := self._queue.take(IDLE_SECONDS)) is not None:
                self.look(key)

    def look(self, key: Key) -> None:
        """Look at a service once; the key was taken from the queue."""
        if not self._may_work():
            self._queue.finish(key)  # whoever takes the Lease adds all keys
            return
        begun = time.monotonic()
        try:
            wake_after = self._reconcile(key)
        except NotLeading:
            self._queue.finish(key)
            result = "not_leading"
        except ApiError as error:
            seconds = self._queue.fail(key, SOON if error.is_passing else LAST_RETRY)
            level = logging.DEBUG if error.status in (0, 404, 409) else logging.WARNING
            event(_log, "service.retried", level=level, service=key, seconds=seconds, why=error)
            result = "api_error"
        except Exception:  # the top of a reconcile: one service that we fail at must not stop the others
            seconds = self._queue.fail(key)
            _log.exception("service.failed service=%s seconds=%.3g", key, seconds)
            result = "error"
        else:
            self._queue.finish(key)
            if wake_after is not None:
                self._queue.add(key, wake_after)
            result = "ok"
        self._metrics.reconciles.labels(result).inc()
        self._metrics.reconcile_seconds.observe(time.monotonic() - begun)
