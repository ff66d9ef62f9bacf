"""What the operator renders is what the runtime takes: flags, probes, times and metrics of both, side by side."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

from penstock.commands.pod import check_pod, placed
from penstock.config import EngineConfig, ParallelConfig, ServerConfig, TransferConfig
from penstock.engine import supervisor
from penstock.envs import cache_folder
from penstock.errors import ConfigError
from penstock.flags import Parser, build_config, config_from
from penstock.internal.credentials import SHORTEST_KEY
from penstock.router import app as router_app
from penstock.router.config import ListenerConfig, RouterConfig
from penstock.router.metric_names import ENDPOINT_GAUGES
from penstock.router.metric_names import build_families as router_families
from penstock.router.sources import build_sources
from penstock.server.internal.app import ENDPOINTS
from penstock.server.metric_names import build_families
from penstock_operator import names
from penstock_operator.desired import container, flags
from penstock_operator.desired.build import build_children
from penstock_operator.desired.identity import service_key
from penstock_operator.desired.monitoring import build_alerts
from penstock_operator.observed.trouble import pod_trouble
from penstock_operator.service import Manifest, Service
from support.operator_services import EXAMPLES, PAIR, SMALL, build_defaults, build_service, load_example, pod_specs

ONE = {"tensorParallel": 1, "pipelineParallel": 1}
TWO_PODS = {"engine": {"tensorParallel": 16}, "decode": {"resources": {"limits": {"nvidia.com/gpu": 8}}}}


class Refused(Exception):
    """The runtime's parser said no."""


class StrictParser(Parser):
    """The runtime's, which says why instead of ending the process."""

    def exit(self, status: int = 0, message: str | None = None) -> None:  # type: ignore[override]
        raise Refused(message)


def parse(words: list[str]) -> argparse.Namespace:
    """The words of a container as the runtime's own command reads them."""
    module = importlib.import_module(f"penstock.commands.{words[0]}")
    parser = StrictParser(prog=words[0])
    module.add_arguments(parser)
    return parser.parse(words[1:])


def commands(service: Service) -> dict[str, list[str]]:
    """Words after `penstock` of all containers that run our image, as the kubelet would pass them."""
    found = {}
    for name, spec in pod_specs(build_children(service, build_defaults())).items():
        for each in [*spec.get("initContainers", []), *spec["containers"]]:
            if each.get("command") == ["penstock"]:
                values = {env["name"]: env.get("value", "chat-abcde") for env in each["env"]}
                values |= group_env(name) if "--nnodes=2" in each["args"] else {}
                found[f"{name}/{each['name']}"] = [expanded(word, values) for word in each["args"]]
    return found


