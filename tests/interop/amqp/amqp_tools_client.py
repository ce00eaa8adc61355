"""amqp-tools, the commands of librabbitmq: one process for each thing that is done."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from pathlib import Path
from typing import ClassVar

from tests.interop.amqp.client import PASSWORD, USER, Client, Message, Refused, until
from tests.rig.processes import HOST


class AmqpToolsClient(Client):
    """`amqp-declare-queue`, `amqp-publish`, `amqp-consume`. It publishes without confirms."""

    many_publishes: ClassVar[bool] = False

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._consumer: Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """There is no connection that outlives a command."""

    async def declare(self, queue: str = "") -> str:
        return (await self._run("amqp-declare-queue", "-d", "-q", queue)).strip()

    async def publish(self, queue: str, message: Message) -> None:
        content_type = [] if message.content_type is None else ["-C", message.content_type]
        headers = [argument for name, value in message.headers.items() for argument in ("-H", f"{name}: {value}")]
        await self._run("amqp-publish", "-p", "-r", queue, *content_type, *headers, "-b", message.body.decode())

    async def consume(self, queue: str, *, acknowledge: bool = True) -> None:
        command = ["--", "sh", "-c", 'cat; echo; exit "$0"', "0" if acknowledge else "1"]
        self._consumer = await asyncio.create_subprocess_exec(
            "amqp-consume", *self._connection(), "-q", queue, *command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
        )
        self._reading = asyncio.create_task(self._read(self._consumer))

    async def wait_lost(self) -> None:
        reading = self._reading
        await until(lambda: reading is None or reading.done(), "amqp-consume ends")

    async def close(self) -> None:
        if self._consumer is not None and self._consumer.returncode is None:
            await self._wait_acknowledged(self._consumer.pid)
            self._consumer.kill()
        if self._reading is not None:
            await self._reading

    async def _wait_acknowledged(self, pid: int) -> None:
        """It acknowledges once the command has ended that wrote a message, and then waits for the next one."""

        def at_rest() -> bool:
            if Path(f"/proc/{pid}/task/{pid}/children").read_text():
                return False
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            return state == "S"  # proc_pid_stat(5): sleeping

        await until(at_rest, "amqp-consume has acknowledged")

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self.received.append(Message(body=line.rstrip(b"\n")))
        await process.wait()

    async def _run(self, command: str, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            command, *self._connection(), *arguments, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise Refused(output.decode())
        return output.decode()

    def _connection(self) -> list[str]:
        return ["-s", HOST, "--port", str(self.port), "--username", USER, "--password", PASSWORD]
