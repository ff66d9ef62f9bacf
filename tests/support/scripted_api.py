"""The scripted api child as a module of its own, which is what a supervisor starts."""

from __future__ import annotations

import sys

from support.scripted_children import api

if __name__ == "__main__":
    sys.exit(api(sys.argv[1:]))
