"""What the API's types are made of: numbers with units, names, and the base of every part."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from penstock_operator.api.rules import IF_WRONG, OPEN, Rule

_DURATION = r"[0-9]{1,6}(ms|s|m|h)"


def _text(pattern: str, max_length: int, if_wrong: str) -> Meta:
    """A string of a certain form; `if_wrong` tells what to write."""
    return Meta(pattern=pattern, max_length=max_length, extra_json_schema={IF_WRONG: if_wrong})


Quantity = (
    Annotated[int, Meta(ge=0)]
    | Annotated[
        str,
        _text(
            r"^[0-9]{1,15}(\.[0-9]{1,9})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$",
            32,
            "write a quantity of at least 0, such as 4, 500m or 16Gi",
        ),
    ]
)
Size = (
    Annotated[int, Meta(ge=1)]
    | Annotated[
        str,
        _text(
            r"^[1-9][0-9]{0,14}(\.[0-9]{1,9})?(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$",
            32,
            "write a size above 0 in bytes, such as 50Gi or 512Mi",
        ),
    ]
)
Share = (
    Annotated[int, Meta(ge=0, le=10_000)]
    | Annotated[
        str,
        _text(r"^(100|[1-9]?[0-9])%$", 4, "write a number of pods, such as 1, or a share from 0% to 100%, such as 25%"),
    ]
)
Duration = Annotated[str, _text(rf"^({_DURATION}){{1,4}}$", 36, "write a duration such as 0s, 500ms, 30s, 5m or 1h30m")]
TimeSpan = Annotated[
    str,
    _text(
        rf"^[1-9][0-9]{{0,5}}(ms|s|m|h)({_DURATION}){{0,3}}$",
        36,
        "write a duration above 0, such as 500ms, 30s, 5m or 1h30m",
    ),
]
Name = Annotated[
    str,
    _text(
        r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        253,
        "write the name of an object: small letters, digits, - and . (such as my-secret)",
    ),
]
Hostname = Annotated[
    str, _text(r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", 253, "write a host name such as models.example.org")
]
Word = Annotated[str, _text(r"^[^\s]+$", 1024, "write one word without spaces")]
Words = Annotated[str, Meta(min_length=1, max_length=1024)]
Replicas = Annotated[int, Meta(ge=0, le=10_000)]
Labels = Annotated[
    dict[str, Annotated[str, Meta(max_length=63)]], Meta(max_length=64, description="further ones, by name")
]
Annotations = Annotated[
    dict[str, Annotated[str, Meta(max_length=65536)]], Meta(max_length=64, description="further ones, by name")
]
Embedded = Annotated[dict[str, Any], Meta(extra_json_schema=OPEN)]  # of Kubernetes' own API, which checks it
Named = Annotated[
    dict[str, Any],
    Meta(
        extra_json_schema=OPEN
        | {"properties": {"name": {"description": "its own", "type": "string", "minLength": 1}}, "required": ["name"]}
    ),
]  # the same, with a `name`


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A part of an object. Its docstring and its fields' `Meta` are the schema's and the reference's text."""

    RULES: ClassVar[tuple[Rule, ...]] = ()
