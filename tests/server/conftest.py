"""The application over a scripted engine, and the real `penstock serve`."""

from __future__ import annotations

import pytest

from support.serving import serving
from support.sites import open_site


@pytest.fixture
async def site():
    async with open_site() as site:
        yield site


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """`penstock serve` with the embedded model, which must not be changed."""
    with serving(tmp_path_factory.mktemp("served"), "--api-servers", "2") as server:
        yield server
