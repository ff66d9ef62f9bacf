"""By what a float8 cache divides a layer's keys and values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KvScales:
    """What keys and values of a layer are divided by in a float8 cache; 1 in any other.

    Static: 1 unless the checkpoint was calibrated. Most models' keys and values fit into ±448 with three bits of
    mantissa as they are; what does not saturates. Numbers of the host: a launch, captured in a graph or not, takes them
    by value, and nobody waits for a device to read them.
    """

    key: float = 1.0
    value: float = 1.0


UNSCALED = KvScales()
