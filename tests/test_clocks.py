"""Nothing that decides anything reads the wall clock, so no jump of it matters."""

from __future__ import annotations

import ast
from pathlib import Path

RUNTIME = Path(__file__).parents[1] / "runtime/penstock"
PACKAGES = ("core", "engine", "internal", "kv_transfer", "router", "sampling", "server", "worker")
WALL = {"time", "time_ns", "now", "today", "utcnow", "localtime", "gmtime"}
CLOCKS = {"time", "datetime", "date"}


def wall_clocks(path: Path) -> list[tuple[int, str]]:
    """Where a module reads or passes on the wall clock, as (line, the line's text)."""
    text = path.read_text()
    lines, found = text.splitlines(), []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Attribute(value=ast.Name(id=module) | ast.Attribute(attr=module), attr=name):
                if module in CLOCKS and name in WALL:
                    found.append((node.lineno, lines[node.lineno - 1].strip()))
            case ast.ImportFrom(module="time" | "datetime", names=names) if {each.name for each in names} & WALL:
                found.append((node.lineno, lines[node.lineno - 1].strip()))
    return found


def test_the_wall_clock_is_only_read_to_say_when_an_answer_was_created():
    paths = [path for package in PACKAGES for path in sorted((RUNTIME / package).rglob("*.py"))]
    found = [(path.relative_to(RUNTIME), *each) for path in paths for each in wall_clocks(path)]
    assert [each for each in found if "created" not in each[2]] == []
    assert found, "the search finds nothing at all"
