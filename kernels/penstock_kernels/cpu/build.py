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
    "-shared",
    "-pthread",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # kernels say where they fuse, so that all their instantiations round alike
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
)
AVX512_FLAGS = ("-O3", "-march=x86-64-v4", "-mavx512vnni")
VARIANTS: dict[str, tuple[str, ...]] = {
    "avx512_bf16": (*AVX512_FLAGS, "-mavx512bf16"),
    "avx512_vnni": AVX512_FLAGS,
    "avx2": ("-O3", "-march=x86-64-v3"),
    "baseline": ("-O2",),  # its loops over lanes take half a minute at -O3
}
"""Variant -> its flags, best first; `baseline` runs everywhere."""


class BuildError(Exception):
    """No variant compiles; the message is the compiler's."""


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
    """Compile what is missing or stale; returns the shared objects that are current.

    None without a compiler. A variant that the compiler does not know is left out; BuildError if all fail.
    """
    digest = sources_digest()
    stale = [variant for variant in variants() if not is_current(library_path(variant), digest)]
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if stale and compiler is not None:
        with ThreadPoolExecutor() as pool:
            errors = list(pool.map(lambda variant: _build_variant(compiler, variant, digest), stale))
        if all(errors) and len(errors) == len(variants()):
            raise BuildError(errors[-1])
    return [path for variant in variants() if is_current(path := library_path(variant), digest)]


def _build_variant(compiler: str, variant: str, digest: str) -> str | None:
    """Compile one variant; the compiler's message if it failed."""
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="_build_") as folder:
        # All sources as one: most of the time goes into headers, which are then read once.
        everything = Path(folder) / "all.cpp"
        everything.write_text("".join(f'#include "{source}"\n' for source in sorted(SOURCES.glob("*.cpp"))))
        target = Path(folder) / library_path(variant).name
        define = f'-DPENSTOCK_DIGEST="{digest}"'
        command = [compiler, *FLAGS, *VARIANTS[variant], define, str(everything), "-o", str(target)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            return f"{' '.join(command)}\n{result.stderr}"
        target.replace(library_path(variant))  # in one step: another process may be loading the old one
    return None


def main() -> int:
    """Build, print one line, and return the exit code: always 0, since torch stands in for what cannot be compiled."""
    try:
        built = build()
    except BuildError as error:
        print(f"warning: the CPU kernels do not compile and will run in torch, slowly: {error}", file=sys.stderr)
        return 0
    if not built:
        names = ", ".join(COMPILERS)
        print(f"warning: no C++ compiler ({names}): CPU kernels will run in torch, slowly", file=sys.stderr)
        return 0
    print(f"CPU kernels: {', '.join(path.name for path in built)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
