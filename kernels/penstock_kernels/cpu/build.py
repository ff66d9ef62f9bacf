"""Compiles the C++ kernels: `python -m penstock_kernels.cpu.build`.

One shared object per variant of the instruction set, beside this file, so that a wheel built on one machine runs on
another. Nothing is compiled again while sources and flags stay the same.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SOURCES = FOLDER / "csrc"
COMPILERS = ("g++", "clang++", "c++")
FLAGS = (
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # kernels say where they fuse, so that all their instantiations round alike
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    "-Werror",
)
AVX512_FLAGS = ("-march=x86-64-v4", "-mavx512vnni")
VARIANTS: dict[str, tuple[str, ...]] = {
    "avx512_bf16": (*AVX512_FLAGS, "-mavx512bf16"),
    "avx512_vnni": AVX512_FLAGS,
    "avx2": ("-march=x86-64-v3",),
    "baseline": (),
}
"""Variant -> its flags, best first; `baseline` runs everywhere."""


class BuildError(Exception):
    """The compiler refused; the message is its own."""


def variants() -> list[str]:
    """The variants that this machine's kind of processor may have, best first."""
    return list(VARIANTS) if platform.machine().lower() in ("x86_64", "amd64") else ["baseline"]


def library_path(variant: str) -> Path:
    """Where a variant's shared object lies."""
    return FOLDER / f"_cpu_{variant}.so"


def sources_digest() -> str:
    """Names the sources and flags: changes whenever the result of a build could."""
    digest = hashlib.sha256(repr((FLAGS, VARIANTS)).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def is_current(path: Path, digest: str) -> bool:
    """Whether the shared object at `path` was built from the sources that `digest` names."""
    return path.is_file() and digest.encode() in path.read_bytes()


def build() -> list[Path]:
    """Compile what is missing or stale; returns all shared objects, none if there is no compiler. Raises BuildError."""
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    digest = sources_digest()
    stale = [variant for variant in variants() if not is_current(library_path(variant), digest)]
    if stale and compiler is None:
        return []
    with ThreadPoolExecutor() as pool, tempfile.TemporaryDirectory(dir=FOLDER, prefix="_build_") as folder:
        jobs = [
            pool.submit(_compile, str(compiler), variant, source, digest, Path(folder))
            for variant in stale
            for source in sorted(SOURCES.glob("*.cpp"))
        ]
        for job in jobs:
            job.result()
        for variant in stale:
            _link(str(compiler), variant, Path(folder))
    return [library_path(variant) for variant in variants()]


def _compile(compiler: str, variant: str, source: Path, digest: str, folder: Path) -> None:
    """Compile one source file for one variant."""
    target = folder / f"{variant}.{source.stem}.o"
    define = f'-DPENSTOCK_DIGEST="{digest}"'
    _run([compiler, *FLAGS, *VARIANTS[variant], define, "-c", str(source), "-o", str(target)])


def _link(compiler: str, variant: str, folder: Path) -> None:
    """Link a variant and move it into place in one step: another process may be loading the old one."""
    target = folder / library_path(variant).name
    objects = sorted(str(path) for path in folder.glob(f"{variant}.*.o"))
    _run([compiler, "-shared", "-pthread", *objects, "-o", str(target)])
    target.replace(library_path(variant))


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildError(f"{' '.join(command)}\n{result.stderr}")


def main() -> int:
    """Build, print one line, and return the exit code: 0 without a compiler too, since torch can stand in."""
    try:
        built = build()
    except BuildError as error:
        print(f"error: the CPU kernels do not compile: {error}", file=sys.stderr)
        return 1
    if not built:
        print(f"warning: no C++ compiler ({', '.join(COMPILERS)}): CPU kernels will run in torch, slowly", file=sys.stderr)
        return 0
    print(f"CPU kernels: {', '.join(path.name for path in built)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
