"""List what can be served from here: the embedded default, what was fetched before, and which architectures."""

from __future__ import annotations

import argparse
from pathlib import Path

from penstock.config import EMBEDDED_MODEL
from penstock.envs import cache_folder
from penstock.flags import Parser
from penstock.loader.package_index import PACKAGED_MODELS, SCHEME
from penstock.models.families import FAMILIES

HUB_FOLDERS = "models--*--*"


def add_arguments(parser: Parser) -> None:
    """No flags."""
    parser.epilog = "PENSTOCK_CACHE names another folder for converted models, HF_HUB_CACHE for those of the hub."


def run(args: argparse.Namespace) -> int:
    """Print the list; returns the exit code."""
    print("Embedded models, from the package index:")
    for name, model in PACKAGED_MODELS.items():
        note = "; the default" if SCHEME + name == EMBEDDED_MODEL else ""
        print(f"  {SCHEME + name:<40} {model.name}, {model.megabytes} MB, {model.license}{note}")
    cache = cache_folder()
    print_folders(f"Converted and ready, in {cache}:", cache, sorted(cache.glob("*/[!.]*/config.json")))
    hub = hub_folder()
    print_folders(
        f"Of the Hugging Face hub, in {hub}:", hub, sorted(hub.glob(f"{HUB_FOLDERS}/snapshots/*/config.json"))
    )
    print("Architectures (`architectures` in a folder's config.json):")
    print("  " + ", ".join(FAMILIES))
    return 0


def print_folders(title: str, root: Path, configs: list[Path]) -> None:
    """One line for each model's folder with the size of its weights."""
    print(title if configs else f"{title} none")
    for config in configs:
        weights = sum(file.stat().st_size for file in config.parent.glob("*.safetensors"))
        print(f"  {shown_name(config.parent.relative_to(root)):<40} {weights / 1e6:,.0f} MB")


def shown_name(folder: Path) -> str:
    """What to write after `penstock serve`, as far as the folder tells."""
    first = folder.parts[0]
    return (
        "hf://" + first.removeprefix("models--").replace("--", "/", 1) if first.startswith("models--") else str(folder)
    )


def hub_folder() -> Path:
    """Where the hub's own client keeps its snapshots."""
    from huggingface_hub.constants import HF_HUB_CACHE  # reads its own variables and is slow, so only here

    return Path(HF_HUB_CACHE)
