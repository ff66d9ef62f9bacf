"""For all tests: where there is no GPU, Triton's kernels run in its interpreter."""

from __future__ import annotations

import os
from pathlib import Path

if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # before any of them is imported, whichever folder comes first