def group_env(name: str) -> dict[str, str]:
    """What a LeaderWorkerSet gives every container of its pods."""
    leader = name.removesuffix("/worker")
    index = "1" if name.endswith("/worker") else "0"
    return {"LWS_LEADER_ADDRESS": f"{leader}-0.{leader}.demo", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": index}


def expanded(word: str, values: dict[str, str]) -> str:
    """`$(NAME)` replaced; a name that the container does not have stays, and is refused later."""
    return re.sub(r"\$\((\w+)\)", lambda match: values.get(match[1], match[0]), word)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_bytes(service_key(b"m" * 32, "uid") + b"\n")
    return file


def has_many_workers(words: list[str]) -> bool:
    return any(re.fullmatch(r"--(tensor|pipeline)-parallel-size=([2-9]|\d\d+)", word) for word in words)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_container_of_every_example_starts_with_flags_that_the_runtime_takes(path, key_file):
    rendered = commands(load_example(path))
    assert rendered
    for name, words in rendered.items():
        args = parse([word.replace(flags.KEY_PATH, str(key_file)) for word in words])
        if has_many_workers(words):
            with pytest.raises(ConfigError, match=r"^--tensor-parallel-size: .* one worker per replica"):
                config_from(args)
        elif words[0] == "serve":
            check_pod(placed(config_from(args)))
        elif words[0] == "route":
            config = build_config(args, RouterConfig)
            assert build_sources(config.pods, lambda: 0.0), name
        else:
            assert words[0] == "fetch", name


def test_one_worker_that_is_asked_for_by_name_is_what_the_runtime_has(key_file):
    [words] = [words for words in commands(build_service(SMALL | {"engine": ONE})).values() if words[0] == "serve"]
    assert {"--tensor-parallel-size=1", "--pipeline-parallel-size=1"} <= set(words)
    config_from(parse([word.replace(flags.KEY_PATH, str(key_file)) for word in words]))


def test_pods_of_a_group_know_their_place():
    rendered = commands(build_service(SMALL | TWO_PODS))
    groups = {name: parse(words) for name, words in rendered.items() if words[0] == "serve"}
    leader, worker = (groups[name] for name in sorted(groups, key=lambda name: "/worker/" in name))
    assert (leader.nnodes, worker.nnodes) == ("2", "2")
    assert (leader.node_rank, worker.node_rank) == ("0", "1")
    assert leader.master_addr == worker.master_addr
    assert leader.tensor_parallel_size == worker.tensor_parallel_size == "16"


def test_what_the_runtime_says_of_workers_that_it_does_not_have_is_a_reason_of_its_own():
    with pytest.raises(ConfigError) as caught:
        EngineConfig(parallel=ParallelConfig(tensor_parallel_size=2))
    said = f"penstock: error: {caught.value}"  # as `penstock.cli` prints it
    terminated = {"exitCode": caught.value.exit_code, "message": said}
    container = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": terminated}}
    metadata = {"name": "chat-0", "creationTimestamp": "2026-01-01T00:00:00Z"}
    trouble = pod_trouble({"metadata": metadata, "status": {"containerStatuses": [container]}}, 0.0)
    assert trouble is not None
    assert (trouble.reason, trouble.is_terminal) == ("ParallelismUnsupported", True)
    assert trouble.message == f"pod chat-0: {caught.value}"


def test_pods_become_what_they_are_meant_to_be(key_file):
    rendered = {name.split("/")[0]: words for name, words in commands(build_service(PAIR)).items()}
    pods = {}
    for name, words in rendered.items():
        if words[0] == "serve":
            pods[name] = config_from(parse([word.replace(flags.KEY_PATH, str(key_file)) for word in words]))
    prefill, decode = sorted(pods.values(), key=lambda config: config.transfer.role, reverse=True)
    assert (prefill.transfer.role, decode.transfer.role) == ("prefill", "decode")
    assert decode.transfer.prefillers == "chat-prefill.demo.svc.cluster.local.:8001"
    assert decode.transfer.pod_revision == prefill.transfer.pod_revision != ""
    assert [pod.moves_kv_locally for pod in (prefill, decode)] == [False, False], "NIXL would listen on loopback alone"


def test_the_service_key_is_one_that_the_runtime_takes():
    assert len(service_key(b"m" * 32, "uid")) >= SHORTEST_KEY


def test_flags_that_the_operator_keeps_for_itself_exist():
    serve, route = StrictParser(prog="serve"), StrictParser(prog="route")
    importlib.import_module("penstock.commands.serve").add_arguments(serve)
    importlib.import_module("penstock.commands.route").add_arguments(route)
    assert set(flags.SERVE_FIELDS) <= set(serve.flags)
    assert set(flags.ROUTE_FIELDS) <= set(route.flags)


def test_pods_get_the_time_that_their_drain_may_take():
    assert ServerConfig().shutdown_grace == ListenerConfig().shutdown_grace == flags.SHUTDOWN_GRACE
    assert container.LATE_SECONDS > supervisor.LATE_SECONDS + supervisor.STOP_SECONDS
    long = PAIR | {"engine": {"args": ["--shutdown-grace=300"]}, "router": {"args": ["--shutdown-grace", "120"]}}
    specs = pod_specs(build_children(build_service(long), build_defaults()))
    times = {name.split("-")[1]: spec["terminationGracePeriodSeconds"] for name, spec in specs.items()}
    assert times == {"prefill": 320, "decode": 320, "router": 140}


def test_probes_ask_what_the_runtime_answers_without_a_key():
    specs = pod_specs(build_children(build_service(PAIR), build_defaults()))
    internal = {endpoint.path for endpoint in ENDPOINTS if endpoint.is_open and endpoint.method == "GET"}
    public = {path for path, found in router_app.PATHS.items() if found.is_open}
    for name, spec in specs.items():
        asked = probes(spec["containers"][0])
        assert {port for port, _ in asked} == ({"http"} if name == "chat-router" else {"internal"})
        assert {path for _, path in asked} <= (public if name == "chat-router" else internal)


def probes(found: Manifest) -> list[tuple[str, str]]:
    """(port, path) of a container's three probes."""
    gets = [found[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    return [(get["port"], get["path"]) for get in gets]


def test_alerts_look_at_metrics_that_exist():
    service = build_service(PAIR | {"slo": {"ttft": "500ms"}})
    known = {family.name for family in (*build_families("m", "decode", 16), *router_families("1"))} | {*ENDPOINT_GAUGES}
    alerts = build_alerts(service)
    assert len(alerts) == 5
    for alert in alerts:
        used = set(re.findall(r"\bpenstock_\w+(?=\{)", alert.expr))
        assert used, alert.name
        assert {name.removesuffix("_bucket") for name in used} <= known, alert.name


def test_the_cache_folder_is_where_the_runtime_looks(monkeypatch):
    children = build_children(build_service(PAIR | {"model": {"source": "hf://Qwen/Qwen3-8B"}}), build_defaults())
    for workload in children.workloads:
        engine = workload.manifest["spec"]["template"]["spec"]["containers"][0]
        mounts = {mount["mountPath"] for mount in engine["volumeMounts"]}
        env = {variable["name"]: variable.get("value") for variable in engine["env"]}
        monkeypatch.setenv("PENSTOCK_CACHE", env["PENSTOCK_CACHE"])
        assert {str(cache_folder()), env["HOME"]} <= mounts
        assert Path(env["HF_HOME"]).is_relative_to(cache_folder())


def test_ports_are_those_that_the_runtime_would_choose():
    config = placed(EngineConfig(transfer=TransferConfig(role="decode")))
    assert (config.server.port, config.server.internal_port) == (names.HTTP_PORT, names.INTERNAL_PORT)
