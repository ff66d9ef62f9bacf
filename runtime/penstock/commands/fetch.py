"""Fetch a model into the cache, so that serving it later needs no network."""

from __future__ import annotations

import argparse
import hashlib
import signal
import time
from pathlib import Path

from penstock.config import EMBEDDED_MODEL
from penstock.envs import cache_folder
from penstock.errors import ConfigError
from penstock.flags import Parser
from penstock.loader.hub_progress import HubDownload, ProgressServer
from penstock.loader.progress import say
from penstock.loader.sources import HUB_NAME, HUB_SCHEME, resolve

POLL_SECONDS = 1.0


def add_arguments(parser: Parser) -> None:
    """The model, as `penstock serve` takes it."""
    parser.add_argument("model", nargs="?", default=EMBEDDED_MODEL, help="as for `penstock serve`")
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    parser.add_argument(
        "--receipt",
        action="store_true",
        help="once it is there, leave a receipt in PENSTOCK_CACHE for those who --wait",
    )
    parser.add_argument(
        "--report-port", type=int, metavar="N", help="answer GET /progress there, with the bytes that have arrived"
    )
    parser.add_argument(
        "--wait", action="store_true", help="fetch nothing: wait until another process has, with --receipt"
    )
    parser.epilog = "PENSTOCK_CACHE names another folder for converted models, HF_HUB_CACHE for those of the hub."


def run(args: argparse.Namespace) -> int:
    """Print the folder in which the model lies now; returns the exit code."""
    # The first process of a container ignores SIGTERM unless it says what it means.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if args.wait:
            wait_for(args.model, receipt_of(args.model, args.revision))
            return 0
        if args.report_port is not None:
            report(args.model, args.revision, args.report_port)
        print(resolve(args.model, revision=args.revision).folder)
        if args.receipt:
            receipt = receipt_of(args.model, args.revision)
            receipt.parent.mkdir(parents=True, exist_ok=True)
            receipt.touch()
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def report(model: str, revision: str | None, port: int) -> None:
    """Tell how far the download is, from now on. Raises `ConfigError` for a model that does not come from the hub."""
    name = model.removeprefix(HUB_SCHEME)
    if not HUB_NAME.fullmatch(name):
        raise ConfigError("report_port", f"{model} does not come from the hub")
    ProgressServer(port, HubDownload(name, revision)).start()


def wait_for(model: str, receipt: Path) -> None:
    """Return once the receipt is there."""
    say(f"waiting until {model} is in {cache_folder()}")
    while not receipt.is_file():
        time.sleep(POLL_SECONDS)


def receipt_of(model: str, revision: str | None) -> Path:
    """The file that says that all of a model is in the cache."""
    digest = hashlib.sha256(f"{model}@{revision or ''}".encode()).hexdigest()
    return cache_folder() / "receipts" / digest[:16]
