"""Latency and goodput of any OpenAI server under an open-loop load, offered by this process to a server in others.

Each rate is offered with several seeds; a figure is their median and its note the lowest and highest. Requests due in
the warm-up are sent and not counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from penstock import envs
from penstock.bench.latency import Objective, summarize, unit_of
from penstock.bench.load_generator import Load, Target, offer
from penstock.bench.own_server import OwnServer
from penstock.bench.plot import write_plot
from penstock.bench.report import Report, Row
from penstock.config import EMBEDDED_MODEL
from penstock.errors import ConfigError, PenstockError
from penstock.flags import MODEL_HELP

PLOTTED = ("goodput", "completed", "TTFT p99", "ITL p99")
MUST_EVENTS, STRETCH_EVENTS = 10_000.0, 25_000.0
BURST = 64  # streams at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this benchmark."""
    add = parser.add_argument
    add("--url", metavar="URL", help="a running OpenAI server; default: start penstock serve")
    add("--model", metavar="MODEL", help=f"with --url the name to ask for (default: its first); else: {MODEL_HELP}")
    add("--chat", action="store_true", help="chat completions with text; default: completions with token ids")
    add("--no-ignore-eos", action="store_true", help="leave out ignore_eos, which strict servers refuse")
    add("--rates", default="1,2,4", metavar="LIST", help="requests per second (default: 1,2,4)")
    add("--seconds", type=float, default=30.0, metavar="X", help="counted time per rate and seed (default: 30)")
    add("--warm-up", type=float, default=5.0, metavar="X", help="time before it that is not counted (default: 5)")
    add("--seeds", type=int, default=3, metavar="N", help="loads per rate (default: 3)")
    add("--burstiness", type=float, default=1.0, metavar="X", help="variation of the gaps: 1 Poisson, 2 bursty (Gamma)")
    add("--prompt-tokens", type=int, default=128, metavar="N", help="(default: 128)")
    add("--output-tokens", type=int, default=64, metavar="N", help="(default: 64)")
    add("--slo-ttft-ms", type=float, default=200.0, metavar="X", help="first token in time (default: 200)")
    add("--slo-itl-ms", type=float, default=50.0, metavar="X", help="99 %% of the gaps in time (default: 50)")
    add("--plot", type=Path, metavar="FILE.svg", help="write curves over the offered rate")
    add("--json", type=Path, metavar="FILE", help="write the figures to FILE")


def run(options: argparse.Namespace) -> int:
    """Measure, print, write; returns the exit code: 1 if any request failed that was not turned away politely."""
    rates = rates_of(options.rates)
    rows: list[Row] = []
    curves: dict[float, dict[str, float]] = {}
    is_failed = False
    with ExitStack() as stack:
        own = None if options.url else stack.enter_context(OwnServer([options.model or EMBEDDED_MODEL]))
        if own is not None:
            own.wait_ready()
        target = target_of(own.url if own is not None else options.url, options)
        for rate in rates:
            runs = []
            for seed in range(options.seeds):
                exchanges = offer(target, load_of(options, rate, seed))
                runs.append(summarize(exchanges, options.warm_up, options.warm_up + options.seconds, slo_of(options)))
            rows += rows_of(rate, runs)
            curves[rate] = {name: statistics.median(figures[name] for figures in runs) for name in PLOTTED}
            is_failed |= any(figures["failed"] for figures in runs)
        rows.append(best_row(curves))
        if own is not None:
            rows += burst_rows(own, target, options)
    if options.plot is not None:
        write_plot(options.plot, curves)
    Report(benchmark="serve", command=command_of(options), rows=rows).publish(options.json)
    return int(is_failed)


def rates_of(words: str) -> list[float]:
    """The rates that were asked for. Raises `ConfigError`."""
    try:
        rates = [float(word) for word in words.split(",")]
    except ValueError:
        rates = []
    if not rates or min(rates) <= 0:
        raise ConfigError("rates", f"{words!r} is not a list of positive numbers such as 1,2,4")
    return rates


