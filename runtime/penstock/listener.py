"""Listening sockets that are bound before there is anyone to answer, so that a port that is taken is said at once."""

from __future__ import annotations

import socket

from penstock.errors import ConfigError, PenstockError

BACKLOG = 2048
ANY, ANY_V4 = "::", "0.0.0.0"  # every address: of both families, of IPv4 alone


def bind(host: str, port: int, *, host_field: str = "host", port_field: str = "port") -> socket.socket:
    """A socket bound to the address, not listening yet; `::` is every address, of IPv4 and of IPv6 as there are.

    Raises a `PenstockError` that names the setting.
    """
    if host == ANY and not socket.has_dualstack_ipv6():  # a kernel without IPv6 cannot even make such a socket
        host = ANY_V4
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise ConfigError(host_field, f"{host!r} is no address of this machine ({error.strerror})") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if host == ANY:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listener.bind(address)
    except PermissionError:
        listener.close()
        raise ConfigError(port_field, f"{port} may not be used without more rights; take one above 1023") from None
    except OSError as error:
        listener.close()
        raise port_error(host, port, error, port_field) from None
    return listener


def listen(listener: socket.socket, *, port_field: str = "port") -> None:
    """Take connections from now on, which wait for a process that accepts them.

    Raises `PenstockError` if another program was faster.
    """
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise port_error(host, port, error, port_field) from None


def port_error(host: str, port: int, error: OSError, port_field: str) -> PenstockError:
    """One line that names the port."""
    return PenstockError(f"--{port_field.replace('_', '-')}: cannot listen on {host} port {port}: {error.strerror}")


def base_url(host: str, port: int, *, has_tls: bool = False) -> str:
    """An address at which this machine reaches a server that listens there."""
    host = "127.0.0.1" if host in (ANY, ANY_V4) else host
    scheme = "https" if has_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
