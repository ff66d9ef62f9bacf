"""A service on this machine: a router, one prefill and two decode pods that share KV, each started again if it dies."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
import tempfile
import time
import typing
from pathlib import Path

import penstock
from penstock.commands.caretaker import Caretaker
from penstock.commands.members import ServicePlan, build_members, free_ports, reachable, write_key
from penstock.config import EMBEDDED_MODEL, EngineConfig
from penstock.errors import ConfigError
from penstock.flags import MODEL_HELP, Parser, add_config_flags, config_from, plain_type
from penstock.loader.sources import resolve
from penstock.worker.machine import available_memory, num_cores

ROLES = ("prefill", "decode", "decode")
OWN_SETTINGS = ("role", "pod_name", "prefillers", "internal_host", "internal_port", "cluster_key_file")
ROUTER_SETTINGS = ("host", "port")
LEAST_KV_BYTES, MOST_KV_BYTES = 128 << 20, 1 << 30  # of one pod
KV_SHARE = 0.1  # of the free memory, for one pod
COLOURS = {"router": 35, "prefill": 33, "decode": 36, "demo": 32}  # ANSI
NAME_WIDTH = 9
STEP_TOKENS = (
    256  # of a prompt in one step: blocks are pulled chunk by chunk, and no step takes seconds on a full machine
)
READY = """\
Ready: {url} after {seconds:.1f} s, with {pods}. Try it:

  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Why is the sky blue?"}}], "max_tokens": 60}}'
  penstock top --url {url}

Kill any of them ({kill}): streams go on elsewhere, and it is started again.
"""


def add_arguments(parser: Parser) -> None:
    """The router's address, and every flag of `penstock serve` for the pods."""
    parser.epilog = "--host and --port are the router's; every other flag is passed on to the pods."
    parser.add_argument("model", nargs="?", default=EMBEDDED_MODEL, metavar="MODEL", help=MODEL_HELP)
    add_config_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Start everything and look after it until SIGTERM or Ctrl-C; returns the exit code. Errors are `PenstockError`."""
    began = time.monotonic()
    for name in OWN_SETTINGS:
        if hasattr(args, name):
            raise ConfigError(name, "penstock demo sets it itself, for each pod")
    config = config_from(args)
    say("demo", f"Penstock {penstock.__version__}: one router, {' and '.join(counted(ROLES))} on this machine")
    model = resolve(config.model.model, revision=config.model.revision)  # once, not by three pods at the same time
    name = config.model.served_model_name or model.name
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
        plan = ServicePlan(
            model=str(model.folder),
            roles=ROLES,
            pod_words=(*default_words(args), "--served-model-name", name, *given_words(args)),
            router_host=config.server.host,
            router_port=config.server.port,
            key_file=write_key(Path(folder)),
        )
        members = build_members(plan, free_ports(2 * len(ROLES)))
        url = f"http://{reachable(plan.router_host)}:{plan.router_port}"

        def announce(pids: dict[str, int]) -> None:
            kill = ", ".join(f"{name} {pid}" for name, pid in pids.items())
            pods, seconds = " and ".join(counted(ROLES)), time.monotonic() - began
            say("demo", READY.format(url=url, seconds=seconds, pods=pods, model=name, kill=kill))

        asyncio.run(Caretaker(members, say).run(announce))
    return 0


def default_words(args: argparse.Namespace) -> list[str]:
    """Flags that let three pods live on one machine, unless others are given."""
    kv_bytes = min(MOST_KV_BYTES, max(LEAST_KV_BYTES, int(available_memory() * KV_SHARE)))
    defaults = {
        "threads": str(max(1, num_cores() // len(ROLES))),
        "kv_cache_memory": f"{kv_bytes >> 20}MiB",
        "max_num_batched_tokens": str(STEP_TOKENS),
    }
    missing = {name: value for name, value in defaults.items() if not hasattr(args, name)}
    return [word for name, value in missing.items() for word in (f"--{name.replace('_', '-')}", value)]


def given_words(args: argparse.Namespace) -> list[str]:
    """The flags of the command line that are meant for the pods, as words again."""
    words = []
    for kind in typing.get_type_hints(EngineConfig).values():
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if field.name in (*ROUTER_SETTINGS, "model", "served_model_name", "revision") or not hasattr(
                args, field.name
            ):
                continue
            flag, value = field.name.replace("_", "-"), getattr(args, field.name)
            is_switch = plain_type(hints[field.name]) is bool
            words += [f"--{flag}" if value else f"--no-{flag}"] if is_switch else [f"--{flag}", str(value)]
    return words


def counted(roles: tuple[str, ...]) -> list[str]:
    """`1 prefill pod`, `2 decode pods`."""
    return [f"{roles.count(role)} {role} pod{'s' if roles.count(role) > 1 else ''}" for role in dict.fromkeys(roles)]


def say(name: str, text: str) -> None:
    """What a process said, each line behind its name, at once also through a pipe."""
    head = f"{name:<{NAME_WIDTH}} │ "
    if sys.stdout.isatty():
        head = f"\033[{COLOURS[name.split('-')[0]]}m{head}\033[0m"
    print("\n".join(head + line for line in text.split("\n")), flush=True)
