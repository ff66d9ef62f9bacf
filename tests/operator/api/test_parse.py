"""From an object of the API server to a `Service`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock_operator.api.parse import parse_service, parse_spec
from penstock_operator.errors import SpecError
from penstock_operator.names import Key
from support.bad_specs import BAD, UNKNOWN
from support.good_specs import EVERYTHING, GOOD, MODEL, PD

METADATA = {"namespace": "models", "name": "qwen", "uid": "u-1", "generation": 3, "labels": {"team": "search"}}


def test_what_metadata_and_status_say_is_kept():
    service = parse_service({"metadata": METADATA, "spec": MODEL, "status": {"observedGeneration": 2}})
    assert service.key == Key("models", "qwen")
    assert (service.uid, service.generation) == ("u-1", 3)
    assert (service.labels, service.annotations) == ({"team": "search"}, {})
    assert service.status == {"observedGeneration": 2}


def test_a_model_is_all_that_a_service_needs():
    service = parse_service({"metadata": METADATA, "spec": MODEL})
    assert list(service.roles) == ["both"]
    assert service.has_router
    assert service.spec.decode.replicas is None


def test_prefill_makes_two_roles():
    assert list(parse_service({"metadata": METADATA, "spec": PD}).roles) == ["prefill", "decode"]


def test_everything_arrives_at_its_place():
    spec = parse_spec(EVERYTHING)
    assert spec.model.served_name == "qwen3-8b"
    assert spec.engine is not None
    assert spec.engine.kv_cache_memory == "20Gi"
    assert spec.prefill is not None
    assert spec.prefill.template is not None
    assert spec.prefill.template.spec == {"nodeSelector": {"gpu": "h200"}, "tolerations": [{"operator": "Exists"}]}
    assert spec.autoscaling is not None
    assert spec.autoscaling.decode is not None
    assert (spec.autoscaling.decode.min, spec.autoscaling.decode.target_kv_utilization) == (0, 75)
    assert spec.autoscaling.schedules[0].time_zone == "Europe/Berlin"
    assert spec.runtime is not None
    assert spec.runtime.env[0] == {"name": "A", "value": "1"}


@pytest.mark.parametrize("name", GOOD)
def test_what_the_schema_takes_is_parsed(name):
    parse_spec(GOOD[name])


@pytest.mark.parametrize("name", [name for name, bad in BAD.items() if not bad.is_of_parts])
def test_a_wrong_field_that_slipped_through_is_named(name):
    with pytest.raises(SpecError) as caught:
        parse_spec(BAD[name].spec)
    assert caught.value.reason == "InvalidSpec"
    assert str(caught.value).startswith("spec")


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_field_is_no_accident_to_ignore(name):
    spec, field = UNKNOWN[name]
    with pytest.raises(SpecError, match=f"unknown field `{field.rpartition('.')[2]}`"):
        parse_spec(spec)


def test_the_message_begins_with_the_field():
    with pytest.raises(SpecError) as caught:
        parse_spec(MODEL | {"decode": {"replicas": -1}})
    assert str(caught.value) == "spec.decode.replicas: expected `int` >= 0"


@pytest.mark.parametrize(
    ("start", "zone", "says"), [("0 8 * * *", "Europe/Atlantis", "time zone"), ("0 17-8 * * *", None, "17-8")]
)
def test_a_schedule_that_means_nothing_is_refused(start, zone, says):
    schedule = {"name": "day", "start": start, "duration": "8h", "decode": {"min": 2}}
    schedule |= {"timeZone": zone} if zone else {}
    with pytest.raises(SpecError, match=says) as caught:
        parse_spec(MODEL | {"autoscaling": {"mode": "Builtin", "schedules": [schedule]}})
    assert str(caught.value).startswith("spec.autoscaling.schedules[0]: ")


FIRST_SPECS = """
import os, sys, threading
from penstock_operator.api.parse import parse_spec

def parse_first():
    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=lambda: (barrier.wait(), parse_spec({spec}))) for _ in range(8)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]

sys.setswitchinterval(1e-3)
for _ in range(10):
    if not (child := os.fork()):
        parse_first()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_threads_that_are_first_to_parse_do_not_crash_the_process():
    done = subprocess.run([sys.executable, "-c", FIRST_SPECS.replace("{spec}", repr(MODEL))], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
