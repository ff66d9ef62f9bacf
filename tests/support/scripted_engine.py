"""The scripted engine child as a module of its own, which is what a supervisor starts."""

from __future__ import annotations

import sys

from support.scripted_children import engine

if __name__ == "__main__":
    sys.exit(engine(sys.argv[1:]))
