"""Models of the Hugging Face hub, fetched with its own client (its token, cache and mirror settings apply)."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import ModelError
from penstock.loader.progress import say
from penstock.models.spec import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable

WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model", "LICENSE*")
UNWANTED = ("*/*", "consolidated*.safetensors")  # other formats of the same weights


def fetch_from_hub(name: str, revision: str | None) -> Path:
    """The local snapshot of `org/name`. The configuration comes first: weights of an unsupported model are not fetched.

    Raises `ModelError` saying whether the name, the rights, the network or the disk is the matter.
    """
    from huggingface_hub import hf_hub_download  # slow to import, and only needed here

    def config() -> str:
        return hf_hub_download(name, "config.json", revision=revision)

    try:
        content = json.loads(Path(explained(name, revision, config)).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{name}: config.json is not valid JSON") from error
    ModelSpec.from_config(content)
    say(f"fetching {name} from the hub")
    return snapshot(name, revision)


def snapshot(name: str, revision: str | None, *, is_local: bool = False) -> Path:
    """The local snapshot, completed from the hub; `is_local`: only looked for. Raises `ModelError`."""
    from huggingface_hub import snapshot_download

    def download() -> str:
        return snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(WANTED),
            ignore_patterns=list(UNWANTED),
            local_files_only=is_local,
        )

    return Path(explained(name, revision, download))


def explained(name: str, revision: str | None, fetch: Callable[[], str]) -> str:
    """Run a download; what goes wrong becomes one sentence, with the hub's status code where it gave one."""
    from huggingface_hub import errors

    # Of the library that the hub's client is made with, which is httpx in its version 1 and httpx2 in 2.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        return fetch()
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{name} has no revision {revision!r} on the hub") from error
    except errors.GatedRepoError as error:
        told = "accept its terms on the hub, then run `hf auth login` or set HF_TOKEN"
        raise ModelError(f"{name} is gated ({error.response.status_code}): {told}") from error
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise ModelError(unfetched(name, error.__cause__)) from error
        raise ModelError(
            f"{name} is not in the local hub cache and the hub cannot be reached: check the network"
        ) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(f"{name} has no config.json on the hub: not a Hugging Face model folder") from error
    except errors.HFValidationError as error:
        raise ModelError(f"{name!r} is not a valid hub name") from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403, 404):
            raise ModelError(refusal(name, error.response.status_code)) from error
        raise ModelError(unfetched(name, error)) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(f"{name} does not fit: no room is left on the disk of the model cache") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ModelError(f"{name}: cannot write the model cache: {error.strerror}: {error.filename}") from error
        raise ModelError(unfetched(name, error)) from error
    except HTTPError as error:
        raise ModelError(unfetched(name, error)) from error


def refusal(name: str, status: int) -> str:
    """Why the hub does not hand out a model, and what to do about it. Of what one may not see it says 401 without a
    token, and 404 with one."""
    from huggingface_hub import get_token

    if status == 404:
        return f"{name} is not on the hub (404), or the token may not see it: check the name, and the token's rights"
    if get_token() is not None:
        return f"{name}: the hub refuses the token ({status}): check HF_TOKEN, or run `hf auth login` again"
    return f"{name} is private, or not on the hub ({status}): check the name, or run `hf auth login` or set HF_TOKEN"


def unfetched(name: str, error: Exception) -> str:
    """Anything else, which may pass."""
    lines = str(error).splitlines()
    return f"{name} cannot be fetched from the hub: {lines[0] if lines else type(error).__name__}"
