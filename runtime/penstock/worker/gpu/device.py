"""What a GPU must be before a worker may use it: one clear line for each thing that is missing."""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import dataclass

LEAST_CAPABILITY = (8, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """What there is: of torch, of the driver, and of the GPU that it shows first."""

    torch_version: str
    built_for: str | None  # the CUDA version that torch was built with; None: without
    driver: tuple[int, int] | None  # the newest CUDA that the driver knows; None: no driver
    name: str | None = None  # of the GPU; None: torch sees none
    capability: tuple[int, int] = (0, 0)
    has_triton: bool = True

    @property
    def has_driver(self) -> bool:
        """True if somebody meant this machine to have a GPU."""
        return self.driver is not None

    @property
    def problem(self) -> str | None:
        """Why no worker can use it, and what to change, in half a sentence; None if one can."""
        if self.built_for is None:
            return f"torch {self.torch_version} is built without CUDA; install a torch that has it"
        if self.driver is None:
            return "there is no usable CUDA device (no NVIDIA driver: libcuda.so.1); install one"
        if self.driver[0] < int(self.built_for.partition(".")[0]):
            knows = ".".join(str(number) for number in self.driver)
            return (
                f"the NVIDIA driver is too old: it knows CUDA {knows}, and torch {self.torch_version} needs "
                f"{self.built_for}; update the driver"
            )
        if self.name is None:
            return "there is no usable CUDA device; look at nvidia-smi and CUDA_VISIBLE_DEVICES"
        if self.capability < LEAST_CAPABILITY:
            has, least = (".".join(str(number) for number in pair) for pair in (self.capability, LEAST_CAPABILITY))
            return f"{self.name} has compute capability {has}, and {least} (Ampere) is needed; take a newer GPU"
        if not self.has_triton:
            return "Triton is missing; pip install triton"
        return None


def look_at_gpu() -> GpuFacts:
    """What this machine has."""
    import torch

    built_for, driver, has_triton = torch.version.cuda, driver_version(), importlib.util.find_spec("triton") is not None
    is_usable = built_for is not None and driver is not None and driver[0] >= int(built_for.partition(".")[0])
    if not is_usable or not torch.cuda.is_available():
        return GpuFacts(torch_version=torch.__version__, built_for=built_for, driver=driver, has_triton=has_triton)
    return GpuFacts(
        torch_version=torch.__version__,
        built_for=built_for,
        driver=driver,
        name=torch.cuda.get_device_name(0),
        capability=torch.cuda.get_device_capability(0),
        has_triton=has_triton,
    )


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver knows, asked of itself; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return version.value // 1000, version.value % 1000 // 10
