"""What the pods of one service and their router say to each other over HTTP, on the internal port.

| call | body | answer |
|---|---|---|
| `GET /internal/v1/load` | | `Load`, JSON |
| `GET /internal/v1/kv` | | `KvEndpoint`, msgpack, authenticated by the header `X-Penstock-Mac` (piece 0) |
| `POST /internal/v1/prefill` | `PrefillCall`, msgpack | pieces (see `pieces.py`): `Granted`, `Computed` …, `Ended` |
| `POST /internal/v1/renew` | `Renewal`, msgpack | 204; leases that are gone are ignored |
| `POST /internal/v1/route` | `RoutedCall`, msgpack | frames (see `frames.py`), or an error as on the public port |
| `POST /internal/v1/drain`, `/undrain` | | 200, idempotent, for all front-ends of the pod |
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

LOAD_PATH = "/internal/v1/load"
KV_PATH = "/internal/v1/kv"
PREFILL_PATH = "/internal/v1/prefill"
RENEW_PATH = "/internal/v1/renew"
ROUTE_PATH = "/internal/v1/route"
DRAIN_PATH = "/internal/v1/drain"
UNDRAIN_PATH = "/internal/v1/undrain"


class TransferTotals(msgspec.Struct, frozen=True, kw_only=True):
    """KV transfers into this pod since it started."""

    count: int = 0  # pulls that ended well
    bytes: int = 0
    failed: int = 0  # pulls that did not
    fallbacks: int = 0  # requests that were therefore prefilled here, wholly or in part


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How a pod is doing. Totals are of the pod's life, gauges of now."""

    name: str  # unique in a service
    role: str  # both, prefill, decode
    model: str
    version: str
    revision: str  # of the service, see --pod-revision
    fingerprint: str  # of KV blocks: model, dtype, layout; hex
    session: str  # of this engine's life, random; tokens name it
    now: float  # seconds, this pod's monotonic clock
    ready: bool
    draining: bool
    stalled: float  # seconds without a step while there was work
    running: int
    waiting: int
    queued_tokens: int  # prompt tokens still to compute here, of waiting and of running requests
    prefill_rate: float | None  # tokens/s measured in steps with prompt chunks; None: nothing measured yet
    output_tokens: int  # generated in this pod's life
    kv_usage: float  # share of blocks held, 0 to 1
    capacity_tokens: int  # of the KV cache
    max_model_len: int
    max_num_seqs: int
    leases: int = 0  # held for peers
    prompt_tokens: int = 0  # computed in this pod's life
    transfers: TransferTotals = TransferTotals()


class KvEndpoint(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Where a pod's blocks can be READ, told once per life of its worker."""

    fingerprint: str
    session: str
    agent: str  # NIXL's name of it
    metadata: bytes  # NIXL's
    base: int  # address of block 0
    block_bytes: int
    num_blocks: int
    lease_base: int  # address of the words of `kv_transfer.lease_table`
    num_leases: int
    kind: Literal["DRAM", "VRAM"] = "DRAM"  # NIXL's word for the memory of the blocks; lease words are DRAM always
    device: Annotated[int, msgspec.Meta(ge=0)] = 0  # number of that memory's GPU in the pod


class PrefillCall(msgspec.Struct, frozen=True, kw_only=True):
    """Compute these tokens and hold their blocks for me. The receiver names the blocks itself."""

    request_id: str
    token_ids: bytes  # int32, little-endian; whole blocks
    root_hash: bytes  # where the chain of block hashes starts
    skip: int  # blocks at the beginning that the caller has
    fingerprint: str
    revision: str
    priority: int = 0


class Granted(msgspec.Struct, frozen=True, kw_only=True, tag="granted"):
    """The blocks that follow are held under this lease, until it is returned, or not renewed for `seconds`."""

    lease: int  # row of the lease table
    epoch: int  # what that row holds while the lease is good
    seconds: float


class Computed(msgspec.Struct, frozen=True, kw_only=True, tag="computed"):
    """Blocks `start …` of the prompt can be READ."""

    start: int  # index in the prompt's blocks
    blocks: list[int]  # block ids
    checksums: list[tuple[int, int]]  # (position in `blocks`, checksum of the block), a sample


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """No more blocks will come. `why` is empty if all came."""

    why: str = ""
    is_death: bool = False  # our engine died at it, which counts against the request


Announcement = Granted | Computed | Ended


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """Leases that the caller still needs, as (row, epoch)."""

    leases: list[tuple[int, int]]


class RoutedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A client's request as the router tells it to a pod: for the first time, or again with what has been generated."""

    path: str  # /v1/completions or /v1/chat/completions
    body: bytes  # the client's, JSON
    request_id: str
    salt: str | None = None  # of the tenant; the client has no say in it
    records: list[bytes] = []  # of all frames so far, in order; only pods read them
    num_deaths: int = 0  # engines that died with this in flight
    prefiller: str = ""  # internal address of the prefill pod to use; empty: the decode pod chooses
    is_plain: bool = False  # True: no frames, answer as the public port would (nothing can be told again)


ROUTABLE = ("/v1/completions", "/v1/chat/completions")
