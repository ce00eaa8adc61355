"""One trace from a publish to SQS and on to the consumer, as a collector gets it."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Self

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.conftest import GatewayFactory
from tests.rig.clients import StompClient
from tests.rig.counting import SqsClient
from tests.rig.processes import HOST, Gateway
from tests.rig.waiting import wait_for

TRACE = "5759e988bd862e3fe1be46a994272793"
CALLER = "53995c3f42cd8ad8"


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        spans = self.spans

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = http.server.ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def named(self, name: str) -> Span:
        (span,) = [span for span in self.spans if span.name == name]
        return span


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture
def gateway(gateway_factory: GatewayFactory, collector: Collector) -> Gateway:
    return gateway_factory(
        receiver={"wait": 1},
        tracing={"endpoint": collector.url, "sample": 0},
        environment={"OTEL_BSP_SCHEDULE_DELAY": "100"},
    )


def attributes(span: Span) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in span.attributes if pair.value.string_value}


def test_a_trace_goes_on_through_the_gateway(
    gateway: Gateway, collector: Collector, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    with StompClient(gateway.port("stomp")) as consumer, StompClient(gateway.port("stomp")) as producer:
        consumer.subscribe(f"/queue/{queue_name}", ack="client-individual")
        producer.send(f"/queue/{queue_name}", "hello", traceparent=f"00-{TRACE}-{CALLER}-01")
        (delivery,) = consumer.wait_deliveries(1)
        consumer.ack(delivery)
        wait_for(lambda: len(collector.spans) == 4, "all spans have come")
    publish, send, deliver, settle = (collector.named(name) for name in ("publish", "send", "deliver", "settle"))
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert publish.parent_span_id.hex() == CALLER
    assert send.parent_span_id == publish.span_id
    assert deliver.parent_span_id == publish.span_id
    assert settle.parent_span_id == deliver.span_id
    assert attributes(send)["messaging.destination.name"] == queue_name
    assert attributes(settle)["mqlift.outcome"] == "accepted"
    assert delivery.headers["traceparent"] == f"00-{TRACE}-{deliver.span_id.hex()}-01"
    assert publish.start_time_unix_nano <= send.start_time_unix_nano <= send.end_time_unix_nano


def test_what_is_not_sampled_makes_no_spans(
    gateway: Gateway, collector: Collector, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    unsampled = f"00-{TRACE}-{CALLER}-00"
    with StompClient(gateway.port("stomp")) as consumer, StompClient(gateway.port("stomp")) as producer:
        consumer.subscribe(f"/queue/{queue_name}")
        producer.send(f"/queue/{queue_name}", "one", traceparent=unsampled)
        producer.send(f"/queue/{queue_name}", "two")
        producer.send(f"/queue/{queue_name}", "three", traceparent="nonsense")
        deliveries = {delivery.body: delivery.headers for delivery in consumer.wait_deliveries(3)}
    gateway.close()  # sends what is left
    assert collector.spans == []
    assert deliveries["one"]["traceparent"] == unsampled
    assert "traceparent" not in deliveries["two"]


def test_a_collector_that_is_away_holds_up_nobody(gateway_factory: GatewayFactory, queue: str, queue_name: str) -> None:
    gateway = gateway_factory(tracing={"endpoint": f"http://{HOST}:1/v1/traces"})
    with StompClient(gateway.port("stomp")) as producer:
        producer.send(f"/queue/{queue_name}", "hello")
    assert gateway.terminate() == 0
