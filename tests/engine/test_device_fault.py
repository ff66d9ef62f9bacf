"""A GPU that fails while it serves, played by a worker on the CPU: what everybody is told, and that serving goes on."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.error import HTTPError

import pytest

from support.serving import environment, serving

SABOTEUR = Path(__file__).parents[1] / "faults/saboteur"
COMPLETIONS = "/v1/completions"
POISON = [1013, 17, 1013]
WORDS = ("--served-model-name", "m", "--threads", "1", "--max-model-len", "256", "--kv-cache-memory", "32MiB")


@pytest.mark.slow
def test_the_engine_ends_with_the_reason_and_starts_again_and_the_request_that_did_it_ends(tmp_path: Path):
    settings = {
        "PYTHONPATH": os.pathsep.join([str(SABOTEUR), environment()["PYTHONPATH"]]),
        "POISON": ",".join(map(str, POISON)),
        "DEVICE_FAULT": "HARDWARE",
    }
    with serving(tmp_path, *WORDS, settings=settings) as server:
        with pytest.raises(HTTPError, match="500"):
            server.post(COMPLETIONS, model="m", prompt=POISON, max_tokens=4)
        server.wait_ready()
        assert server.post(COMPLETIONS, model="m", prompt="One", max_tokens=2)["usage"]["completion_tokens"] == 2
        assert server.metric("penstock_engine_restarts_total") == 2
        assert server.metric("penstock_startup_phase_seconds") > 0
        said = server.log.read_text().splitlines()
    failed = [line for line in said if "device.failed fault=hardware why=" in line]
    died = [line for line in said if "process.died process=engine-core why=" in line]
    assert len(failed) == len(died) == 2
    assert all("the GPU's hardware failed" in line and "left with exit code 82" in line for line in died)
    assert not [line for line in said if "Traceback" in line]
