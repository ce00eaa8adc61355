"""Spans for OpenTelemetry: one trace from a publish to AWS and on to the consumer. The extra `mqlift[otel]`."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import replace
from importlib import metadata
from typing import Final

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from gateway.core.backend import Answerable, Target
from gateway.core.delivery import Delivery, DeliverySource
from gateway.core.message import Message
from gateway.core.outcome import Outcome, Result
from gateway.core.tracing import TRACEPARENT

log = structlog.get_logger("mqlift.tracing")

EXPORT_LIMIT: Final = 5.0
"""Seconds of one request to the collector, and of the last one when the gateway stops."""

# https://www.w3.org/TR/trace-context/#traceparent-header-field-values, version 00
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

_ROOT: Final = Context()
"""Of a message that comes without a trace: this process has no span of its own that it would belong to."""

_SYSTEMS: Final = {"sqs": "aws_sqs", "sns": "aws_sns"}
"""`messaging.system` of OpenTelemetry's conventions where it has a value for a kind of backend."""


class SpanTracer:
    """A `Tracer` that makes spans. Those that are not sampled cost a look at the header."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("mqlift", metadata.version("mqlift"))

    def published(self, message: Message, waiter: Answerable) -> tuple[Message, Answerable]:
        exchange, key = message.address
        span = self._tracer.start_span(
            "publish",
            _context_of(message) or _ROOT,
            kind=SpanKind.SERVER,
            attributes={
                "messaging.system": message.origin.protocol,
                "messaging.destination.name": f"{exchange}:{key}" if exchange else key,
                "messaging.message.body.size": len(message.body),
                "messaging.client.id": message.origin.client_id,
            },
        )
        if not span.is_recording():
            return message, waiter
        return _with_traceparent(message, span), _Ending(span, waiter)

    def sent(self, target: Target, message: Message, waiter: Answerable) -> Answerable:
        context = _context_of(message)
        if context is None:
            return waiter
        span = self._tracer.start_span(
            "send",
            context,
            kind=SpanKind.PRODUCER,
            attributes={
                "messaging.system": _SYSTEMS.get(target.kind, target.kind),
                "messaging.destination.name": target.name,
                "messaging.operation.type": "send",
            },
        )
        return _Ending(span, waiter) if span.is_recording() else waiter

    def delivering(self, queue: str, delivery: Delivery) -> None:
        context = _context_of(delivery.message)
        if context is None:
            return
        span = self._tracer.start_span(
            "deliver",
            context,
            kind=SpanKind.CONSUMER,
            attributes={"messaging.destination.name": queue, "mqlift.attempt": delivery.attempt},
        )
        if span.is_recording():
            delivery.message = _with_traceparent(delivery.message, span)
            delivery.source = _SettledSource(delivery.source, span, self._tracer)

    async def aclose(self) -> None:
        """Send what is left, for a few seconds at most."""
        try:
            async with asyncio.timeout(EXPORT_LIMIT + 1):
                await asyncio.to_thread(self._provider.shutdown)
        except TimeoutError:
            log.warning("spans_not_exported")


def open_tracer(endpoint: str, sample: float) -> SpanTracer:
    """A tracer that sends to a collector, in batches and from a thread; what it has no room for is dropped."""
    own = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: "mqlift"}
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(sample)), resource=Resource.create(own), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=EXPORT_LIMIT)))
    return SpanTracer(provider)


class _Ending:
    """Ends a span with a result, and passes that on."""

    __slots__ = ("_span", "_waiter")

    def __init__(self, span: Span, waiter: Answerable) -> None:
        self._span = span
        self._waiter = waiter

    def answer(self, token: object, result: Result) -> None:
        if result.outcome is not Outcome.ACCEPTED:
            self._span.set_status(Status(StatusCode.ERROR, str(result.error or result.outcome.name.lower())))
        self._span.end()
        self._waiter.answer(token, result)


class _SettledSource:
    """Where a delivery came from, for one that is traced: its span ends when it is settled."""

    __slots__ = ("_source", "_span", "_tracer", "name")

    def __init__(self, source: DeliverySource, span: Span, tracer: trace.Tracer) -> None:
        self.name = source.name
        self._source = source
        self._span: Span | None = span
        self._tracer = tracer

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        span, self._span = self._span, None
        if span is None or delivery.settled:
            self._source.settle(delivery, outcome)
            return
        settling = self._tracer.start_span("settle", set_span_in_context(span, _ROOT), kind=SpanKind.INTERNAL)
        settling.set_attribute("mqlift.outcome", outcome.name.lower())
        self._source.settle(delivery, outcome)
        settling.end()
        span.end()


def _context_of(message: Message) -> Context | None:
    """The trace that a message belongs to; None for a message without a header that can be read."""
    header = message.headers.get(TRACEPARENT)
    found = _TRACEPARENT.fullmatch(header) if isinstance(header, str) else None
    if found is None:
        return None
    context = SpanContext(
        int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=TraceFlags(int(found[3], 16))
    )
    return set_span_in_context(NonRecordingSpan(context), _ROOT) if context.is_valid else None


def _with_traceparent(message: Message, span: Span) -> Message:
    context = span.get_span_context()
    header = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return replace(message, headers={**message.headers, TRACEPARENT: header})
