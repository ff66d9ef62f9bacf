"""Watch a service: queues, KV cache, transfers and tokens per second of its pods, as its router or a pod tells them."""

from __future__ import annotations

import argparse
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from penstock import envs
from penstock.errors import ConfigError, PenstockError
from penstock.flags import Parser
from penstock.internal.fleet import FLEET_PATH, Fleet, FleetEndpoint

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

TIMEOUT = 10.0  # seconds
BAR_WIDTH = 8  # characters
STATE_COLOURS = {"ready": "green", "draining": "yellow", "loading": "yellow", "down": "red", "refused": "red"}
HEADINGS = ("pod", "role", "state", "running", "waiting", "queued", "KV cache", "tokens/s")
TRANSFER_HEADINGS = ("transfers", "MB/s", "failed", "fallbacks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the service said at one moment (seconds, monotonic)."""

    moment: float
    fleet: Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one pod did per second between two snapshots; 0 where it was not in the first one or began anew."""

    tokens: float = 0.0
    transfers: float = 0.0
    bytes: float = 0.0


def add_arguments(parser: Parser) -> None:
    """Where to look, and how."""
    parser.epilog = "environment: PENSTOCK_API_KEY (its first key is presented)"
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000", metavar="URL", help="of a router or pod (default: %(default)s)")
    add("--json", action="store_true", help="print one snapshot as JSON and end")
    add("--interval", default=1.0, type=float, metavar="S", help="seconds between two looks (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Show it once or until interrupted; returns the exit code. Raises `PenstockError` if the URL does not answer."""
    if not 0.1 <= args.interval <= 3600:
        raise ConfigError("interval", f"{args.interval:g} is not between 0.1 and 3600 seconds")
    url = base_of(args.url)
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(fetch(url)), indent=1).decode())
        return 0
    return watch(url, args.interval)


def base_of(url: str) -> str:
    """`host:port` or the base address of an API as a plain base address."""
    url = url if "://" in url else f"http://{url}"
    return url.rstrip("/").removesuffix("/v1")


def fetch(url: str) -> Fleet:
    """What the service says now. Raises `PenstockError`."""
    keys = envs.api_keys()
    headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url + FLEET_PATH, headers=headers), timeout=TIMEOUT
        ) as reply:
            return msgspec.json.decode(reply.read(), type=Fleet)
    except urllib.error.HTTPError as error:
        raise PenstockError(f"--url: {url}{FLEET_PATH} answers {error.code}: {meaning_of(error.code)}") from None
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "reason", error)
        raise PenstockError(f"--url: {url} does not answer like a Penstock router or pod: {reason}") from None


def meaning_of(status: int) -> str:
    """What a person should look at."""
    if status in (401, 403):
        return "set PENSTOCK_API_KEY to a key of this service"
    return "is this a router (penstock route) or a pod (penstock serve) of this version?"


def watch(url: str, interval: float) -> int:
    """The live view, until interrupted; a service that stops answering is shown as such and asked again."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    before, console = Snapshot(moment=time.monotonic(), fleet=fetch(url)), Console()
    if not console.is_terminal:
        raise ConfigError("json", "the live view needs a terminal; --json prints one snapshot")
    try:
        with Live(view(url, before, before), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                try:
                    after = Snapshot(moment=time.monotonic(), fleet=fetch(url))
                except PenstockError as error:
                    live.update(Text(str(error), style="red"), refresh=True)
                    continue
                live.update(view(url, before, after), refresh=True)
                before = after
    except KeyboardInterrupt:
        return 0


def view(url: str, before: Snapshot, after: Snapshot) -> RenderableType:
    """The whole picture: a line about the service, a row for each pod, what is wrong with pods, the router's totals."""
    from rich.console import Group
    from rich.text import Text

    endpoints = after.fleet.endpoints
    rates = rates_of(before, after)
    num_ready = sum(endpoint.state == "ready" for endpoint in endpoints)
    tokens = sum(rate.tokens for rate in rates.values())
    moved = sum(rate.bytes for rate in rates.values())
    head = (
        f"{url}   {num_ready} of {len(endpoints)} pods ready   {tokens:,.0f} tokens/s   {moved / 1e6:,.1f} MB/s moved"
    )
    troubles = (Text(f"{each.name or each.url}: {each.why}", style="red") for each in endpoints if each.why)
    router = (Text(line) for line in router_lines(before, after))
    return Group(Text(head, style="bold"), table_of(endpoints, rates), *troubles, *router)


def table_of(endpoints: list[FleetEndpoint], rates: dict[str, Rates]) -> Table:
    """A row for each pod."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in HEADINGS + TRANSFER_HEADINGS:
        is_word = heading in ("pod", "role", "state", "KV cache")
        table.add_column(heading, justify="left" if is_word else "right", no_wrap=True)
    for endpoint in endpoints:
        rate, totals = rates[endpoint.url], endpoint.transfers
        table.add_row(
            endpoint.name or endpoint.url,
            endpoint.role,
            Text(endpoint.state, style=STATE_COLOURS.get(endpoint.state, "")),
            f"{endpoint.running:,}",
            f"{endpoint.waiting:,}",
            f"{endpoint.queued_tokens:,}",
            bar(endpoint.kv_usage),
            f"{rate.tokens:,.0f}",
            f"{totals.count:,} ({rate.transfers:,.1f}/s)",
            f"{rate.bytes / 1e6:,.1f}",
            f"{totals.failed:,}",
            f"{totals.fallbacks:,}",
        )
    return table


def bar(share: float) -> str:
    """`███░░░░░  33 %`."""
    filled = round(min(1.0, max(0.0, share)) * BAR_WIDTH)
    return f"{'█' * filled}{'░' * (BAR_WIDTH - filled)} {share * 100:3.0f} %"


def router_lines(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """One line, where a router answers."""
    totals = after.fleet.router
    if totals is None:
        return
    seconds, earlier = after.moment - before.moment, before.fleet.router
    rate = per_second(earlier.completed, totals.completed, seconds) if earlier is not None else 0.0
    yield (
        f"router: {totals.in_flight:,} in flight, {totals.held:,} held, {totals.completed:,} completed "
        f"({rate:,.1f}/s), {totals.rejected:,} rejected, {totals.resumed:,} went on at another pod"
    )


def rates_of(before: Snapshot, after: Snapshot) -> dict[str, Rates]:
    """For each pod of the later snapshot, by its address."""
    earlier = {endpoint.url: endpoint for endpoint in before.fleet.endpoints}
    return {
        endpoint.url: rates_between(earlier.get(endpoint.url, endpoint), endpoint, after.moment - before.moment)
        for endpoint in after.fleet.endpoints
    }


def rates_between(before: FleetEndpoint, after: FleetEndpoint, seconds: float) -> Rates:
    """What one pod did per second."""
    return Rates(
        tokens=per_second(before.output_tokens, after.output_tokens, seconds),
        transfers=per_second(before.transfers.count, after.transfers.count, seconds),
        bytes=per_second(before.transfers.bytes, after.transfers.bytes, seconds),
    )


def per_second(before: int, after: int, seconds: float) -> float:
    """The rate of a counter; 0 where it fell, which means that its pod began anew."""
    return max(0, after - before) / seconds if seconds > 0 else 0.0
