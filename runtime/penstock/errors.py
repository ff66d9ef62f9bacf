"""Every error a user or a client can cause, in one short tree. Each knows the exit code or HTTP status it becomes."""

from __future__ import annotations

import enum


class PenstockError(Exception):
    """Base of all errors whose message is meant for a person: shown as one line, never with a stack trace."""

    exit_code = 1


class ConfigError(PenstockError):
    """A setting is wrong. `field` is the flag's name without dashes."""

    exit_code = 2

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"--{field.replace('_', '-')}: {message}")
        self.field = field


class ModelError(PenstockError):
    """The model cannot be found, read or served; the message says what to do instead."""


class OutOfMemory(PenstockError):
    """The machine has too little memory for the weights or for the KV cache of one request."""


class DeviceFault(enum.Enum):
    """In which way a GPU failed. The value is the exit code of the processes that this ends."""

    OUT_OF_MEMORY = 80
    BAD_ACCESS = 81  # a kernel touched what is not its own, or ran an instruction that is none
    HARDWARE = 82  # memory or a link that cannot be trusted any more
    LOST = 83  # it does not answer
    TIMEOUT = 84  # the driver ended a kernel that ran for too long
    OTHER = 85

    @property
    def advice(self) -> str:
        """What it means, and what to do."""
        return FAULTS[self]


FAULTS = {
    DeviceFault.OUT_OF_MEMORY: "the GPU ran out of memory: lower --gpu-memory-utilization",
    DeviceFault.BAD_ACCESS: "a kernel touched memory that is not its own: a defect of ours, please report it",
    DeviceFault.HARDWARE: "the GPU's hardware failed: look at `nvidia-smi -q` and the kernel log, then replace it",
    DeviceFault.LOST: "the GPU does not answer any more: look at `nvidia-smi` and the kernel log",
    DeviceFault.TIMEOUT: "the driver ended a kernel that ran for too long: give the engine a GPU without a display",
    DeviceFault.OTHER: "a call of CUDA failed",
}


class DeviceError(PenstockError):
    """A GPU failed while it worked: what lay on it is lost, and the worker's process ends."""

    def __init__(self, fault: DeviceFault, detail: str = "") -> None:
        super().__init__(f"{fault.advice} ({detail})" if detail else fault.advice)
        self.fault, self.detail = fault, detail
        self.exit_code = fault.value


class RequestError(PenstockError):
    """A request is refused. `status` is HTTP's, `field` the name of the offending field if there is one."""

    status = 400
    kind = "invalid_request_error"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InvalidRequest(RequestError):
    """A field of the request is out of bounds or of the wrong type."""


class ModelUnknown(RequestError):
    """The request names a model that is not served here."""

    status = 404
    kind = "not_found_error"


class PathUnknown(RequestError):
    """Nothing is served under this path."""

    status = 404
    kind = "not_found_error"


class MethodNotAllowed(RequestError):
    """The path is served, with other methods."""

    status = 405

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class RequestTooLarge(RequestError):
    """The body is larger than the server accepts."""

    status = 413


class Unauthorized(RequestError):
    """No API key, or a wrong one."""

    status = 401
    kind = "authentication_error"


class Overloaded(RequestError):
    """The queue is full or the server is draining: try again after `retry_after` seconds."""

    status = 503
    kind = "overloaded_error"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TenantLimit(Overloaded):
    """The tenant has as many requests as it may have at once: try again after `retry_after` seconds."""

    status = 429
    kind = "rate_limit_error"


class KeyReused(RequestError):
    """An idempotency key came again, with another body."""

    status = 422


class EngineFailure(RequestError):
    """The engine could not finish this request: it was in flight at two engine deaths, or its numbers went bad."""

    status = 500
    kind = "internal_error"


class Mismatch(RequestError):
    """A peer asks for what only a pod of its own kind can give: another model, layout or revision."""

    status = 409
    kind = "mismatch_error"


class Internal(RequestError):
    """A defect of ours; the message says nothing but where to look for it."""

    status = 500
    kind = "internal_error"
