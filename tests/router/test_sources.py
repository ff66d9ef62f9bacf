"""Where pods are said to be."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from penstock.errors import ConfigError
from penstock.router.sources import Source
from support.clock import Clock


@pytest.mark.parametrize(
    "text", ["", " , ", "nonsense", "host", "host:0", "host:70000", "host:x", "a b:1", "file:/no/such"]
)
def test_what_names_no_pod_is_refused_by_the_name_of_the_flag(text):
    with pytest.raises(ConfigError, match=r"^--decode: "):
        Source("decode", text, Clock())


async def test_addresses_are_taken_as_they_are():
    source = Source("decode", "10.0.0.2:1, 10.0.0.1:1,[::1]:2,http://10.0.0.1:1/", Clock())
    assert await source.look_up() == ["10.0.0.1:1", "10.0.0.2:1", "[::1]:2"]


async def test_a_file_is_read_anew_when_it_changes_and_kept_when_it_is_wrong(tmp_path, caplog):
    file = tmp_path / "pods"
    file.write_text("# the pods\n10.0.0.1:1  # one\n\n")
    source = Source("decode", f"file:{file}", Clock())
    assert await source.look_up() == ["10.0.0.1:1"]
    file.write_text("10.0.0.1:1\n10.0.0.2:1\n")
    assert await source.look_up() == ["10.0.0.1:1", "10.0.0.2:1"]
    file.write_bytes(b"\xff\xfe nonsense")
    assert await source.look_up() == ["10.0.0.1:1", "10.0.0.2:1"]
    assert await source.look_up() == ["10.0.0.1:1", "10.0.0.2:1"]
    os.remove(file)
    assert await source.look_up() == ["10.0.0.1:1", "10.0.0.2:1"]
    assert len([record for record in caplog.records if "endpoints.unreadable" in record.getMessage()]) == 2
    file.write_text("")
    assert await source.look_up() == []


@pytest.mark.parametrize("nobody", [socket.EAI_NONAME, socket.EAI_NODATA], ids=["no such name", "no address"])
async def test_a_name_stands_for_all_its_addresses_and_is_looked_up_again(monkeypatch, nobody):
    clock, answers = Clock(), [["10.0.0.1", "10.0.0.2"], ["10.0.0.2"]]
    source = Source("decode", "decode.test:8001", clock)

    async def look_up(host, port, **options):
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up, raising=False)
    assert await source.look_up() == ["10.0.0.1:8001", "10.0.0.2:8001"]
    assert await source.look_up() == ["10.0.0.1:8001", "10.0.0.2:8001"]
    clock.now = 3.5
    assert await source.look_up() == ["10.0.0.2:8001"]
    answers += [socket.gaierror(socket.EAI_AGAIN, "later"), socket.gaierror(nobody, "nobody")]
    clock.now = 7.0
    assert await source.look_up() == ["10.0.0.2:8001"]
    clock.now = 10.5
    assert await source.look_up() == []


async def test_localhost_is_one_pod():
    assert len(await Source("decode", "localhost:8001", Clock()).look_up()) == 1
