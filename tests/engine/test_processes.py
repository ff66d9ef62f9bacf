"""The real thing: `penstock serve` with the embedded model, and what happens to its processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from support.serving import Server, complaints, free_port, run_cli, serving, wait_for

COMPLETIONS = "/v1/completions"
PROMPT = "Here is a list of seven things that one can see in a harbour:"
# What must survive an engine death in the middle: how a request is made, beside its prompt.
KINDS = {
    "greedy": {"temperature": 0, "max_tokens": 56},
    "sampled": {"temperature": 1.0, "seed": 7, "max_tokens": 56, "top_p": 0.9},
    "penalised": {"temperature": 0.8, "seed": 8, "max_tokens": 56, "presence_penalty": 1.0, "repetition_penalty": 1.2},
    "several choices": {"temperature": 1.0, "seed": 9, "max_tokens": 56, "n": 2},
    "log-probabilities": {"temperature": 1.0, "seed": 10, "max_tokens": 56, "logprobs": 3},
    "another greedy one": {"temperature": 0, "max_tokens": 80, "min_tokens": 80},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve"), "--dtype", "float32", "--served-model-name", "m") as server:
        yield server


class Heard:
    """What a client heard of one streamed completion."""

    def __init__(self, server: Server, **body):
        self.texts: dict[int, str] = {}
        self.reasons: dict[int, str] = {}
        self.logprobs: dict[int, list[float]] = {}
        self.usage = None
        self.error = None
        self.num_events = 0
        for event in server.events(COMPLETIONS, model="m", stream_options={"include_usage": True}, **body):
            self.num_events += 1
            if "error" in event:
                self.error = event["error"]["message"]
                break
            self.usage = event.get("usage") or self.usage
            for choice in event["choices"]:
                index = choice["index"]
                self.texts[index] = self.texts.get(index, "") + choice["text"]
                if choice["finish_reason"]:
                    assert index not in self.reasons, "a choice ended twice"
                    self.reasons[index] = choice["finish_reason"]
                if choice.get("logprobs"):
                    self.logprobs.setdefault(index, []).extend(choice["logprobs"]["token_logprobs"])


def hear_all(server: Server, bodies: list[dict], meanwhile=lambda: None) -> list[Heard]:
    """All streams at once, with something that happens meanwhile."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        futures = [pool.submit(Heard, server, **body) for body in bodies]
        meanwhile()
        return [future.result() for future in futures]


def num_running(server: Server) -> float:
    return server.metric("vllm:num_requests_running")


def stop_string_body(server: Server) -> dict:
    """A request whose stop string comes late in its text, and in the middle of a token."""
    text = server.post(COMPLETIONS, model="m", prompt=PROMPT, temperature=0, max_tokens=80)["choices"][0]["text"]
    stop = text[int(len(text) * 0.8) :][:7]
    return {"prompt": PROMPT, "temperature": 0, "max_tokens": 80, "stop": stop}


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["penstock:engine-core", "penstock:worker-0"])
def test_no_stream_notices_that_the_engine_was_killed(server, victim):
    bodies = [{"prompt": PROMPT, "ignore_eos": True} | kind for kind in KINDS.values()] + [stop_string_body(server)]
    expected = hear_all(server, bodies)
    before = {title: server.children(title) for title in ("penstock:api", "penstock:engine-core")}

    def kill() -> None:
        began = server.metric("penstock_generation_tokens_total")
        wait_for(lambda: server.metric("penstock_generation_tokens_total") > began + 80)
        server.kill(victim)

    heard = hear_all(server, bodies, kill)
    wait_for(lambda: server.status("/readyz") == 200)
    assert server.children("penstock:api") == before["penstock:api"]
    assert server.children("penstock:engine-core") != before["penstock:engine-core"]
    for name, got, want in zip([*KINDS, "stop string"], heard, expected, strict=True):
        assert got.error is None, name
        assert (got.texts, got.reasons) == (want.texts, want.reasons), name
        assert got.usage["completion_tokens"] == want.usage["completion_tokens"], name
        assert got.logprobs.keys() == want.logprobs.keys(), name
        for index, values in want.logprobs.items():
            assert got.logprobs[index] == pytest.approx(values, abs=1e-3), name
    assert heard[-1].reasons == {0: "stop"}


@pytest.mark.slow
def test_a_request_that_is_in_flight_at_two_deaths_ends_with_an_error(server):
    poison = {"prompt": PROMPT, "max_tokens": 3000, "ignore_eos": True, "temperature": 0}

    def kill_twice() -> None:
        for _ in range(2):
            wait_for(lambda: server.status("/readyz") == 200 and num_running(server) == 1)
            time.sleep(0.2)
            server.kill("penstock:engine-core")
            wait_for(lambda: server.status("/readyz") == 503)

    (heard,) = hear_all(server, [poison], kill_twice)
    assert "died twice" in heard.error
    assert heard.texts[0]
    server.wait_ready()
    assert server.post(COMPLETIONS, model="m", prompt=PROMPT, max_tokens=4)["usage"]["completion_tokens"] == 4


