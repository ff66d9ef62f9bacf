"""HTTPS with a certificate that is mounted, and replaced while the router runs."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from penstock.errors import ConfigError
from penstock.logs import event

CHECK_SECONDS = 5.0  # how often the files are looked at

_log = logging.getLogger("penstock.router")


class Certificate:
    """A TLS context whose new connections use what lies in the files now; open ones keep what they have."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises `ConfigError` if the files are no certificate and its key."""
        self._files = (certificate, key)
        self.context = new_context()
        self._complaint = ""
        try:
            self._stamp = self._stamp_now()
            self.context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError("tls_certificate", f"cannot use {certificate} with {key}: {error}") from None

    def refresh(self) -> None:
        """Take over changed files. A pair that does not fit, because it is being replaced, is tried again later."""
        try:
            stamp = self._stamp_now()
            if stamp == self._stamp:
                return
            new_context().load_cert_chain(*self._files)  # the one in use keeps what it has if these are wrong
            self.context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                event(_log, "certificate.unusable", level=logging.WARNING, why=error)
            return
        self._stamp, self._complaint = stamp, ""
        event(_log, "certificate.read", file=self._files[0])

    def _stamp_now(self) -> tuple[tuple[int, int], ...]:
        states = [file.stat() for file in self._files]
        return tuple((state.st_mtime_ns, state.st_ino) for state in states)


def new_context() -> ssl.SSLContext:
    """For a server; TLS 1.2 or newer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
