"""Messages of a topic on their way in: the subscription of the gateway's queue, and what comes out of that queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
import structlog

from adapters.aws.api import AwsClient
from adapters.aws.batches import SHAPE_ERRORS
from adapters.aws.query import map_fields
from adapters.aws.wire import ENCODING, INGRESS_QUEUE, KEY, META, ORIGIN, QUEUES, decode_body, header_value
from adapters.sns.backend import FROM_TOPIC, origin_name
from adapters.sns.naming import parse_reference
from adapters.sns.queues import SubscribedQueues
from adapters.sns.topics import TopicDirectory
from gateway.core.backend import Provision, Target
from gateway.core.errors import BackendError, Invalid, NotFound
from gateway.core.ingress import Incoming
from gateway.core.message import NO_PROPERTIES, Headers, HeaderValue, Message, Origin, Properties
from gateway.core.packing import unpack_meta

STATEMENT: Final = "mqlift-ingress"
"""The `Sid` of the statement in the queue's policy that lets the topic send to it."""

_OWN: Final = frozenset({META, ENCODING, ORIGIN, KEY, QUEUES})

_log = structlog.get_logger("mqlift.sns")


def queue_name(topic: str) -> str:
    """The legacy name of the queue that all replicas of a gateway take a topic's messages from."""
    return INGRESS_QUEUE + parse_reference(topic).name


def is_fifo(topic: str) -> bool:
    """Whether a topic keeps order, so that its queue has to."""
    return parse_reference(topic).fifo


def open_inlet(
    aws: AwsClient, *, prefix: str, provision: Provision, topic: Target, queue: Target, envelope: bool, filtered: bool
) -> Inlet:
    """How this folder offers what it takes from topics. `queue` is in SQS, under a bare name."""
    return Inlet(
        aws, prefix=prefix, provision=provision, topic=topic, queue=queue, envelope=envelope, filtered=filtered
    )


class Inlet:
    """Implements `gateway.core.ingress.Inlet` for one topic."""

    def __init__(
        self,
        aws: AwsClient,
        *,
        prefix: str,
        provision: Provision,
        topic: Target,
        queue: Target,
        envelope: bool,
        filtered: bool,
    ) -> None:
        self._queues = SubscribedQueues(aws)
        self._topics = TopicDirectory(aws, provision)
        self._topic = self._topics.find(topic)
        self._provision = provision
        self._queue = queue
        self._envelope = envelope
        self._filtered = filtered
        self._own = origin_name(prefix)
        self._origin = Origin(FROM_TOPIC)

    async def attach(self) -> None:
        arn = await self._topics.arn(self._topic)
        self._origin = Origin(FROM_TOPIC, arn)
        if self._provision == "never":
            return  # the subscription is somebody else's work, too
        queue = await self._queues.find(self._queue.name)
        await self._queues.allow(self._queue.name, queue, arn, STATEMENT)
        await self._subscribe(arn, queue.arn)

    async def _subscribe(self, arn: str, endpoint: str) -> None:
        fields = {"TopicArn": arn, "Protocol": "sqs", "Endpoint": endpoint, "ReturnSubscriptionArn": "true"}
        attributes = {"RawMessageDelivery": "false" if self._envelope else "true"}
        if self._filtered:
            attributes["FilterPolicy"] = filter_policy(self._own)
        try:
            await self._topics.call(self._topic, "Subscribe", fields | map_fields("Attributes", attributes))
        except NotFound:
            self._topic.forget()  # to be looked up, or made, the next time
            raise
        except Invalid as error:
            # "Subscription already exists with different attributes"
            raise BackendError(
                f"{error.problem}; {endpoint} is subscribed otherwise than `envelope` and `filter` say: change them, "
                "or remove that subscription",
                resource=error.resource,
                action=error.action,
            ) from None

    def take(self, message: Message) -> Incoming | None:
        incoming = self._unwrap(message) if self._envelope else Incoming(message, {"subject": ""})
        headers = incoming.message.headers
        if headers.get(ORIGIN) == self._own:
            return None
        kept = {name: value for name, value in headers.items() if name != ORIGIN} if ORIGIN in headers else headers
        given = incoming.message
        message = Message(given.address, given.body, given.properties, kept, self._origin)
        return Incoming(message, incoming.captures)

    def _unwrap(self, message: Message) -> Incoming:
        """Take a message out of SNS's envelope; what is in none is taken as it is, and told."""
        try:
            return _unwrapped(message, orjson.loads(message.body))
        except SHAPE_ERRORS as error:
            _log.warning("message_without_envelope", topic=self._topic.reference.name, problem=type(error).__name__)
            return Incoming(message, {"subject": ""})


def filter_policy(own: str) -> str:
    """Keeps out what the gateway itself has published: let pass what has no origin, or another one.

    A message without any attribute matches neither ("an empty set of attributes results in the filter not matching",
    SNS guide, "Key matching"), which is why the filter has to be asked for.
    """
    return orjson.dumps({ORIGIN: [{"exists": False}, {"anything-but": [own]}]}).decode()


def _unwrapped(message: Message, envelope: Mapping[str, Any]) -> Incoming:
    """Raises what an unexpected shape raises (`SHAPE_ERRORS`)."""
    text = envelope["Message"]
    if envelope.get("Type") != "Notification" or not isinstance(text, str):
        raise ValueError("no notification")
    given: Mapping[str, Mapping[str, str]] = envelope.get("MessageAttributes") or {}
    attributes = {name: _native(fields) for name, fields in given.items()}
    body = text.encode()
    if ENCODING in attributes:
        body = decode_body(text, attributes[ENCODING]["StringValue"])
    properties, headers = _described(attributes)
    unwrapped = Message(message.address, body, properties, headers, message.origin)
    return Incoming(unwrapped, {"subject": str(envelope.get("Subject") or "")})


def _native(fields: Mapping[str, str]) -> Mapping[str, str]:
    """An attribute as SQS shows it; in an envelope it has a type and a value."""
    key = "BinaryValue" if fields["Type"].startswith("Binary") else "StringValue"
    return {"DataType": fields["Type"], key: fields["Value"]}


def _described(attributes: Mapping[str, Mapping[str, str]]) -> tuple[Properties, Headers]:
    headers: dict[str, HeaderValue] = {
        name: header_value(fields) for name, fields in attributes.items() if name not in _OWN or name == ORIGIN
    }
    if META not in attributes:
        return NO_PROPERTIES, headers
    meta = unpack_meta(attributes[META]["StringValue"])
    origin = {ORIGIN: headers[ORIGIN]} if ORIGIN in headers else {}
    return meta.properties, {**headers, **meta.headers, **origin}
