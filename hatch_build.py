"""Build hook of the wheel: compiles the CPU kernels, so that who installs the wheel needs no compiler."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Ships what `penstock_kernels.cpu.build` compiles, and names the platform that it runs on."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel's files are collected; an editable install builds nothing (`make setup` does)."""
        if version == "editable":
            return
        sys.path.insert(0, str(Path(self.root) / "kernels"))
        from penstock_kernels.cpu.build import build

        built = build()
        for library in built:
            build_data["force_include"][str(library)] = f"penstock_kernels/cpu/{library.name}"
        if built:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
