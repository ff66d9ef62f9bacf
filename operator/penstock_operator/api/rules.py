"""What types alone cannot say about a part: validation rules, and hints for the schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Hints in `Meta.extra_json_schema`; `schema.py` turns them into rules with a message.
IF_WRONG = "x-if-wrong"  # beside `pattern`: what to write instead
IF_MISSING = "x-if-missing"  # of a required field: what to write

PRESERVE = "x-kubernetes-preserve-unknown-fields"
OPEN: dict[str, Any] = {PRESERVE: True}  # fields that we do not know are kept


def by_key(field: str) -> dict[str, Any]:
    """A list whose entries are told apart by `field`; two alike are refused."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [field]}


@dataclass(frozen=True, slots=True)
class Rule:
    """`cel` must be true of a part; `message` tells what to write instead."""

    cel: str
    message: str
