"""One measured figure: its time beside what the device needs at best and beside peers, unless the output was wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.bench.gpu.clock import Timing
from penstock.bench.gpu.limits import Limits

NOT_INSTALLED = "not installed"
RIGHT, WRONG, NOT_RUN, FAILED = "right", "wrong", "not run", "failed"
OUT_OF_MEMORY = "OutOfMemoryError"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFigure:
    """A peer's time on the same inputs; without one `note` says why."""

    timing: Timing | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One of our kernels at one shape."""

    op: str
    model: str
    shape: str
    num_bytes: int  # the fewest that have to move: inputs read once, outputs written once
    operations: int  # of the matrix units
    timing: Timing | None  # None: the device could not run it, see `note`
    error: float  # relative, against the reference in float32; NaN is never right
    allowed: float
    peers: Mapping[str, PeerFigure] = field(default_factory=dict)
    note: str = ""

    @property
    def is_right(self) -> bool:
        """True if it ran and its output was the reference's."""
        return self.timing is not None and self.error <= self.allowed

    @property
    def verdict(self) -> str:
        """`RIGHT`, `WRONG`, `NOT_RUN` where the device has too little memory, or `FAILED`."""
        if self.timing is None:
            return NOT_RUN if self.note.startswith(OUT_OF_MEMORY) else FAILED
        return RIGHT if self.is_right else WRONG

    def share(self, limits: Limits) -> float | None:
        """Share of the measured copy or matmul rate, whichever binds; None for a wrong output."""
        return share_of(self.timing, self, limits) if self.is_right else None

    def as_json(self, limits: Limits) -> dict[str, object]:
        """Plain numbers; times and rates are null where the output was wrong."""
        timing = self.timing if self.is_right else None
        bound = limits.bound(self.num_bytes, self.operations)
        amount = self.operations / 1e12 if bound == "matmul" else self.num_bytes / 1e9
        return {
            "op": self.op,
            "model": self.model,
            "shape": self.shape,
            **times_of(timing),
            "bytes": self.num_bytes,
            "operations": self.operations,
            "bound": bound,
            "rate": amount / timing.median if timing else None,
            "unit": "TFLOP/s" if bound == "matmul" else "GB/s",
            "percent": as_percent(self.share(limits)),
            "error": None if self.error != self.error else self.error,
            "allowed": self.allowed,
            "verdict": self.verdict,
            "note": self.note,
            "peers": {
                name: {
                    **times_of(peer.timing),
                    "percent": as_percent(share_of(peer.timing, self, limits)),
                    "note": peer.note,
                }
                for name, peer in self.peers.items()
            },
        }


def share_of(timing: Timing | None, figure: Figure, limits: Limits) -> float | None:
    """Share of the limits that a time on the figure's shape is; None without a time."""
    return limits.floor(figure.num_bytes, figure.operations) / timing.median if timing else None


def as_percent(share: float | None) -> float | None:
    """A share in percent."""
    return None if share is None else 100 * share


def times_of(timing: Timing | None) -> dict[str, object]:
    """A timing in microseconds."""
    if timing is None:
        return {"microseconds": None, "low": None, "high": None, "repeats": 0, "is_graph": False}
    return {
        "microseconds": timing.median * 1e6,
        "low": timing.low * 1e6,
        "high": timing.high * 1e6,
        "repeats": timing.repeats,
        "is_graph": timing.is_graph,
    }
