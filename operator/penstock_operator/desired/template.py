"""A user's pod template, merged into ours."""

from __future__ import annotations

import copy
from typing import Any

from penstock_operator.api.v1alpha1 import PodTemplate
from penstock_operator.errors import SpecError
from penstock_operator.service import Manifest

MERGE_KEYS = {  # lists whose entries have a name; other lists replace ours
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
}
APPENDED = ("tolerations",)
ALTERNATIVES = ("volumes",)  # entries of which one part excludes the others: the user's entry replaces ours
ONE_OF = (  # fields that exclude each other: the user's takes the place of ours
    {"exec", "grpc", "httpGet", "sleep", "tcpSocket"},  # of probes and hooks
    {"value", "valueFrom"},  # of variables
)


def merge_template(ours: Manifest, theirs: PodTemplate | None, field: str) -> Manifest:
    """Our pod template with what the user adds; labels of ours stay. Raises `SpecError` that names the field."""
    if theirs is None:
        return ours
    merged = copy.deepcopy(ours)
    if theirs.metadata is not None:
        metadata = merged["metadata"]
        metadata["labels"] = {**theirs.metadata.labels, **metadata["labels"]}
        metadata["annotations"] = {**metadata["annotations"], **theirs.metadata.annotations}
    check_commands(ours["spec"]["containers"], theirs.spec or {}, f"{field}.template.spec")
    merged["spec"] = merge(merged["spec"], copy.deepcopy(theirs.spec or {}), f"{field}.template.spec")
    return merged


def check_commands(ours: list[Manifest], theirs: Manifest, field: str) -> None:
    """Raise `SpecError` for a command line of a container of ours: it has a place of its own."""
    known = [entry["name"] for entry in ours]
    given = theirs.get("containers")
    for index, entry in enumerate(given if type(given) is list else []):
        taken = {"command", "args"} & entry.keys() if type(entry) is dict and entry.get("name") in known else set()
        if taken:
            message = "add flags with spec.engine.args or spec.router.args"
            raise SpecError("InvalidSpec", f"{field}.containers[{index}].{min(taken)}: {message}")


def merge(ours: Manifest, theirs: Manifest, field: str) -> Manifest:
    """Both objects, theirs first where they differ; a null of theirs removes what we have."""
    excluded = {name for names in ONE_OF if names & theirs.keys() for name in names - theirs.keys()}
    merged = {name: value for name, value in ours.items() if name not in excluded}
    for name, value in theirs.items():
        place = f"{field}.{name}"
        if value is None:
            merged.pop(name, None)
        elif name not in ours:
            merged[name] = value
        elif type(ours[name]) in (dict, list) and type(value) is not type(ours[name]):
            raise SpecError("InvalidSpec", f"{place}: expected {'a list' if type(ours[name]) is list else 'an object'}")
        elif type(value) is dict:
            merged[name] = merge(ours[name], value, place)
        elif type(value) is list:
            merged[name] = merge_list(ours[name], value, name, place)
        else:
            merged[name] = value
    return merged


def merge_list(ours: list[Any], theirs: list[Any], name: str, field: str) -> list[Any]:
    """Lists of named things by name, tolerations together, others theirs."""
    if name in APPENDED:
        return [*ours, *theirs]
    key = MERGE_KEYS.get(name)
    if key is None:
        return theirs
    merged = {entry[key]: entry for entry in ours}
    for index, entry in enumerate(theirs):
        if type(entry) is not dict or key not in entry:
            raise SpecError("InvalidSpec", f"{field}[{index}]: needs a {key}")
        known = merged.get(entry[key])
        is_new = known is None or name in ALTERNATIVES
        merged[entry[key]] = entry if is_new else merge(known or {}, entry, f"{field}[{index}]")
    return list(merged.values())
