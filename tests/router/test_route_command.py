"""The real `penstock route` with its workers, in front of scripted pods in processes of their own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from penstock.cli import main
from support.certificates import FIRST, FIRST_KEY, SECOND, SECOND_KEY
from support.router_site import expected_text, text_of
from support.routing import routing, scripted_pod
from support.serving import Server, complaints, run_cli, wait_for


@pytest.fixture(scope="module")
def pods():
    """Two pods, which must not be changed."""
    with scripted_pod(token_seconds=0.01) as one, scripted_pod(token_seconds=0.01) as two:
        yield one, two


def addresses(*pods: Server) -> str:
    return ",".join(f"127.0.0.1:{pod.port}" for pod in pods)


def stream(server: Server, prompt: str, num_tokens: int, **headers: str) -> str:
    """The text of a streamed answer that ended as it should."""
    body = json.dumps({"prompt": prompt, "max_tokens": num_tokens, "stream": True})
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json", **headers})
        reply = connection.getresponse()
        assert reply.status == 200, reply.read()
        return text_of(reply.read().decode())


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "--decode: which pods?"),
        (("--decode", ""), "--decode: the list of pods is empty"),
        (("--decode", "x"), "--decode: 'x' is not an address"),
        (("--decode", "file:/no/such/file"), "--decode: cannot read /no/such/file"),
        (("--decode", "a:1", "--prefill", ","), "--prefill: the list of pods is empty"),
        (("--decode", "a:1", "--cluster-key-file", "/no/such"), "--cluster-key-file: cannot read /no/such"),
        (("--decode", "a:1", "--api-keys-file", "/no/such"), "--api-keys-file: cannot read /no/such"),
        (("--decode", "a:1", "--tls-key", "/no/such"), "--tls-certificate: HTTPS needs both"),
        (("--decode", "a:1", "--tls-key", "/no", "--tls-certificate", "/no"), "--tls-certificate: cannot use /no"),
        (("--decode", "a:1", "--workers", "0"), "--workers: 0 is not between 1 and 64"),
        (("--decod", "a:1"), "did you mean --decode?"),
    ],
)
def test_a_wrong_command_line_is_one_line(words, complaint, capsys):
    try:
        code = main(["route", *words])
    except SystemExit as end:
        code = end.code
    assert code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_an_address_that_cannot_be_had_is_one_line(pods):
    for words, complaint in (
        (("--host", "no.such.host.invalid"), "--host: 'no.such.host.invalid' is no address"),
        (("--port", str(pods[0].port)), f"--port: cannot listen on 127.0.0.1 port {pods[0].port}"),
    ):
        [line] = complaints(run_cli("route", "--decode", "a:1", *words))
        assert complaint in line


def test_help_teaches():
    text = run_cli("route", "--help").stdout
    for word in ("--decode", "--hold-seconds", "--workers", "examples:", "PENSTOCK_API_KEY", "(default: 30.0)"):
        assert word in text
    assert "penstock route" in run_cli("--help").stdout or "route " in run_cli("--help").stdout


def test_says_what_it_sees_and_ends_well(pods, tmp_path):
    with routing(tmp_path, "--decode", addresses(*pods) + ",127.0.0.1:1") as router:
        assert router.status("/readyz") == 200
        router.process.send_signal(signal.SIGTERM)
        assert router.process.wait(10) == 0
        log = router.log.read_text()
    assert log.count("endpoint.ready") == 2
    assert "endpoint.down address=127.0.0.1:1" in log
    assert "Traceback" not in log


def test_nobody_there_is_a_warning_and_not_an_end(tmp_path):
    with routing(tmp_path, "--decode", "127.0.0.1:1", "--hold-seconds", "1") as router:
        assert "pods.none" in router.log.read_text()
        assert router.status("/readyz") == 200
        assert router.status("/v1/models") == 503


def test_kill_9_of_a_pod_is_seen_by_no_client(tmp_path):
    with (
        scripted_pod(token_seconds=0.02) as one,
        scripted_pod(token_seconds=0.02) as two,
        routing(tmp_path, "--decode", addresses(one, two)) as router,
        ThreadPoolExecutor(16) as pool,
    ):
        running = [pool.submit(stream, router, f"{number}", 120) for number in range(12)]
        wait_for(lambda: router.metric("penstock_router_added_ttft_seconds_count") == 12, 5)  # each has had an event
        one.process.kill()
        texts = [task.result() for task in running]
        assert router.metric("penstock_router_resumes_total") >= 3
        assert texts == [expected_text(f"{number}", 120) for number in range(12)]


def test_workers_share_the_port_their_numbers_and_idempotency_keys(pods, tmp_path):
    with routing(tmp_path, "--decode", addresses(*pods), "--workers", "2") as router:
        assert len(router.children("penstock:router-")) == 2
        with ThreadPoolExecutor(8) as pool:
            before = router.metric("penstock_router_completed_total")
            texts = list(pool.map(lambda number: stream(router, "same", 40, **{"Idempotency-Key": "k"}), range(8)))
            keys = [{"Idempotency-Key": f"key {number}"} for number in range(12)]
            for words in keys:
                assert stream(router, "other", 3, **words) == stream(router, "other", 3, **words)
        assert len(set(texts)) == 1
        assert router.metric("penstock_router_completed_total") == before + 1 + 12
        assert router.metric("penstock_router_repeats_total") == 7 + 12
        wait_for(lambda: router.metric("penstock_router_requests_in_flight") == 0, 5)


def test_a_worker_that_dies_is_replaced_and_one_that_is_asked_to_go_ends_its_streams_first(pods, tmp_path):
    with routing(tmp_path, "--decode", addresses(*pods), "--workers", "2") as router:
        first, second = router.children("penstock:router-")
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: "process.ready process=router-" in router.log.read_text(), 20)
        assert "process.died process=router-" in router.log.read_text()
        with ThreadPoolExecutor(8) as pool:
            running = [pool.submit(stream, router, f"{number}", 100) for number in range(8)]
            wait_for(lambda: router.metric("penstock_router_requests_in_flight") == 8, 5)
            os.kill(second, signal.SIGTERM)
            assert all(len(task.result().split()) == 100 for task in running)
        wait_for(lambda: router.log.read_text().count("process.ready process=router-") == 2, 20)
        assert second not in router.children("penstock:router-")


def test_sigterm_is_not_ready_at_once_and_lets_streams_finish(pods, tmp_path):
    with routing(tmp_path, "--decode", addresses(*pods), "--linger-seconds", "1") as router:
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(stream, router, f"{number}", 200) for number in range(4)]
            wait_for(lambda: router.metric("penstock_router_requests_in_flight") == 4, 5)
            router.process.send_signal(signal.SIGTERM)
            wait_for(lambda: router.status("/readyz") == 503, 1)
            assert len(stream(router, "one more", 3).split()) == 3  # who has not heard of it yet
            assert all(len(task.result().split()) == 200 for task in running)
        assert router.process.wait(10) == 0


def test_the_grace_period_ends_what_does_not_finish_with_an_error(pods, tmp_path):
    words = ("--decode", addresses(*pods), "--shutdown-grace", "1")
    with routing(tmp_path, *words) as router, ThreadPoolExecutor(1) as pool:
        running = pool.submit(stream, router, "long", 10_000)
        wait_for(lambda: router.metric("penstock_router_requests_in_flight") == 1, 5)
        began = time.monotonic()
        router.process.send_signal(signal.SIGTERM)
        with pytest.raises(AssertionError, match="shutting down"):
            running.result()
        assert router.process.wait(10) == 0
        assert time.monotonic() - began < 6


def test_https_with_a_certificate_that_is_replaced(pods, tmp_path):
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_text(FIRST)
    key.write_text(FIRST_KEY)
    words = ("--tls-certificate", str(certificate), "--tls-key", str(key))

    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", router.port))

    with routing(tmp_path, "--decode", addresses(*pods), *words, scheme="https") as router:
        assert shown() == FIRST
        certificate.write_text(SECOND)  # does not fit to the key, until that follows
        key.write_text(SECOND_KEY)
        wait_for(lambda: shown() == SECOND, 15)


def test_a_pod_of_another_model_is_told_once_and_not_used(tmp_path):
    with (
        scripted_pod(model="one") as one,
        scripted_pod(model="two") as two,
        scripted_pod(model="two") as three,
        routing(tmp_path, "--decode", addresses(one, two, three)) as router,
    ):
        assert json.loads(router.get("/v1/models"))["data"][0]["id"] == "two"
        states = {pod["url"]: pod["state"] for pod in json.loads(router.get("/fleet"))["endpoints"]}
        assert states == {one.url: "refused", two.url: "ready", three.url: "ready"}
        log = router.log.read_text()
    assert log.count("endpoint.refused") == 1
    assert "serves 'one', but the others serve 'two'" in log
