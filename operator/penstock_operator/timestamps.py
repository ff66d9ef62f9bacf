"""Times as Kubernetes writes them: RFC 3339, in UTC, whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime


def to_timestamp(seconds: float) -> str:
    """`seconds` since the epoch as `2026-01-31T08:00:00Z`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_timestamp(text: str) -> float:
    """The reverse, with or without fractions. Raises ValueError for anything else."""
    return datetime.fromisoformat(text).timestamp()
