"""From what CUDA, torch and Triton say when something goes wrong on the device to one of a few kinds of fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from penstock.errors import DeviceError, DeviceFault

# Words of cudaGetErrorString and cuGetErrorString, and the names that torch and Triton put before them.
SIGNS: dict[DeviceFault, tuple[str, ...]] = {
    DeviceFault.OUT_OF_MEMORY: ("out of memory", "alloc_failed"),
    DeviceFault.HARDWARE: ("uncorrectable", "ecc error", "nvlink", "hardware stack error", "contained"),
    DeviceFault.BAD_ACCESS: (
        "illegal memory access",
        "illegal address",
        "misaligned address",
        "illegal instruction",
        "invalid program counter",
        "address space",
        "device-side assert",
        "unspecified launch failure",
    ),
    DeviceFault.TIMEOUT: ("launch timed out",),
    DeviceFault.LOST: ("no cuda-capable device", "gpu is lost", "device is lost", "unavailable", "unknown error"),
}
SPEAKERS = ("cuda", "cublas", "cudnn", "triton error", "device-side assert", "nvml")
LONGEST = 200  # characters of what is passed on


def fault_of(error: Exception) -> DeviceFault | None:
    """Which fault of the device an exception tells of; None for any other."""
    text = said_by(error).lower()
    names = {kind.__name__ for kind in type(error).__mro__}
    if not isinstance(error, RuntimeError) or not (
        names & {"AcceleratorError", "OutOfMemoryError"} or any(speaker in text for speaker in SPEAKERS)
    ):
        return None
    found = (fault for fault, signs in SIGNS.items() if any(sign in text for sign in signs))
    return next(found, DeviceFault.OTHER)


@contextmanager
def device_faults() -> Iterator[None]:
    """Turn what the device does wrong inside into a `DeviceError`; other exceptions pass."""
    try:
        yield
    except RuntimeError as error:
        if (fault := fault_of(error)) is None:
            raise
        raise DeviceError(fault, said_by(error)) from error


def said_by(error: Exception) -> str:
    """The first line; what follows it is the same advice for every error."""
    return str(error).strip().partition("\n")[0][:LONGEST]
