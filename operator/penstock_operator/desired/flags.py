"""Command lines of the pods: `penstock serve` for the roles, `penstock route` for the router."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from penstock_operator import names
from penstock_operator.api.v1alpha1 import Engine
from penstock_operator.desired.identity import has_api_keys
from penstock_operator.desired.leader_worker_set import group_words
from penstock_operator.desired.quantity import whole
from penstock_operator.desired.replica_shape import pods_per_replica
from penstock_operator.errors import SpecError
from penstock_operator.names import BOTH, DECODE, PREFILL
from penstock_operator.service import Service

KEY_PATH = f"{names.KEY_FOLDER}/{names.KEY_FILE}"
API_KEYS_FOLDER, API_KEYS_FILE = "/etc/penstock/api-keys", "api-keys"
TLS_FOLDER = "/etc/penstock/tls"
SHUTDOWN_GRACE = 60.0  # seconds that running requests get, unless `args` say another number
HOLD_SECONDS = 900.0  # how long requests wait for the first pod of a service that scales to zero

ANY_HOST = "::"  # every address of the pod, of IPv4 and of IPv6 as the cluster has them
OURS = "the operator sets it"
SERVE_FIELDS = {  # flags that `spec.engine.args` must leave alone: what to write instead
    "--revision": "write spec.model.revision",
    "--served-model-name": "write spec.model.servedName",
    "--dtype": "write spec.engine.dtype",
    "--quantization": "write spec.engine.quantization",
    "--kv-cache-dtype": "write spec.engine.kvCacheDtype",
    "--kv-cache-memory": "write spec.engine.kvCacheMemory",
    "--max-model-len": "write spec.engine.maxModelLen",
    "--tensor-parallel-size": "write spec.engine.tensorParallel",
    "-tp": "write spec.engine.tensorParallel",
    "--pipeline-parallel-size": "write spec.engine.pipelineParallel",
    "-pp": "write spec.engine.pipelineParallel",
} | dict.fromkeys(
    (
        *("--role", "--host", "--port", "--internal-host", "--internal-port", "--cluster-key-file"),
        *("--pod-name", "--pod-revision", "--prefillers", "--nnodes", "--node-rank", "--master-addr"),
    ),
    OURS,
)
ROUTE_FIELDS = {
    "--api-keys-file": "write spec.security.apiKeysSecret",
    "--tls-certificate": "write spec.security.tls",
    "--tls-key": "write spec.security.tls",
} | dict.fromkeys(("--decode", "--prefill", "--cluster-key-file", "--host", "--port"), OURS)
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


def serve_words(service: Service, role: str, revision: str, model: str, domain: str) -> list[str]:
    """What follows `penstock` in a pod of a role. `model`: as the container sees it."""
    spec = service.spec
    engine = spec.engine or Engine()
    check_words("spec.engine.args", engine.args, SERVE_FIELDS)
    host = "127.0.0.1" if has_api_keys(service) else ANY_HOST  # where keys are needed, all come through the router
    words = ["serve", model, f"--role={role}", f"--host={host}", f"--port={names.HTTP_PORT}"]
    words += [f"--internal-host={ANY_HOST}", f"--internal-port={names.INTERNAL_PORT}", f"--cluster-key-file={KEY_PATH}"]
    words += ["--pod-name=$(POD_NAME)", f"--pod-revision={revision}"]
    if role == DECODE:
        words.append(f"--prefillers={internal_address(service, PREFILL, domain)}")
    if (size := pods_per_replica(service, role)) > 1:
        words += group_words(size)
    words.append(f"--shutdown-grace={number(shutdown_grace(engine.args))}")
    memory = engine.kv_cache_memory
    settings = {
        "--revision": spec.model.revision,
        "--served-model-name": spec.model.served_name,
        "--dtype": engine.dtype,
        "--quantization": engine.quantization,
        "--kv-cache-dtype": engine.kv_cache_dtype,
        "--kv-cache-memory": None if memory is None else whole(memory, "spec.engine.kvCacheMemory"),
        "--max-model-len": engine.max_model_len,
        "--tensor-parallel-size": engine.tensor_parallel,
        "--pipeline-parallel-size": engine.pipeline_parallel,
    }
    return [*words, *(f"{flag}={value}" for flag, value in settings.items() if value is not None), *engine.args]


def route_words(service: Service, args: Sequence[str], domain: str) -> list[str]:
    """What follows `penstock` in a pod of the router. `args`: the user's."""
    check_words("spec.router.args", args, ROUTE_FIELDS)
    owners = [internal_address(service, role, domain) for role in (DECODE, BOTH)]
    words = ["route", f"--host={ANY_HOST}", f"--port={names.HTTP_PORT}", f"--cluster-key-file={KEY_PATH}"]
    # All roles, whether the service has them now or not: one that changes its roles keeps its routers, which send
    # requests to the old pods until the new ones are there.
    words += [f"--decode={','.join(owners)}", f"--prefill={internal_address(service, PREFILL, domain)}"]
    words.append(f"--shutdown-grace={number(shutdown_grace(args))}")
    if is_scaled_to_zero(service):
        words.append(f"--hold-seconds={number(HOLD_SECONDS)}")
    if (security := service.spec.security) is not None:
        if security.api_keys_secret is not None:
            words.append(f"--api-keys-file={API_KEYS_FOLDER}/{API_KEYS_FILE}")
        if security.tls is not None:
            words += [f"--tls-certificate={TLS_FOLDER}/tls.crt", f"--tls-key={TLS_FOLDER}/tls.key"]
    return [*words, *args]


def internal_address(service: Service, role: str, domain: str) -> str:
    """Where pods of the service find those of a role: all pods, whatever their revision. The name ends with a dot:
    it is whole, and no search list is tried with it."""
    return f"{names.of_role(service.key.name, role)}.{service.key.namespace}.svc.{domain}.:{names.INTERNAL_PORT}"


def is_scaled_to_zero(service: Service) -> bool:
    """True if requests can meet a service that has no pod on purpose."""
    scaling = service.spec.autoscaling
    return scaling is not None and scaling.scale_to_zero_after is not None


def shutdown_grace(args: Sequence[str]) -> float:
    """Seconds that running requests get after SIGTERM: the user's number, else ours."""
    flag = "--shutdown-grace"
    given = [second for first, second in itertools.pairwise(args) if first == flag]
    given += [word.partition("=")[2] for word in args if word.startswith(flag + "=")]
    return float(given[-1]) if given and NUMBER.fullmatch(given[-1]) else SHUTDOWN_GRACE


def number(value: float) -> str:
    """Without a needless `.0`."""
    return f"{value:g}"


def check_words(field: str, words: Iterable[str], taken: dict[str, str]) -> None:
    """Raise `SpecError` for a flag that has a place of its own."""
    for index, word in enumerate(words):
        flag = word.partition("=")[0]
        if flag in taken:
            raise SpecError("InvalidSpec", f"{field}[{index}]: {flag} does not belong here: {taken[flag]}")
