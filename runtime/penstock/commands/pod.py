"""What makes a `penstock serve` one pod of a service: its name, its internal port, and which settings go together."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import socket
from pathlib import Path

from penstock.config import EngineConfig, ServerConfig, is_loopback
from penstock.errors import ConfigError
from penstock.internal.credentials import ClusterKeys

NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")
ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")


def placed(config: EngineConfig) -> EngineConfig:
    """The configuration with the pod's name and internal port filled in."""
    server, transfer = config.server, config.transfer
    if transfer.pod_name is None:
        transfer = dataclasses.replace(transfer, pod_name=f"{socket.gethostname()}:{server.port}")
    if transfer.role != "both" and server.internal_port is None:
        if server.port == 65535:
            raise ConfigError("internal_port", "there is no port after --port 65535; name one")
        server = dataclasses.replace(server, internal_port=server.port + 1)
    return dataclasses.replace(config, server=server, transfer=transfer)


def check_pod(config: EngineConfig) -> None:
    """Raise `ConfigError` for settings that do not go together, and for a key file that cannot be used."""
    check_role(config)
    check_internal_port(config.server)
    transfer = config.transfer
    if not NAME.fullmatch(transfer.pod_name or ""):
        raise ConfigError(
            "pod_name", f"{transfer.pod_name!r} is no name: letters, digits and . _ : - only, at most 128"
        )
    if len(transfer.pod_revision) > 128:
        raise ConfigError("pod_revision", "at most 128 characters")
    if transfer.kv_offload_folder is not None and transfer.kv_offload_memory is None:
        raise ConfigError("kv_offload_folder", "needs --kv-offload-memory: what lies there goes through it")
    if transfer.kv_offload_memory is not None and not config.cache.enable_prefix_caching:
        raise ConfigError("kv_offload_memory", "needs the prefix cache; leave --no-enable-prefix-caching out")


def check_role(config: EngineConfig) -> None:
    """Raise `ConfigError` for a role that cannot be played with these settings."""
    transfer = config.transfer
    if transfer.role != "both":
        if not config.cache.enable_prefix_caching:
            raise ConfigError("role", f"{transfer.role} needs the prefix cache; leave --no-enable-prefix-caching out")
        if importlib.util.find_spec("nixl") is None:
            raise ConfigError("role", f"{transfer.role} needs NIXL: pip install 'penstock[nixl]'")
    if transfer.prefillers is not None:
        if transfer.role != "decode":
            raise ConfigError("prefillers", f"only for --role decode, not {transfer.role}")
        for address in transfer.prefillers.split(","):
            check_address("prefillers", address.strip())


def check_internal_port(server: ServerConfig) -> None:
    """Raise `ConfigError` for an internal port that is missing, taken by ourselves, or open to everybody."""
    if server.cluster_key_file is not None:
        ClusterKeys(Path(server.cluster_key_file))
    if server.internal_port is None:
        if server.trust_sidecar:
            raise ConfigError("trust_sidecar", "needs an --internal-port")
        return
    if server.internal_port == server.port:
        raise ConfigError("internal_port", f"{server.port} is --port already; it must be another")
    if server.cluster_key_file is None and not is_loopback(server.internal_host):
        raise ConfigError("internal_host", f"{server.internal_host} is reached by others: it needs --cluster-key-file")


def check_address(field: str, address: str) -> None:
    """Raise `ConfigError` for what is not `host:port`."""
    found = ADDRESS.fullmatch(address)
    if found is None or not 1 <= int(found["port"]) <= 65535:
        raise ConfigError(field, f"{address!r} is not host:port")
