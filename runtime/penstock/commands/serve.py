"""Serve a model over the OpenAI API: this process supervises front-end, engine core and workers."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import setproctitle

import penstock
from penstock import envs
from penstock.commands.pod import check_pod, placed
from penstock.config import EMBEDDED_MODEL, EngineConfig
from penstock.engine.context import wanted_context
from penstock.engine.launch import EngineStarted, Launch, title_in_role
from penstock.engine.supervisor import Supervisor
from penstock.errors import ConfigError
from penstock.flags import MODEL_HELP, Parser, add_config_flags, config_from
from penstock.listener import base_url, bind, listen
from penstock.loader.sources import ResolvedModel, resolve
from penstock.logs import configure
from penstock.models.spec import ModelSpec
from penstock.worker.gpu.settings import check_gpu_settings

API_MODULE = "penstock.server.main"
LONGEST_SOCKET_PATH = 107  # bytes, sun_path of unix(7)
LONGEST_SOCKET_NAME = len("/client-000000000")
EXAMPLE = """\
  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Why is the sky blue?"}}], "max_tokens": 60}}'
"""


def add_arguments(parser: Parser) -> None:
    """One positional, MODEL, and a flag for each setting."""
    parser.epilog = (
        "environment: PENSTOCK_API_KEY (keys that clients must present, comma-separated), PENSTOCK_CACHE (folder for\n"
        "models), PENSTOCK_SHIPPED (folder of models that came with a container image), PENSTOCK_LOG_LEVEL (debug,\n"
        "info, warning, error)"
    )
    parser.add_argument("model", nargs="?", default=EMBEDDED_MODEL, metavar="MODEL", help=MODEL_HELP)
    add_config_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Check everything that is quick to check, then supervise until the end. Errors are `PenstockError`."""
    began = time.monotonic()
    config = placed(config_from(args))
    setproctitle.setproctitle(title_in_role("penstock:serve", config))
    configure("serve", envs.log_level())
    check_pod(config)
    server, internal = config.server, None
    listener = bind(server.host, server.port)
    if server.internal_port is not None:
        fields = {"host_field": "internal_host", "port_field": "internal_port"}
        internal = bind(server.internal_host, server.internal_port, **fields)
    check_device(config)
    model = resolve(config.model.model, revision=config.model.revision)
    spec = ModelSpec.from_folder(model.folder)
    config = named(config, model)
    launch = Launch(
        config=config, folder=str(model.folder), max_model_len=wanted_context(config, spec), run_dir=build_run_dir()
    )
    say(f"Penstock {penstock.__version__}: loading {config.model.served_model_name} from {model.folder}")
    listen(listener)
    if internal is not None:
        listen(internal, port_field="internal_port")

    def announce(engine: EngineStarted) -> None:
        say(ready_text(config, engine, time.monotonic() - began))

    return Supervisor(launch, listener, internal_listener=internal, api_module=API_MODULE, announce=announce).run()


def check_device(config: EngineConfig) -> None:
    """Raise `ConfigError` if a GPU is asked for and this machine shows none, or for what none does yet; finds out
    without loading torch."""
    if config.compute.device != "cuda":
        return
    check_gpu_settings(config)
    if not any(Path(name).exists() for name in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")):
        raise ConfigError("device", "cuda asked for, but this machine has no NVIDIA GPU (no /dev/nvidia*); use cpu")


def named(config: EngineConfig, model: ResolvedModel) -> EngineConfig:
    """The configuration with the name that clients use filled in."""
    name = config.model.served_model_name or model.name
    return dataclasses.replace(config, model=dataclasses.replace(config.model, served_model_name=name))


def build_run_dir() -> str:
    """A new folder for sockets that only this user can enter."""
    folder = tempfile.mkdtemp(prefix="penstock-")
    if len(folder) + LONGEST_SOCKET_NAME > LONGEST_SOCKET_PATH:
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="penstock-", dir="/tmp")
    return folder


def ready_text(config: EngineConfig, engine: EngineStarted, seconds: float) -> str:
    """What a person wants to know when the server is ready, with an example to paste."""
    server, model = config.server, config.model
    url = base_url(server.host, server.port)
    form = f"computed in {'bfloat16' if model.dtype == 'auto' else model.dtype}"
    if model.quantization:
        form = f"{model.quantization}, {form}"
    num_tokens = engine.num_blocks * engine.block_size
    pod = ""
    if server.internal_port is not None:
        internal = base_url(server.internal_host, server.internal_port)
        pod = f"  pod       {config.transfer.pod_name}, role {config.transfer.role}, internal address {internal}\n"
    return (
        f"  weights   {engine.weights_bytes / 1e6:,.0f} MB ({form}), loaded in {engine.load_seconds:.1f} s\n"
        f"  KV cache  {num_tokens:,} tokens ({engine.kv_bytes / 2**20:,.0f} MiB, {engine.num_blocks:,} blocks of "
        f"{engine.block_size}); context {engine.max_model_len:,} tokens\n{pod}"
        f"{bold('Ready')} on {bold(url)} after {seconds:.1f} s. Try it:\n\n"
        + EXAMPLE.format(url=url, model=model.served_model_name)
    )


def bold(text: str) -> str:
    """Bold on a terminal, plain elsewhere."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def say(text: str) -> None:
    """One message for the person who started the server, at once also through a pipe."""
    print(text, flush=True)
