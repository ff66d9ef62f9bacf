"""Every kernel compiles for the GPU that it is written for, on machines that have none."""

from __future__ import annotations

import os
import subprocess
import sys


def test_every_kernel_compiles_for_hopper():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "penstock_kernels.gpu.compile_all", "--arch", "90"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "compile for sm_90" in done.stdout
