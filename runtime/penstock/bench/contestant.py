"""An engine in a process of its own, driven line by line, so that engines take turns on one machine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from penstock.bench import job_loop
from penstock.errors import PenstockError
from penstock.loader.progress import say

OWN_ENGINE = Path(__file__).with_name("own_engine.py")
STDERR_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a job gave, and how long it took inside the engine's process."""

    seconds: float
    answer: Any


class Contestant:
    """A running engine; use it in a `with` statement. Raises `PenstockError` with its last words if it fails."""

    def __init__(self, name: str, engine_file: Path, options: Mapping[str, Any], python: str = sys.executable) -> None:
        self.name = name
        say(f"loading {name}")
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [python, "-P", job_loop.__file__, str(engine_file), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        try:
            self._read()
        except PenstockError:
            self.close()
            raise
        self.load_seconds = time.perf_counter() - began

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, job: str, **arguments: Any) -> Answer:
        """Have one job done."""
        assert self._process.stdin is not None, "no pipe"
        try:
            self._process.stdin.write(json.dumps({"job": job, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        return Answer(**self._read())

    def generate(self, prompts: Sequence[Sequence[int]], num_outputs: int) -> Answer:
        """Greedy continuations: `answer` has `num_outputs` token ids per prompt."""
        return self.run("generate", prompts=prompts, num_outputs=num_outputs)

    def memory(self) -> tuple[int, int]:
        """(resident bytes now, most ever) of the engine's process."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        now, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        return now, peak

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None, "no pipe"
        assert self._process.stdout is not None, "no pipe"
        try:
            self._process.stdin.close()
            self._process.wait(30)
        except BrokenPipeError:  # it is gone
            self._process.wait()
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "no pipe"
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        message: dict[str, Any] = json.loads(line)
        return message

    def _failure(self) -> PenstockError:
        code = self._process.wait()
        self._stderr.seek(0)
        last_words = "".join(self._stderr.readlines()[-STDERR_LINES:])
        return PenstockError(f"{self.name} ended with exit code {code}:\n{last_words}")
