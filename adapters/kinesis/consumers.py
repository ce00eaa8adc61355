"""Enhanced fan-out consumers: found or registered when they are first needed, and known by their ARNs from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import orjson
import structlog

from adapters.aws.api import AwsClient
from adapters.aws.errors import code_of
from adapters.kinesis.naming import StreamReference
from adapters.kinesis.settings import HOSTNAME
from adapters.kinesis.streams import Provision, Stream, StreamDirectory
from gateway.core.errors import BackendError, NotFound, Unavailable

CONSUMER_LIMIT: Final = 1_000
"""Consumers that are remembered; the rules name each of them."""

_ACTIVE: Final = "ACTIVE"

_log = structlog.get_logger("mqlift.kinesis")


class ConsumerDirectory:
    """All consumers that this gateway has used. Shards that need the same one at the same time share the requests."""

    def __init__(self, aws: AwsClient, streams: StreamDirectory, provision: Provision, hostname: str) -> None:
        self._aws = aws
        self._streams = streams
        self._provision = provision
        self._hostname = hostname
        self._arns: dict[tuple[StreamReference, str], str] = {}
        self._asking = asyncio.Lock()

    async def find(self, stream: Stream, consumer: str) -> str:
        """The ARN of a consumer, as the rule names it.

        Raises `NotFound` with what would help, and `Unavailable` until it is active.
        """
        key = (stream.reference, consumer)
        known = self._arns.get(key)
        if known is not None:
            return known
        async with self._asking:
            if key not in self._arns:
                arn = await self._find_or_register(stream, consumer.replace(HOSTNAME, self._hostname))
                if len(self._arns) >= CONSUMER_LIMIT:
                    del self._arns[next(iter(self._arns))]
                self._arns[key] = arn
            return self._arns[key]

    def forget(self, stream: Stream, consumer: str) -> None:
        """It was not there: one that is registered again has another ARN."""
        self._arns.pop((stream.reference, consumer), None)

    async def _find_or_register(self, stream: Stream, consumer: str) -> str:
        request = {"StreamARN": await self._streams.arn(stream), "ConsumerName": consumer}
        try:
            answer = await self._call(stream, "DescribeStreamConsumer", request)
        except NotFound:
            if self._provision == "never" or not stream.reference.ours:
                raise self._missing(stream, consumer) from None
            await self._register(stream, request)
            answer = await self._call(stream, "DescribeStreamConsumer", request)
        return self._active(answer, stream, consumer)

    async def _register(self, stream: Stream, request: Mapping[str, str]) -> None:
        try:
            await self._call(stream, "RegisterStreamConsumer", request)
        except BackendError as error:
            if code_of(error) != "ResourceInUseException":
                raise
            return  # somebody else has registered it in this moment
        _log.info("consumer_registered", stream=stream.reference.name, name=request["ConsumerName"])

    def _active(self, answer: bytes, stream: Stream, consumer: str) -> str:
        try:
            described = orjson.loads(answer)["ConsumerDescription"]
            status, arn = str(described["ConsumerStatus"]), str(described["ConsumerARN"])
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable(f"an answer that is not Kinesis's: {type(error).__name__} {error}") from None
        if status != _ACTIVE:
            # A new one is a few seconds in the state CREATING.
            problem = f"its enhanced fan-out consumer {consumer} is {status.lower()}"
            raise Unavailable(problem, resource=stream.resource, action="kinesis:DescribeStreamConsumer")
        return arn

    def _missing(self, stream: Stream, consumer: str) -> NotFound:
        problem = f"it has no enhanced fan-out consumer {consumer}; register it"
        if self._provision == "never" and stream.reference.ours:
            problem += ", or set `provision: auto`, which needs the permission kinesis:RegisterStreamConsumer"
        return NotFound(problem, resource=stream.resource, action="kinesis:DescribeStreamConsumer")

    async def _call(self, stream: Stream, action: str, request: Mapping[str, str]) -> bytes:
        body = orjson.dumps(request)
        return await self._aws.call("kinesis", action, body, resource=stream.resource, region=stream.region)
