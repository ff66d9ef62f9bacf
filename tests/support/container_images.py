"""Penstock's container images for tests, built once for what goes into them and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.local_cluster import ROOT, find_tools

BUILD = ROOT / "packaging/build_image"
SOURCES = {  # target -> what its image depends on
    "operator": ("operator", "runtime"),
    "runtime-cpu": ("kernels", "runtime"),
}
COMMON = ("Dockerfile", "packaging/build_image", "pyproject.toml", "constraints.txt", "hatch_build.py")
SECONDS = 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image and the archive that it was saved to."""

    name: str
    archive: Path


def why_not() -> str:
    """Why no image can be built here; empty: it can."""
    if any(subprocess.run((tool, "info"), capture_output=True).returncode == 0 for tool in engines()):
        return ""
    return "docker, podman or buildah is needed to build images"


def engines() -> Iterator[str]:
    """Programs of this machine that may build images."""
    yield from (tool for tool in ("docker", "podman", "buildah") if shutil.which(tool))


def build(target: str) -> Image:
    """The image of a target of the Dockerfile, from the cache if nothing in it has changed."""
    digest = digest_of(target)
    folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "penstock/images"
    image = Image(name=f"penstock-{target}:test-{digest}", archive=folder / f"{target}-{digest}.tar")
    if not image.archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        provide_base()
        partial = folder / f"{target}-{digest}.part"
        run(str(BUILD), target, image.name, str(partial))
        for old in folder.glob(f"{target}-*.tar"):
            old.unlink()
        partial.rename(image.archive)
    return image


def digest_of(target: str) -> str:
    """Of all that an image is made of, shortened."""
    paths = [ROOT / name for name in COMMON]
    for folder in SOURCES[target]:
        paths += sorted(path for path in (ROOT / folder).rglob("*") if is_source(path))
    digest = hashlib.sha256(target.encode())
    for path in paths:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def is_source(path: Path) -> bool:
    """Whether the file is part of the build's context, as `.dockerignore` has it."""
    return path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"


def provide_base() -> None:
    """Where only buildah is, there may be no registry: the tools make the base image from Debian's packages."""
    tools = find_tools()
    if next(engines()) != "buildah" or tools is None or not (tools / "base_image").exists():
        return
    name = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert name is not None
    if subprocess.run(("buildah", "inspect", "--type=image", name[1]), capture_output=True).returncode:
        run(str(tools / "base_image"), name[1])


def run(*words: str) -> None:
    """Raises with the end of what it said."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout[-4000:]}"
