"""What an engine core that shares KV needs beside its scheduler, put together from the configuration."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from penstock.config import EngineConfig
from penstock.core.scheduler import Scheduler
from penstock.engine.launch import Launch
from penstock.engine.prefill_rate import PrefillRate
from penstock.errors import PenstockError
from penstock.internal.credentials import ClusterKeys
from penstock.internal.protocol import KvEndpoint
from penstock.kv_transfer.connector import KVConnector
from penstock.kv_transfer.decider import Decider
from penstock.kv_transfer.fetching import Fetching, Kind
from penstock.kv_transfer.fingerprint import fingerprint_of
from penstock.kv_transfer.lease_table import FILE as LEASE_FILE
from penstock.kv_transfer.lease_table import LeaseTable
from penstock.kv_transfer.lender import Lender
from penstock.kv_transfer.link import Link
from penstock.kv_transfer.messages import Attached, TransferLaunch, Unattached
from penstock.kv_transfer.peers import Wanted
from penstock.kv_transfer.switchboard import Happened, Switchboard, SwitchboardSetup
from penstock.kv_transfer.tier import Tier
from penstock.kv_transfer.transfers import Transfers
from penstock.kv_transfer.worker_line import WorkerLine
from penstock.worker.capacity import Capacity
from penstock.worker.executor import WORLD_SIZE, ProcessExecutor

ATTACH_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What peers know this life of the engine by."""

    epoch: int
    session: str  # random: no other life of any engine has it
    fingerprint: str  # of KV blocks

    @classmethod
    def of(cls, launch: Launch, epoch: int) -> Identity:
        """A new one."""
        fingerprint = fingerprint_of(launch.config, launch.folder_path, WORLD_SIZE)
        return cls(epoch=epoch, session=secrets.token_hex(16), fingerprint=fingerprint)


def is_sharing(config: EngineConfig) -> bool:
    """True if blocks come from or go to anywhere."""
    return config.transfer.role != "both" or config.transfer.kv_offload_memory is not None


class Sharing:
    """The lease table from before the workers start, the link from when they have; nothing for a pod that is alone."""

    def __init__(self, launch: Launch, identity: Identity) -> None:
        self.identity = identity
        self.endpoint: KvEndpoint | None = None  # where peers READ, once attached
        self._launch = launch
        self._link: Link | None = None
        self._table: LeaseTable | None = None
        if is_sharing(launch.config):
            self._table = LeaseTable(launch.run_path / LEASE_FILE, is_new=True)

    @property
    def worker_launch(self) -> TransferLaunch | None:
        """What the workers are told."""
        if self._table is None:
            return None
        return TransferLaunch(
            session=self.identity.session,
            fingerprint=self.identity.fingerprint,
            lease_file=str(self._launch.run_path / LEASE_FILE),
        )

    def attach(
        self, executor: ProcessExecutor, capacity: Capacity
    ) -> Callable[[Scheduler, PrefillRate], KVConnector] | None:
        """Wait until the worker can move blocks; what makes the connector, or None for a pod that is alone.

        Raises `PenstockError` with the worker's line if it cannot.
        """
        if self._table is None:
            return None
        assert executor.transfer is not None, "the worker was not told that it moves KV blocks"
        line = WorkerLine(executor.transfer)
        try:
            answer = line.first(ATTACH_SECONDS)
        except (EOFError, TimeoutError) as error:
            raise PenstockError(f"the worker did not say whether it can move KV blocks: {error}") from None
        if isinstance(answer, Unattached):
            raise answer.to_error()
        assert isinstance(answer, Attached), f"the worker's first word was {type(answer).__name__}"
        self.endpoint = answer.endpoint
        link, table = self._build_link(line), self._table
        self._link = link
        return lambda scheduler, rate: self._connect(scheduler, rate, link, table, answer, capacity)

    def start(self, wake: Callable[[], None]) -> None:
        """Begin to talk to others; `wake` is called from another thread when the step loop has something to take in."""
        if self._link is not None:
            self._link.start(wake)

    def close(self) -> None:
        """End that."""
        if self._link is not None:
            self._link.close()

    def _build_link(self, line: WorkerLine) -> Link:
        config = self._launch.config
        transfer, key_file = config.transfer, config.server.cluster_key_file
        wanted = None
        if transfer.role == "decode":
            names = [name.strip() for name in (transfer.prefillers or "").split(",")]
            wanted = Wanted(
                addresses=tuple(name for name in names if name),
                fingerprint=self.identity.fingerprint,
                revision=transfer.pod_revision,
            )
        setup = SwitchboardSetup(
            epoch=self.identity.epoch,
            wanted=wanted,
            stall_seconds=transfer.kv_stall_seconds,
            checksums=transfer.kv_checksums,
            client_address=self._launch.client_address,
        )
        keys = ClusterKeys(None if key_file is None else Path(key_file))

        def build(post: Callable[[Happened], None]) -> Switchboard:
            return Switchboard(setup, keys, line, random=Random(), clock=time.monotonic, post=post)

        return Link(build)

    def _connect(
        self,
        scheduler: Scheduler,
        rate: PrefillRate,
        link: Link,
        table: LeaseTable,
        attached: Attached,
        capacity: Capacity,
    ) -> KVConnector:
        config, lender, fetching, tier = self._launch.config, None, None, None
        transfer = config.transfer
        if transfer.role == "prefill":
            lender = Lender(table, scheduler.tickets, transfer.kv_lease_seconds)
        if transfer.role == "decode":
            kind = Kind(
                block_size=config.cache.block_size,
                block_bytes=capacity.block_bytes,
                fingerprint=self.identity.fingerprint,
                revision=transfer.pod_revision,
            )
            decider = Decider(transfer.remote_prefill_min_tokens, transfer.remote_prefill_slack)
            fetching = Fetching(scheduler, decider, kind, link=link, rate=lambda: rate.value)
        if transfer.kv_offload_memory is not None:
            tier = Tier(scheduler.tickets, attached.stored, link.send)
        return Transfers(scheduler, link, time.monotonic, lender=lender, fetching=fetching, tier=tier)
