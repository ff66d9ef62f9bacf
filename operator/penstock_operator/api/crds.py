"""The CustomResourceDefinitions."""

from __future__ import annotations

from typing import Any

from penstock_operator.api.scalars import Part
from penstock_operator.api.schema import VALIDATIONS, Schema, build_schema
from penstock_operator.api.status import (
    InferenceServiceStatus,
    RoleScalerSpec,
    RoleScalerStatus,
)
from penstock_operator.api.v1alpha1 import GROUP, LONGEST_NAME, VERSION, InferenceServiceSpec
from penstock_operator.kinds import INFERENCE_SERVICE, ROLE_SCALER, Kind
from penstock_operator.service import Manifest

NAME_RULES = (
    {
        "fieldPath": ".metadata",
        "rule": f"size(self.metadata.name) <= {LONGEST_NAME}",
        "message": f"the name becomes part of longer names: write at most {LONGEST_NAME} characters",
    },
    {
        "fieldPath": ".metadata",
        "rule": "self.metadata.name.matches(r'^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "message": "the name becomes a host name: write small letters, digits and -, as in qwen3-8b",
    },
)


def build_crds() -> dict[str, Manifest]:
    """Both definitions by the name of their file: the same types give the same definitions."""
    service = _version(
        "A large language model, served: pods, router, autoscaling and updates.",
        InferenceServiceSpec,
        InferenceServiceStatus,
        "write spec: {model: {source: hf://org/name}}",
    )
    service["schema"]["openAPIV3Schema"][VALIDATIONS][:0] = NAME_RULES
    service["subresources"] = {"status": {}}
    service["additionalPrinterColumns"] = [
        _column("Ready", '.status.conditions[?(@.type=="Ready")].status', "whether requests are answered"),
        _column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "why, or why not"),
        _column("Pods", ".status.summary", "ready and wanted pods of each role"),
        _column("Model", ".spec.model.source", "what is served", priority=1),
        _column("Revision", ".status.revision", "of the pods that are wanted", priority=1),
        _column("URL", ".status.url", "of the API, inside the cluster", priority=1),
        _column("Message", '.status.conditions[?(@.type=="Ready")].message', "the reason as a sentence", priority=1),
        _column("Age", ".metadata.creationTimestamp", kind="date"),
    ]
    scaler = _version(
        "How many pods one role of an InferenceService should have: what a person, an HPA or KEDA scales.",
        RoleScalerSpec,
        RoleScalerStatus,
        "write spec: {service: NAME, role: decode, replicas: 2}",
    )
    scaler["subresources"] = {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }
    scaler["additionalPrinterColumns"] = [
        _column("Service", ".spec.service", "InferenceService"),
        _column("Role", ".spec.role"),
        _column("Asked", ".spec.replicas", "pods that somebody asks for", kind="integer"),
        _column("Desired", ".status.desired", "pods after all limits", kind="integer"),
        _column("Serving", ".status.replicas", "pods that take new requests", kind="integer"),
        _column("Limited by", ".status.limitedBy", "why it is not what was asked for"),
        _column("Age", ".metadata.creationTimestamp", kind="date"),
    ]
    return {
        "inferenceservice.yaml": _definition(INFERENCE_SERVICE, "psvc", service),
        "rolescaler.yaml": _definition(ROLE_SCALER, "prs", scaler),
    }


def _definition(kind: Kind, short: str, version: Manifest) -> Manifest:
    singular = kind.kind.lower()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": singular,
                "shortNames": [short],
                "categories": ["penstock"],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def _version(about: str, spec: type[Part], status: type[Part], if_missing: str) -> dict[str, Any]:
    """One served and stored version, without what only one of the kinds has."""
    schema: Schema = {
        "description": about,
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": build_schema(spec),
            # GitOps tools compare it with the generation: without it a new object would look done.
            "status": build_schema(status) | {"default": {"observedGeneration": -1}},
        },
        VALIDATIONS: [{"fieldPath": ".spec", "rule": "has(self.spec)", "message": f"spec is missing: {if_missing}"}],
    }
    return {"name": VERSION, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}


def _column(name: str, path: str, about: str = "", *, kind: str = "string", priority: int = 0) -> dict[str, Any]:
    """`priority` 1: only in `kubectl get -o wide`."""
    column = {"name": name, "type": kind, "jsonPath": path}
    return column | ({"description": about} if about else {}) | ({"priority": priority} if priority else {})
