"""A tiny model and an inline worker over it, for all tests of the worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.worker.executor import InlineExecutor
from support.tiny_worker import NUM_BLOCKS, TinyWorker, save_tiny_worker


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyWorker:
    return save_tiny_worker(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def inline(tiny: TinyWorker) -> Iterator[InlineExecutor]:
    executor = InlineExecutor(tiny.config, tiny.folder)
    assert executor.start().num_blocks == NUM_BLOCKS
    yield executor
    executor.close()
