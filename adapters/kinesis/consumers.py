"""Enhanced fan-out consumers: found or registered when they are first needed, and known by their ARNs from then on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson
import structlog

from adapters.aws.directory import Resource
from adapters.aws.errors import code_of
from adapters.kinesis.naming import StreamReference
from adapters.kinesis.reading import broken
from adapters.kinesis.settings import HOSTNAME
from adapters.kinesis.streams import Stream, StreamDirectory
from gateway.core.backend import Provision
from gateway.core.errors import BackendError, NotFound, Unavailable

CONSUMER_LIMIT: Final = 1_000
"""Consumers that are remembered; the rules name each of them."""

_ACTIVE: Final = "ACTIVE"

_log = structlog.get_logger("mqlift.kinesis")


class Consumer(Resource):
    """One consumer. `arn` is empty until it is known to be active."""

    __slots__ = ("arn", "name")

    def __init__(self, stream: Stream, name: str) -> None:
        super().__init__(stream.resource, stream.reference.region)
        self.name = name
        self.arn = ""


class ConsumerDirectory:
    """All consumers that this gateway has used. Many shards need the same one at the same time."""

    def __init__(self, streams: StreamDirectory, provision: Provision, hostname: str) -> None:
        self._streams = streams
        self._provision = provision
        self._hostname = hostname
        self._consumers: dict[tuple[StreamReference, str], Consumer] = {}

    async def find(self, stream: Stream, named: str) -> str:
        """The ARN of a consumer, `named` as in the rule.

        Raises `NotFound` with what would help, and `Unavailable` until it is active.
        """
        consumer = self._known(stream, named)
        return consumer.arn or await consumer.look(lambda: self._find_or_register(stream, consumer))

    def forget(self, stream: Stream, named: str) -> None:
        """It was not there: one that is registered again has another ARN."""
        self._known(stream, named).arn = ""

    def _known(self, stream: Stream, named: str) -> Consumer:
        key = (stream.reference, named)
        consumer = self._consumers.get(key)
        if consumer is None:
            if len(self._consumers) >= CONSUMER_LIMIT:
                del self._consumers[next(iter(self._consumers))]
            consumer = self._consumers[key] = Consumer(stream, named.replace(HOSTNAME, self._hostname))
        return consumer

    async def _find_or_register(self, stream: Stream, consumer: Consumer) -> str:
        if consumer.arn:
            return consumer.arn  # somebody has found it meanwhile
        request = {"StreamARN": await self._streams.arn(stream), "ConsumerName": consumer.name}
        try:
            answer = await self._streams.call(stream, "DescribeStreamConsumer", request)
        except NotFound:
            if self._provision == "never" or not stream.reference.ours:
                raise self._missing(stream, consumer.name) from None
            await self._register(stream, request)
            answer = await self._streams.call(stream, "DescribeStreamConsumer", request)
        consumer.arn = _active(answer, stream, consumer.name)
        return consumer.arn

    async def _register(self, stream: Stream, request: Mapping[str, str]) -> None:
        try:
            await self._streams.call(stream, "RegisterStreamConsumer", request)
        except BackendError as error:
            if code_of(error) != "ResourceInUseException":
                raise
            return  # somebody else has registered it in this moment
        _log.info("consumer_registered", stream=stream.reference.name, name=request["ConsumerName"])

    def _missing(self, stream: Stream, consumer: str) -> NotFound:
        problem = f"it has no enhanced fan-out consumer {consumer}; register it"
        if self._provision == "never" and stream.reference.ours:
            problem += ", or set `provision: auto`, which needs the permission kinesis:RegisterStreamConsumer"
        return NotFound(problem, resource=stream.resource, action="kinesis:DescribeStreamConsumer")


def _active(answer: bytes, stream: Stream, consumer: str) -> str:
    """The ARN in a description of a consumer that can be used."""
    try:
        described = orjson.loads(answer)["ConsumerDescription"]
        status, arn = str(described["ConsumerStatus"]), str(described["ConsumerARN"])
    except (KeyError, TypeError, ValueError) as error:
        raise broken(error) from None
    if status != _ACTIVE:
        # A new one is a few seconds in the state CREATING.
        problem = f"its enhanced fan-out consumer {consumer} is {status.lower()}"
        raise Unavailable(problem, resource=stream.resource, action="kinesis:DescribeStreamConsumer")
    return arn
