"""API keys: who may ask, and as which tenant."""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from penstock.errors import ConfigError, Unauthorized
from penstock.internal.credentials import ClusterKeys
from penstock.logs import event
from penstock.server.auth import BEARER, salt_of

ENTRY = re.compile(r"([A-Za-z0-9._@/+-]{1,100}):(\S{1,1000})")
DIGEST = re.compile(r"[0-9a-fA-F]{64}")
SALT_NONCE = b"penstock cache salt"
EVERYBODY = "everybody"  # the tenant where no keys are set

_log = logging.getLogger("penstock.router")


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whoever asks, and what keeps the prefix cache of one apart from those of others."""

    name: str
    salt: str | None


class Tenants:
    """The API keys of a file, read anew when it changes, and of the environment. Without any, all are one tenant."""

    def __init__(self, file: Path | None, environment_keys: Sequence[str], cluster_keys: ClusterKeys) -> None:
        """Raises `ConfigError` for a file that cannot be read or is wrong."""
        self._file, self._cluster_keys = file, cluster_keys
        self._fixed = {digest_of(key): f"key-{digest_of(key).hex()[:12]}" for key in environment_keys}
        self._from_file: dict[bytes, str] = {}
        self._stamp = (0, 0, 0)
        self._complaint = ""
        if file is not None:
            self._load(file)

    @property
    def has_keys(self) -> bool:
        """True if a key is needed."""
        return self._file is not None or bool(self._fixed)

    def identify(self, authorization: bytes | None) -> Tenant:
        """The tenant of an Authorization header; raises `Unauthorized`.

        Every key is compared, each in constant time, so that the time taken tells nothing about them.
        """
        if not self.has_keys:
            return Tenant(EVERYBODY, None)
        self._refresh()
        scheme, token = (authorization or b"")[: len(BEARER)], (authorization or b"")[len(BEARER) :]
        digest, found = sha256(token.strip()).digest(), None
        for keys in (self._fixed, self._from_file):
            for known, name in keys.items():
                if hmac.compare_digest(known, digest):
                    found = name
        if found is None or scheme.lower() != BEARER:
            raise Unauthorized("a valid API key is needed: Authorization: Bearer <key>")
        return Tenant(found, self._salt(found, digest))

    def _salt(self, name: str, digest: bytes) -> str:
        if self._cluster_keys.is_set:  # a secret of the service: nobody can find out a salt from a key or a name
            return self._cluster_keys.mac(SALT_NONCE, 0, name.encode()).hex()
        return salt_of(digest.hex())

    def _refresh(self) -> None:
        """Read the file if it has changed; one that is wrong or away leaves the keys as they were."""
        if self._file is None:
            return
        try:
            if stamp_of(self._file) != self._stamp:
                self._load(self._file)
                event(_log, "keys.read", file=self._file, num_keys=len(self._from_file))
            self._complaint = ""
        except (OSError, ConfigError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                event(_log, "keys.unreadable", level=logging.WARNING, why=error)

    def _load(self, file: Path) -> None:
        try:
            stamp, text = stamp_of(file), file.read_text(errors="replace")
        except OSError as error:
            raise ConfigError("api_keys_file", f"cannot read {file}: {error.strerror}") from None
        keys: dict[bytes, str] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            match = ENTRY.fullmatch(line)
            if match is None:
                raise ConfigError("api_keys_file", f"line {number} of {file} is not name:key or name:SHA-256")
            keys[bytes.fromhex(match[2]) if DIGEST.fullmatch(match[2]) else digest_of(match[2])] = match[1]
        self._from_file, self._stamp = keys, stamp


def digest_of(key: str) -> bytes:
    """What is kept of a key."""
    return sha256(key.encode()).digest()


def stamp_of(file: Path) -> tuple[int, int, int]:
    """Changes when the file does."""
    state = file.stat()
    return (state.st_mtime_ns, state.st_ino, state.st_size)
