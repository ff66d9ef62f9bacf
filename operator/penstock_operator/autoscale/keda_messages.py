"""The few protobuf messages of KEDA's `externalscaler.proto`, read and written by hand. Pure.

Wire format: https://protobuf.dev/programming-guides/encoding/. Fields that are not known are skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LARGEST = 1 << 16  # bytes of a request


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledObjectRef:
    """Which ScaledObject asks, and what its trigger says."""

    name: str
    namespace: str
    metadata: dict[str, str]


def parse_ref(data: bytes) -> ScaledObjectRef:
    """A `ScaledObjectRef`. Raises ValueError."""
    texts, metadata = {1: "", 2: ""}, {}
    for number, value in _fields(data):
        if number in texts and isinstance(value, bytes):
            texts[number] = value.decode()
        elif number == 3 and isinstance(value, bytes):
            entry = {key: text.decode() for key, text in _fields(value) if isinstance(text, bytes)}
            metadata[entry.get(1, "")] = entry.get(2, "")
    return ScaledObjectRef(name=texts[1], namespace=texts[2], metadata=metadata)


def parse_metrics_request(data: bytes) -> ScaledObjectRef:
    """A `GetMetricsRequest`, of which only the first field matters: there is one metric. Raises ValueError."""
    return parse_ref(next((value for number, value in _fields(data) if number == 1 and isinstance(value, bytes)), b""))


def build_is_active(is_active: bool) -> bytes:
    """An `IsActiveResponse`."""
    return b"\x08\x01" if is_active else b""


def build_metric_spec(name: str, target: float) -> bytes:
    """A `GetMetricSpecResponse` of one metric."""
    return _text(1, _text(1, name.encode()) + _double(3, target))


def build_metrics(name: str, value: float) -> bytes:
    """A `GetMetricsResponse` of one value."""
    return _text(1, _text(1, name.encode()) + _double(3, value))


def _text(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(data)) + data


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | FIXED64) + struct.pack("<d", value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Each field with its number. Raises ValueError for what is no message."""
    if len(data) > LARGEST:
        raise ValueError(f"{len(data)} bytes are too many")
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        match key & 7:
            case 0:
                value, at = _read_varint(data, at)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _read_varint(data, at)
            case 5:
                size = 4
            case kind:
                raise ValueError(f"wire type {kind} is not known")
        if at + size > len(data):
            raise ValueError("the message ends too early")
        yield key >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError("a number ends too early, or is too long")
