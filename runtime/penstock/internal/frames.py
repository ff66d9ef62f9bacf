"""How a pod answers its router: what the client sees, and beside it what another pod needs to go on.

```
frame:  kind u8 │ len(record) u32 │ len(payload) u32 │ record │ payload
```
`payload` is for the client, as it stands. `record` is for whichever pod is told the request again: the router keeps the
records of whole frames in order and understands nothing of them.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from penstock.errors import PenstockError

CONTENT_TYPE = b"application/x-penstock-frames"
HEAD = struct.Struct("<BII")
LONGEST = 1 << 30  # bytes of a record or payload
HEARTBEAT_SECONDS = 1.0  # a pod sends a frame at least this often


class FrameKind(enum.IntEnum):
    """What a frame means for the router."""

    EVENT = 0  # goes on
    HEARTBEAT = 1  # nothing new
    DEATH = 2  # the engine died with this request in flight, and goes on with a new one
    MOVED = 3  # the pod gives the request up unharmed: tell it to another
    END = 4  # the payload ends the answer
    ERROR = 5  # ends it too; the record is the HTTP status in decimal, the payload the JSON body or last events


KINDS = tuple(FrameKind)  # by number, many times faster than the enum's own look-up


class Frame(NamedTuple):
    """One frame."""

    kind: FrameKind
    record: bytes = b""
    payload: bytes = b""

    def to_bytes(self) -> bytes:
        """As on the wire."""
        return HEAD.pack(self.kind, len(self.record), len(self.payload)) + self.record + self.payload


class BrokenFrame(PenstockError):
    """The bytes are no frames."""


class FrameReader:
    """Takes bytes as they come, gives whole frames."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[Frame]:
        """All frames that are complete now; raises `BrokenFrame`."""
        if self._pending:
            data = self._pending + data
        frames, at, size = [], 0, len(data)
        while size - at >= HEAD.size:
            kind, num_record, num_payload = HEAD.unpack_from(data, at)
            if kind >= len(KINDS) or num_record > LONGEST or num_payload > LONGEST:
                raise BrokenFrame(f"a frame of kind {kind} with {num_record:,} and {num_payload:,} bytes")
            middle = at + HEAD.size + num_record
            if size < middle + num_payload:
                break
            frames.append(Frame(KINDS[kind], data[at + HEAD.size : middle], data[middle : middle + num_payload]))
            at = middle + num_payload
        self._pending = data[at:]
        return frames
