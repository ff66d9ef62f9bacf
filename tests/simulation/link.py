"""What lies between a pod's step loop and its connector's thread: everything is noted, and the world carries it on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from penstock.kv_transfer.lender import News
from penstock.kv_transfer.peer import PeerView
from penstock.kv_transfer.switchboard import Happened, Order


class Link:
    """Stands where `penstock.kv_transfer.link.Link` stands; `tell` gets what peers are to be told."""

    def __init__(self, tell: Callable[[Sequence[News]], None] | None = None) -> None:
        self.inbox: deque[Happened] = deque()
        self.orders: list[Order] = []
        self.cancelled: list[int] = []  # arrivals
        self.views: tuple[PeerView, ...] = ()
        self.num_pulled_bytes = 0
        self._tell = tell

    @property
    def has_news(self) -> bool:
        return bool(self.inbox)

    def num_announced(self, number: int) -> int:
        return 0

    def take(self) -> list[Happened]:
        news = list(self.inbox)
        self.inbox.clear()
        return news

    def fetch(self, order: Order) -> None:
        self.orders.append(order)

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)

    def announce(self, news: Sequence[News]) -> None:
        assert self._tell is not None, "a pod that lends nothing has something to tell"
        self._tell(news)

    def forget_client(self, client: int) -> None:
        """Nothing is kept for clients here."""
