"""Folders that are built once and then only read, safe with any number of processes."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

from penstock.envs import cache_folder, shipped_folder
from penstock.errors import ModelError


def cached(kind: str, name: str, build: Callable[[Path], None]) -> Path:
    """The folder `kind/name` of the cache. The first caller fills it with `build(partial folder)`, others wait.

    It appears whole or not at all; one that was shipped with the image is taken as it is. Raises `ModelError` where the
    cache cannot be written.
    """
    if (shipped := shipped_folder()) is not None and (shipped / kind / name).is_dir():
        return shipped / kind / name
    folder = cache_folder() / kind / name
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                fill(folder, build)
    except OSError as error:
        raise ModelError(
            f"cannot write the model cache {folder.parent}: {error.strerror or error}; "
            "set PENSTOCK_CACHE to another folder"
        ) from error
    return folder


def fill(folder: Path, build: Callable[[Path], None]) -> None:
    """Build beside `folder`, then rename. What a killed process left behind is cleared first."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        build(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
