"""What CUDA, torch and Triton say when a device fails, and what it becomes."""

from __future__ import annotations

import pytest
import torch

from penstock.errors import DeviceError, DeviceFault
from penstock.worker.gpu.faults import device_faults

ADVICE = "\nCUDA kernel errors might be asynchronously reported at some other API call.\nDevice-side assertions ..."
CUDA = "CUDA error: {}" + ADVICE


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (CUDA.format("an illegal memory access was encountered"), DeviceFault.BAD_ACCESS),
        (CUDA.format("misaligned address"), DeviceFault.BAD_ACCESS),
        (CUDA.format("unspecified launch failure"), DeviceFault.BAD_ACCESS),
        (CUDA.format("device-side assert triggered"), DeviceFault.BAD_ACCESS),
        (CUDA.format("uncorrectable ECC error encountered"), DeviceFault.HARDWARE),
        (CUDA.format("uncorrectable NVLink error detected during the execution"), DeviceFault.HARDWARE),
        (CUDA.format("the launch timed out and was terminated"), DeviceFault.TIMEOUT),
        (CUDA.format("no CUDA-capable device is detected"), DeviceFault.LOST),
        (CUDA.format("CUDA-capable device(s) is/are busy or unavailable"), DeviceFault.LOST),
        (CUDA.format("unknown error"), DeviceFault.LOST),
        (CUDA.format("out of memory"), DeviceFault.OUT_OF_MEMORY),
        (CUDA.format("an error that nobody has heard of"), DeviceFault.OTHER),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`", DeviceFault.OTHER),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", DeviceFault.OUT_OF_MEMORY),
        ("Triton Error [CUDA]: an illegal memory access was encountered", DeviceFault.BAD_ACCESS),
        ("Triton Error [CUDA]: out of memory", DeviceFault.OUT_OF_MEMORY),
    ],
)
def test_what_the_device_says_is_classified(said: str, fault: DeviceFault):
    with pytest.raises(DeviceError) as caught, device_faults():
        raise RuntimeError(said)
    assert (caught.value.fault, caught.value.exit_code) == (fault, fault.value)
    assert str(caught.value) == f"{fault.advice} ({said.partition(chr(10))[0]})"


def test_torchs_own_types_are_known_whatever_they_say():
    with pytest.raises(DeviceError) as caught, device_faults():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    assert caught.value.fault is DeviceFault.OUT_OF_MEMORY
    with pytest.raises(DeviceError) as caught, device_faults():
        raise torch.AcceleratorError("something else")
    assert caught.value.fault is DeviceFault.OTHER


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("CUDA error: no"), AssertionError()])
def test_our_own_mistakes_are_not_the_devices(error: Exception):
    with pytest.raises(type(error)) as caught, device_faults():
        raise error
    assert not isinstance(caught.value, DeviceError)


def test_every_fault_has_an_exit_code_and_advice_of_its_own():
    assert len({fault.value for fault in DeviceFault}) == len({fault.advice for fault in DeviceFault}) == 6
    assert all(2 < fault.value < 126 for fault in DeviceFault)
