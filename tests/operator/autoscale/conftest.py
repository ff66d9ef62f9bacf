from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from penstock_operator.names import HTTP_PORT
from support.fleet_teller import FleetTeller, fleet_teller
from support.scaled_service import Scaled


@pytest.fixture
async def teller() -> AsyncIterator[FleetTeller]:
    async with fleet_teller(HTTP_PORT) as one:
        yield one


@pytest.fixture
async def scaled(teller: FleetTeller, request: pytest.FixtureRequest) -> AsyncIterator[Scaled]:
    """A service that is scaled in mode Builtin, or as the test's parameter says."""
    one = Scaled(getattr(request, "param", "Builtin"), teller)
    yield one
    await one.scraper.close()
