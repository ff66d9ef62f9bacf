"""Log lines: one per state change, an event name with `key=value` fields, on standard error."""

from __future__ import annotations

import logging
import sys


def configure(process: str, level: str) -> None:
    """Send this process's events to standard error. `level` is one of `envs.log_level()`'s words."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {process:<11} %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # of libraries, only what a person should see
    logging.getLogger("penstock").setLevel(level.upper())


def event(logger: logging.Logger, name: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log the event `name` with its fields, such as `engine.ready epoch=2 seconds=1.9`."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s%s", name, "".join(f" {key}={_shown(value)}" for key, value in fields.items()))


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    return repr(text) if any(letter in text for letter in " =\n\"'") or not text else text
