"""One front-end and the engine lives behind it, for the tests of what passes between them."""

from __future__ import annotations

import pytest

from support.lives import build_launch, build_llm, lives_of


@pytest.fixture
def launch(tmp_path):
    return build_launch(tmp_path)


@pytest.fixture
def lives(launch):
    with lives_of(launch) as lives:
        yield lives


@pytest.fixture
async def llm(launch):
    llm = build_llm(launch)
    llm.start()
    yield llm
    llm.close()
