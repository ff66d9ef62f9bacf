"""API keys: who may ask, and which prefix cache they share."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import blake2b, sha256

from penstock.errors import Unauthorized

BEARER = b"bearer "


class ApiKeys:
    """The keys that are accepted. Without any, everyone is let in and shares one prefix cache."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._salts = {sha256(key.encode()).digest(): salt_of(key) for key in keys}

    def salt(self, authorization: bytes | None) -> str | None:
        """The cache salt of the key in an `Authorization` header; raises `Unauthorized`.

        Every key is compared, each in constant time, so that the time taken tells nothing about them.
        """
        if not self._salts:
            return None
        scheme, token = (authorization or b"")[: len(BEARER)], (authorization or b"")[len(BEARER) :]
        digest, found = sha256(token.strip()).digest(), None
        for known, salt in self._salts.items():
            if hmac.compare_digest(known, digest):
                found = salt
        if found is None or scheme.lower() != BEARER:
            raise Unauthorized("a valid API key is needed: Authorization: Bearer <key>")
        return found


def salt_of(key: str) -> str:
    """What keeps the prefix cache of one key apart from those of others; does not reveal the key."""
    return blake2b(key.encode(), digest_size=16, person=b"cache-salt").hexdigest()
