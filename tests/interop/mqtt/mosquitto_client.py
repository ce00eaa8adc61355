"""mosquitto_sub and mosquitto_pub: one process for each subscription, and for each publish."""

from __future__ import annotations

import asyncio
import re
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Sequence
from typing import ClassVar

from tests.interop.mqtt.client import SESSION_EXPIRY, Client, Message, Refused, Setup, Version, until
from tests.rig.processes import HOST

_VERSIONS = {Version.V3_1: "mqttv31", Version.V3_1_1: "mqttv311", Version.V5: "mqttv5"}
_FORMAT = r"|\t%t\t%q\t%r\t%x\t%C\t%R\t%D\t%P"
_GRANTED = re.compile(r"Subscribed \(mid: \d+\): (.*)")
_MAX_LINE = 8 * 1024 * 1024
"""Characters of a line of output: a message's payload in hexadecimal digits, with room to spare."""


class MosquittoClient(Client):
    """Connects when it subscribes."""

    many_publishes: ClassVar[bool] = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._granted: list[int] | None = None
        self._output: list[str] = []

    @property
    def ended(self) -> bool:
        return self._reading is not None and self._reading.done()

    async def connect(self) -> None:
        """There is no mosquitto_sub without a subscription."""

    async def subscribe(self, filters: Sequence[str], qos: int) -> None:
        assert self._process is None, "one SUBSCRIBE in the life of a mosquitto_sub"
        topics = [argument for each in filters for argument in ("-t", each)]
        # Its output is a terminal's, line by line; by itself it keeps what it writes to a pipe.
        self._process = await asyncio.create_subprocess_exec(
            *("stdbuf", "-oL", "mosquitto_sub", "-d", "-F", _FORMAT, "-q", str(qos), *topics),
            *_connection(self.setup),
            *_session(self.setup),
            *_will(self.setup.will),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            limit=_MAX_LINE,
        )
        self._reading = asyncio.create_task(self._read(self._process))
        await until(lambda: self._granted is not None or self.ended, lambda: f"SUBACK: {self._output}")
        assert self._granted == [qos] * len(filters), self._output

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        while line := (await process.stdout.readline()).decode().rstrip("\n"):
            if line.startswith("|"):
                self.received.append(_message(line))
            elif granted := _GRANTED.match(line):
                self._granted = [int(each) for each in granted[1].split(", ")]
            else:
                self._output.append(line)
        await process.wait()

    async def publish(self, message: Message) -> None:
        process = await asyncio.create_subprocess_exec(
            *(
                "mosquitto_pub",
                "-s" if message.payload else "-n",
                "-t",
                message.topic,
                "-q",
                str(message.qos),
                *(["-r"] if message.retain else []),
            ),
            *_properties(message),
            *_connection(self.setup),
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
        )
        output, _ = await process.communicate(message.payload)
        if process.returncode or output:
            raise Refused(f"{process.returncode}: {output.decode()}")

    async def disconnect(self) -> None:
        if self._process is not None and not self.ended:
            self._process.terminate()  # which it answers with a DISCONNECT
            await self.wait_ended()

    async def drop(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self.wait_ended()

    async def close(self) -> None:
        await self.disconnect()


def _connection(setup: Setup) -> list[str]:
    return ["-h", HOST, "-p", str(setup.port), "-V", _VERSIONS[setup.version]]


def _session(setup: Setup) -> list[str]:
    expiry = ["-x", str(SESSION_EXPIRY)] if setup.version == Version.V5 else []
    return ["-i", setup.client_id, *(["-c", *expiry] if setup.kept else [])]


def _will(will: Message | None) -> list[str]:
    if will is None:
        return []
    retain = ["--will-retain"] if will.retain else []
    payload = will.payload.decode()
    return ["--will-topic", will.topic, "--will-payload", payload, "--will-qos", str(will.qos), *retain]


def _properties(message: Message) -> list[str]:
    said = [
        ("content-type", message.content_type),
        ("response-topic", message.response_topic),
        ("correlation-data", message.correlation_data.decode() if message.correlation_data else None),
    ]
    arguments = [each for name, value in said if value is not None for each in ("-D", "publish", name, value)]
    for name, value in message.user_properties:
        arguments += ["-D", "publish", "user-property", name, value]
    return arguments


def _message(line: str) -> Message:
    _, topic, qos, retain, payload, content_type, response_topic, correlation_data, pairs = line.split("\t")
    return Message(
        topic=topic,
        payload=bytes.fromhex(payload),
        qos=int(qos),
        retain=retain == "1",
        content_type=content_type or None,
        response_topic=response_topic or None,
        correlation_data=correlation_data.encode() or None,
        user_properties=tuple((name, value) for name, _, value in (pair.partition(":") for pair in pairs.split())),
    )
