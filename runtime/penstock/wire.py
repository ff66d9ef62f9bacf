"""How structs cross process borders: msgpack, numpy columns as raw bytes. Light: every process may import it."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np


def to_wire(value: Any) -> Any:
    """Encode hook: an array becomes (dtype, shape, bytes)."""
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, np.ascontiguousarray(value).data.cast("B") if value.size else b"")
    raise TypeError(f"{type(value).__name__} does not go over the wire")


def from_wire(kind: type, value: Any) -> Any:
    """Decode hook: the reverse of `to_wire`; the array is read-only and shares the message's memory."""
    dtype, shape, data = value
    return np.frombuffer(data, dtype=np.dtype(dtype)).reshape(shape)


def encode(message: msgspec.Struct) -> bytes:
    """Message -> msgpack bytes."""
    return _ENCODER.encode(message)


def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder for one struct or a union of tagged structs; malformed bytes raise `msgspec.DecodeError`."""
    return msgspec.msgpack.Decoder(kind, dec_hook=from_wire)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=to_wire)
