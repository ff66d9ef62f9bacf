"""The key that the pods of one service share, and the tokens that prove it.

`Authorization: Penstock <claims>.<mac>`: claims are base64 msgpack, the mac is HMAC-SHA256 over them. A token names one
request and the digest of its body, and it expires by the *receiver's* monotonic clock, which every `Load` tells: no
step of a wall clock makes tokens good or bad.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from hashlib import sha256
from pathlib import Path

import msgspec

from penstock.errors import ConfigError, Unauthorized

SCHEME = b"penstock "
SHORTEST_KEY = 16  # bytes
TOKEN_SECONDS = 30.0  # what a token is good for


class Claims(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a token says."""

    purpose: str  # the path that it is for
    nonce: bytes  # 16 random bytes; answers are authenticated under it
    digest: bytes  # SHA-256 of the body
    session: str = ""  # of the receiver, from its `Load`; empty only for GET
    expires: float = 0.0  # seconds, the receiver's monotonic clock; 0 only for GET
    request_id: str = ""
    tenant: str = ""  # cache salt of whoever asked


CLAIMS = msgspec.msgpack.Decoder(Claims)  # learnt at import: msgspec crashes if two threads are first to use a type


class ClusterKeys:
    """The present key and the previous one, read anew when their file changes. Without a file everybody is trusted."""

    def __init__(self, file: Path | None) -> None:
        """Raises `ConfigError` for a file that cannot be read or holds too short a key."""
        self._file = file
        self._stamp = (0, 0)
        self._keys: tuple[bytes, ...] = ()
        if file is not None:
            self._load(file)

    @classmethod
    def of(cls, *keys: bytes) -> ClusterKeys:
        """Keys that the caller has already, the present one first, instead of a file."""
        made = cls(None)
        made._keys = keys
        return made

    @property
    def is_set(self) -> bool:
        """True if tokens are needed."""
        return self._file is not None or bool(self._keys)

    def sign(self, claims: Claims) -> str:
        """The value of an Authorization header."""
        data = base64.urlsafe_b64encode(msgspec.msgpack.encode(claims))
        return f"Penstock {data.decode()}.{_mac(self._current()[0], data).hex()}"

    def verify(self, header: bytes | None, *, purpose: str, body: bytes, session: str, now: float) -> Claims:
        """The claims of a header that is in order for this request; raises `Unauthorized`.

        Without keys everything is in order, and a missing header means claims that say nothing.
        """
        claims = self.claims(header)
        if not self.is_set:
            return claims
        is_get = not body and not claims.session
        if claims.purpose != purpose or not hmac.compare_digest(claims.digest, sha256(body).digest()):
            raise Unauthorized("the token of this call is for another call")
        if not is_get and (claims.session != session or not now <= claims.expires <= now + 2 * TOKEN_SECONDS):
            raise Unauthorized("the token of this call has expired, or is for another life of this pod")
        return claims

    def mac(self, nonce: bytes, sequence: int, data: bytes) -> bytes:
        """16 bytes that authenticate piece `sequence` of the answer to the call with that nonce."""
        return _mac(self._current()[0], nonce + sequence.to_bytes(8, "little") + data)[:16]

    def is_mac(self, mac: bytes, nonce: bytes, sequence: int, data: bytes) -> bool:
        """True if `mac` was made with one of the keys."""
        message = nonce + sequence.to_bytes(8, "little") + data
        return sum(hmac.compare_digest(_mac(key, message)[:16], mac) for key in self._current()) > 0  # all are compared

    def claims(self, header: bytes | None) -> Claims:
        """What a header claims, made with one of the keys or not at all; raises `Unauthorized`. Not yet enough."""
        scheme, token = (header or b"")[: len(SCHEME)], (header or b"")[len(SCHEME) :]
        data, _, mac = token.partition(b".")
        if self.is_set:
            good = [hmac.compare_digest(_mac(key, data).hex().encode(), mac) for key in self._current()]
            if scheme.lower() != SCHEME or not any(good):
                raise Unauthorized("this call needs a token made with the key of the service")
        try:
            return CLAIMS.decode(base64.urlsafe_b64decode(data))
        except (ValueError, msgspec.DecodeError):
            return Claims(purpose="", nonce=b"", digest=b"")

    def _current(self) -> tuple[bytes, ...]:
        """The keys, read anew if the file has changed; a file that is being replaced leaves the old ones."""
        if self._file is None:
            return self._keys or (b"",)
        try:
            if _stamp_of(self._file) != self._stamp:
                self._load(self._file)
        except (ConfigError, OSError):
            return self._keys
        return self._keys

    def _load(self, file: Path) -> None:
        try:
            self._stamp, text = _stamp_of(file), file.read_bytes()
        except OSError as error:
            raise ConfigError("cluster_key_file", f"cannot read {file}: {error.strerror}") from None
        keys = tuple(line.strip() for line in text.splitlines() if line.strip())[:2]
        if not keys or min(map(len, keys)) < SHORTEST_KEY:
            raise ConfigError("cluster_key_file", f"{file} must hold a key of at least {SHORTEST_KEY} characters")
        self._keys = keys


class Caller:
    """Makes the tokens for calls to one pod, whose session and clock it learns from that pod's `Load`."""

    def __init__(self, keys: ClusterKeys) -> None:
        self._keys = keys
        self._session, self._offset = "", 0.0  # theirs minus ours, seconds

    def learn(self, session: str, their_now: float, our_now: float) -> None:
        """What a `Load` said."""
        self._session, self._offset = session, their_now - our_now

    def claims(self, purpose: str, body: bytes, now: float, *, request_id: str = "", tenant: str = "") -> Claims:
        """Claims for one call with a body."""
        return Claims(
            purpose=purpose,
            nonce=secrets.token_bytes(16),
            digest=sha256(body).digest(),
            session=self._session,
            expires=now + self._offset + TOKEN_SECONDS,
            request_id=request_id,
            tenant=tenant,
        )


def query_claims(purpose: str) -> Claims:
    """Claims for a GET, which needs no session."""
    return Claims(purpose=purpose, nonce=secrets.token_bytes(16), digest=sha256(b"").digest())


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _stamp_of(file: Path) -> tuple[int, int]:
    state = file.stat()
    return (state.st_mtime_ns, state.st_ino)
