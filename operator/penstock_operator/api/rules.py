"""What a schema says beyond types: validation rules in CEL, and parts that are left to Kubernetes."""

from __future__ import annotations

from dataclasses import dataclass

OPEN = "open"  # key in `Meta.extra`: fields that we do not know are kept


@dataclass(frozen=True, slots=True)
class Rule:
    """`cel` must be true of a part; `message` tells what to write instead."""

    cel: str
    message: str
