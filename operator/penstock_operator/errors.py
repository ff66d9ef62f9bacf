"""What goes wrong, as reasons for conditions."""

from __future__ import annotations


class OperatorError(Exception):
    """Anything of ours. `str()` is a sentence for a person."""


class SpecError(OperatorError):
    """The spec asks for what cannot be, although its schema allows it: terminal until somebody changes it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason  # CamelCase, of the condition Stalled


class ForeignObject(OperatorError):
    """An object under one of our names belongs to somebody else."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(
            f"{kind} {name} exists and does not belong to this InferenceService: delete it,"
            " or give the InferenceService another name"
        )
        self.kind, self.name = kind, name


class ApiError(OperatorError):
    """The API server said no, or did not answer. `status`: HTTP, 0 if there was no answer."""

    def __init__(self, status: int, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.status, self.reason = status, reason

    @property
    def is_passing(self) -> bool:
        """True if it says nothing of what was asked for, which may be granted the next time."""
        return self.status in (0, 404, 409, 429) or self.status >= 500


class NotLeading(OperatorError):
    """Another operator holds the Lease: this one must not write now."""
