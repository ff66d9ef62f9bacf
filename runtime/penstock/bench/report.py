"""What every benchmark prints and writes: rows of figures, each with its limit or peer and the ratio to it."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 160  # columns, where the output is no terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. `ratio` is value / limit, or value / peer where there is a peer; None if there is neither."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    peer: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Share of the peer's figure, else of the limit."""
        reference = self.peer if self.peer is not None else self.limit
        return self.value / reference if reference else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The rows of one benchmark run on one machine."""

    benchmark: str
    command: str
    rows: list[Row]

    def as_json(self) -> dict[str, object]:
        """`{benchmark, command, commit, machine, rows: [{name, value, unit, limit, peer, ratio, note}]}`."""
        return {
            "benchmark": self.benchmark,
            "command": self.command,
            "commit": current_commit(),
            "machine": describe_machine(),
            "rows": [asdict(row) | {"ratio": row.ratio} for row in self.rows],
        }

    def publish(self, json_file: Path | None) -> None:
        """Print a table, and write the JSON where one is asked for."""
        table = Table(title=f"{self.benchmark} on {describe_machine()}", title_justify="left")
        for heading in ("figure", "value", "unit", "limit", "peer", "ratio", "note"):
            table.add_column(heading, justify="left" if heading in ("figure", "unit", "note") else "right")
        for row in self.rows:
            numbers = (row.value, row.limit, row.peer, row.ratio)
            value, limit, peer, ratio = ("" if n is None else f"{n:,.4g}" for n in numbers)
            table.add_row(row.name, value, row.unit, limit, peer, ratio, row.note)
        console = Console()
        Console(width=None if console.is_terminal else PLAIN_WIDTH).print(table)
        self.write(json_file)

    def write(self, json_file: Path | None) -> None:
        """Write the JSON where one is asked for."""
        if json_file is not None:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(self.as_json(), indent=1) + "\n")


def describe_machine() -> str:
    """Processor, cores and system in words; no host name."""
    name = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = f"{models[0]}, {len(models)} cores" if models else name
    return f"{name}, {platform.system()}, Python {platform.python_version()}"


def current_commit() -> str:
    """The checkout's commit, `-dirty` behind it if files changed; "unknown" outside a checkout."""
    folder = Path(__file__).parent
    if shutil.which("git") is None:
        return "unknown"
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=folder, capture_output=True, text=True
    )
    return described.stdout.strip() if described.returncode == 0 else "unknown"
