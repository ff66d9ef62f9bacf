"""What people and strangers do wrong: refused with a clear line, and nothing else happens."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct

import psutil
import pytest

from support.fleet_program import Program
from support.fleet_requests import long_prompts, nothing, while_asked
from support.fleet_service import LOOPBACK, Pod, running, status, until
from support.serving import complaints, free_port, run_cli

pytestmark = pytest.mark.faults


def ports_of(program: Program) -> list[int]:
    """All TCP ports on which its processes listen."""
    connections = [each for process in program.processes() for each in process.net_connections("tcp")]
    return sorted({each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN})


def shout(port: int, data: bytes) -> None:
    """Send bytes and hear what comes, if anything does."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
        except OSError:
            pass


def noise(seed: int) -> list[bytes]:
    """Bytes of no protocol, of nearly HTTP, and of nearly ours."""
    made = random.Random(seed)
    head = b"POST /internal/v1/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    lies = [made.randbytes(made.choice((1, 7, 100, 5000, 70_000))) for _ in range(12)]
    calls = [head % (name, 300) + made.randbytes(300) for name in (b"prefill", b"renew", b"route", b"drain")]
    return [*lies, *calls, struct.pack("<I", 1 << 31) + made.randbytes(64), b"GET / HTTP/9.9\r\n" * 3000, b"\0" * 4096]


async def test_random_bytes_on_every_port_change_nothing(service):
    programs = [*(pod.program for pod in service.pods), *service.routers]
    before = [[process.pid for process in program.processes()] for program in programs]

    async def shout_all(tasks) -> None:
        for program in programs:
            for port in ports_of(program):
                for data in noise(port):
                    await asyncio.to_thread(shout, port, data)

    await while_asked(service, long_prompts(4), shout_all)
    assert [[process.pid for process in program.processes()] for program in programs] == before


async def test_a_pod_with_another_key_another_form_or_another_ones_name_is_left_out(service, tmp_path):
    other_key = tmp_path / "other.key"
    other_key.write_text("quite another key than that\n")
    words = ("--cluster-key-file", str(service.key_file), *service.worker_words)
    pods = {
        "key": Pod(
            "decode-7", "decode", LOOPBACK, tmp_path, service.keys, (*words, "--cluster-key-file", str(other_key))
        ),
        "name": Pod("decode-0", "decode", LOOPBACK, tmp_path, service.keys, words),
        "model": Pod("decode-8", "decode", LOOPBACK, tmp_path, service.keys, (*words, "--served-model-name", "other")),
    }
    router = Program(
        name="other-router",
        words=(
            *("route", "--port", str(free_port()), "--cluster-key-file", str(service.key_file)),
            *(
                "--decode",
                ",".join([*(pod.internal for pod in service.decodes), *(pod.internal for pod in pods.values())]),
            ),
        ),
        log=tmp_path / "router.log",
    )
    for pod in pods.values():
        pod.program.start()
    try:
        for pod in pods.values():
            await until(lambda pod=pod: pod.is_ready, 60, pod.program.said)
        router.start()
        await until(lambda: router.said().count("refused") >= 3, 20, router.said)
    finally:
        for program in (router, *(pod.program for pod in pods.values())):
            program.end()
    said = router.said()
    assert re.search(r"key", said), said
    assert "name" in said, said
    assert "model" in said or "other" in said, said


async def test_a_prefill_pod_of_another_form_is_not_asked(tmp_path):
    words = ("--dtype", "bfloat16")
    with running(tmp_path, decode=(LOOPBACK,), prefill_words=words, refused=("prefill-0",)) as service:
        await while_asked(service, long_prompts(2, sentences=24, max_tokens=16), nothing)
        assert service.transfers("count") == service.transfers("failed") == 0
        said = service.decodes[0].program.said()
        assert "peer.refused" in said, said
        assert "fingerprint" in said, said


@pytest.mark.parametrize("words", [(), ("--decode", ""), ("--decode", "nonsense"), ("--decode", "127.0.0.1:99999")])
def test_a_router_without_a_usable_list_says_so_in_one_line(words):
    done = run_cli("route", "--port", str(free_port()), *words)
    assert done.returncode == 2
    assert len(complaints(done)) == 1, done.stderr


async def test_a_router_whose_pods_cannot_be_reached_holds_requests_and_then_refuses_them(tmp_path):
    port, words = free_port(), ("--decode", f"127.0.0.1:{free_port()}", "--hold-seconds", "2")
    router = Program(name="router", words=("route", "--port", str(port), *words), log=tmp_path / "router.log")
    router.start()
    try:
        url = f"http://127.0.0.1:{port}"
        await until(lambda: status(url + "/livez") == 200, 20, router.said)
        reply = await asyncio.to_thread(post, port)
        assert b" 503 " in reply.split(b"\r\n")[0], reply
        assert b"retry-after" in reply.lower()
    finally:
        router.end()


def post(port: int) -> bytes:
    body = b'{"prompt": "x", "max_tokens": 1}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head + body)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))
