"""Finds the compiled kernels that suit this processor and declares their C functions."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_double, c_float, c_int, c_int64, c_void_p
from typing import Any

from penstock_kernels.cpu import build

SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "penstock_best_variant": (c_char_p, ()),
    "penstock_set_num_threads": (None, (c_int,)),
    "penstock_packed_bytes": (c_int64, (c_void_p,)),
    "penstock_pack": (None, (c_void_p, c_void_p)),
    "penstock_linear": (None, (c_void_p, c_void_p, c_int64, c_void_p, c_float, c_void_p, c_void_p)),
    "penstock_embedding": (c_int64, (c_void_p, c_void_p, c_int64, c_void_p)),
    "penstock_rms_norm": (None, (c_void_p, c_void_p, c_float, c_int64, c_int, c_void_p)),
    "penstock_attention": (None, (c_void_p, c_void_p, c_void_p)),
    "penstock_decoder": (None, (c_void_p, c_void_p, c_void_p)),
    "penstock_read_bandwidth": (c_double, (c_void_p, c_int64)),
}
"""Function -> its result and arguments, as in csrc/api.cpp."""


class Library:
    """One loaded variant; its C functions are attributes, named without their prefix."""

    def __init__(self, variant: str) -> None:
        """Load `variant`; OSError if its file is missing or cannot be loaded."""
        self.variant = variant
        handle = ctypes.CDLL(str(build.library_path(variant)))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(handle, name)
            function.restype = result
            function.argtypes = arguments
            setattr(self, name.removeprefix("penstock_"), function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the compiled kernels have no function {name}")


def runnable_variants() -> list[str]:
    """The variants that are built from the present sources and run on this processor, best first."""
    digest = build.sources_digest()
    current = [variant for variant in build.variants() if build.is_current(build.library_path(variant), digest)]
    if "baseline" not in current:
        return []
    try:
        best = Library("baseline").best_variant().decode()
    except OSError:  # built against a newer C library
        return []
    order = list(build.VARIANTS)
    return [variant for variant in current if order.index(variant) >= order.index(best)]