@pytest.mark.slow
def test_a_front_end_that_dies_is_started_again_and_its_requests_are_forgotten(server):
    body = {"model": "m", "prompt": PROMPT, "max_tokens": 16, "temperature": 0}
    expected = server.post(COMPLETIONS, **body)["choices"][0]["text"]
    engine, before = server.children("penstock:engine-core"), server.children("penstock:api-0")
    with server.open(COMPLETIONS, **body | {"max_tokens": 4000, "ignore_eos": True, "stream": True}) as reply:
        reply.readline()
        server.kill("penstock:api-0")
        wait_for(lambda: server.children("penstock:api-0") not in ([], before))
        server.wait_ready()
    wait_for(lambda: num_running(server) == 0, 5)
    assert server.post(COMPLETIONS, **body)["choices"][0]["text"] == expected
    assert server.children("penstock:engine-core") == engine


def test_a_client_that_leaves_frees_its_blocks_within_a_second(server):
    body = {"model": "m", "prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True, "n": 3}
    reply = server.open(COMPLETIONS, **body, stream=True)
    reply.readline()
    wait_for(lambda: num_running(server) == 3 and server.metric("vllm:kv_cache_usage_perc") > 0)
    reply.close()
    took = wait_for(lambda: num_running(server) == 0 and server.metric("vllm:kv_cache_usage_perc") == 0)
    assert took < 1


def test_processes_have_titles_and_only_the_worker_is_large(server):
    assert psutil.Process(server.process.pid).cmdline()[0] == "penstock:serve"
    (api,), (engine,), (worker,) = (
        server.children(f"penstock:{name}") for name in ("api-0", "engine-core", "worker-0")
    )
    assert psutil.Process(worker).ppid() == engine
    assert psutil.Process(api).ppid() == psutil.Process(engine).ppid() == server.process.pid
    assert psutil.Process(engine).memory_info().rss < 120 << 20
    assert psutil.Process(server.process.pid).memory_info().rss < 80 << 20


def test_an_idle_server_does_not_spin(server):
    wait_for(lambda: num_running(server) == 0)
    time.sleep(1.5)  # past the check that follows work
    titles = ("penstock:engine-core", "penstock:worker-0")
    processes = [psutil.Process(server.process.pid), *(psutil.Process(server.children(title)[0]) for title in titles)]
    before = [sum(process.cpu_times()[:2]) for process in processes]
    time.sleep(1.0)
    used = [sum(process.cpu_times()[:2]) - start for process, start in zip(processes, before, strict=True)]
    assert max(used) <= 0.03, used


def test_the_start_prints_what_was_loaded_and_an_example_that_works(server):
    log = server.log.read_text()
    assert f"Ready on {server.url}" in log
    assert re.search(r"KV cache +[\d,]+ tokens", log)
    assert not re.search(r"Traceback|Warning:", log[: log.index("Try it")])
    example = log[log.index("  curl") :].split("'\n")[0] + "'"
    if shutil.which("curl"):
        done = subprocess.run(["bash", "-c", example], capture_output=True, text=True, timeout=120, check=False)
        assert '"finish_reason":' in done.stdout


@pytest.mark.slow
def test_sigterm_lets_streams_finish_and_then_ends_with_code_0(tmp_path):
    run_folders = set(Path(tempfile.gettempdir()).glob("penstock-*"))
    body = {"prompt": PROMPT, "max_tokens": 150, "ignore_eos": True, "temperature": 0}
    with serving(tmp_path, "--served-model-name", "m", "--api-servers", "2") as server:
        pids = [psutil.Process(pid) for pid in server.children("penstock:")]
        assert len(server.children("penstock:api")) == 2
        during = []

        def stop() -> None:
            wait_for(lambda: server.metric("penstock_generation_tokens_total") > 20)
            for _ in range(2):
                server.process.send_signal(signal.SIGTERM)
                time.sleep(0.2)
                during.append(server.status("/readyz"))

        heard = hear_all(server, [body] * 8, stop)
        ended = time.monotonic()
        assert server.process.wait(30) == 0
        assert time.monotonic() - ended < 5
    assert set(during) <= {0, 503}
    assert [stream.usage["completion_tokens"] for stream in heard] == [150] * 8
    assert not any(process.is_running() for process in pids)
    assert set(Path(tempfile.gettempdir()).glob("penstock-*")) <= run_folders


@pytest.mark.slow
def test_streams_that_outlast_the_grace_period_end_with_an_error(tmp_path):
    body = {"prompt": PROMPT, "max_tokens": 8000, "ignore_eos": True, "temperature": 0}
    with serving(tmp_path, "--served-model-name", "m", "--shutdown-grace", "0.5") as server:
        killer = threading.Timer(1.0, os.kill, (server.process.pid, signal.SIGTERM))
        killer.start()
        heard = Heard(server, **body)
        killer.join()
        assert server.process.wait(30) == 0
    assert "shutting down" in heard.error


@pytest.mark.slow
def test_kill_9_of_the_supervisor_leaves_nothing_behind(tmp_path):
    with serving(tmp_path) as server:
        pids = [psutil.Process(pid) for pid in server.children("penstock:")]
        assert len(pids) == 3
        server.process.kill()
        server.process.wait()
        wait_for(lambda: not any(process.is_running() for process in pids), 5)


@pytest.mark.slow
def test_too_little_memory_for_the_kv_cache_is_one_line():
    words = ("--kv-cache-memory", "2MiB", "--max-model-len", "4096")
    done = run_cli("serve", "--port", str(free_port()), *words)
    assert done.returncode == 1
    assert len(complaints(done)) == 1
    assert "max-model-len" in done.stderr


def test_a_context_beyond_the_models_is_one_line():
    done = run_cli("serve", "--port", str(free_port()), "--max-model-len", "10000000")
    assert done.returncode == 2
    assert "--max-model-len" in done.stderr
    assert len(complaints(done)) == 1
