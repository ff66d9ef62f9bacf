"""The real thing in two roles: a prefill and a decode pod of one service, seen from their internal ports."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import msgspec
import psutil
import pytest

from penstock.internal.credentials import Caller, ClusterKeys, query_claims
from penstock.internal.frames import Frame, FrameKind, FrameReader
from penstock.internal.protocol import DRAIN_PATH, LOAD_PATH, ROUTE_PATH, UNDRAIN_PATH, Load, RoutedCall
from support.serving import Server, free_port, serving, wait_for

COMPLETIONS = "/v1/completions"
LONG_PROMPT = "The mill stands by the river, and the wheel turns slowly in the water. " * 25
BODY = {
    "prompt": "Here is a list of seven things that one can see in a harbour:",
    "max_tokens": 40,
    "ignore_eos": True,
    "temperature": 1.0,
    "n": 2,
    "logprobs": 2,
    "stream": True,
    "stream_options": {"include_usage": True},
}


@dataclass
class Pod:
    """A running pod, and what is needed to call its internal port."""

    server: Server
    url: str
    keys: ClusterKeys

    @property
    def load(self) -> Load:
        headers = {"authorization": self.keys.sign(query_claims(LOAD_PATH))}
        return msgspec.json.decode(httpx.get(self.url + LOAD_PATH, headers=headers).content, type=Load)

    def headers(self, path: str, body: bytes) -> dict[str, str]:
        load, caller = self.load, Caller(self.keys)
        caller.learn(load.session, load.now, load.now)
        return {"authorization": self.keys.sign(caller.claims(path, body, load.now))}

    def post(self, path: str) -> int:
        return httpx.post(self.url + path, headers=self.headers(path, b"")).status_code

    def frames(self, body: dict, records: list[bytes] = ()) -> Iterator[Frame]:
        call = RoutedCall(
            path=COMPLETIONS, body=json.dumps(body).encode(), request_id="r", records=[r for r in records if r]
        )
        data, reader = msgspec.msgpack.encode(call), FrameReader()
        headers = self.headers(ROUTE_PATH, data)
        with httpx.stream("POST", self.url + ROUTE_PATH, content=data, headers=headers, timeout=120) as reply:
            assert reply.status_code == 200, reply.read()
            for piece in reply.iter_raw():
                yield from reader.feed(piece)


def payload_of(frames: list[Frame]) -> bytes:
    return b"".join(frame.payload for frame in frames)


@pytest.fixture(scope="module")
def pods(tmp_path_factory):
    """A prefill pod and a decode pod with two front-ends that knows it."""
    folder = tmp_path_factory.mktemp("pods")
    (folder / "key").write_text("a-key-that-is-long-enough\n")
    ports = [free_port(), free_port()]
    common = ("--dtype", "float32", "--kv-cache-memory", "256MiB", "--threads", "1", "--served-model-name", "m")
    common += ("--cluster-key-file", str(folder / "key"))
    only = {
        "prefill": (),
        "decode": ("--prefillers", f"127.0.0.1:{ports[0]}", "--api-servers", "2", "--remote-prefill-slack", "1000"),
    }
    with ExitStack() as stack:
        found = {}
        for (role, words), port in zip(only.items(), ports, strict=True):
            (folder / role).mkdir()
            words = ("--role", role, "--internal-port", str(port), *common, *words)
            server = stack.enter_context(serving(folder / role, *words))
            found[role] = Pod(server, f"http://127.0.0.1:{port}", ClusterKeys(folder / "key"))
        yield found["prefill"], found["decode"]


def test_titles_and_the_first_lines_say_the_role(pods):
    for pod, role, num_apis in zip(pods, ("prefill", "decode"), (1, 2), strict=True):
        assert psutil.Process(pod.server.process.pid).cmdline()[0] == f"penstock:serve:{role}"
        assert len(pod.server.children(f"penstock:engine-core:{role}")) == 1
        for index in range(num_apis):
            assert len(pod.server.children(f"penstock:api-{index}:{role}")) == 1
        assert f"role {role}, internal address {pod.url}" in pod.server.log.read_text()


def test_a_long_prompt_is_computed_in_one_pod_and_continued_in_the_other(pods):
    prefill, decode = pods
    body = {"model": "m", "prompt": LONG_PROMPT, "max_tokens": 12, "temperature": 0}
    expected = prefill.server.post(COMPLETIONS, **body | {"prompt": LONG_PROMPT})
    wait_for(lambda: "peer.up" in decode.server.log.read_text(), 20)
    wait_for(lambda: prefill.load.queued_tokens == 0, 5)
    time.sleep(1.2)  # until the decode pod has asked again, twice: it goes by what it heard last
    before = decode.load.transfers
    answer = decode.server.post(COMPLETIONS, **body)
    assert answer["choices"] == expected["choices"]
    wait_for(lambda: decode.load.transfers.count == before.count + 1, 5)
    assert decode.load.transfers.bytes > before.bytes + 5_000_000
    wait_for(lambda: prefill.load.leases == 0, 5)


def test_an_answer_that_is_cut_goes_on_at_the_other_pod_byte_for_byte(pods):
    prefill, decode = pods
    frames = list(decode.frames(BODY))
    assert frames[-1].kind == FrameKind.END
    for cut in (1, len(frames) // 2, len(frames) - 1):
        rest = list(prefill.frames(BODY, [frame.record for frame in frames[:cut]]))
        assert payload_of(frames[:cut] + rest) == payload_of(frames), cut


def test_a_drain_at_one_front_end_is_for_both(pods):
    _, decode = pods
    assert decode.post(DRAIN_PATH) == decode.post(DRAIN_PATH) == 200
    for _ in range(10):  # connections are spread over the front-ends
        assert decode.server.status("/readyz") == 503
        assert httpx.get(decode.url + "/readyz").status_code == 503
    assert decode.load.draining
    assert decode.post(UNDRAIN_PATH) == decode.post(UNDRAIN_PATH) == 200
    for _ in range(10):
        assert decode.server.status("/readyz") == 200


def test_nobody_without_the_key_gets_in(pods):
    for pod in pods:
        refused = pod.server.metric("penstock_internal_refused_total")
        assert httpx.get(pod.url + LOAD_PATH).status_code == 401
        assert httpx.post(pod.url + ROUTE_PATH, content=b"x").status_code == 401
        assert pod.server.metric("penstock_internal_refused_total") == refused + 2
        assert httpx.get(pod.url + "/metrics").status_code == 200


def choices_of(frames: list[Frame]) -> list[dict]:
    """What the client sees of every choice, in order."""
    lines = payload_of(frames).splitlines()
    events = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: {")]
    return sorted((each for event in events for each in event["choices"]), key=lambda choice: choice["index"])


@pytest.mark.slow
def test_an_engine_death_is_told_in_a_frame_and_the_answer_is_the_same(pods):
    _, decode = pods
    body = BODY | {"seed": 7, "max_tokens": 60}
    expected = list(decode.frames(body))
    frames = []
    for frame in decode.frames(body):
        frames.append(frame)
        if len(frames) == 20:
            decode.server.kill("penstock:engine-core")
    kinds = [frame.kind for frame in frames]
    assert kinds.count(FrameKind.DEATH) == 1
    assert FrameKind.HEARTBEAT in kinds
    assert kinds[-1] == FrameKind.END
    assert choices_of(frames) == choices_of(expected)
    assert decode.load.output_tokens >= 240  # also of the engine that died


@pytest.mark.slow
def test_sigterm_moves_what_does_not_end_and_the_other_pod_finishes_it(pods, tmp_path):
    prefill, _ = pods
    port = free_port()
    body = BODY | {"seed": 5, "max_tokens": 70}
    expected = list(prefill.frames(body))
    words = ("--dtype", "float32", "--kv-cache-memory", "256MiB", "--threads", "1", "--served-model-name", "m")
    words += ("--internal-port", str(port), "--shutdown-grace", "0.1")
    with serving(tmp_path, *words) as server:
        leaving, frames = Pod(server, f"http://127.0.0.1:{port}", ClusterKeys(None)), []
        for frame in leaving.frames(body):
            frames.append(frame)
            if len(frames) == 4:
                server.process.send_signal(signal.SIGTERM)
        assert frames[-1].kind == FrameKind.MOVED
        assert server.process.wait(20) == 0
    rest = list(prefill.frames(body, [frame.record for frame in frames]))
    assert choices_of(frames + rest) == choices_of(expected)
