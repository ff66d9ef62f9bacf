"""The second offload tier: one file per block in a folder, oldest use first out; it survives a restart.

A file is named by fingerprint and hash, with a checksum in its header; nothing that fails its checksum is handed out.
Files of another fingerprint (another model) and unfinished ones are deleted; without our ending they are not touched.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import struct
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.kv_transfer.checksum import checksum_of
from penstock.logs import event

ENDING = ".penstock-kv"
HEADER = struct.Struct("<8s16sQI")  # mark, hash, bytes of the block, its checksum
MARK = b"PNSTKV01"
DIGITS = re.compile("[0-9a-f]{32}")  # of a hash
LOCK_FILE = ".penstock-kv-lock"

_log = logging.getLogger(__name__)


class FileTier:
    """Blocks in files. A file that cannot be written or read is a block that is not there."""

    def __init__(self, folder: Path, max_bytes: int, fingerprint: str, block_bytes: int) -> None:
        """Take the folder for this process. Raises `ConfigError` if that cannot be."""
        self._folder, self._prefix, self._block_bytes = folder, f"{fingerprint}-", block_bytes
        self._max_files = max_bytes // (HEADER.size + block_bytes)
        self._is_failing = False
        if not self._max_files:
            raise ConfigError("kv_offload_file_bytes", f"{max_bytes:,} bytes hold no block of {block_bytes:,} bytes")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError("kv_offload_folder", f"{folder} is in use by another process") from None
        except OSError as error:
            raise ConfigError("kv_offload_folder", f"{folder}: {error.strerror}") from None
        self._held: OrderedDict[bytes, None] = OrderedDict.fromkeys(self._list())  # oldest use first

    def __contains__(self, name: bytes) -> bool:
        return name in self._held

    @property
    def names(self) -> list[bytes]:
        """All blocks, oldest use first."""
        return list(self._held)

    def put(self, name: bytes, block: NDArray[np.uint8], checksum: int) -> list[bytes]:
        """Write a block, if the disk will; returns what had to go for it."""
        dropped = []
        while self._held and len(self._held) >= self._max_files:
            dropped.append(next(iter(self._held)))
            self.drop(dropped[-1])
        path = self._path(name)
        beside = path.with_suffix(".part" + ENDING)
        try:
            with open(beside, "wb", buffering=0) as file:
                written = os.writev(file.fileno(), [HEADER.pack(MARK, name, len(block), checksum), block.data])
                if written != HEADER.size + len(block):
                    raise OSError(0, "a write was cut short: is the disk full?")
            os.replace(beside, path)
            self._held[name] = None
            self._is_failing = False
        except OSError as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            if not self._is_failing:
                event(_log, "offload.failing", level=logging.WARNING, file=str(path), why=error.strerror)
            self._is_failing = True
        return dropped

    def get(self, name: bytes, block: NDArray[np.uint8]) -> bool:
        """Fill `block`; False, and the file is gone, if it does not hold what it should."""
        path, header = self._path(name), bytearray(HEADER.size)
        try:
            with open(path, "rb", buffering=0) as file:
                count = os.readv(file.fileno(), [header, block.data])
                os.utime(file.fileno())  # the order of use survives a restart
        except OSError:
            count = 0
        is_whole = count == HEADER.size + self._block_bytes
        if is_whole and HEADER.unpack(header) == (MARK, name, len(block), checksum_of(block)):
            self._held.move_to_end(name)
            return True
        event(_log, "offload.damaged", level=logging.WARNING, file=str(path))
        self.drop(name)
        return False

    def touch(self, name: bytes) -> None:
        """It is the one that was used last now."""
        self._held.move_to_end(name)
        with suppress(OSError):
            os.utime(self._path(name))

    def drop(self, name: bytes) -> None:
        """Delete a block."""
        self._held.pop(name, None)
        with suppress(OSError):
            self._path(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process have the folder."""
        os.close(self._lock)

    def _path(self, name: bytes) -> Path:
        return self._folder / f"{self._prefix}{name.hex()}{ENDING}"

    def _list(self) -> list[bytes]:
        """What an earlier life left, oldest use first; deletes files of ours that are of no use now."""
        found: list[tuple[int, bytes]] = []
        useless = []
        for entry in os.scandir(self._folder):
            if not entry.name.endswith(ENDING):
                continue
            status = entry.stat(follow_symlinks=False)
            name = self._name_of(entry.name)
            if name is None or status.st_size != HEADER.size + self._block_bytes:
                useless.append(Path(entry.path))
            else:
                found.append((status.st_mtime_ns, name))
        found.sort()
        too_many = max(0, len(found) - self._max_files)
        useless += [self._path(name) for _, name in found[:too_many]]
        for path in useless:
            with suppress(OSError):
                path.unlink()
        if found or useless:
            event(_log, "offload.found", folder=str(self._folder), blocks=len(found) - too_many, deleted=len(useless))
        return [name for _, name in found[too_many:]]

    def _name_of(self, file: str) -> bytes | None:
        """The hash in a file's name; None if it is of another fingerprint, or unfinished."""
        digits = file.removesuffix(ENDING).removeprefix(self._prefix)
        is_ours = file.startswith(self._prefix) and DIGITS.fullmatch(digits)
        return bytes.fromhex(digits) if is_ours else None
