"""What each example becomes, file by file. After a change on purpose: `UPDATE_GOLDENS=1 pytest tests/operator/desired`,
and read the diff: what lies in a pod template reaches only new revisions, everything else all services at once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from penstock_operator.desired.build import build_children
from support.operator_services import EXAMPLES, all_manifests, build_defaults, load_example

GOLDEN = Path(__file__).parent.parent / "golden"


def rendered(path: Path) -> dict[str, str]:
    """File name -> text, of all that an example becomes."""
    manifests = all_manifests(build_children(load_example(path), build_defaults()))
    files = {f"{found['kind'].lower()}-{found['metadata']['name']}.yaml": found for found in manifests}
    assert len(files) == len(manifests), "two objects of one kind and name"
    return {name: yaml.safe_dump(found, sort_keys=False, width=120) for name, found in files.items()}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_becomes_what_its_goldens_say(path):
    folder, files = GOLDEN / path.stem, rendered(path)
    if os.environ.get("UPDATE_GOLDENS"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    assert {file.name: file.read_text() for file in sorted(folder.glob("*"))} == dict(sorted(files.items()))


def test_every_golden_has_an_example():
    assert {folder.name for folder in GOLDEN.iterdir()} == {path.stem for path in EXAMPLES}
