"""Write the GPU section of docs/performance.md, and its chart, from the figures in bench/results.

python bench/gpu_page.py        after a run of bench/gpu.py whose JSON files were copied to bench/results/DEVICE/
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.bench.plot import write_bars

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE, CHART = ROOT / "bench/results", ROOT / "docs/performance.md", ROOT / "docs/gpu.svg"
BEGIN, END = "<!-- bench/gpu_page.py writes what follows -->", "<!-- and ends here -->"
PEERS = ("SDPA", "FlexAttention", "FA3", "torch")
COMMAND = "python bench/gpu.py --out DIR --wheels DIR"
NOTHING = f"""**No GPU has run this yet.** The kernels are proven in Triton's interpreter and compiled for Hopper, which
says nothing about speed. On a machine with a GPU, without a network and in under ten minutes:

```
{COMMAND}    # limits, tests, kernels beside peers, best launches, whole models: JSON into DIR
python bench/gpu_page.py                         # after copying it to bench/results/DEVICE/: writes this section
```
"""


def gpu_folders(results: Path) -> list[Path]:
    """Folders with figures of a GPU."""
    return sorted(file.parent for file in results.glob("*/kernels.json"))


def section(folders: Sequence[Path]) -> str:
    """The section's text; what is to be done where there are no figures."""
    if not folders:
        return NOTHING
    return "\n".join(device_section(folder) for folder in folders)


def device_section(folder: Path) -> str:
    """All tables of one device."""
    kernels = json.loads((folder / "kernels.json").read_text())
    limits = kernels["limits"]
    lines = [
        f"### {kernels['device']}",
        "",
        f"`{COMMAND}`, commit `{kernels['commit']}`. Measured in the same run: copy {limits['copy_gb_per_s']:,.0f} "
        f"GB/s, bf16 matmul {limits['matmul_tflop_per_s']:,.0f} TFLOP/s, empty launch {limits['launch_us']:.1f} µs.",
        "Shares are of the one that binds; times are medians of replayed graphs with the L2 cache flushed before each; "
        "peers get contiguous caches.",
        "",
    ]
    if (file := folder / "offline.json").is_file():
        rows = json.loads(file.read_text())["rows"]
        lines += ["| whole model, random weights | measured | limit | peer | ratio | |", "|---|---|---|---|---|---|"]
        lines += [model_line(row) for row in rows if not row["name"].startswith("limit:")]
        lines.append("")
    lines += [f"![share of the device's limits]({CHART.name})", ""]
    lines += [f"| kernel | µs | rate | share | {' | '.join(PEERS)} |", f"|---|---|---|---|{'---|' * len(PEERS)}"]
    lines += [kernel_line(figure) for figure in kernels["figures"]]
    for model, ratio in kernels["skewed_over_balanced"].items():
        lines += ["", f"{model}: skewed decode takes **{ratio:.2f}** times as long as the balanced one (must: 1.25)."]
    if kernels["left_out"]:
        lines += ["", f"No time was left for {', '.join(kernels['left_out'])}."]
    return "\n".join(lines) + "\n"


def model_line(row: Mapping[str, Any]) -> str:
    """A row of a report as a line of a table."""
    value, limit, peer = ("" if row[key] is None else f"{row[key]:,.4g}" for key in ("value", "limit", "peer"))
    ratio = "" if row["ratio"] is None else f"**{row['ratio']:.2f}**"
    return f"| {row['name'].strip()} | {value} {row['unit']} | {limit} | {peer} | {ratio} | {row['note']} |"


def kernel_line(figure: Mapping[str, Any]) -> str:
    """A kernel as a line of a table."""
    name = " ".join(part for part in (figure["model"], figure["op"], figure["shape"]) if part)
    cells = [f"**{figure['verdict']}**", "", ""]
    if figure["verdict"] == "right":
        share = f"**{figure['percent']:.0f} %** {figure['bound']}" if figure["bytes"] else ""
        rate = f"{figure['rate']:,.0f} {figure['unit']}" if figure["bytes"] else ""
        cells = [f"{figure['microseconds']:,.1f}", rate, share]
    return f"| {name} | {' | '.join([*cells, *(peer_cell(figure['peers'].get(peer)) for peer in PEERS)])} |"


def peer_cell(peer: Mapping[str, Any] | None) -> str:
    """A peer's time, or why there is none."""
    if peer is None:
        return ""
    return str(peer["note"]) if peer["microseconds"] is None else f"{peer['microseconds']:,.1f}"


def chart_bars(folder: Path) -> dict[str, dict[str, float]]:
    """Percent of the limit of each attention shape, ours and peers'."""
    bars: dict[str, dict[str, float]] = {}
    for figure in json.loads((folder / "kernels.json").read_text())["figures"]:
        if figure["op"] == "paged_attention" and figure["verdict"] == "right":
            peers = {name: peer["percent"] for name, peer in figure["peers"].items() if peer["percent"] is not None}
            bars[f"{figure['model']} {figure['shape']}"] = {"Penstock": figure["percent"], **peers}
    return bars


def write_page(results: Path, page: Path, chart: Path) -> None:
    """Put the section between its marks, and the chart beside it."""
    folders, text = gpu_folders(results), page.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{section(folders)}\n{END}{after}")
    if folders:
        write_bars(chart, chart_bars(folders[-1]))


if __name__ == "__main__":
    write_page(RESULTS, PAGE, CHART)
    sys.exit(0)
