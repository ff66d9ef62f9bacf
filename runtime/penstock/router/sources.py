"""Where the pods are said to be: fixed addresses, DNS names, files that name them."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import ConfigError
from penstock.logs import event
from penstock.router.config import PodsConfig

RESOLVE_SECONDS = 3.0  # how often names are looked up
FILE_PREFIX = "file:"
ADDRESS = re.compile(r"(?:http://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})/?")

_log = logging.getLogger("penstock.router")


@dataclass(frozen=True, slots=True)
class HostPort:
    """A host, by name or address, and a port."""

    host: str
    port: int

    @property
    def is_literal(self) -> bool:
        """True if there is nothing to look up."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(field: str, text: str) -> HostPort:
    """`host:port` or `[v6]:port`. Raises `ConfigError` that names the flag."""
    match = ADDRESS.fullmatch(text)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ConfigError(field, f"{text[:200]!r} is not an address such as 10.0.0.7:8001 or decode.example:8001")
    return HostPort(match[1].strip("[]"), int(match[2]))


class Source:
    """The addresses of one flag. Changes of its files and names show in the next `look_up`."""

    def __init__(self, field: str, text: str, clock: Callable[[], float]) -> None:
        """Raises `ConfigError` for what is no address, for a file that cannot be read, and for an empty list."""
        self._field, self._clock = field, clock
        words = [word.strip() for word in text.split(",") if word.strip()]
        if not words:
            raise ConfigError(field, "the list of pods is empty; give host:port,… or file:PATH")
        self._fixed = [parse_address(field, word) for word in words if not word.startswith(FILE_PREFIX)]
        self._files = [NamedFile(field, word) for word in words if word.startswith(FILE_PREFIX)]
        self._resolved: dict[HostPort, tuple[float, list[str]]] = {}  # when, and what it was

    async def look_up(self) -> list[str]:
        """All addresses now, as `ip:port`, sorted, each once."""
        wanted = [*self._fixed, *(address for file in self._files for address in file.addresses())]
        found = await asyncio.gather(*(self._resolve(address) for address in wanted))
        return sorted({address for addresses in found for address in addresses})

    async def _resolve(self, wanted: HostPort) -> list[str]:
        if wanted.is_literal:
            return [str(wanted)]
        moment, known = self._resolved.get(wanted, (-RESOLVE_SECONDS, []))
        now = self._clock()
        if now - moment < RESOLVE_SECONDS:
            return known
        try:
            rows = await asyncio.get_running_loop().getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            # A name without addresses is a service without pods; a server that does not answer says nothing.
            found = [] if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA) else known
        else:
            v4 = [row for row in rows if row[0] == socket.AF_INET]  # one pod is not to be counted once per family
            found = [str(HostPort(str(row[4][0]), wanted.port)) for row in v4 or rows]
        self._resolved[wanted] = (now, found)
        return found


class NamedFile:
    """A file with one address per line; `#` begins a comment."""

    def __init__(self, field: str, word: str) -> None:
        self._field, self._path = field, Path(word.removeprefix(FILE_PREFIX))
        self._stamp = (0, 0, 0)
        self._addresses: list[HostPort] = []
        self._complaint = ""
        try:
            self._read()
        except OSError as error:
            raise ConfigError(field, f"cannot read {self._path}: {error.strerror}") from None

    def addresses(self) -> list[HostPort]:
        """What stands in it; while it cannot be read or is wrong, what stood in it before."""
        try:
            self._read()
            self._complaint = ""
        except (OSError, ConfigError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                event(_log, "endpoints.unreadable", level=logging.WARNING, file=self._path, why=error)
        return self._addresses

    def _read(self) -> None:
        state = self._path.stat()
        stamp = (state.st_mtime_ns, state.st_ino, state.st_size)
        if stamp != self._stamp:
            lines = [line.partition("#")[0].strip() for line in self._path.read_text(errors="replace").splitlines()]
            self._addresses = [parse_address(self._field, line) for line in lines if line]
            self._stamp = stamp


def build_sources(pods: PodsConfig, clock: Callable[[], float]) -> list[tuple[str, Source]]:
    """Roles, and where their pods are. Raises `ConfigError` for a list that is empty or wrong."""
    lists = {"decode": pods.decode or "", "prefill": pods.prefill}
    return [(role, Source(role, text, clock)) for role, text in lists.items() if text is not None]
