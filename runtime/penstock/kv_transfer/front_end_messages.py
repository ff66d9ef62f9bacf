"""What front-ends are told of transfers, past the step loop: part of `engine.messages.EngineOutput`."""

from __future__ import annotations

import msgspec

from penstock.internal.protocol import Announcement


class LendNews(msgspec.Struct, frozen=True, kw_only=True, tag="lend"):
    """What a peer is to be told of the blocks that are held for it. None: the lease is over, nothing will follow."""

    epoch: int
    handle: int
    news: Announcement | None


class Strike(msgspec.Struct, frozen=True, kw_only=True, tag="strike"):
    """A prefill pod's engine died while it worked on this request: it counts like a death of our own."""

    epoch: int
    handle: int
