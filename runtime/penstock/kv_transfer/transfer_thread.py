"""The worker's thread for everything that moves KV outside the steps: peers, checksums and the offload tier."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from penstock.config import TransferConfig
from penstock.errors import PenstockError
from penstock.kv_transfer.kv_blocks import KvBlocks
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
        *,
        may_use_gpu: bool = False,
    ) -> None:
        """`may_use_gpu`: NIXL starts in `attach`, since UCX then looks for the GPU that this thread uses, and patches
        CUDA's library, in which no other thread may be at that moment.
        """
        super().__init__(name="transfer", daemon=True)  # a worker that fails to load must not wait for it
        self._channel, self._config, self._launch, self._clock = Channel(connection), config, launch, clock
        self._may_use_gpu = may_use_gpu
        self._blocks: KvBlocks | None = None
        self._has_blocks, self._has_begun = threading.Event(), threading.Event()

    def attach(self, blocks: KvBlocks) -> None:
        """The KV cache is there. May take half a second if it `may_use_gpu`."""
        self._blocks = blocks
        self._has_blocks.set()
        if self._may_use_gpu:
            self._has_begun.wait()

    def run(self) -> None:
        """Serve; a `PenstockError` ends the thread with a word to the other side."""
        try:
            self._serve()
        except PenstockError as error:
            event(_log, "transfer.failed", level=logging.ERROR, why=str(error))
            with suppress(EOFError):
                self._channel.send(encode(Unattached.of(error)))
        except EOFError:
            pass
        finally:
            self._has_begun.set()
            self._channel.close()

    def _serve(self) -> None:
        config, launch, begin = self._config, self._launch, self._clock()
        library = import_nixl() if config.role != "both" else None
        agent = None if library is None or self._may_use_gpu else self._start_agent(library)
        loaded = self._clock()
        self._has_blocks.wait()
        blocks = self._blocks
        assert blocks is not None, "attached without blocks"
        blocks.activate()
        tier = build_tier(config, launch.fingerprint, blocks.block_bytes)
        mover = None
        if library is not None:
            leases = LeaseTable(Path(launch.lease_file)) if config.role == "prefill" else None
            mover = NixlMover(
                agent or self._start_agent(library),
                blocks,
                leases,
                session=launch.session,
                fingerprint=launch.fingerprint,
                clock=self._clock,
            )
        self._has_begun.set()
        attached = Attached(endpoint=mover.describe() if mover else None, stored=tier.names if tier else [])
        self._channel.send(encode(attached))
        event(_log, "transfer.ready", role=config.role, memory=blocks.place.kind, load_seconds=loaded - begin)
        server = TransferServer(
            self._channel,
            blocks,
            mover=mover,
            tier=tier,
            stall_seconds=config.kv_stall_seconds,
            clock=self._clock,
        )
        try:
            server.serve()
        finally:
            server.close()

    def _start_agent(self, library: ModuleType) -> NixlAgent:
        return NixlAgent(library, f"penstock-{self._launch.session}")
