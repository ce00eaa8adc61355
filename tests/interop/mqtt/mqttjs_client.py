"""mqtt.js: all its clients live in one Node process, which takes commands and tells events, line by line."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.interop.mqtt.client import (
    KEEP_ALIVE,
    SESSION_EXPIRY,
    Client,
    Message,
    Refused,
    Setup,
    Version,
    until,
)
from tests.rig.npm import NODE

SOURCES = Path(__file__).parent / "mqttjs"
_STOP_TIMEOUT = 10.0

_PROPERTIES = {"contentType": "content_type", "responseTopic": "response_topic"}

Json = dict[str, Any]


class Node:
    """The process, and a thread that reads what it says."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [str(NODE), "clients.js"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._numbers = itertools.count(1)
        self._clients: dict[int, MqttJsClient] = {}
        self.answers: dict[int, Json] = {}
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait(_STOP_TIMEOUT)
        self._reading.join(_STOP_TIMEOUT)
        self._process.stdout.close()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def add(self, client: MqttJsClient) -> int:
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


class MqttJsClient(Client):
    """One of the process' clients."""

    def __init__(self, setup: Setup, node: Node) -> None:
        super().__init__(setup)
        self._node = node
        self._number = node.add(self)
        self._ended = False
        self._reason: int | None = None

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def end_reason(self) -> int | None:
        return self._reason

    def told(self, event: Json) -> None:
        """An event of this client."""
        match event["event"]:
            case "message":
                self.received.append(_unpacked(event["message"]))
            case "disconnect":
                self._reason = event["reason"]
            case "close":
                self._ended = True

    async def connect(self) -> None:
        setup = self.setup
        options: Json = {
            "clientId": setup.client_id,
            "clean": not setup.kept,
            "keepalive": KEEP_ALIVE,
            "protocolVersion": int(setup.version),
            "protocolId": "MQIsdp" if setup.version == Version.V3_1 else "MQTT",
        }
        if setup.version == Version.V5 and setup.kept:
            options["properties"] = {"sessionExpiryInterval": SESSION_EXPIRY}
        will = None if setup.will is None else _packed(setup.will)
        await self._do("connect", url=setup.url, options=options, will=will)

    async def subscribe(self, filters: Sequence[str], qos: int) -> None:
        granted = await self._do("subscribe", filters=list(filters), qos=qos)
        assert granted == [qos] * len(filters)

    async def publish(self, message: Message) -> None:
        await self.publish_all([message])

    async def publish_all(self, messages: Sequence[Message]) -> None:
        commands = [self._command("publish", message=_packed(each)) for each in messages]
        for command in commands:
            await self._answer("publish", command)

    async def disconnect(self) -> None:
        await self._do("disconnect")
        await self.wait_ended()

    async def drop(self) -> None:
        await self._do("drop")
        await self.wait_ended()

    async def close(self) -> None:
        if not self._ended:
            await self.disconnect()

    async def _do(self, action: str, **details: object) -> object:
        return await self._answer(action, self._command(action, **details))

    def _command(self, action: str, **details: object) -> int:
        return self._node.command(self._number, action, details)

    async def _answer(self, action: str, command: int) -> object:
        answers = self._node.answers
        await until(lambda: command in answers or self._ended or not self._node.running, f"an answer to {action}")
        answer = answers.pop(command, {"error": "the connection has ended"} if action == "publish" else {})
        if "error" in answer:
            raise Refused(answer["error"])
        value: object = answer.get("value")
        return value


def _packed(message: Message) -> Json:
    packed: Json = {
        "topic": message.topic,
        "payload": b64encode(message.payload).decode(),
        "qos": message.qos,
        "retain": message.retain,
    }
    packed |= {theirs: value for theirs, ours in _PROPERTIES.items() if (value := getattr(message, ours)) is not None}
    if message.correlation_data is not None:
        packed["correlationData"] = b64encode(message.correlation_data).decode()
    if message.user_properties:
        packed["userProperties"] = message.user_properties
    return packed


def _unpacked(packed: Json) -> Message:
    correlation_data = packed.get("correlationData")
    return Message(
        topic=packed["topic"],
        payload=b64decode(packed["payload"]),
        qos=packed["qos"],
        retain=packed["retain"],
        content_type=packed.get("contentType"),
        response_topic=packed.get("responseTopic"),
        correlation_data=None if correlation_data is None else b64decode(correlation_data),
        user_properties=tuple((name, value) for name, value in packed["userProperties"]),
    )
