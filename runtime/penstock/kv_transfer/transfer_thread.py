"""The worker's thread for everything that moves KV outside the steps: peers, checksums and the offload tier."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.config import TransferConfig
from penstock.errors import PenstockError
from penstock.kv_transfer.lease_table import LeaseTable
from penstock.kv_transfer.messages import Attached, TransferLaunch, Unattached
from penstock.kv_transfer.mover import NixlMover
from penstock.kv_transfer.nixl import NixlAgent, import_nixl
from penstock.kv_transfer.offload import build_tier
from penstock.kv_transfer.transfer_server import TransferServer
from penstock.logs import event
from penstock.wire import encode
from penstock.worker.channel import Channel

_log = logging.getLogger(__name__)


class TransferThread(threading.Thread):
    """Runs from `start` until the other side closes the socket. `attach` gives it the memory."""

    def __init__(
        self,
        connection: socket.socket,
        config: TransferConfig,
        launch: TransferLaunch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="transfer", daemon=True)  # a worker that fails to load must not wait for it
        self._channel, self._config, self._launch, self._clock = Channel(connection), config, launch, clock
        self._memory: NDArray[np.uint8] | None = None
        self._has_memory = threading.Event()

    def attach(self, memory: NDArray[np.uint8]) -> None:
        """The KV cache is there: [num_blocks, block_bytes]."""
        self._memory = memory
        self._has_memory.set()

    def run(self) -> None:
        """Serve; a `PenstockError` ends the thread with a word to the other side."""
        try:
            self._serve()
        except PenstockError as error:
            event(_log, "transfer.failed", level=logging.ERROR, why=str(error))
            with suppress(EOFError):
                self._channel.send(encode(Unattached(why=str(error))))
        except EOFError:
            pass
        finally:
            self._channel.close()

    def _serve(self) -> None:
        config, launch, begin = self._config, self._launch, self._clock()
        agent = NixlAgent(import_nixl(), f"penstock-{launch.session}") if config.role != "both" else None
        loaded = self._clock()
        self._has_memory.wait()
        memory = self._memory
        assert memory is not None, "attached without memory"
        tier = build_tier(config, launch.fingerprint, memory.shape[1])
        mover = None
        if agent is not None:
            leases = LeaseTable(Path(launch.lease_file)) if config.role == "prefill" else None
            mover = NixlMover(
                agent,
                memory,
                leases,
                session=launch.session,
                fingerprint=launch.fingerprint,
                clock=self._clock,
            )
        attached = Attached(endpoint=mover.describe() if mover else None, stored=tier.names if tier else [])
        self._channel.send(encode(attached))
        event(_log, "transfer.ready", role=config.role, load_seconds=loaded - begin)
        server = TransferServer(
            self._channel,
            memory,
            mover=mover,
            tier=tier,
            stall_seconds=config.kv_stall_seconds,
            clock=self._clock,
        )
        try:
            server.serve()
        finally:
            server.close()
