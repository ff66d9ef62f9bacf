"""The other half of a worker that takes plans ahead of its device: a thread that sends each result once it is there."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from penstock.wire import encode
from penstock.worker.channel import Channel
from penstock.worker.step import StepHandle


class Answers:
    """Waits for steps in the order in which they were put and sends their results at once, in a `with` statement.

    A step that fails ends the conversation on `channel`: whoever receives there gets `EOFError`, and leaving the `with`
    raises what the step raised.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._handles: SimpleQueue[StepHandle | None] = SimpleQueue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)

    def put(self, handle: StepHandle) -> None:
        """A step that was begun."""
        self._handles.put(handle)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handles.put(None)
        if kind is None or issubclass(kind, EOFError):
            self._thread.join()
        if self._failure is not None:
            raise self._failure from None

    def _run(self) -> None:
        try:
            while (handle := self._handles.get()) is not None:
                self._channel.send(encode(handle.wait()))
        except EOFError:  # nobody wants them any more
            return
        except Exception as failure:  # the thread's top: the main thread raises it
            self._failure = failure
            self._channel.hang_up()
