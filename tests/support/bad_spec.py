"""What is known of a spec that is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """A spec that the API server refuses. `field`: where; `says`: part of the message."""

    spec: Any
    field: str
    says: str
    is_of_parts: bool = False  # each field is right by itself: only a rule between them is broken
