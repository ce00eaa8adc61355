"""stomp.py, which reads in a thread of its own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import stomp

from tests.interop.stomp.client import LOGIN, PASSCODE, AckMode, Client, Message, Refused, Setup, Version, until
from tests.rig.processes import HOST

_CONNECTIONS: dict[Version, Any] = {
    "1.0": stomp.Connection10,
    "1.1": stomp.Connection11,
    "1.2": stomp.Connection12,
}


class StompPyClient(Client, stomp.ConnectionListener):  # type: ignore[misc]  # stomp.py has no types
    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._receipts: set[str] = set()
        self._errors: list[str] = []
        self._numbers = itertools.count(1)
        self._gone = False
        options: dict[str, Any] = {"reconnect_attempts_max": 1, "auto_decode": False}
        if setup.version != "1.0":
            options["vhost"] = "/"  # RabbitMQ takes no other host than a virtual host of its own
            options["heartbeats"] = (setup.heart_beat, setup.heart_beat)
        self._connection = _CONNECTIONS[setup.version]([(HOST, setup.port)], **options)
        self._connection.set_listener("scenario", self)

    @property
    def ended(self) -> bool:
        return self._gone

    async def connect(self) -> None:
        try:
            self._connection.connect(LOGIN, PASSCODE, wait=True)
        except stomp.exception.ConnectFailedException as error:
            raise Refused(str(self._errors)) from error

    async def subscribe(self, destination: str, ack: AckMode) -> None:
        identity = {} if self.setup.version == "1.0" else {"id": str(next(self._numbers))}
        receipt = self._new_receipt()
        self._connection.subscribe(destination, ack=ack, headers={"receipt": receipt}, **identity)
        await self._answered(receipt)

    async def send(self, destination: str, body: bytes, headers: dict[str, str]) -> None:
        receipt = self._new_receipt()
        self._connection.send(destination, body, headers=headers | {"receipt": receipt})
        await self._answered(receipt)

    async def transact(self, destination: str, bodies: Sequence[bytes], *, commit: bool) -> None:
        transaction = self._connection.begin()
        for body in bodies:
            self._connection.send(destination, body, transaction=transaction)
        receipt = self._new_receipt()
        end = self._connection.commit if commit else self._connection.abort
        end(transaction=transaction, headers={"receipt": receipt})
        await self._answered(receipt)

    async def ack(self, message: Message) -> None:
        self._settle(self._connection.ack, message)

    async def nack(self, message: Message) -> None:
        self._settle(self._connection.nack, message)

    async def disconnect(self) -> None:
        receipt = self._new_receipt()
        self._connection.disconnect(receipt)
        await self.wait_ended()

    async def drop(self) -> None:
        self._connection.transport.disconnect_socket()
        await self.wait_ended()

    def on_message(self, frame: Any) -> None:
        body = frame.body if isinstance(frame.body, bytes) else frame.body.encode()
        self.received.append(Message(body, dict(frame.headers)))

    def on_receipt(self, frame: Any) -> None:
        self._receipts.add(frame.headers["receipt-id"])

    def on_error(self, frame: Any) -> None:
        self._errors.append(str(frame.headers.get("message")))

    def on_disconnected(self) -> None:
        self._gone = True

    def _settle(self, command: Any, message: Message) -> None:
        headers = message.headers
        match self.setup.version:
            case "1.0":
                command(headers["message-id"])
            case "1.1":
                command(headers["message-id"], headers["subscription"])
            case "1.2":
                command(headers["ack"])

    def _new_receipt(self) -> str:
        return f"receipt-{next(self._numbers)}"

    async def _answered(self, receipt: str) -> None:
        await until(lambda: receipt in self._receipts or self._errors or self._gone, lambda: receipt)
        if receipt not in self._receipts:
            raise Refused(str(self._errors))
