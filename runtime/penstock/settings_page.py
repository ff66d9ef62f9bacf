"""Writes the reference of all settings: `python -m penstock.settings_page docs/settings.md`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from penstock.config import EngineConfig
from penstock.router.config import RouterConfig

HEAD = """# Settings

This page is generated from `runtime/penstock/config.py` and `runtime/penstock/router/config.py` by `make generate`.
"""
PARTS = (
    (
        EngineConfig,
        "\n# penstock serve\n\nFlags, and the same names (with underscores) as arguments of `LLM(...)`.\n",
    ),
    (RouterConfig, "\n# penstock route\n\nFlags of the router.\n"),
)


def build_page() -> str:
    """The page as Markdown."""
    return HEAD + "".join(head + build_part(config()) for config, head in PARTS)


def build_part(config: EngineConfig | RouterConfig) -> str:
    """One section and table for each part of a configuration."""
    parts = []
    for section in dataclasses.fields(config):
        values = getattr(config, section.name)
        parts.append(f"\n## {type(values).__name__}\n\n{(type(values).__doc__ or '').strip()}\n")
        parts.append("\n| flag | default | meaning | allowed |\n|---|---|---|---|\n")
        for field in dataclasses.fields(values):
            flag = f"`--{field.name.replace('_', '-')}`"
            flag += f", `{field.metadata['short']}`" if field.metadata["short"] else ""
            parts.append(
                f"| {flag} | {describe_default(field.default)} | {field.metadata['help']} | {allowed(field)} |\n"
            )
    return "".join(parts)


def describe_default(value: object) -> str:
    """How a default reads in a table."""
    if value is None:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def allowed(field: dataclasses.Field[object]) -> str:
    """Choices or bounds in words."""
    if field.metadata["choices"]:
        return ", ".join(f"`{choice}`" for choice in field.metadata["choices"])
    if field.metadata["bounds"]:
        low, high = field.metadata["bounds"]
        return f"{low:,} to {high:,}"
    return "bytes, such as `512MiB`" if field.metadata["kind"] == "bytes" else ""


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(build_page())