def target_of(url: str, options: argparse.Namespace) -> Target:
    """The server and how it is spoken to; the first key of PENSTOCK_API_KEY is presented. Raises `PenstockError`."""
    url = url.removesuffix("/").removesuffix("/v1")
    keys = envs.api_keys()
    api_key = keys[0] if keys else None
    return Target(
        url=url,
        model=(options.model if options.url else None) or model_name(url, api_key),
        is_chat=options.chat,
        has_ignore_eos=not options.no_ignore_eos,
        api_key=api_key,
    )


def model_name(url: str, api_key: str | None = None) -> str:
    """The first model that the server names. Raises `PenstockError` if nobody answers."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/models", headers=headers), timeout=10) as answer:
            name: str = json.load(answer)["data"][0]["id"]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise PenstockError(f"--url: {url} does not answer like an OpenAI server: {error}") from error
    return name


def load_of(options: argparse.Namespace, rate: float, seed: int) -> Load:
    """The load of one rate and seed, warm-up included."""
    return Load(
        rate=rate,
        seconds=options.warm_up + options.seconds,
        burstiness=options.burstiness,
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.output_tokens,
        seed=round(rate * 1000) * 100 + seed,
    )


def slo_of(options: argparse.Namespace) -> Objective:
    """What counts as good."""
    return Objective(first=options.slo_ttft_ms / 1000, gap=options.slo_itl_ms / 1000)


def rows_of(rate: float, runs: list[dict[str, float]]) -> list[Row]:
    """One row per figure: the median over the seeds, with the lowest and highest."""
    rows = []
    for name in runs[0]:
        values = [figures[name] for figures in runs]
        spread = f"{min(values):,.4g} to {max(values):,.4g}"
        limit = statistics.median(figures["offered"] for figures in runs) if name in ("completed", "goodput") else None
        rows.append(
            Row(
                name=f"{rate:g} req/s: {name}",
                value=statistics.median(values),
                unit=unit_of(name),
                limit=limit,
                note=spread,
            )
        )
    return rows


def best_row(curves: dict[float, dict[str, float]]) -> Row:
    """The highest goodput of all rates, beside what was completed there."""
    rate = max(curves, key=lambda rate: -math.inf if math.isnan(curves[rate]["goodput"]) else curves[rate]["goodput"])
    note = f"at {rate:g} req/s; limit: what was completed there"
    best = curves[rate]
    return Row(name="peak goodput", value=best["goodput"], unit="req/s", limit=best["completed"], note=note)


def burst_rows(own: OwnServer, target: Target, options: argparse.Namespace) -> list[Row]:
    """All streams at once: tokens per second over HTTP, and events per CPU second of the front-end (parsing,
    tokenising, metrics and events)."""
    load = dataclasses.replace(load_of(options, 1.0, 0), rate=0.0, seconds=0.0, at_once=BURST)
    offer(target, dataclasses.replace(load, seed=load.seed + 50))  # warm-up
    cpu = own.front_end_cpu()
    exchanges = [exchange for exchange in offer(target, load) if exchange.is_complete]
    cpu = own.front_end_cpu() - cpu
    if not exchanges:
        raise PenstockError("the server completed none of the requests that came at once")
    seconds = max(exchange.events[-1] for exchange in exchanges)
    num_events = sum(len(exchange.events) for exchange in exchanges)
    tokens = sum(exchange.num_tokens for exchange in exchanges)
    note = f"must >= {MUST_EVENTS:,.0f}, stretch {STRETCH_EVENTS:,.0f}; {num_events:,} events in {cpu:.2f} CPU seconds"
    name = f"{len(exchanges)} at once"
    return [
        Row(name=f"{name}: output, prompts included", value=tokens / seconds, unit="tok/s"),
        Row(
            name=f"{name}: events per front-end CPU second",
            value=num_events / max(cpu, 0.01),
            unit="1/s",
            limit=MUST_EVENTS,
            note=note,
        ),
    ]


def command_of(options: argparse.Namespace) -> str:
    """The command line that gives this report again."""
    target = "--url URL" if options.url else f"--model {options.model or EMBEDDED_MODEL}"
    target += " --chat" if options.chat else ""
    load = f"--rates {options.rates} --seconds {options.seconds:g} --seeds {options.seeds}"
    sizes = f"--prompt-tokens {options.prompt_tokens} --output-tokens {options.output_tokens}"
    return f"penstock bench serve {target} {load} --burstiness {options.burstiness:g} {sizes}"
