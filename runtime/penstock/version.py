"""Which Penstock this is; apart from the package itself, so that who asks need not know the engine."""

from __future__ import annotations

VERSION = "0.1.0"
