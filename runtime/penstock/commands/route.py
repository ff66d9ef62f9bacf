"""Route OpenAI requests to the pods of a service: the best pod for each, and another one when that dies midway.

Each pod is named by its internal address: that of `penstock serve --internal-port`. Clients use the router like a
single server. While no pod is there, requests wait; when all are full, they queue, fairly over API keys.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import setproctitle

import penstock
from penstock import envs
from penstock.errors import ConfigError
from penstock.flags import Parser, add_config_flags, build_config
from penstock.internal.credentials import ClusterKeys
from penstock.listener import base_url, bind, listen
from penstock.logs import configure
from penstock.router.config import RouterConfig
from penstock.router.launch import Launch
from penstock.router.sources import build_sources
from penstock.router.supervisor import Supervisor
from penstock.router.tenants import Tenants
from penstock.router.tls import Certificate

MODULE = "penstock.router.main"
EPILOG = """\
examples:
  penstock route --decode 127.0.0.1:8101,127.0.0.1:8201
  penstock route --decode decode.llm.svc:8001 --prefill prefill.llm.svc:8001 --cluster-key-file /etc/penstock/key
  penstock route --decode file:pods.txt --host 0.0.0.0 --api-keys-file keys.txt --workers 4

  a file of API keys has a line `name:key`, or `name:` and the key's SHA-256 in hex, for each key

environment: PENSTOCK_API_KEY (keys that clients must present, comma-separated), PENSTOCK_LOG_LEVEL (debug, info,
warning, error)
"""


def add_arguments(parser: Parser) -> None:
    """A flag for each setting."""
    parser.epilog = EPILOG
    add_config_flags(parser, config=RouterConfig)


def run(args: argparse.Namespace) -> int:
    """Check everything that is quick to check, then supervise until the end. Errors are `PenstockError`."""
    config = build_config(args, RouterConfig)
    if config.pods.decode is None:
        raise ConfigError("decode", "which pods? give their internal addresses: --decode host:port,… or file:PATH")
    check_files(config)
    setproctitle.setproctitle("penstock:route")
    configure("route", envs.log_level())
    settings = config.listener
    listener = bind(settings.host, settings.port)
    listen(listener)
    launch = Launch(config=config, version=penstock.__version__, run_dir=tempfile.mkdtemp(prefix="penstock-route-"))
    lists = [f"decode {config.pods.decode}"] + ([f"prefill {config.pods.prefill}"] if config.pods.prefill else [])
    print(f"Penstock {penstock.__version__}: routing to {', '.join(lists)}", flush=True)

    def announce() -> None:
        print(
            f"Ready on {base_url(settings.host, settings.port, has_tls=settings.tls_certificate is not None)}",
            flush=True,
        )

    return Supervisor(launch, listener, module=MODULE, announce=announce).run()


def check_files(config: RouterConfig) -> None:
    """Raise `ConfigError` for files and lists that the workers could not use."""
    build_sources(config.pods, time.monotonic)
    key_file, keys_file, settings = config.pods.cluster_key_file, config.tenants.api_keys_file, config.listener
    keys = ClusterKeys(None if key_file is None else Path(key_file))
    Tenants(None if keys_file is None else Path(keys_file), envs.api_keys(), keys)
    if settings.tls_certificate is not None and settings.tls_key is not None:
        Certificate(Path(settings.tls_certificate), Path(settings.tls_key))
