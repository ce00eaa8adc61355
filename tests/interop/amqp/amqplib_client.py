"""amqplib and php-amqplib, in a process for each connection, which takes commands and tells events, line by line."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from asyncio.subprocess import PIPE, Process
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.interop.amqp.client import PASSWORD, TIMEOUT, USER, Client, Message, Refused, until
from tests.rig.npm import NODE
from tests.rig.processes import HOST

SOURCES = Path(__file__).parent / "amqplib"
PHP_SOURCES = Path(__file__).parent / "php_amqplib"
PHP_LIBRARY = Path("/usr/share/php/PhpAmqpLib/autoload.php")

_NAMES = {"replyTo": "reply_to", "correlationId": "correlation_id", "contentType": "content_type", "headers": "headers"}

Json = dict[str, Any]


class LineClient(Client):
    """Runs a command in a folder."""

    def __init__(self, port: int, command: Sequence[str], folder: Path) -> None:
        super().__init__(port)
        self._command = command
        self._folder = folder
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._answers: dict[int, Json] = {}
        self._losses = 0

    async def connect(self) -> None:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, cwd=self._folder, stdin=PIPE, stdout=PIPE
            )
            self._reading = asyncio.create_task(self._read(self._process))
        await self._do("connect", url=f"amqp://{USER}:{PASSWORD}@{HOST}:{self.port}")

    async def declare(self, queue: str = "") -> str:
        return str(await self._do("declare", queue=queue))

    async def publish(self, queue: str, message: Message) -> None:
        packed: Json = {theirs: getattr(message, ours) for theirs, ours in _NAMES.items()}
        present = {name: value for name, value in packed.items() if value is not None}
        await self._do("publish", queue=queue, message={**present, "body": b64encode(message.body).decode()})

    async def consume(self, queue: str, *, acknowledge: bool = True) -> None:
        await self._do("consume", queue=queue, acknowledge=acknowledge)

    async def wait_lost(self) -> None:
        await until(lambda: self._losses, "the connection is lost")

    async def close(self) -> None:
        if self._process is None or self._reading is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.returncode is None:
            self._process.kill()
        await self._reading
        self._process = None

    async def _do(self, action: str, **details: object) -> object:
        assert self._process is not None
        assert self._process.stdin is not None
        number = next(self._numbers)
        self._process.stdin.write(json.dumps({"command": number, "action": action, **details}).encode() + b"\n")
        async with asyncio.timeout(TIMEOUT):
            await until(lambda: number in self._answers or self._ended, f"an answer to {action}")
        answer = self._answers.pop(number, {"error": "the process has ended"})
        if "error" in answer:
            raise Refused(answer["error"])
        return answer.get("value")

    @property
    def _ended(self) -> bool:
        return self._reading is None or self._reading.done()

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            said: Json = json.loads(line)
            match said.get("event"):
                case "message":
                    self.received.append(_unpacked(said["message"]))
                case "lost":
                    self._losses += 1
                case _:
                    self._answers[said["command"]] = said
        await process.wait()


class AmqplibClient(LineClient):
    """`folder` is where `install` has put it."""

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, (str(NODE), "client.js"), folder)


class PhpAmqplibClient(LineClient):
    """php-amqplib, Debian's package."""

    def __init__(self, port: int) -> None:
        super().__init__(port, ("php", "client.php"), PHP_SOURCES)

    @staticmethod
    def installed() -> bool:
        return shutil.which("php") is not None and PHP_LIBRARY.exists()


def _unpacked(packed: Json) -> Message:
    details = {ours: packed[theirs] for theirs, ours in _NAMES.items() if packed.get(theirs) is not None}
    return Message(body=b64decode(packed["body"]), redelivered=packed["redelivered"], **details)
