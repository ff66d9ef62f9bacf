"""Every setting of `penstock route`, documented where it is defined."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from penstock.config import check_section, setting
from penstock.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class PodsConfig:
    """Where the pods are: their internal addresses (`--internal-port` of `penstock serve`)."""

    decode: str | None = setting(
        None,
        "pods that own requests: host:port,… or file:PATH with one address per line; a host with several addresses is "
        "several pods; names are looked up and files read anew all the time",
    )
    prefill: str | None = setting(None, "pods that prefill for them, given alike; they are watched, not called")
    cluster_key_file: str | None = setting(
        None, "file with the key that the pods of the service share; its second line, if any, is the previous key"
    )
    trust_gateway: bool = setting(
        False, "believe the header x-prefiller-host-port, which names the prefill pod to use, of whoever asks"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionConfig:
    """Who gets in, and who waits for how long."""

    queue_seconds: float = setting(
        30.0,
        "longest wait for a place while all pods are full; who would wait longer gets 503 at once",
        bounds=(0, 86_400),
    )
    hold_seconds: float = setting(120.0, "longest wait while no pod is there at all", bounds=(0, 86_400))
    max_held: int = setting(4096, "requests that may wait, over all workers; more get 503", bounds=(1, 1 << 20))
    max_body_memory: int = setting(
        1 << 30, "memory for the bodies of all requests, over all workers; more get 503", kind="bytes"
    )
    load_slack: float = setting(
        0.25,
        "a pod may have this share of requests more than the mean for the sake of its prefix cache",
        bounds=(0, 100),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantsConfig:
    """Who may ask. Each API key belongs to a tenant; tenants share no prefix cache, and the queue fairly."""

    api_keys_file: str | None = setting(
        None,
        "file with a line name:key or name:SHA-256 of the key (hex) for each API key, read anew when it changes; "
        "keys with one name are one tenant",
    )
    tenant_max_requests: int | None = setting(
        None, "requests, running and waiting, that one tenant may have; more get 429", bounds=(1, 1 << 20)
    )
    idempotency_seconds: float = setting(
        300.0,
        "how long an answer is kept for a retry with the same Idempotency-Key; 0: the header is ignored",
        bounds=(0, 86_400),
    )
    idempotency_memory: int = setting(
        256 << 20, "memory for such answers, over all workers; one may take an eighth of its worker's", kind="bytes"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerConfig:
    """Where clients find the router, and how it ends."""

    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8000, "port to listen on", bounds=(1, 65535))
    workers: int = setting(1, "processes that share the port", bounds=(1, 64))
    tls_certificate: str | None = setting(
        None, "certificate chain (PEM) for HTTPS; read anew when it changes, as --tls-key is"
    )
    tls_key: str | None = setting(None, "private key (PEM) for HTTPS")
    max_body_bytes: int = setting(16 << 20, "largest request body; more gets 413", kind="bytes")
    shutdown_grace: float = setting(
        60.0, "seconds that running requests get to finish after SIGTERM", bounds=(0, 86_400)
    )
    linger_seconds: float = setting(
        3.0, "seconds after SIGTERM in which new requests are still taken, until nobody sends any", bounds=(0, 600)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """All settings of one `penstock route`, validated."""

    pods: PodsConfig = dataclasses.field(default_factory=PodsConfig)
    admission: AdmissionConfig = dataclasses.field(default_factory=AdmissionConfig)
    tenants: TenantsConfig = dataclasses.field(default_factory=TenantsConfig)
    listener: ListenerConfig = dataclasses.field(default_factory=ListenerConfig)

    def __post_init__(self) -> None:
        for section in dataclasses.fields(self):
            check_section(getattr(self, section.name))
        if (self.listener.tls_certificate is None) != (self.listener.tls_key is None):
            missing = "tls_key" if self.listener.tls_key is None else "tls_certificate"
            raise ConfigError(missing, "HTTPS needs both a certificate and its key")
