"""A step that a worker was told, as whoever waits for it holds it."""

from __future__ import annotations

from typing import Protocol

from penstock.core.plan import StepResult


class StepHandle(Protocol):
    """A submitted step."""

    def wait(self) -> StepResult:
        """The step's result; blocks until it is there. Handles are waited for in the order of `submit`."""


class DoneStep:
    """A step that was over when `submit` returned."""

    def __init__(self, result: StepResult) -> None:
        self._result = result

    def wait(self) -> StepResult:
        """The result."""
        return self._result
