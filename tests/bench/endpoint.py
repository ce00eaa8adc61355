"""An endpoint of SQS, SNS, Kinesis and Firehose that answers at once: it is the gateway that is measured.

`python -m tests.bench.endpoint --port 4580`. It stores nothing: a send is counted and acknowledged, a receive hands
out synthetic messages. `GET /stats` shows the counters as JSON, `POST /reset` clears them and takes new `Settings`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import TypedDict, cast

import orjson
import uvloop

ACCOUNT = "000000000000"
MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 16 * 1024 * 1024
"""A full batch of Kinesis is 10 MiB, a third longer in base64; one of SQS is 1 MiB, and JSON escapes may make it a few
times longer on the wire.
"""
RECEIPT_PREFIX = "AQEB"
RECEIPT_LENGTH = 200
"""Real receipt handles are about this long; they are most of a delete request."""
RECEIPT_DIGITS = 15
UNCHECKED_MD5 = "0" * 32
# One `%` costs less than an f-string with calls in it, and these are made for every message.
MESSAGE_ID = "00000000-0000-4000-8000-%012x"
RECEIPT = f"{RECEIPT_PREFIX}{'0' * (RECEIPT_LENGTH - len(RECEIPT_PREFIX) - RECEIPT_DIGITS)}%0{RECEIPT_DIGITS}d"
SENT = f'{{"Id":"%s","MessageId":"{MESSAGE_ID}","MD5OfMessageBody":"%s"}}'
RECEIVED = (
    f'{{"MessageId":"{MESSAGE_ID}","ReceiptHandle":"{RECEIPT}","MD5OfBody":"%s","Body":"%s",'
    '"Attributes":{"ApproximateReceiveCount":"1","SentTimestamp":"1700000000000"}}'
)
FORM_ACTION = b"Action="
"""What a request of the query protocol begins with."""
PUBLISHED = f"<member><MessageId>{MESSAGE_ID}</MessageId><Id>%d</Id></member>"
PUBLISH_ANSWER = (
    '<PublishBatchResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishBatchResult><Failed/>'
    "<Successful>%s</Successful></PublishBatchResult><ResponseMetadata><RequestId>00000000-0000-4000-8000-000000000000"
    "</RequestId></ResponseMetadata></PublishBatchResponse>"
)
PUT = '{"SequenceNumber":"49590338271490256608559692538361571095921575989136588898","ShardId":"shardId-000000000000"}'
"""Of each record; a sequence number is about this long, and nobody reads it."""
PUT_ANSWER = '{"FailedRecordCount":0,"Records":[%s]}'
ARCHIVED = '{"RecordId":"%s"}' % ("A" * 220)
ARCHIVED_ANSWER = '{"FailedPutCount":0,"Encrypted":false,"RequestResponses":[%s]}'
BATCH_ANSWER = '{"Successful":[%s],"Failed":[]}'
ENDLESS = -1


class ActionCount(TypedDict):
    calls: int
    entries: int
    bytes: int


class Stats(TypedDict):
    """What `GET /stats` answers."""

    actions: dict[str, ActionCount]
    received: int
    """Messages handed out."""
    deleted: int
    """Distinct messages deleted."""
    deleted_again: int
    """Deletes of a message that had been deleted before."""
    unknown_receipts: int


class Settings(TypedDict, total=False):
    """What `POST /reset` takes; what is left out stays as it is."""

    supply: int
    """Messages that receives hand out in total, or `ENDLESS`."""
    latency_ms: float
    body_bytes: int
    md5: bool
    """Whether answers carry true MD5 sums; botocore does not check them."""


class Request:
    """One parsed HTTP request. `action` is empty for what is not an AWS call."""

    __slots__ = ("action", "body", "line")

    def __init__(self, line: bytes, action: str, body: bytes) -> None:
        self.line = line
        self.action = action
        self.body = body


class BadRequest(Exception):
    """The peer sent something that is not the HTTP this server understands."""


def parse_request(buffer: bytes) -> tuple[Request, int] | None:
    """The first request of `buffer` and how many bytes it took, or None while it is incomplete."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > MAX_HEAD_BYTES:
            raise BadRequest("request head too long")
        return None
    head = buffer[:end]
    lowered = head.lower()
    length = int(header(lowered, b"\r\ncontent-length:", lowered) or 0)
    if length > MAX_BODY_BYTES or b"\r\ntransfer-encoding:" in lowered:
        raise BadRequest("body too long or without content-length")
    total = end + 4 + length
    if len(buffer) < total:
        return None
    target = header(head, b"\r\nx-amz-target:", lowered)
    line = head[: head.find(b"\r\n")] if b"\r\n" in head else head
    body = buffer[end + 4 : total]
    action = target.rpartition(b".")[2]
    if body.startswith(FORM_ACTION):
        action = body[len(FORM_ACTION) :].partition(b"&")[0]
    return Request(line, action.decode(), body), total


