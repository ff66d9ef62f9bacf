"""Penstock's container images for tests, built once for what goes into them and kept in the user's cache.

Several runs may share the cache: one builds at a time, and no archive goes while a run that asked for it lives.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

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
    hold: IO[bytes] | None = None  # open and locked: while it is, nobody removes the archive


def why_not() -> str:
    """Why no image can be built here; empty: it can."""
    return "" if engine() else "docker, podman or buildah is needed to build images"


def engine() -> str | None:
    """The program of this machine that builds images, chosen as `packaging/build_image` does."""
    there = (tool for tool in ("docker", "podman", "buildah") if shutil.which(tool))
    works = (tool for tool in there if subprocess.run((tool, "info"), capture_output=True).returncode == 0)
    return os.environ.get("CONTAINER_TOOL") or next(works, None)


def build(target: str) -> Image:
    """The image of a target of the Dockerfile, from the cache if nothing in it has changed."""
    digest = digest_of(target)
    folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "penstock/images"
    name, archive = f"penstock-{target}:test-{digest}", folder / f"{target}-{digest}.tar"
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        if not archive.exists():
            provide_base()
            partial = archive.with_suffix(".part")
            run(str(BUILD), target, name, str(partial))
            run(str(engine()), "rmi", name)  # the archive is what is used; layers stay for the next build
            partial.rename(archive)
        image = Image(name=name, archive=archive, hold=archive.open("rb"))
        fcntl.flock(image.hold, fcntl.LOCK_SH)
        for old in folder.glob(f"{target}-*.tar"):
            remove_unless_held(old)
    return image


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No other process is in here with that folder; one that dies is out."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_unless_held(archive: Path) -> None:
    """Nobody who is still there asked for it: away with it."""
    with archive.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        archive.unlink()


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
    if engine() != "buildah" or tools is None or not (tools / "base_image").exists():
        return
    name = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert name is not None
    if subprocess.run(("buildah", "inspect", "--type=image", name[1]), capture_output=True).returncode:
        run(str(tools / "base_image"), name[1])


def run(*words: str) -> None:
    """Raises with the end of what it said."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout[-4000:]}"
