"""Clients of other languages: those of a language live in one process, and commands and events are lines."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import threading
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.interop.stomp.client import LOGIN, PASSCODE, AckMode, Client, Message, Refused, Setup, until
from tests.rig.processes import HOST

DRIVERS = Path(__file__).parent / "drivers"
_STOP_TIMEOUT = 10.0

Json = dict[str, Any]


class Driver:
    """The process, and a thread that reads what it says."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._numbers = itertools.count(1)
        self._clients: dict[int, DrivenClient] = {}
        self.answers: dict[int, Json] = {}
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):  # it had ended by itself, with a command on its way
            self._process.stdin.close()
        self._process.wait(_STOP_TIMEOUT)
        self._reading.join(_STOP_TIMEOUT)
        self._process.stdout.close()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def add(self, client: DrivenClient) -> int:
        number = next(self._numbers)
        self._clients[number] = client
        return number

    def command(self, client: int, action: str, details: Mapping[str, object]) -> int:
        """Give a command; the number that its answer will have in `answers`."""
        assert self._process.stdin is not None
        number = next(self._numbers)
        line = {"command": number, "client": client, "action": action, **details}
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        return number

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said: Json = json.loads(line)
            if "command" in said:
                self.answers[said["command"]] = said
            else:
                self._clients[said["client"]].told(said)


class DrivenClient(Client):
    """One of the process' clients."""

    def __init__(self, setup: Setup, driver: Driver, library: str) -> None:
        super().__init__(setup)
        self._driver = driver
        self._library = library
        self._number = driver.add(self)
        self._ended = False

    @property
    def ended(self) -> bool:
        return self._ended

    def told(self, event: Json) -> None:
        """An event of this client."""
        match event["event"]:
            case "message":
                self.received.append(Message(b64decode(event["body"]), event["headers"], event["number"]))
            case "close":
                self._ended = True

    async def connect(self) -> None:
        setup = self.setup
        await self._do(
            "connect",
            library=self._library,
            host=HOST,
            port=setup.port,
            url=setup.url,
            version=setup.version,
            transport=setup.transport,
            login=LOGIN,
            passcode=PASSCODE,
            heartBeat=setup.heart_beat,
        )

    async def subscribe(self, destination: str, ack: AckMode) -> None:
        await self._do("subscribe", destination=destination, ack=ack)

    async def send(self, destination: str, body: bytes, headers: dict[str, str]) -> None:
        await self._do("send", destination=destination, body=b64encode(body).decode(), headers=headers)

    async def transact(self, destination: str, bodies: Sequence[bytes], *, commit: bool) -> None:
        texts = [b64encode(body).decode() for body in bodies]
        await self._do("transact", destination=destination, bodies=texts, commit=commit)

    async def ack(self, message: Message) -> None:
        await self._do("ack", number=message.handle)

    async def nack(self, message: Message) -> None:
        await self._do("nack", number=message.handle)

    async def disconnect(self) -> None:
        await self._do("disconnect")
        await self.wait_ended()

    async def drop(self) -> None:
        await self._do("drop")
        await self.wait_ended()

    async def _do(self, action: str, **details: object) -> None:
        """Give a command, and wait for its answer. Raises `Refused`."""
        command = self._driver.command(self._number, action, details)
        answers = self._driver.answers
        await until(
            lambda: (
                command in answers or (self._ended and action in {"send", "disconnect"}) or not self._driver.running
            ),
            lambda: f"an answer to {action}",
        )
        if action == "disconnect" and self._ended:
            return  # by the server, before it was asked; some libraries wait for a receipt then
        answer = answers.pop(command, {"error": "the connection has ended"})
        if "error" in answer:
            raise Refused(answer["error"])
