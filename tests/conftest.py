"""For all tests: where there is no GPU, Triton's kernels run in its interpreter."""

from __future__ import annotations

import os
from pathlib import Path

DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")


def has_gpu() -> bool:
    """Whether tests of the GPU's code run on one. Only torch knows, and importing it takes seconds: last of all."""
    if not any(Path(name).exists() for name in DRIVERS):
        return False
    import torch

    return torch.cuda.is_available()


if not has_gpu():
    os.environ["TRITON_INTERPRET"] = "1"  # before any of them is imported, whichever folder comes first
