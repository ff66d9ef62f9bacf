"""Tell a person what takes a while: a bar on a terminal, one line elsewhere. Always on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def is_terminal() -> bool:
    """Whether someone can watch a bar."""
    return sys.stderr.isatty()


def say(text: str) -> None:
    """One line about what begins now."""
    print(f"penstock: {text}", file=sys.stderr, flush=True)


@contextmanager
def progress_bar(text: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar of `total` parts; the function that it yields moves it on by one."""
    if not is_terminal():
        say(text)
        yield lambda: None
        return
    from rich.console import Console  # a quarter of the start-up time of the command line, so only when it is shown
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)
