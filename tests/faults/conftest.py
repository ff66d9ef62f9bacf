"""Real processes and what happens to them. Not part of the default run: `make test-faults`, or `pytest tests/faults
--faults`."""

from __future__ import annotations

import signal

import pytest

from support.fleet_service import running


def pytest_addoption(parser):
    parser.addoption("--faults", action="store_true", help="run the fault tests, which take many minutes")
    parser.addoption("--rounds", type=int, default=20, help="rolling restarts")


def pytest_configure(config):
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no process is left behind


def pytest_ignore_collect(collection_path, config):
    return None if config.getoption("--faults", False) else True


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    """Router, one prefill pod and two decode pods, which every test leaves as it found them."""
    with running(tmp_path_factory.mktemp("service")) as service:
        yield service
