"""KEDA's external scaler over gRPC: the same number that HPAs get, and whether there should be any pods at all."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Iterator

import grpc

from penstock_operator.autoscale.hpa import METRIC
from penstock_operator.autoscale.keda_messages import (
    ScaledObjectRef,
    build_is_active,
    build_metric_spec,
    build_metrics,
    parse_metrics_request,
    parse_ref,
)
from penstock_operator.autoscale.offer import Offer
from penstock_operator.errors import OperatorError
from penstock_operator.names import Key

SERVICE = "externalscaler.ExternalScaler"
NUM_THREADS = 16  # calls at a time; each push stream takes one
PUSH_SECONDS = 1.0  # between two looks whether a service has become active


class KedaScaler:
    """The server. What is not known is an error, never 0: KEDA then leaves the number as it is."""

    def __init__(self, offer: Offer, *, port: int) -> None:
        """Listens on that port of all addresses, 0: any that is free. Raises `OperatorError` if it is taken."""
        self._offer = offer
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(NUM_THREADS, "keda"))
        methods = {
            "IsActive": self._unary(parse_ref, self._is_active),
            "GetMetricSpec": self._unary(parse_ref, self._spec),
            "GetMetrics": self._unary(parse_metrics_request, self._metrics),
            "StreamIsActive": grpc.unary_stream_rpc_method_handler(self._stream, request_deserializer=parse_ref),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        try:
            self.port: int = self._server.add_insecure_port(f"[::]:{port}")
        except RuntimeError:
            raise OperatorError(f"--keda-port {port}: the port is taken") from None

    def start(self) -> None:
        """Begin."""
        self._server.start()

    def stop(self, seconds: float) -> None:
        """End within that time."""
        self._server.stop(seconds).wait()

    def _unary(
        self,
        parse: Callable[[bytes], ScaledObjectRef],
        answer: Callable[[ScaledObjectRef, grpc.ServicerContext], bytes],
    ) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=parse)

    def _is_active(self, ref: ScaledObjectRef, context: grpc.ServicerContext) -> bytes:
        is_active = self._offer.is_active(_service(ref))
        if is_active is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, f"nothing is known of {_service(ref)} now")
        return build_is_active(bool(is_active))

    def _spec(self, ref: ScaledObjectRef, context: grpc.ServicerContext) -> bytes:
        return build_metric_spec(METRIC, 1.0)

    def _metrics(self, ref: ScaledObjectRef, context: grpc.ServicerContext) -> bytes:
        role = ref.metadata.get("role", "")
        needed = self._offer.pods_needed(_service(ref), role)
        if needed is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, f"nothing is known of {role} of {_service(ref)} now")
        return build_metrics(METRIC, needed or 0.0)

    def _stream(self, ref: ScaledObjectRef, context: grpc.ServicerContext) -> Iterator[bytes]:
        """For triggers of type `external-push`: told at each change, so that a held request waits for no poll."""
        last: bool | None = None
        while context.is_active():
            is_active = self._offer.is_active(_service(ref))
            if is_active is not None and is_active != last:
                last = is_active
                yield build_is_active(is_active)
            time.sleep(PUSH_SECONDS)


def _service(ref: ScaledObjectRef) -> Key:
    return Key(ref.namespace, ref.metadata.get("service", ref.name))
