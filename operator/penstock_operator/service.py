"""An InferenceService as the operator works with it: parsed, with what its metadata says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from penstock_operator.api.v1alpha1 import InferenceServiceSpec, Role
from penstock_operator.names import BOTH, DECODE, PREFILL, Key

Manifest = dict[str, Any]  # an object as JSON has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One InferenceService."""

    key: Key
    uid: str
    generation: int
    labels: dict[str, str]
    annotations: dict[str, str]
    spec: InferenceServiceSpec
    status: Manifest  # what we wrote last

    @property
    def roles(self) -> dict[str, Role]:
        """By name, prefill first: `both` alone, or `prefill` and `decode`."""
        if self.spec.prefill is None:
            return {BOTH: self.spec.decode}
        return {PREFILL: self.spec.prefill, DECODE: self.spec.decode}

    @property
    def has_router(self) -> bool:
        """True unless somebody switched it off."""
        router = self.spec.router
        return router is None or router.enabled is not False


def controller_of(manifest: Manifest) -> Manifest:
    """The owner reference that controls an object; empty if there is none."""
    references: list[Manifest] = manifest["metadata"].get("ownerReferences", [])
    return next((one for one in references if one.get("controller")), {})
