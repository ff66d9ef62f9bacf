"""Which pod gets a request: the one that saw the beginning of its prompt last, as long as it is not busier than others.

Prefix affinity with bounded loads (after Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads",
2016), with rendezvous hashing for prompts that nobody has seen. Pure: same arguments, same choice.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

LENGTHS = tuple(256 << power for power in range(8))  # bytes of the prompt that get a hash: 256 to 32,768
DIGEST_BYTES = 12
MAX_REMEMBERED = 1 << 16  # prefixes
QUEUE_SHARE = 4  # a pod may have a queue of a 4th of what runs there, so that it never runs dry between two polls
SHORTEST_QUEUE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A pod that could take a request."""

    address: str
    revision: str = ""
    num_own: int  # our requests there now
    num_polled_own: int  # … when it told the following
    running: int
    waiting: int
    max_num_seqs: int
    is_full: bool = False  # it said so a moment ago
    polled_at: float = 0.0  # seconds

    @property
    def load(self) -> int:
        """Requests there now: ours, and those of others when we last heard of them."""
        return self.num_own + max(0, self.running + self.waiting - self.num_polled_own)

    @property
    def max_queue(self) -> int:
        """Requests that may wait there."""
        return max(SHORTEST_QUEUE, self.max_num_seqs // QUEUE_SHARE)

    @property
    def has_room(self) -> bool:
        """True if one more request would run soon.

        What came since the last poll is counted as waiting, unless nothing waited and rows were free. So a pod whose
        KV cache is full gets one request for each that it ends, whatever its number of rows.
        """
        free_rows = 0 if self.waiting else max(0, self.max_num_seqs - self.running)
        growth = self.num_own - self.num_polled_own
        return (
            not self.is_full
            and self.load < self.max_num_seqs + self.max_queue
            and self.waiting + growth < free_rows + self.max_queue
        )


def prefix_keys(salt: str | None, text: bytes) -> tuple[bytes, ...]:
    """Hashes of the beginning of a prompt at several lengths and of all of it, longest first; salts keep them apart."""
    digest = blake2b((salt or "").encode(), digest_size=DIGEST_BYTES)
    keys, done = [], 0
    for length in LENGTHS:
        if length >= len(text):
            break
        digest.update(text[done:length])
        keys.append(digest.digest())
        done = length
    digest.update(text[done : LENGTHS[-1] * 2])
    keys.append(digest.digest())
    return tuple(reversed(keys))


class Affinity:
    """Which pod saw a prefix last; forgets what was not used for longest."""

    def __init__(self, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._seen: OrderedDict[bytes, str] = OrderedDict()

    def remember(self, keys: Iterable[bytes], address: str) -> None:
        """`address` gets a prompt with these prefixes."""
        for key in keys:
            self._seen[key] = address
            self._seen.move_to_end(key)
        while len(self._seen) > self._max_remembered:
            self._seen.popitem(last=False)

    def find(self, keys: Iterable[bytes], among: Collection[str]) -> str | None:
        """Who saw the longest of the prefixes last, among these."""
        return next((seen for key in keys if (seen := self._seen.get(key)) in among), None)

    def __len__(self) -> int:
        return len(self._seen)


def choose(candidates: Sequence[Candidate], keys: Sequence[bytes], affinity: Affinity, *, slack: float) -> Candidate:
    """The best of `candidates`, of which there is at least one.

    A pod with more than `1 + slack` times the mean load gets nothing; a prefix that it has cached is worth rounding up.
    """
    loads = {candidate.address: candidate.load for candidate in candidates}
    mean = (sum(loads.values()) + 1) / len(candidates)
    bound = max(1.0, (1 + slack) * mean)
    by_address = {candidate.address: candidate for candidate in candidates}
    lenient = {address for address, load in loads.items() if load + 1 <= math.ceil(bound)}
    if (seen := affinity.find(keys, lenient)) is not None:
        return by_address[seen]
    strict = [address for address, load in loads.items() if load + 1 <= bound]
    if not strict:
        least = min(loads.values())
        strict = [address for address, load in loads.items() if load == least]
    first = keys[-1] if keys else b""
    return by_address[max(strict, key=lambda address: weight(first, address))]


def weight(key: bytes, address: str) -> bytes:
    """Rendezvous hashing: the pod with the greatest weight for a key gets it."""
    return blake2b(address.encode(), key=key[:64], digest_size=8).digest()


def usable_again(
    candidates: Sequence[Candidate], lost_at: Mapping[str, float], revision: str | None
) -> Sequence[Candidate]:
    """Those that may get a request which was lost at some pods: others first, and of its own revision if there is one.

    One that lost it counts again only after it has answered since.
    """
    alive = [one for one in candidates if one.polled_at > lost_at.get(one.address, -math.inf)]
    fresh = [one for one in alive if one.address not in lost_at] or alive
    return [one for one in fresh if one.revision == revision] or fresh
