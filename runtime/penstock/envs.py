"""Every environment variable that Penstock reads. Nothing else touches `os.environ`."""

from __future__ import annotations

import os
from pathlib import Path

from penstock.errors import ConfigError


def cache_folder() -> Path:
    """Where downloaded and converted models are kept: `PENSTOCK_CACHE`, else `$XDG_CACHE_HOME/penstock`."""
    if chosen := os.environ.get("PENSTOCK_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "penstock"


def shipped_folder() -> Path | None:
    """Models that came with a container image, laid out as the cache and only read: `PENSTOCK_SHIPPED`."""
    chosen = os.environ.get("PENSTOCK_SHIPPED")
    return Path(chosen) if chosen else None


def api_keys() -> tuple[str, ...]:
    """API keys that clients must present, comma-separated in `PENSTOCK_API_KEY`; none means no authentication."""
    return tuple(key for key in os.environ.get("PENSTOCK_API_KEY", "").split(",") if key)


def log_level() -> str:
    """`PENSTOCK_LOG_LEVEL`: debug, info (default), warning or error. Anything else raises."""
    level = os.environ.get("PENSTOCK_LOG_LEVEL", "info").lower()
    if level not in ("debug", "info", "warning", "error"):
        raise ConfigError("log_level", f"PENSTOCK_LOG_LEVEL is {level!r}; use debug, info, warning or error")
    return level


def cpu_threads() -> int | None:
    """`OMP_NUM_THREADS`, the field's own variable for compute threads, or None."""
    value = os.environ.get("OMP_NUM_THREADS")
    if value is None:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError("threads", f"OMP_NUM_THREADS is {value!r}; use a whole number of at least 1")
    return int(value)


def package_index_arguments() -> tuple[str, ...]:
    """Extra words for `pip download`, from `PENSTOCK_PIP_ARGS` (for example `--index-url …` of a mirror)."""
    return tuple(os.environ.get("PENSTOCK_PIP_ARGS", "").split())


def prepare_nixl(*, is_local: bool) -> None:
    """Set what NIXL and UCX read when they are loaded, unless it is set already.

    They keep to themselves what we say better (`NIXL_LOG_LEVEL`, `UCX_LOG_LEVEL`), and if all peers are on this machine
    they listen on no other device (`UCX_NET_DEVICES`), since UCX asks nobody who connects for a key. Transports
    (`UCX_TLS`) are left to UCX: without that setting it takes all that there are, with a GPU those of CUDA too.
    """
    os.environ.setdefault("NIXL_LOG_LEVEL", "FATAL")
    os.environ.setdefault("UCX_LOG_LEVEL", "fatal")
    if is_local:
        os.environ.setdefault("UCX_NET_DEVICES", "lo")
