"""The STOMP client of a fuzzed session: keeps accounts of the receipts it asked for, and of what it was sent."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from gateway.protocols.stomp.codec import CONNECT_COMMANDS, Frame, FrameLimits, FrameParser, encode_frame
from gateway.protocols.stomp.errors import StompError
from gateway.protocols.stomp.versions import UNESCAPED, V1_0, V1_1, V1_2, Version
from tests.fuzz.cases import Violation
from tests.fuzz.hub import Hub

VERSIONS: Final = {version.name: version for version in (V1_0, V1_1, V1_2)}
WIDE: Final = FrameLimits(1000, 1 << 24, 1 << 24, 1 << 24)


class StompClient:
    """Implements `hub.Client`. Requests are read with the codec, whatever damage they have taken on their way."""

    def __init__(self, limits: FrameLimits, *, activemq: bool = False) -> None:
        """`activemq`: whether it is that dialect, where a SEND that is part of a transaction is answered before its
        COMMIT, and a NACK moves its message away."""
        self._activemq = activemq
        self.accepted_by_client: float = 0
        self._requests = FrameParser(limits)
        self._answers = FrameParser(WIDE)
        self._version: Version = V1_2
        self._unreadable = False
        self._connecting = False
        self._connected = False
        self._left = False
        """DISCONNECT was sent: the session reads no further."""
        self._error = False
        self._receipts: Counter[str] = Counter()
        """Asked for, and not given."""
        self._control_receipts = 0
        """Asked for by other frames than SEND, ever."""
        self._given = 0
        self._unacknowledged: list[tuple[str, str]] = []
        """(header, value) that name a message in an ACK."""
        self._modes: dict[str, str] = {}
        """How each subscription acknowledges, by its id."""
        self._transactions: dict[str, Counter[str]] = {}
        """Receipts that come only after a COMMIT."""

    # What is sent

    def sent(self, data: bytes) -> None:
        if not self._left and not self._unreadable:
            self._requests.receive_data(data)
            self._read_requests()

    def _read_requests(self) -> None:
        try:
            while not (self._left or self._connecting) and (frame := self._requests.next_frame()) is not None:
                self._note(frame)
        except StompError:
            self._unreadable = True

    def _note(self, frame: Frame) -> None:
        if frame.command in CONNECT_COMMANDS:
            self._connecting = not self._connected
            return
        receipt = frame.headers.get("receipt")
        if receipt is not None:
            self._note_receipt(frame, receipt)
        match frame.command:
            case "ACK":
                self.accepted_by_client = math.inf  # one may speak for many
            case "NACK" if self._activemq:
                self.accepted_by_client = math.inf
            case "SUBSCRIBE":
                self._modes[frame.headers.get("id", "")] = frame.headers.get("ack", "auto")
            case "BEGIN":
                self._transactions[frame.headers.get("transaction", "")] = Counter()
            case "COMMIT":
                self._receipts += self._transactions.pop(frame.headers.get("transaction", ""), Counter())
            case "ABORT":
                self._transactions.pop(frame.headers.get("transaction", ""), None)
            case "DISCONNECT":
                self._left = True

    def _note_receipt(self, frame: Frame, receipt: str) -> None:
        transaction = frame.headers.get("transaction")
        part = transaction in self._transactions and frame.command in ("SEND", "ACK", "NACK")
        late = frame.command == "SEND" and not self._activemq
        if part and transaction is not None and late:
            self._transactions[transaction][receipt] += 1
        else:
            self._receipts[receipt] += 1
        self._control_receipts += frame.command != "SEND" or part

    # What is received

    def received(self, data: bytes) -> None:
        self._answers.receive_data(data)
        try:
            while (frame := self._answers.next_frame()) is not None:
                self._receive(frame)
        except StompError as error:
            raise Violation(f"the session has written what cannot be read: {error}") from error
        if self._answers.buffered:
            raise Violation(f"the session has written {self._answers.buffered} bytes of an unfinished frame")

    def _receive(self, frame: Frame) -> None:
        if self._error:
            raise Violation(f"{frame.command} after ERROR")
        if not self._connected and frame.command not in ("CONNECTED", "ERROR"):
            raise Violation(f"{frame.command} before CONNECTED")
        match frame.command:
            case "CONNECTED":
                self._receive_connected(frame)
            case "RECEIPT":
                self._receive_receipt(frame.headers["receipt-id"])
            case "MESSAGE":
                self._receive_message(frame)
            case "ERROR":
                self._error = True
            case _:
                raise Violation(f"a server sends no {frame.command}")

    def _receive_connected(self, frame: Frame) -> None:
        if self._connected or not self._connecting:
            raise Violation("CONNECTED for nothing")
        self._version = VERSIONS[frame.headers["version"]]
        self._answers.version = self._requests.version = self._version
        self._connected = True
        self._connecting = False
        self._read_requests()

    def _receive_message(self, frame: Frame) -> None:
        if self._version is V1_2:
            if "ack" in frame.headers:
                self._unacknowledged.append(("id", frame.headers["ack"]))
        elif self._modes.get(frame.headers.get("subscription", ""), "auto") != "auto":
            self._unacknowledged.append(("message-id", frame.headers["message-id"]))

    def _receive_receipt(self, receipt: str) -> None:
        if not self._receipts[receipt]:
            raise Violation(f"RECEIPT {receipt!r} for nothing")
        self._receipts[receipt] -= 1
        self._given += 1

    # What it does about it

    def react(self, choice: int) -> bytes:
        """Acknowledge each, or the last, or something twice; or take nothing back."""
        unacknowledged, self._unacknowledged = self._unacknowledged, []
        if not unacknowledged:
            return b""
        command = "NACK" if choice % 8 == 7 else "ACK"
        if choice % 8 == 6:
            unacknowledged = [unacknowledged[0]] * 2
        elif choice % 8 >= 3:
            unacknowledged = unacknowledged[-1:]
        more = [("receipt", "acknowledged")] if choice % 16 >= 8 else []
        version = self._version if self._connected else UNESCAPED
        return b"".join(encode_frame(command, [each, *more], version) for each in unacknowledged)

    # What has to be so

    def check(self, hub: Hub) -> None:
        if self._given > hub.publishes_accepted + self._control_receipts:
            raise Violation(f"{self._given} receipts for {hub.publishes_accepted} accepted publishes")

    def check_settled(self, hub: Hub) -> None:
        if self._unreadable:
            raise Violation("the session lives on after what cannot be read")
        if self._left:
            raise Violation("the session lives on after DISCONNECT")
        if self._connected and +self._receipts:
            raise Violation(f"receipts are missing: {+self._receipts}")
