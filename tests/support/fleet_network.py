"""Pods in network namespaces of their own on one bridge, and ways to spoil what lies between them.

A direction is cut by a wrong neighbour entry: frames leave for an address that nobody has, so that packets vanish
without a word, as on a real network.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from support.fleet_service import Place

NOBODY = "02:00:00:00:00:99"
NETWORK = "10.213.77"


def ip(*words: str, inside: str = "") -> None:
    run(*(("ip", "netns", "exec", inside) if inside else ()), "ip", *words)


def run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr.strip()}"


class Network:
    """A bridge, with the router's side at `.1`; each pod has its own namespace."""

    def __init__(self, tag: str) -> None:
        self._bridge = f"pb{tag}"
        self._tag = tag
        self.places: list[Place] = []
        ip("link", "add", self._bridge, "type", "bridge")
        ip("addr", "add", f"{NETWORK}.1/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")

    def add_place(self) -> Place:
        number = len(self.places) + 2
        name, outside, inside = f"pn{self._tag}-{number}", f"pv{self._tag}-{number}", f"pw{self._tag}-{number}"
        ip("netns", "add", name)
        self.places.append(Place(address=f"{NETWORK}.{number}", prefix=("ip", "netns", "exec", name)))
        ip("link", "add", outside, "type", "veth", "peer", "name", inside)
        ip("link", "set", inside, "netns", name)
        ip("link", "set", outside, "master", self._bridge)
        ip("link", "set", outside, "up")
        ip("link", "set", "lo", "up", inside=name)
        ip("link", "set", inside, "name", "eth0", inside=name)
        ip("addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0", inside=name)
        ip("link", "set", "eth0", "up", inside=name)
        return self.places[-1]

    def cut(self, source: Place, target: Place) -> None:
        """Nothing that `source` sends reaches `target` any more; the other direction works."""
        neighbour = ("neigh", "replace", target.address, "lladdr", NOBODY, "nud", "permanent", "dev", "eth0")
        ip(*neighbour, inside=source.prefix[-1])

    def heal(self, source: Place, target: Place) -> None:
        """As before `cut`."""
        ip("neigh", "del", target.address, "dev", "eth0", inside=source.prefix[-1])

    def slow(self, place: Place, megabits: float) -> None:
        """Bound what a pod can send."""
        words = ("rate", f"{megabits}mbit", "burst", "64kb", "latency", "400ms")
        run(*place.prefix, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *words)

    def close(self) -> None:
        for place in self.places:
            ip("netns", "del", place.prefix[-1])
        ip("link", "del", self._bridge)


@contextmanager
def network(tag: str) -> Iterator[Network]:
    """`tag`: a few letters that no other network of this machine has."""
    it = Network(tag)
    try:
        yield it
    finally:
        it.close()
