"""Models of the Hugging Face hub, fetched with its own client (its token, cache and mirror settings apply)."""

from __future__ import annotations

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

    Raises `ModelError` saying whether the name, the rights or the network is the matter.
    """
    from huggingface_hub import hf_hub_download, snapshot_download  # slow to import, and only needed here

    def config() -> str:
        return hf_hub_download(name, "config.json", revision=revision)

    def snapshot() -> str:
        return snapshot_download(name, revision=revision, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED))

    try:
        content = json.loads(Path(explained(name, revision, config)).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{name}: config.json is not valid JSON") from error
    ModelSpec.from_config(content)
    say(f"fetching {name} from the hub")
    return Path(explained(name, revision, snapshot))


def explained(name: str, revision: str | None, fetch: Callable[[], str]) -> str:
    """Run a download; what goes wrong becomes one sentence."""
    import httpx
    from huggingface_hub import errors

    try:
        return fetch()
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{name} is gated: accept its terms on the hub, then run `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{name} has no revision {revision!r} on the hub") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{name} is not on the hub, or it is private: check the name, or run `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(
            f"{name} is not in the local hub cache and the hub cannot be reached: check the network"
        ) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(f"{name} has no config.json on the hub: not a Hugging Face model folder") from error
    except errors.HFValidationError as error:
        raise ModelError(f"{name!r} is not a valid hub name") from error
    except (errors.HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise ModelError(f"{name} cannot be fetched from the hub: {str(error).splitlines()[0]}") from error
