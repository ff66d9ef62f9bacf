"""From an object as the API server gave it to a `Service`: the edge, behind which the spec is trusted."""

from __future__ import annotations

import msgspec

from penstock_operator.api.v1alpha1 import InferenceServiceSpec
from penstock_operator.autoscale.cron import Cron
from penstock_operator.errors import SpecError
from penstock_operator.names import Key
from penstock_operator.service import Manifest, Service

# msgspec learns a type when it is first used, and crashes the process if two threads are first at the same time.
msgspec.json.Decoder(InferenceServiceSpec)


def parse_service(raw: Manifest) -> Service:
    """The InferenceService in `raw`; SpecError names the field that is wrong, as in `spec.decode.replicas: …`.

    The API server's schema has checked the same before, unless the object is older than the schema or the schema is
    not of this version; only what a schedule means it cannot know.
    """
    metadata = raw["metadata"]
    return Service(
        key=Key(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        spec=parse_spec(raw.get("spec")),
        status=raw.get("status") or {},
    )


def parse_spec(raw: object) -> InferenceServiceSpec:
    """The spec alone; SpecError as above."""
    try:
        spec = msgspec.convert(raw, InferenceServiceSpec)
    except msgspec.ValidationError as error:
        raise SpecError("InvalidSpec", _with_path(str(error))) from error
    for number, schedule in enumerate(spec.autoscaling.schedules if spec.autoscaling else ()):
        try:
            Cron.parse(schedule.start, schedule.time_zone)
        except SpecError as error:
            raise SpecError("InvalidSpec", f"spec.autoscaling.schedules[{number}]: {error}") from error
    return spec


def _with_path(message: str) -> str:
    """msgspec's "what - at `$.path`" turned around to "spec.path: what"."""
    what, _, place = message.partition(" - at `$")
    return f"spec{place.removesuffix('`')}: {what[:1].lower()}{what[1:]}"