def header(head: bytes, name: bytes, lowered: bytes) -> bytes:
    """A header's value, empty when it is missing. `name` is in lower case, with the line break before and the colon."""
    start = lowered.find(name)
    if start < 0:
        return b""
    start += len(name)
    end = lowered.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


class Queue:
    """The one queue of this endpoint: what it handed out, what was deleted, and the counters."""

    def __init__(self, settings: Settings) -> None:
        self.settings: Settings = {"supply": ENDLESS, "latency_ms": 0.0, "body_bytes": 200, "md5": False}
        self.host = ""
        self.waiting: deque[Callable[[], None]] = deque()
        self.reset(settings)

    def reset(self, settings: Settings) -> None:
        self.settings.update(settings)
        self.md5 = self.settings["md5"]
        self.latency = self.settings["latency_ms"] / 1000
        self.counts: dict[str, ActionCount] = {}
        self.sent = 0
        self.received = 0
        self.deletions = bytearray()
        self.deleted_again = 0
        self.unknown_receipts = 0
        self.filling = "." * max(0, self.settings["body_bytes"] - len(f"{0:012d}"))
        self.wake()

    def limit_supply(self, supply: int) -> None:
        """Hand out `supply` messages in all and no more, counters unchanged; those handed out already count."""
        self.settings["supply"] = supply
        self.wake()

    def wake(self) -> None:
        """Let every waiting receive look again."""
        waiting, self.waiting = self.waiting, deque()
        for look in waiting:
            look()

    def count(self, action: str, entries: int, size: int) -> None:
        counted = self.counts.get(action)
        if counted is None:
            counted = self.counts[action] = {"calls": 0, "entries": 0, "bytes": 0}
        counted["calls"] += 1
        counted["entries"] += entries
        counted["bytes"] += size

    def stats(self) -> Stats:
        return {
            "actions": self.counts,
            "received": self.received,
            "deleted": len(self.deletions) - self.deletions.count(0),
            "deleted_again": self.deleted_again,
            "unknown_receipts": self.unknown_receipts,
        }

    def available(self) -> int:
        supply = self.settings["supply"]
        return sys.maxsize if supply == ENDLESS else max(0, supply - self.received)

    # Each action takes the request's body and returns the answer's, after counting.

    def send_batch(self, body: bytes) -> str:
        entries = orjson.loads(body)["Entries"]
        self.count("SendMessageBatch", len(entries), len(body))
        parts = []
        for number, entry in enumerate(entries, self.sent):
            digest = md5_of(entry["MessageBody"]) if self.md5 else UNCHECKED_MD5
            parts.append(SENT % (entry["Id"], number, digest))
        self.sent += len(entries)
        return BATCH_ANSWER % ",".join(parts)

    def send(self, body: bytes) -> str:
        self.count("SendMessage", 1, len(body))
        self.sent += 1
        digest = md5_of(orjson.loads(body)["MessageBody"]) if self.md5 else UNCHECKED_MD5
        return f'{{"MessageId":"{MESSAGE_ID % self.sent}","MD5OfMessageBody":"{digest}"}}'

    def publish_batch(self, body: bytes) -> str:
        """Entries are counted by their ids, which are their indices; values have no `=` in them, for it is quoted."""
        number = body.count(b".Id=")
        self.count("PublishBatch", number, len(body))
        parts = [PUBLISHED % (self.sent + index, index) for index in range(number)]
        self.sent += number
        return PUBLISH_ANSWER % "".join(parts)

    def put_records(self, body: bytes) -> str:
        records = orjson.loads(body)["Records"]
        self.count("PutRecords", len(records), len(body))
        return PUT_ANSWER % ",".join([PUT] * len(records))

    def put_record_batch(self, body: bytes) -> str:
        records = orjson.loads(body)["Records"]
        self.count("PutRecordBatch", len(records), len(body))
        return ARCHIVED_ANSWER % ",".join([ARCHIVED] * len(records))

    def receive(self, body: bytes, wanted: int) -> str:
        """At most `wanted` messages, which may be none."""
        number = min(wanted, self.available())
        first = self.received
        self.received += number
        self.count("ReceiveMessage", number, len(body))
        if not number:
            return "{}"
        self.deletions.extend(bytes(number))
        return f'{{"Messages":[{",".join(map(self.message, range(first, first + number)))}]}}'

    def message(self, number: int) -> str:
        text = f"{number:012d}{self.filling}"
        return RECEIVED % (number, number, md5_of(text) if self.md5 else UNCHECKED_MD5, text)

    def delete_batch(self, body: bytes) -> str:
        entries = orjson.loads(body)["Entries"]
        self.count("DeleteMessageBatch", len(entries), len(body))
        for entry in entries:
            self.delete_one(entry["ReceiptHandle"])
        return echoed_ids(entries)

    def delete(self, body: bytes) -> str:
        self.count("DeleteMessage", 1, len(body))
        self.delete_one(orjson.loads(body)["ReceiptHandle"])
        return "{}"

    def delete_one(self, handle: str) -> None:
        number = number_of(handle)
        if not 0 <= number < len(self.deletions):
            self.unknown_receipts += 1
        elif self.deletions[number]:
            self.deleted_again += 1
        else:
            self.deletions[number] = 1

    def change_visibility_batch(self, body: bytes) -> str:
        entries = orjson.loads(body)["Entries"]
        self.count("ChangeMessageVisibilityBatch", len(entries), len(body))
        return echoed_ids(entries)

    def queue_url(self, body: bytes) -> str:
        self.count("GetQueueUrl", 1, len(body))
        name = orjson.loads(body)["QueueName"]
        return f'{{"QueueUrl":"http://{self.host}/{ACCOUNT}/{name}"}}'

    def attributes(self, body: bytes) -> str:
        self.count("GetQueueAttributes", 1, len(body))
        name = orjson.loads(body)["QueueUrl"].rpartition("/")[2]
        return (
            f'{{"Attributes":{{"QueueArn":"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}","VisibilityTimeout":"30",'
            f'"ApproximateNumberOfMessages":"{self.available()}","ApproximateNumberOfMessagesNotVisible":"0",'
            f'"ApproximateNumberOfMessagesDelayed":"0"}}}}'
        )

    def nothing(self, body: bytes) -> str:
        self.count("TagQueue", 1, len(body))
        return "{}"


