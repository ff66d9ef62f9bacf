"""Penstock's own `LLM` on a GPU behind the job loop of the benchmarks, with a look at what the device does."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from penstock import LLM, SamplingParams
from penstock.bench.job_loop import Jobs

DEVICE_WORK = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
STEADY = (0.5, 0.95)  # of a trace: all requests decode


def load(options: dict[str, Any]) -> Jobs:
    """`generate`: greedy, `num_outputs` tokens for each prompt of token ids. `idle`: the same, traced; the shares of
    the time of steady decoding in which the device did nothing for longer than each of `gaps` (microseconds).

    `start`: what the worker said while it started. `options` are settings of `LLM`.
    """
    story = StartStory()
    logger = logging.getLogger("penstock.worker")
    logger.setLevel(logging.INFO)
    logger.addHandler(story)
    llm = LLM(**options)
    logger.removeHandler(story)

    def generate(prompts: list[list[int]], num_outputs: int) -> list[list[int]]:
        params = SamplingParams(temperature=0.0, max_tokens=num_outputs, ignore_eos=True)
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    def idle(prompts: list[list[int]], num_outputs: int, gaps: list[float]) -> list[float]:
        import torch

        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            generate(prompts, num_outputs)
            torch.cuda.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            profile.export_chrome_trace(str(file))
            events = json.loads(file.read_text())["traceEvents"]
        work = [(event["ts"], event["ts"] + event["dur"]) for event in events if event.get("cat") in DEVICE_WORK]
        return [idle_share(work, gap) for gap in gaps]

    return {"generate": generate, "idle": idle, "start": lambda: story.told}


class StartStory(logging.Handler):
    """Keeps what a worker logs of its start."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[float, str]] = []  # when, by the clock that all processes of a machine share; what

    def emit(self, record: logging.LogRecord) -> None:
        """One event."""
        self.told.append((time.perf_counter(), record.getMessage()))


def idle_share(work: Iterable[tuple[float, float]], gap: float) -> float:
    """Share of the steady part of a trace in which nothing runs for longer than `gap`; `work`: (begin, end) of all that
    the device did. NaN for no work."""
    ordered = sorted(work)
    if not ordered:
        return float("nan")
    first, last = ordered[0][0], max(end for _, end in ordered)
    begin, end = (first + share * (last - first) for share in STEADY)
    idle, until = 0.0, begin
    for start, stop in [*ordered, (end, end)]:
        start, stop = min(max(start, begin), end), min(max(stop, begin), end)
        if start - until > gap:
            idle += start - until
        until = max(until, stop)
    return idle / (end - begin) if end > begin else 0.0
