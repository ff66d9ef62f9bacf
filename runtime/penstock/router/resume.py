"""What the router keeps of a running answer, so that another pod can go on with it. Pure: frames in, decisions out."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from penstock.errors import EngineFailure
from penstock.internal.frames import BrokenFrame, Frame, FrameKind
from penstock.internal.protocol import RoutedCall

MAX_DEATHS = 2  # engines that may die with one request in flight before it is taken for the reason

ENDINGS = (FrameKind.END, FrameKind.ERROR)


class Journal:
    """One client's request: what it asked, what was answered so far, and how many engines died at it."""

    def __init__(self, told: RoutedCall) -> None:
        self._told = told
        self._records: list[bytes] = []
        self.num_deaths = 0
        self.num_attempts = 0
        self.num_payload_bytes = 0  # given to the client

    def next_call(self) -> RoutedCall:
        """What to tell the next pod. After a death it works alone: no other pod is drawn in."""
        self.num_attempts += 1
        if self.num_attempts == 1:
            return self._told
        prefiller = "" if self.num_deaths else self._told.prefiller
        return msgspec.structs.replace(
            self._told, records=list(self._records), num_deaths=self.num_deaths, prefiller=prefiller
        )

    def take(self, frames: Iterable[Frame]) -> tuple[bytes, Frame | None]:
        """What the client gets of these frames, and the frame that ends this pod's part, if one does.

        Payload and record of a frame are taken together, so the next pod knows exactly what the client has seen.
        Raises `EngineFailure` at the last death that is allowed, `BrokenFrame` for what comes after an end.
        """
        payloads: list[bytes] = []
        ending: Frame | None = None
        for frame in frames:
            if ending is not None:
                raise BrokenFrame(f"a frame of kind {frame.kind.name} after the end")
            kind = frame.kind
            if kind in ENDINGS:
                ending = frame
                continue
            if frame.record:
                self._records.append(frame.record)
            if frame.payload:
                payloads.append(frame.payload)
            if kind is FrameKind.DEATH:
                self.count_death()
            elif kind is FrameKind.MOVED:
                ending = frame
        payload = payloads[0] if len(payloads) == 1 else b"".join(payloads)
        self.num_payload_bytes += len(payload)
        return payload, ending

    def count_death(self) -> None:
        """An engine died while it had this request, or a pod was lost with it. Raises `EngineFailure` at the last."""
        self.num_deaths += 1
        if self.num_deaths >= MAX_DEATHS:
            raise EngineFailure(f"{self.num_deaths} engines died while they worked on this request; it is not retried")
