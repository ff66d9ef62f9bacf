"""A stream of authenticated msgpack messages in the body of an HTTP answer.

```
piece:  length u32 │ mac 16 bytes │ message          mac covers (nonce of the call, number of the piece, message)
```
So a piece that was forged, changed, repeated, left out or sent to somebody else is noticed where it arrives.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from penstock.errors import PenstockError
from penstock.internal.credentials import ClusterKeys
from penstock.wire import decoder, encode

LENGTH = struct.Struct("<I")
MAC_BYTES = 16
LONGEST = 16 << 20  # bytes of a message


class BrokenPiece(PenstockError):
    """The stream does not come from a pod that has the key, or is damaged; nothing in it counts from here on."""


class PieceWriter:
    """Makes the pieces that answer one call."""

    def __init__(self, keys: ClusterKeys, nonce: bytes) -> None:
        self._keys, self._nonce, self._number = keys, nonce, 0

    def write(self, message: msgspec.Struct) -> bytes:
        """The next piece."""
        data = encode(message)
        mac = self._keys.mac(self._nonce, self._number, data)
        self._number += 1
        return LENGTH.pack(len(data)) + mac + data


class PieceReader:
    """Takes bytes as they come, gives messages."""

    def __init__(self, keys: ClusterKeys, nonce: bytes, kind: Any) -> None:
        self._keys, self._nonce, self._number = keys, nonce, 0
        self._decoder = decoder(kind)
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """All messages that are complete now; raises `BrokenPiece`."""
        self._pending += data
        messages = []
        while (message := self._take()) is not None:
            messages.append(message)
        return messages

    def _take(self) -> Any | None:
        pending = self._pending
        if len(pending) < LENGTH.size:
            return None
        [length] = LENGTH.unpack_from(pending)
        if length > LONGEST:
            raise BrokenPiece(f"a piece of {length:,} bytes")
        begin = LENGTH.size + MAC_BYTES
        if len(pending) < begin + length:
            return None
        mac, data = bytes(pending[LENGTH.size : begin]), bytes(pending[begin : begin + length])
        if not self._keys.is_mac(mac, self._nonce, self._number, data):
            raise BrokenPiece(f"piece {self._number} is not authentic")
        self._number += 1
        del pending[: begin + length]
        try:
            return self._decoder.decode(data)
        except msgspec.DecodeError as error:
            raise BrokenPiece(f"piece {self._number - 1}: {error}") from None
