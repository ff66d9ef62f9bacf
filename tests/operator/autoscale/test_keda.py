"""KEDA's side is played by gRPC and protobuf themselves, from the definition that KEDA publishes."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from penstock_operator.autoscale.keda import SERVICE, KedaScaler
from penstock_operator.autoscale.keda_messages import build_metrics, parse_ref
from penstock_operator.autoscale.offer import Offer
from penstock_operator.kinds import ROLE_SCALER

TEXT, BOOL, DOUBLE, MESSAGE, INT64 = 9, 8, 1, 11, 3
MESSAGES = {
    "ScaledObjectRef": [("name", 1, TEXT), ("namespace", 2, TEXT), ("scalerMetadata", 3, ".x.Entry", True)],
    "Entry": [("key", 1, TEXT), ("value", 2, TEXT)],
    "IsActiveResponse": [("result", 1, BOOL)],
    "MetricSpec": [("metricName", 1, TEXT), ("targetSize", 2, INT64), ("targetSizeFloat", 3, DOUBLE)],
    "GetMetricSpecResponse": [("metricSpecs", 1, ".x.MetricSpec", True)],
    "GetMetricsRequest": [("scaledObjectRef", 1, ".x.ScaledObjectRef"), ("metricName", 2, TEXT)],
    "MetricValue": [("metricName", 1, TEXT), ("metricValue", 2, INT64), ("metricValueFloat", 3, DOUBLE)],
    "GetMetricsResponse": [("metricValues", 1, ".x.MetricValue", True)],
}


def build_types() -> dict[str, type]:
    file = descriptor_pb2.FileDescriptorProto(name="x.proto", package="x", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, *repeated in fields:
            added = message.field.add(name=field, number=number, label=3 if repeated else 1)
            added.type = MESSAGE if isinstance(kind, str) else kind
            if isinstance(kind, str):
                added.type_name = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"x.{name}")) for name in MESSAGES}


TYPES = build_types()
CHAT = {"service": "chat", "role": "both"}


def ref(metadata: dict[str, str], namespace: str = "default"):
    entries = [TYPES["Entry"](key=key, value=value) for key, value in metadata.items()]
    return TYPES["ScaledObjectRef"](name="chat-both", namespace=namespace, scalerMetadata=entries)


@pytest.fixture
def server(scaled) -> Iterator[KedaScaler]:
    one = KedaScaler(Offer(scaled.autoscaler, lambda: scaled.run.now), port=0)
    one.start()
    yield one
    one.stop(1.0)


def call(server: KedaScaler, method: str, request, answer: str):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        ask = channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=TYPES[answer].FromString,
        )
        return ask(request, timeout=10)


@pytest.mark.parametrize("scaled", ["KEDA"], indirect=True)
async def test_keda_gets_the_pods_that_are_needed_for_a_target_of_one(scaled, server):
    await scaled.look(3, kv_usage=0.6, running=8)
    spec = call(server, "GetMetricSpec", ref(CHAT), "GetMetricSpecResponse").metricSpecs[0]
    assert (spec.metricName, spec.targetSizeFloat) == ("penstock-pods-needed", 1.0)
    request = TYPES["GetMetricsRequest"](scaledObjectRef=ref(CHAT), metricName=spec.metricName)
    value = call(server, "GetMetrics", request, "GetMetricsResponse").metricValues[0]
    assert value.metricValueFloat == pytest.approx(0.75)
    assert scaled.request == 1  # we write nothing: KEDA does


@pytest.mark.parametrize("scaled", ["KEDA"], indirect=True)
async def test_what_is_not_known_is_an_error_and_never_zero(scaled, server):
    request = TYPES["GetMetricsRequest"](scaledObjectRef=ref(CHAT))
    for method, asked, answer in (
        ("GetMetrics", request, "GetMetricsResponse"),
        ("IsActive", ref(CHAT), "IsActiveResponse"),
    ):
        with pytest.raises(grpc.RpcError) as error:
            call(server, method, asked, answer)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("scaled", ["KEDA"], indirect=True)
async def test_it_is_active_until_nobody_has_asked_for_long_enough(scaled, server):
    await scaled.look(3)
    assert call(server, "IsActive", ref(CHAT), "IsActiveResponse").result
    await scaled.look(305)
    assert not call(server, "IsActive", ref(CHAT), "IsActiveResponse").result
    await scaled.look(1, held=1)
    assert call(server, "IsActive", ref(CHAT), "IsActiveResponse").result


@pytest.mark.parametrize("scaled", ["KEDA"], indirect=True)
async def test_at_zero_one_pod_is_needed_as_soon_as_a_request_waits(scaled, server):
    def needed() -> float:
        request = TYPES["GetMetricsRequest"](scaledObjectRef=ref(CHAT))
        return call(server, "GetMetrics", request, "GetMetricsResponse").metricValues[0].metricValueFloat

    scaled.run.api.update(ROLE_SCALER, "default", "chat-both", {"spec": {"replicas": 0}})
    scaled.run.settle(30)
    await scaled.look(2)
    assert scaled.pods == []
    assert needed() == 0
    await scaled.look(1, held=1)
    assert needed() == 1
    scaled.run.api.update(ROLE_SCALER, "default", "chat-both", {"spec": {"replicas": 2}})
    scaled.run.work()
    await scaled.look(1, held=1)
    assert needed() == 2  # both start


@pytest.mark.parametrize("scaled", ["KEDA"], indirect=True)
async def test_a_push_trigger_hears_of_it(scaled, server):
    await scaled.look(3)
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        ask = channel.unary_stream(
            f"/{SERVICE}/StreamIsActive",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=TYPES["IsActiveResponse"].FromString,
        )
        stream = ask(ref(CHAT), timeout=10)
        assert next(stream).result
        stream.cancel()


@given(
    metadata=st.dictionaries(st.text(max_size=300), st.text(max_size=300), max_size=4), namespace=st.text(max_size=99)
)
def test_what_protobuf_writes_is_read(metadata, namespace):
    read = parse_ref(ref(metadata, namespace).SerializeToString())
    assert (read.name, read.namespace, read.metadata) == ("chat-both", namespace, metadata)


@given(value=st.floats(allow_nan=False), name=st.text(max_size=500))
def test_what_is_written_protobuf_reads(value, name):
    read = TYPES["GetMetricsResponse"].FromString(build_metrics(name, value))
    assert [(one.metricName, one.metricValueFloat) for one in read.metricValues] == [(name, value)]


@given(data=st.binary(max_size=200))
def test_nonsense_is_a_value_error(data):
    try:
        parse_ref(data)
    except ValueError:
        return