def number_of(handle: str) -> int:
    """The number of the message that a receipt belongs to, -1 for one of somebody else."""
    digits = handle[-RECEIPT_DIGITS:]
    return int(digits) if len(handle) == RECEIPT_LENGTH and digits.isdecimal() else -1


def md5_of(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def echoed_ids(entries: list[dict[str, str]]) -> str:
    return BATCH_ANSWER % ",".join([f'{{"Id":"{entry["Id"]}"}}' for entry in entries])


ACTIONS: dict[str, Callable[[Queue, bytes], str]] = {
    "SendMessageBatch": Queue.send_batch,
    "SendMessage": Queue.send,
    "PublishBatch": Queue.publish_batch,
    "PutRecords": Queue.put_records,
    "PutRecordBatch": Queue.put_record_batch,
    "DeleteMessageBatch": Queue.delete_batch,
    "DeleteMessage": Queue.delete,
    "ChangeMessageVisibilityBatch": Queue.change_visibility_batch,
    "GetQueueUrl": Queue.queue_url,
    "CreateQueue": Queue.queue_url,
    "GetQueueAttributes": Queue.attributes,
    "TagQueue": Queue.nothing,
}


class HttpDate:
    """The `Date` header's value, formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def text(self) -> str:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._text = formatdate(now, usegmt=True)
        return self._text


class EndpointConnection(asyncio.Protocol):
    """One keep-alive connection: requests are answered one after the other, each after the latency."""

    def __init__(self, queue: Queue, date: HttpDate) -> None:
        self._queue = queue
        self._date = date
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self._busy:
            self._next_request()

    def _next_request(self) -> None:
        while self._buffer and not self._busy and self._transport is not None:
            try:
                parsed = parse_request(self._buffer)
            except (BadRequest, ValueError) as error:
                self._write(HTTPStatus.BAD_REQUEST, f'{{"message":"{error}"}}')
                self._transport.close()
                return
            if parsed is None:
                return
            request, size = parsed
            self._buffer = self._buffer[size:]
            self._handle(request)

    def _handle(self, request: Request) -> None:
        if request.action == "ReceiveMessage":
            self._receive(request)
        elif request.action in ACTIONS:
            self._reply(ACTIONS[request.action](self._queue, request.body))
        elif request.action:
            text = '{"__type":"com.amazonaws.sqs#UnsupportedOperation","message":"not in this endpoint"}'
            self._write(HTTPStatus.BAD_REQUEST, text)
        else:
            self._control(request)

    def _receive(self, request: Request) -> None:
        wanted = orjson.loads(request.body)
        limit = wanted.get("MaxNumberOfMessages", 1)
        wait = wanted.get("WaitTimeSeconds", 0)
        if self._queue.available() or not wait:
            self._reply(self._queue.receive(request.body, limit))
            return
        self._busy = True

        def look() -> None:
            timer.cancel()
            self._busy = False
            if self._transport is not None:
                self._reply(self._queue.receive(request.body, limit))
                self._next_request()

        def give_up() -> None:
            if look in self._queue.waiting:
                self._queue.waiting.remove(look)
                look()

        timer = self._loop.call_later(wait, give_up)
        self._queue.waiting.append(look)

    def _reply(self, answer: str) -> None:
        if self._queue.latency:
            self._busy = True
            self._loop.call_later(self._queue.latency, self._answered, answer)
        else:
            self._write(HTTPStatus.OK, answer)

    def _answered(self, answer: str) -> None:
        self._busy = False
        self._write(HTTPStatus.OK, answer)
        self._next_request()

    def _control(self, request: Request) -> None:
        if request.line.startswith(b"GET /stats "):
            self._write(HTTPStatus.OK, orjson.dumps(self._queue.stats()).decode())
        elif request.line.startswith(b"POST /reset "):
            self._queue.reset(orjson.loads(request.body or b"{}"))
            self._write(HTTPStatus.OK, "{}")
        elif request.line.startswith(b"POST /stop-supply "):
            self._queue.limit_supply(self._queue.received)
            self._write(HTTPStatus.OK, orjson.dumps(self._queue.stats()).decode())
        else:
            self._write(HTTPStatus.NOT_FOUND, "{}")

    def _write(self, status: HTTPStatus, answer: str) -> None:
        if self._transport is None:
            return
        body = answer.encode()
        self._transport.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/x-amz-json-1.0\r\n"
            f"x-amzn-RequestId: 00000000-0000-4000-8000-000000000000\r\nDate: {self._date.text()}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode("ascii")
            + body
        )


async def serve(host: str, port: int, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    queue = Queue(settings)
    queue.host = f"{host}:{port}"
    date = HttpDate()
    server = await loop.create_server(lambda: EndpointConnection(queue, date), host, port, backlog=1024)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with server:
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="An endpoint that answers instantly.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--supply", type=int, default=ENDLESS, help="messages to hand out, -1 for no end")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--body-bytes", type=int, default=200)
    parser.add_argument("--md5", action="store_true", help="true MD5 sums in answers")
    options = parser.parse_args()
    settings: Settings = {
        "supply": options.supply,
        "latency_ms": options.latency_ms,
        "body_bytes": options.body_bytes,
        "md5": options.md5,
    }
    uvloop.run(serve(options.host, options.port, settings))


if __name__ == "__main__":
    main()
