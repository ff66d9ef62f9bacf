"""One bit that all front-ends of a pod share: it takes nothing new."""

from __future__ import annotations

from pathlib import Path

NAME = "draining"  # of the file in the run folder


class DrainFlag:
    """A file that is there or not, so that whichever front-end is told, all of them know, restarted ones included.

    Without a folder there is no other front-end.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = None if folder is None else folder / NAME
        self._is_set = False

    @property
    def is_set(self) -> bool:
        """True while the pod drains."""
        return self._is_set if self._file is None else self._file.exists()

    def set(self) -> None:
        """Take nothing new from now on. Idempotent."""
        self._is_set = True
        if self._file is not None:
            self._file.touch()

    def clear(self) -> None:
        """Take requests again. Idempotent."""
        self._is_set = False
        if self._file is not None:
            self._file.unlink(missing_ok=True)
