"""Where a server listens, for clusters with IPv4, with IPv6, and with both."""

from __future__ import annotations

import socket

import pytest

from penstock.errors import PenstockError
from penstock.listener import base_url, bind, listen


def reaches(family: socket.AddressFamily, host: str, port: int) -> bool:
    with socket.socket(family) as client:
        client.settimeout(2)
        return client.connect_ex((host, port)) == 0


def test_every_address_means_both_families():
    with bind("::", 0) as listener:
        listen(listener)
        port = listener.getsockname()[1]
        assert reaches(socket.AF_INET, "127.0.0.1", port)
        assert reaches(socket.AF_INET6, "::1", port) == socket.has_dualstack_ipv6()


def test_a_kernel_without_ipv6_listens_on_ipv4(monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with bind("::", 0) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


def test_a_port_that_is_taken_is_said_with_the_flag():
    with bind("::", 0) as first:
        listen(first)
        port = first.getsockname()[1]
        with pytest.raises(PenstockError, match="--port: cannot listen on :: port"):
            bind("::", port)


@pytest.mark.parametrize(
    ("host", "url"),
    [("::", "http://127.0.0.1:1"), ("0.0.0.0", "http://127.0.0.1:1"), ("fd00::2", "http://[fd00::2]:1")],
)
def test_where_a_server_can_be_reached_from_its_own_machine(host, url):
    assert base_url(host, 1) == url
