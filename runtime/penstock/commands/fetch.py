"""Fetch a model into the cache, so that serving it later needs no network."""

from __future__ import annotations

import argparse
import hashlib
import signal
import time
from pathlib import Path

from penstock.config import EMBEDDED_MODEL
from penstock.envs import cache_folder
from penstock.errors import ConfigError, ModelError
from penstock.flags import Parser
from penstock.loader.hub import snapshot
from penstock.loader.hub_progress import HubDownload, ProgressServer
from penstock.loader.progress import say
from penstock.loader.sources import HUB_NAME, HUB_SCHEME, check_folder, resolve

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
        if args.receipt and (folder := fetched_before(args.model, args.revision)) is not None:
            print(folder)
            return 0
        if args.report_port is not None:
            report(args.model, args.revision, args.report_port)
        print(resolve(args.model, revision=args.revision).folder)
        if args.receipt:
            leave_receipt(args.model, args.revision)
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def report(model: str, revision: str | None, port: int) -> None:
    """Tell how far the download is, from now on. Raises `ConfigError` for a model that does not come from the hub."""
    name = model.removeprefix(HUB_SCHEME)
    if not HUB_NAME.fullmatch(name):
        raise ConfigError("report_port", f"{model} does not come from the hub")
    ProgressServer(port, HubDownload(name, revision)).start()


def fetched_before(model: str, revision: str | None) -> Path | None:
    """The folder of a hub model whose receipt is there, if it is still whole. The hub is not asked: who shares the
    volume keeps one commit of a branch, and a token that was taken back, or no network, stops nobody who has it all.
    """
    name = model.removeprefix(HUB_SCHEME)
    if not HUB_NAME.fullmatch(name) or not receipt_of(model, revision).is_file():
        return None
    try:
        folder = snapshot(name, revision, is_local=True)
        check_folder(folder)
    except ModelError as error:
        say(f"{model} is not whole any more, and is fetched again: {error}")
        return None
    return folder


def leave_receipt(model: str, revision: str | None) -> None:
    """Tell those who wait. Raises `ModelError` where the volume cannot be written."""
    receipt = receipt_of(model, revision)
    try:
        receipt.parent.mkdir(parents=True, exist_ok=True)
        receipt.touch()
    except OSError as error:
        raise ModelError(f"cannot write the model cache {cache_folder()}: {error}") from error


def wait_for(model: str, receipt: Path) -> None:
    """Return once the receipt is there."""
    say(f"waiting until {model} is in {cache_folder()}")
    while not receipt.is_file():
        time.sleep(POLL_SECONDS)


def receipt_of(model: str, revision: str | None) -> Path:
    """The file that says that all of a model is in the cache."""
    digest = hashlib.sha256(f"{model}@{revision or ''}".encode()).hexdigest()
    return cache_folder() / "receipts" / digest[:16]
