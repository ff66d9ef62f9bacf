"""What was applied, by this process or by one before it, so that nothing is applied twice in vain."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock_operator.cluster.store import Stored
from penstock_operator.names import APPLIED
from penstock_operator.service import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What was applied last under a name, and what came of it."""

    digest: str  # of the manifest
    fingerprint: int  # of the object that the API server answered with
    at: float  # seconds, monotonic


def digest_of(manifest: Manifest) -> str:
    """Another operator process comes to the same."""
    return hashlib.blake2b(msgspec.json.encode(manifest, order="deterministic"), digest_size=8).hexdigest()


def marked(manifest: Manifest, digest: str) -> Manifest:
    """With its digest, by which the next process of the operator knows what this one applied."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED: digest}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def is_as_applied(stored: Stored, manifest: Manifest, digest: str) -> bool:
    """True if an earlier process applied just this, and nobody has changed it: then it need not be applied again.

    Who adds or changes something becomes a manager of the object, which is why there is no text then; who takes
    something away does not, so all that was applied must be there.
    """
    annotations = stored.manifest["metadata"].get("annotations", {})
    if not stored.text or annotations.get(APPLIED) != digest:
        return False
    wanted = {word: value for word, value in manifest.items() if word not in ("apiVersion", "kind")}
    return has(msgspec.json.decode(stored.text), wanted)


def has(there: Any, wanted: Any) -> bool:
    """True if everything wanted is there; maps may have more than that."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(word in there and has(there[word], wanted[word]) for word in wanted)
    if isinstance(wanted, list):
        if not isinstance(there, list) or len(there) != len(wanted):
            return False
        return all(has(one, other) for one, other in zip(there, wanted, strict=True))
    return bool(there == wanted)
