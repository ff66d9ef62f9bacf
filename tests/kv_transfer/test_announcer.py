from __future__ import annotations

from random import Random

from penstock.core.request import RequestKey
from penstock.internal.protocol import Computed, Ended, Granted
from penstock.kv_transfer.announcer import Announcer
from penstock.kv_transfer.lender import News

KEY, OTHER = RequestKey(0, 1), RequestKey(0, 2)
GRANTED = Granted(lease=1, epoch=5, seconds=10.0)


class Watch:
    def __init__(self, share: float) -> None:
        self.asked, self.told = [], []
        self.announcer = Announcer(
            share,
            Random(1),
            ask=self.asked.append,
            tell=lambda key, announcement: self.told.append((key, announcement)),
        )


def computed(start, *blocks, checksums=()):
    return Computed(start=start, blocks=list(blocks), checksums=list(checksums))


def test_without_checksums_everything_is_told_at_once():
    watch = Watch(0.0)
    news = [News(KEY, GRANTED), News(KEY, computed(0, 7, 8)), News(KEY, Ended()), News(KEY, None)]
    watch.announcer.announce(news)
    assert watch.told == news
    assert watch.asked == []


def test_each_is_told_in_order_when_its_checksums_are_there_and_nobody_waits_for_another():
    watch = Watch(1.0)
    watch.announcer.announce([News(KEY, GRANTED), News(KEY, computed(0, 7, 8)), News(KEY, computed(2, 9))])
    watch.announcer.announce([News(KEY, Ended()), News(OTHER, GRANTED)])
    assert watch.told == [(KEY, GRANTED), (OTHER, GRANTED)]
    first, second = watch.asked
    assert (first.blocks.tolist(), second.blocks.tolist()) == ([7, 8], [9])
    watch.announcer.take(second.call, [99])
    assert len(watch.told) == 2, "the blocks before these are not known yet"
    watch.announcer.take(first.call, [77, 88])
    assert watch.told[2:] == [
        (KEY, computed(0, 7, 8, checksums=[(0, 77), (1, 88)])),
        (KEY, computed(2, 9, checksums=[(0, 99)])),
        (KEY, Ended()),
    ]
    watch.announcer.take(first.call, [1, 2])
    assert len(watch.told) == 5


def test_a_share_of_the_blocks_is_checked_wherever_it_falls():
    watch = Watch(0.25)
    for start in range(0, 4000, 40):
        watch.announcer.announce([News(KEY, computed(start, *range(1, 41)))])
    positions = [block for ask in watch.asked for block in ask.blocks.tolist()]
    assert 850 < len(positions) < 1150
    assert set(positions) == set(range(1, 41))
