"""What the engine core and a worker's transfer thread say to each other, on a socket pair of their own.

The thread works beside the steps: nothing here waits for a step, and no step waits for anything here. Blocks named here
are kept from reuse by the engine core (tickets) until the answer says that nothing reads or writes them any more.
"""

from __future__ import annotations

import msgspec

from penstock.core.plan import Ints
from penstock.errors import DeviceError, DeviceFault, PenstockError
from penstock.internal.protocol import KvEndpoint


class TransferLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """What the transfer thread is told at its start, beside the configuration."""

    session: str  # of this engine's life
    fingerprint: str  # of KV blocks
    lease_file: str  # see `lease_table`


class Meet(msgspec.Struct, frozen=True, kw_only=True, tag="meet"):
    """Get to know a peer (NIXL's handshake); `peer` is the engine core's own number for it."""

    peer: int
    endpoint: KvEndpoint


class Leave(msgspec.Struct, frozen=True, kw_only=True, tag="leave"):
    """Tear the peer's endpoint down; READs from it end, well or not."""

    peer: int


class Pull(msgspec.Struct, frozen=True, kw_only=True, tag="pull"):
    """READ blocks, compare checksums, and only then READ the lease's word: the blocks count if it holds `epoch`."""

    pull: int  # names this in the answer
    peer: int
    remote: Ints  # [n] block ids there …
    local: Ints  # [n] … and here
    checksums: list[tuple[int, int]]  # (position in the columns, `checksum_of` the block)
    lease: int
    epoch: int


class Checksum(msgspec.Struct, frozen=True, kw_only=True, tag="checksum"):
    """Compute the checksums of blocks here."""

    call: int
    blocks: Ints  # [n]


class ReturnLease(msgspec.Struct, frozen=True, kw_only=True, tag="return-lease"):
    """Tell the peer by a notification that its lease is not needed any more."""

    peer: int
    lease: int
    epoch: int


class Store(msgspec.Struct, frozen=True, kw_only=True, tag="store"):
    """Copy blocks into the offload tier under their hashes."""

    call: int
    blocks: Ints  # [n]
    hashes: list[bytes]  # [n]


class Fetch(msgspec.Struct, frozen=True, kw_only=True, tag="fetch"):
    """Copy blocks out of the offload tier, verified, up to the first that is not there or not right."""

    call: int
    blocks: Ints  # [n]
    hashes: list[bytes]  # [n]


class Attached(msgspec.Struct, frozen=True, kw_only=True, tag="attached"):
    """The first word of the thread: its memory is registered. `endpoint` is None where no peer can READ it."""

    endpoint: KvEndpoint | None
    stored: list[bytes] = []  # hashes that the offload tier brings along from an earlier life, oldest use first


class Unattached(msgspec.Struct, frozen=True, kw_only=True, tag="unattached"):
    """It cannot work, for a reason that a person can mend, or because the device failed."""

    why: str
    fault: str = ""  # name of a `DeviceFault`; empty for any other reason

    @classmethod
    def of(cls, error: PenstockError) -> Unattached:
        """The error as text."""
        if isinstance(error, DeviceError):
            return cls(why=error.detail, fault=error.fault.name)
        return cls(why=str(error))

    def to_error(self) -> PenstockError:
        """The same error again."""
        return DeviceError(DeviceFault[self.fault], self.why) if self.fault else PenstockError(self.why)


class Met(msgspec.Struct, frozen=True, kw_only=True, tag="met"):
    """Answer to `Meet`; `why` is empty if it went well."""

    peer: int
    why: str = ""


class Pulled(msgspec.Struct, frozen=True, kw_only=True, tag="pulled"):
    """Answer to `Pull`. `is_over` is False while the READ may still write: a second `Pulled` follows when it is."""

    pull: int
    why: str = ""  # empty: every block is verified and counts
    is_over: bool = True
    num_bytes: int = 0
    seconds: float = 0.0


class Checksums(msgspec.Struct, frozen=True, kw_only=True, tag="checksums"):
    """Answer to `Checksum`."""

    call: int
    values: list[int]


class LeaseReturned(msgspec.Struct, frozen=True, kw_only=True, tag="lease-returned"):
    """A peer's notification."""

    lease: int
    epoch: int


class Stored(msgspec.Struct, frozen=True, kw_only=True, tag="stored"):
    """Answer to `Store`; what had to go for it."""

    call: int
    stored: list[bytes]
    dropped: list[bytes]


class Fetched(msgspec.Struct, frozen=True, kw_only=True, tag="fetched"):
    """Answer to `Fetch`: the first `num_good` blocks hold what their hashes say."""

    call: int
    num_good: int
    num_bytes: int = 0
    seconds: float = 0.0


TransferInput = Meet | Leave | Pull | Checksum | ReturnLease | Store | Fetch
TransferOutput = Attached | Unattached | Met | Pulled | Checksums | LeaseReturned | Stored | Fetched
