"""A worker process: load, say so, then one result for each plan until the engine core closes the channel."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import setproctitle

from penstock import envs
from penstock.config import EngineConfig
from penstock.core.plan import StepPlan
from penstock.errors import DeviceError, DeviceFault, PenstockError
from penstock.kv_transfer.transfer_thread import TransferThread
from penstock.lifetime import die_with_parent
from penstock.logs import configure, event
from penstock.wire import decoder, encode
from penstock.worker.answers import Answers
from penstock.worker.channel import Channel
from penstock.worker.executor import Loaded, LoadFailed, WorkerLaunch
from penstock.worker.gpu.device import driver_version

if TYPE_CHECKING:
    from penstock.worker.worker import Worker

FINISH_SECONDS = 4.0  # what the offload tier gets to write what it still has; the parent waits a little longer

Build = Callable[[EngineConfig, Path], "Worker"]

_log = logging.getLogger(__name__)


def main(words: Sequence[str], build: Build | None = None) -> int:
    """The process from start to exit code: 0 when the parent closed the channel, 1 when loading failed, that of a
    `DeviceFault`. `build` makes the worker; default: the one for the device of the configuration."""
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
        may_use_gpu = launch.config.compute.device != "cpu" and driver_version() is not None
        transfer = TransferThread(connection, launch.config.transfer, launch.transfer, may_use_gpu=may_use_gpu)
        transfer.start()  # it loads NIXL while the model is loaded
    with socket.socket(fileno=arguments.fd) as connection:
        code = serve(launch, Channel(connection), transfer, build)
    if transfer is not None and code == 0:
        transfer.join(FINISH_SECONDS)
    return code


def serve(
    launch: WorkerLaunch, channel: Channel, transfer: TransferThread | None = None, build: Build | None = None
) -> int:
    """Load the model and answer plans; what is neither a `PenstockError` nor the parent's leave ends with a trace."""
    from penstock.worker.worker import build_worker  # after prctl and title

    try:
        worker = (build or build_worker)(launch.config, Path(launch.folder))
        capacity = worker.start()
    except PenstockError as error:
        channel.send(encode(LoadFailed.of(error)))
        return error.exit_code if isinstance(error, DeviceError) else 1
    if transfer is not None:
        transfer.attach(worker.kv_blocks)
    try:
        channel.send(encode(Loaded(capacity=capacity)))
        if capacity.depth == 1:
            run_in_turn(worker, channel)
        else:
            run_ahead(worker, channel)
    except EOFError:
        return 0
    except DeviceError as error:
        event(_log, "device.failed", level=logging.ERROR, fault=error.fault.name.lower(), why=str(error))
        return error.exit_code
    return 0


def run_in_turn(worker: Worker, channel: Channel) -> None:
    """One step after the other, until `EOFError`."""
    plans = decoder(StepPlan)
    while True:
        channel.send(encode(worker.submit(plans.decode(next_message(worker, channel))).wait()))


def run_ahead(worker: Worker, channel: Channel) -> None:
    """Take plans as they come, whatever the device is at, while another thread answers; until `EOFError`."""
    plans = decoder(StepPlan)
    with Answers(channel) as answers:
        while True:
            answers.put(worker.submit(plans.decode(next_message(worker, channel))))


def next_message(worker: Worker, channel: Channel) -> bytes:
    """The next plan; as long as none is there, the worker prepares itself further."""
    while channel.is_quiet() and worker.capture_next():
        pass
    return channel.receive()


def leave(code: int) -> None:
    """End the process; at once where a GPU failed, since what CUDA would do at an orderly end may hang."""
    if code in {fault.value for fault in DeviceFault}:
        logging.shutdown()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
