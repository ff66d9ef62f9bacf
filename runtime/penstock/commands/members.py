"""The processes that make up a service on one machine: a router, prefill pods and decode pods."""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
PENSTOCK = (sys.executable, "-m", "penstock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One process of a service, with what lies below it."""

    name: str
    command: tuple[str, ...]
    ready_url: str  # answers 200 when it takes requests
    role: str  # router, prefill, decode, both


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlan:
    """What a service is to consist of."""

    model: str
    roles: tuple[str, ...]  # of its pods, such as ("prefill", "decode", "decode")
    pod_words: tuple[str, ...]  # flags that all pods get
    router_host: str
    router_port: int
    key_file: Path


def build_members(plan: ServicePlan, ports: Sequence[int]) -> list[Member]:
    """The pods, then the router. `ports`: two for each pod, its public one and its internal one."""
    assert len(ports) == 2 * len(plan.roles), f"{len(ports)} ports for {len(plan.roles)} pods"
    internal = {
        role: [f"{HOST}:{ports[2 * index + 1]}" for index, its in enumerate(plan.roles) if its == role]
        for role in ("prefill", "decode", "both")
    }
    counts = dict.fromkeys(plan.roles, 0)
    members = []
    for index, role in enumerate(plan.roles):
        name = f"{role}-{counts[role]}"
        counts[role] += 1
        words = ["serve", plan.model, "--role", role, "--pod-name", name, "--host", HOST]
        words += ["--port", str(ports[2 * index]), "--internal-port", str(ports[2 * index + 1])]
        words += ["--cluster-key-file", str(plan.key_file)]
        if role == "decode" and internal["prefill"]:
            words += ["--prefillers", ",".join(internal["prefill"])]
        ready_url = f"http://{HOST}:{ports[2 * index]}/readyz"
        command = (*PENSTOCK, *words, *plan.pod_words)
        members.append(Member(name=name, command=command, ready_url=ready_url, role=role))
    return [*members, build_router(plan, internal)]


def build_router(plan: ServicePlan, internal: dict[str, list[str]]) -> Member:
    """The router in front of the decode pods (or of those that do both); `internal`: role -> addresses."""
    words = ["route", "--host", plan.router_host, "--port", str(plan.router_port)]
    words += ["--cluster-key-file", str(plan.key_file)]
    words += ["--decode", ",".join(internal["decode"] + internal["both"])]
    if internal["prefill"]:
        words += ["--prefill", ",".join(internal["prefill"])]
    ready_url = f"http://{reachable(plan.router_host)}:{plan.router_port}/readyz"
    return Member(name="router", command=(*PENSTOCK, *words), ready_url=ready_url, role="router")


def reachable(host: str) -> str:
    """An address of this machine that reaches a server on `host`."""
    host = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody has now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def write_key(folder: Path) -> Path:
    """A file with a new key for the pods and the router, in a folder that only this user can enter."""
    file = folder / "key"
    file.write_text(secrets.token_hex(32) + "\n")
    return file
