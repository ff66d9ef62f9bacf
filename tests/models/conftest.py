"""For all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.models.registry import torch_threads


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread() -> Iterator[None]:
    """Products here are tiny: a second thread costs more than it brings, on a busy machine a hundred times."""
    with torch_threads(1):
        yield
