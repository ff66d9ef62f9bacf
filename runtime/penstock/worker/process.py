"""A worker process: load, say so, then one result for each plan until the engine core closes the channel."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import setproctitle

from penstock import envs
from penstock.core.plan import StepPlan
from penstock.errors import PenstockError
from penstock.kv_transfer.transfer_thread import TransferThread
from penstock.lifetime import die_with_parent
from penstock.logs import configure
from penstock.wire import decoder, encode
from penstock.worker.channel import Channel
from penstock.worker.executor import Loaded, LoadFailed, WorkerLaunch

FINISH_SECONDS = 4.0  # what the offload tier gets to write what it still has; the parent waits a little longer


def main(words: Sequence[str]) -> int:
    """The process from start to exit code: 0 when the parent closed the channel, 1 when loading failed."""
    parser = argparse.ArgumentParser(description="started by the engine core")
    parser.add_argument("--launch", type=Path, required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--transfer-fd", type=int)
    arguments = parser.parse_args(words)
    launch = msgspec.json.decode(arguments.launch.read_bytes(), type=WorkerLaunch)
    die_with_parent(launch.parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides: it may be draining
        signal.signal(number, signal.SIG_IGN)
    setproctitle.setproctitle(f"penstock:worker-{launch.rank}")
    configure(f"worker-{launch.rank}", envs.log_level())
    transfer = None
    if launch.transfer is not None:
        envs.prepare_nixl(is_local=launch.config.moves_kv_locally)
        connection = socket.socket(fileno=arguments.transfer_fd)
        transfer = TransferThread(connection, launch.config.transfer, launch.transfer)
        transfer.start()  # it loads NIXL while the model is loaded
    with socket.socket(fileno=arguments.fd) as connection:
        code = serve(launch, Channel(connection), transfer)
    if transfer is not None and code == 0:
        transfer.join(FINISH_SECONDS)
    return code


def serve(launch: WorkerLaunch, channel: Channel, transfer: TransferThread | None = None) -> int:
    """Load the model and answer plans; anything but a `PenstockError` while loading ends the process with a trace."""
    from penstock.worker.worker import Worker  # after prctl and title: torch takes a second

    worker = Worker(launch.config, Path(launch.folder))
    try:
        capacity = worker.start()
    except PenstockError as error:
        channel.send(encode(LoadFailed.of(error)))
        return 1
    if transfer is not None:
        transfer.attach(worker.kv_blocks)
    plans = decoder(StepPlan)
    try:
        channel.send(encode(Loaded(capacity=capacity)))
        while True:
            channel.send(encode(worker.execute(plans.decode(channel.receive()))))
    except EOFError:
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
