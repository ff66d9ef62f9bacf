"""Writes what is generated from the API's types: `python -m penstock_operator.api.generate [FOLDER]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from penstock_operator.api.crds import build_crds
from penstock_operator.api.reference import build_reference
from penstock_operator.service import Manifest

HEAD = "# Generated from operator/penstock_operator/api/ by `make generate`.\n"
# Without the definitions Kubernetes deletes every object of theirs: an uninstalled chart leaves them there.
KEEP = """  {{- if or .Values.keep .Values.annotations }}
  annotations:
    {{- if .Values.keep }}
    helm.sh/resource-policy: keep
    {{- end }}
    {{- with .Values.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
"""


def build_files() -> Iterator[tuple[str, str]]:
    """(path in the repository, content) of every generated file."""
    for name, definition in build_crds().items():
        yield f"crds/{name}", HEAD + _yaml(definition)
        start, _, end = _yaml(definition).partition("metadata:\n")
        yield f"charts/penstock-crds/templates/{name}", f"{HEAD}{start}metadata:\n{KEEP}{end}"
    yield "docs/api-reference.md", build_reference()


def _yaml(manifest: Manifest) -> str:
    return msgspec.yaml.encode(manifest).decode()


def write_files(root: Path) -> None:
    """Write them below `root`."""
    for name, content in build_files():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


if __name__ == "__main__":
    write_files(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
