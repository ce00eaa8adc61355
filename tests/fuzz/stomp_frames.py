"""Correct STOMP frames, and damage that keeps the frame around it whole."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tests.fuzz.cases import often
from tests.fuzz.mutations import mutate

DESTINATIONS: Final = (
    "/queue/q",
    "/queue/orders",
    "/queue/a%2Fb",
    "/queue/é",
    "/topic/a.b",
    "/topic/a.*.#",
    "/exchange/x/k",
    "/exchange/amq.topic/#",
    "/amq/queue/q",
    "/reply-queue/a/b",
    "/temp-queue/t",
    "/temp-topic/t",
    "/queue/q,/topic/a.b",
    "/topic/a.>",
    "/queue/Consumer.A.VirtualTopic.T",
    "/queue/",
    "/queue/%ff",
    "queue",
    "/queue/" + "q" * 256,
)
IDS: Final = ("0", "1", "sub-a", "a\\cb", "é")
RECEIPTS: Final = ("r", "r1", "77", "\\n", "é")
HEADERS: Final = (
    "content-type:text/plain",
    "persistent:true",
    "priority:4",
    "correlation-id:c",
    "reply-to:/queue/r",
    "reply-to:/temp-queue/t",
    "amq-msg-type:text",
    "expires:1700000000000",
    "AMQ_SCHEDULED_DELAY:1000",
    "expiration:60000",
    "timestamp:1",
    "own:value",
    "own:second",
    "a\\cb:c\\nd",
    "empty:",
    "x:" + "y" * 100,
)
REFUSED_HEADERS: Final = (
    "priority:256",
    "user-id:u",
    "x-message-ttl:1",
    "durable:false",
    "transaction:unknown",
    "message-id:m",
    "expiration:-1",
    ":",
    "bad\\t:x",
)


SUBSCRIBE_HEADERS: Final = (
    "selector:own = 'value'",
    "selector:own LIKE '%a_' AND NOT (a > 1)",
    "durable:true",
    "auto-delete:false",
    "x-queue-name:n",
    "x-expires:60000",
    "x-priority:1",
    "activemq.subscriptionName:n",
    "activemq.prefetchSize:1",
)


def frame(command: str, headers: Sequence[str], body: bytes = b"", line_end: str = "\n") -> bytes:
    """Header lines are written as they are."""
    head = "".join(f"{line}{line_end}" for line in (command, *headers))
    return f"{head}{line_end}".encode() + body + b"\0"


class FrameMaker:
    """Makes frames of a client."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._line_end = often(rng, {"\n": 4, "\r\n": 1})
        self._begun: set[str] = set()

    def connect(self) -> bytes:
        rng = self._rng
        versions = often(rng, {"1.2": 6, "1.0,1.1,1.2": 4, "1.1": 3, "1.0": 3, "2.0": 0.3})
        headers = [f"accept-version:{versions}", "host:h"]
        if rng.random() < 0.3:
            beats = rng.choice(("0,0", "1000,1000", "5000,0", "0,2000", "1,1", "4000000000,1", "x,y", "1"))
            headers.append(f"heart-beat:{beats}")
        if rng.random() < 0.3:
            headers += ["login:u", "passcode:p"]
        if rng.random() < 0.3:
            headers.append("client-id:c")
        return self._frame(rng.choice(("CONNECT", "STOMP")), headers)

    def client_frame(self) -> bytes:
        """One that a client sends when it is let in."""
        return often(self._rng, _CLIENT_FRAMES)(self)

    def any_frame(self) -> bytes:
        """One that somebody might send."""
        command = self._rng.choice(("MESSAGE", "RECEIPT", "ERROR", "CONNECTED", "connect", "SEND", "", "BEGIN x"))
        return self._frame(command or "A", self._more(), self._body())

    def send(self) -> bytes:
        body = self._body()
        headers = [f"destination:{self._destination()}", *self._receipt(0.6), *self._more()]
        if self._begun and self._rng.random() < 0.5:
            headers.append(f"transaction:{self._rng.choice(sorted(self._begun))}")
        if b"\0" in body or self._rng.random() < 0.5:
            headers.append(f"content-length:{len(body)}")
        return self._frame("SEND", headers, body)

    def subscribe(self) -> bytes:
        rng = self._rng
        headers = [f"id:{rng.choice(IDS)}", f"destination:{self._destination()}", *self._receipt(0.5)]
        headers.append(f"ack:{rng.choice(('auto', 'client', 'client-individual'))}")
        if rng.random() < 0.3:
            headers.append(f"prefetch-count:{rng.choice((0, 1, 2, 50, 99999))}")
        if rng.random() < 0.1:
            headers += rng.choices(SUBSCRIBE_HEADERS, k=2)
        return self._frame("SUBSCRIBE", headers)

    def unsubscribe(self) -> bytes:
        return self._frame("UNSUBSCRIBE", [f"id:{self._rng.choice(IDS)}", *self._receipt(0.5)])

    def settle(self) -> bytes:
        """An ACK or NACK of something that was hardly ever delivered."""
        rng = self._rng
        ack = rng.choice(("", "0", "T_x@@1@@1", "@@", "@@1", "x@@" + "9" * 30, "a@@1@@٣"))
        return self._frame(rng.choice(("ACK", "NACK")), [f"id:{ack}", *self._receipt(0.3)])

    def transaction(self) -> bytes:
        """One that makes sense, as far as its maker knows."""
        name = self._rng.choice(("t", "u"))
        if name in self._begun:
            command = self._rng.choice(("COMMIT", "COMMIT", "ABORT"))
            self._begun.discard(name)
        else:
            command = "BEGIN"
            self._begun.add(name)
        return self._frame(command, [f"transaction:{name}", *self._receipt(0.5)])

    def disconnect(self) -> bytes:
        return self._frame("DISCONNECT", self._receipt(0.7))

    def heart_beat(self) -> bytes:
        return self._rng.choice((b"\n", b"\r\n", b"\n\n\n"))

    def _frame(self, command: str, headers: Sequence[str], body: bytes = b"") -> bytes:
        return frame(command, headers, body, self._line_end)

    def _destination(self) -> str:
        return often(self._rng, {"/queue/q": 8, "/topic/a.b": 8, "/queue/orders": 4, self._rng.choice(DESTINATIONS): 1})

    def _receipt(self, share: float) -> list[str]:
        return [f"receipt:{self._rng.choice(RECEIPTS)}"] if self._rng.random() < share else []

    def _more(self) -> list[str]:
        if self._rng.random() < 0.7:
            return []
        headers = self._rng.choices(HEADERS, k=often(self._rng, {1: 6, 3: 3, 60: 0.1}))
        return [*headers, self._rng.choice(REFUSED_HEADERS)] if self._rng.random() < 0.02 else headers

    def _body(self) -> bytes:
        return self._rng.choice((b"", b"hello", b"\xff\x00\x01", b"\n\n", b"x" * 200, "é".encode(), b"SEND\n\n"))


_CLIENT_FRAMES: Final[Mapping[Callable[[FrameMaker], bytes], float]] = {
    FrameMaker.send: 8,
    FrameMaker.subscribe: 2.5,
    FrameMaker.unsubscribe: 1,
    FrameMaker.heart_beat: 1,
    FrameMaker.settle: 0.1,
    FrameMaker.transaction: 1,
    FrameMaker.disconnect: 0.15,
    FrameMaker.any_frame: 0.05,
}


def damage(rng: random.Random, wire: bytes, spare: bytes) -> bytes:
    """Anywhere, or in a single line."""
    if rng.random() < 0.5:
        return mutate(rng, wire, spare)
    lines = wire.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = mutate(rng, lines[at] or b"x", spare).replace(b"\n", b"")
    if rng.random() < 0.2:
        lines[at:at] = [lines[at]] * rng.choice((1, 2, 300))
    return b"\n".join(lines)
