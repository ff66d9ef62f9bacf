"""`penstock top` from snapshots, and against servers that are not there or are something else."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest
from rich.console import Console

from penstock.commands.top import Snapshot, bar, base_of, fetch, rates_between, view
from penstock.errors import PenstockError
from penstock.internal.fleet import Fleet, FleetEndpoint, RouterTotals
from penstock.internal.protocol import TransferTotals
from support.serving import run_cli


def endpoint(name: str, **fields) -> FleetEndpoint:
    settings = {"role": "decode", "url": f"http://127.0.0.1/{name}", "state": "ready"}
    return FleetEndpoint(name=name, **settings | fields)


def shown(before: Snapshot, after: Snapshot) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(view("http://here", before, after))
    return console.export_text()


def test_rates_are_differences_between_two_snapshots_and_a_pod_that_began_anew_counts_from_zero():
    before = endpoint("a", output_tokens=100, transfers=TransferTotals(count=1, bytes=1_000_000))
    after = endpoint("a", output_tokens=160, transfers=TransferTotals(count=4, bytes=5_000_000))
    rates = rates_between(before, after, 2.0)
    assert (rates.tokens, rates.transfers, rates.bytes) == (30, 1.5, 2_000_000)
    assert rates_between(after, before, 2.0).tokens == 0
    assert rates_between(before, before, 0.0).tokens == 0


def test_shows_every_pod_with_its_queues_its_cache_and_its_transfers_and_the_router():
    first = Fleet(endpoints=[endpoint("decode-0")], router=RouterTotals(completed=10))
    totals = TransferTotals(count=2, bytes=4_000_000, failed=7, fallbacks=8)
    pods = [
        endpoint("decode-0", running=3, waiting=5, kv_usage=0.5, output_tokens=500, transfers=totals),
        endpoint("prefill-0", role="prefill", state="down", why="does not answer"),
    ]
    second = Fleet(endpoints=pods, router=RouterTotals(completed=20, held=2, resumed=1))
    text = shown(Snapshot(moment=1.0, fleet=first), Snapshot(moment=3.0, fleet=second))
    assert "1 of 2 pods ready" in text
    assert "250 tokens/s" in text
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines() if line}
    assert lines["decode-0"] == "decode ready 3 5 0 ████░░░░ 50 % 250 2 (1.0/s) 2.0 7 8"
    assert "prefill-0: does not answer" in text
    assert "2 held, 20 completed (5.0/s)" in text


def test_the_bar_stays_within_its_width():
    assert [bar(share).count("█") for share in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [0, 0, 4, 8, 8]


def test_an_address_may_be_short_or_that_of_the_api():
    assert base_of("127.0.0.1:9") == base_of("http://127.0.0.1:9/v1/") == "http://127.0.0.1:9"


@pytest.fixture
def server():
    """Answers /fleet with `server.answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = self.server.answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.url = f"http://127.0.0.1:{listening.server_port}"
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield listening
        listening.shutdown()


def test_json_is_one_snapshot_as_the_service_tells_it(server):
    server.answer = (200, msgspec.json.encode(Fleet(endpoints=[endpoint("a", running=2)])))
    done = run_cli("top", "--url", server.url, "--json")
    assert done.returncode == 0, done.stderr
    [only] = json.loads(done.stdout)["endpoints"]
    assert (only["role"], only["running"], only["waiting"], only["kv_usage"]) == ("decode", 2, 0, 0.0)
    assert only["transfers"] == {"count": 0, "bytes": 0, "failed": 0, "fallbacks": 0}


@pytest.mark.parametrize("answer", [(200, b"<html>"), (200, b'{"endpoints": 1}'), (401, b""), (404, b"")])
def test_a_server_that_is_no_service_of_ours_is_one_clear_error(server, answer):
    server.answer = answer
    with pytest.raises(PenstockError, match="--url"):
        fetch(server.url)


def test_nobody_at_the_address_is_one_line_and_exit_code_1():
    done = run_cli("top", "--url", "http://127.0.0.1:9", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not answer" in done.stderr
    assert len(done.stderr.splitlines()) == 1
