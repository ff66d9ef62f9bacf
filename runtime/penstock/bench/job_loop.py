"""Answer jobs with one engine: `python job_loop.py ENGINE.py '{"model": …, "threads": 2}'`, in the engine's own Python.

`ENGINE.py` has `load(options) -> {job: function}`. After a first line `{}` (loaded), each JSON line on standard input,
`{"job": …, arguments …}`, is answered by one line `{"seconds": …, "answer": …}`. What libraries print goes to standard
error. Standard library only: the Python of a peer has no Penstock.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

Jobs = Mapping[str, Callable[..., Any]]


def main(engine_file: str, options: str) -> None:
    """Load the engine, say so, and answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    jobs = load_engine(engine_file)(json.loads(options))
    say(answers, {})
    for line in sys.stdin:
        job = json.loads(line)
        function = jobs[job.pop("job")]
        began = time.perf_counter()
        answer = function(**job)
        say(answers, {"seconds": time.perf_counter() - began, "answer": answer})


def load_engine(file: str) -> Callable[[dict[str, Any]], Jobs]:
    """The function `load` of a Python file."""
    spec = importlib.util.spec_from_file_location("engine_under_test", file)
    assert spec is not None, file
    assert spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    load: Callable[[dict[str, Any]], Jobs] = module.load
    return load


def say(answers: TextIO, message: Mapping[str, Any]) -> None:
    """One line, at once."""
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
