"""A `penstock serve` started for a benchmark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from penstock.bench.own_process import OwnProcess
from penstock.commands.members import HOST, PENSTOCK, free_ports

FRONT_END = "penstock:api"


class OwnServer(OwnProcess):
    """A server process and its children; use it in a `with` statement. Ready once `wait_ready` returned.

    `words` go behind `penstock serve`; `cache` is another model cache than the usual one.
    """

    def __init__(self, words: Sequence[str], cache: Path | None = None) -> None:
        [port] = free_ports(1)
        self.url = f"http://{HOST}:{port}"
        settings = [] if cache is None else ["env", f"PENSTOCK_CACHE={cache}"]
        super().__init__([*settings, *PENSTOCK, "serve", *words, "--port", str(port)], f"{self.url}/readyz")

    def load_seconds(self) -> float | None:
        """How long the weights took, by the server's own account."""
        found = re.search(r"loaded in ([\d.]+) s", self.text())
        return float(found[1]) if found else None

    def front_end_cpu(self) -> float:
        """CPU seconds that the front-end processes have used until now."""
        return self.cpu_seconds(FRONT_END)
