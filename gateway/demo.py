"""`mqlift demo`: an emulated AWS and a gateway on this machine, and a page that says what to try."""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Final

from rich.console import Console

from config.settings import Settings, load
from gateway import logs
from gateway.app import Gateway, serve
from gateway.core.errors import ConfigError
from gateway.emulator import HOST, Emulator

MAX_PORT: Final = 65_535
OFFSET_STEP: Final = 100
"""Between the offsets that are tried when one is suggested."""

POLL_WAIT: Final = 1
"""Seconds of a long poll, which a drain lets end: Ctrl-C should not take long, and polls cost nothing here."""
DRAIN_LIMIT: Final = 5.0
"""Seconds. What is still in flight then would be lost with the emulator anyway."""
EMULATOR_PORT: Final = 4566
"""Where AWS emulators listen by convention."""
REGION: Final = "us-east-1"
CREDENTIAL: Final = "demo"
"""Access key and secret key for the emulator, which takes any."""
ACCOUNT: Final = "000000000000"
"""The account that the emulator plays."""
QUEUE: Final = "orders"
TOPIC: Final = "orders/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port that the demo needs, and what for."""

    number: int
    use: str
    host: str = HOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will run, all ports shifted."""

    settings: Settings
    emulator_port: int

    @property
    def ports(self) -> list[Port]:
        settings = self.settings
        return [
            *(Port(number=each.port, use=each.protocol.upper(), host=each.host) for each in settings.listeners),
            Port(number=self.emulator_port, use="AWS emulator"),
            Port(number=settings.admin.port, use="admin", host=settings.admin.host),
        ]

    def port_of(self, protocol: str) -> int:
        return next(listener.port for listener in self.settings.listeners if listener.protocol == protocol)


def prepare(offset: int) -> Plan:
    """Raises `ConfigError` for a port that is taken or cannot be. From here on, this process has no AWS account."""
    _use_dummy_credentials()
    with resources.as_file(resources.files("config") / "demo.yaml") as path:
        settings = load(path)
    plan = shifted(settings, offset)
    _check_ports(plan, partial(shifted, settings), offset)
    return plan


async def run(plan: Plan) -> int:
    """Run until SIGINT or SIGTERM; the exit code. Raises `EmulatorFailed` when the emulator ends by itself."""
    logs.configure(level="warning")
    emulator = await Emulator.start(plan.emulator_port)
    try:
        return await _serve(plan, emulator)
    finally:
        await emulator.stop()


async def _serve(plan: Plan, emulator: Emulator) -> int:
    started: list[Gateway] = []

    def ready(gateway: Gateway) -> None:
        started.append(gateway)
        show_page(plan, Console())

    serving = asyncio.create_task(serve(plan.settings, ready=ready))
    emulating = asyncio.create_task(emulator.wait())
    try:
        await asyncio.wait({serving, emulating}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            return serving.result()
        for gateway in started:
            await gateway.stop(0.0)
        raise emulating.result()
    finally:
        serving.cancel()
        emulating.cancel()
        await asyncio.wait({serving, emulating})


def show_page(plan: Plan, console: Console) -> None:
    """What listens where, and three commands to try. Lines are never broken: they are there to be copied."""
    for line in _page(plan):
        console.print(line, highlight=False, soft_wrap=True)


def _page(plan: Plan) -> Iterator[str]:
    admin = plan.settings.admin
    yield "\n[bold]mqlift demo[/bold]: the topic orders/# goes to the queue orders, which is an SQS queue.\n"
    for listener in plan.settings.listeners:
        yield f"  {listener.protocol.upper():<8}{listener.host}:{listener.port}"
    yield f"  {'AWS':<8}{_emulator_url(plan)}  (ministack, in memory)"
    yield f"  {'Admin':<8}http://{admin.host}:{admin.port}/metrics  /readyz"
    yield "\nIn another terminal, publish as a device does, look into the queue, and read as a consumer does:\n"
    for command in (publish_command(plan), look_command(plan), read_command(plan)):
        yield f"  [green]{command}[/green]"
    yield "\nCtrl-C stops everything.\n"


def publish_command(plan: Plan) -> str:
    port = plan.port_of("mqtt")
    if shutil.which("mosquitto_pub"):
        return f"mosquitto_pub -h {HOST} -p {port} -q 1 -t {TOPIC} -m hello"
    return f"{_program('mqlift')} pub topic:{TOPIC} hello --port {port}"


def look_command(plan: Plan) -> str:
    """A visibility timeout of 0 leaves the message for the consumer."""
    endpoint = _emulator_url(plan)
    queue_url = f"{endpoint}/{ACCOUNT}/{plan.settings.prefix}{QUEUE}"
    if shutil.which("aws"):
        return (
            f"AWS_ACCESS_KEY_ID={CREDENTIAL} AWS_SECRET_ACCESS_KEY={CREDENTIAL} aws --region {REGION} "
            f"--endpoint-url {endpoint} sqs receive-message --visibility-timeout 0 --queue-url {queue_url}"
        )
    client = (
        f"get_session().create_client('sqs', '{REGION}', endpoint_url='{endpoint}', "
        f"aws_access_key_id='{CREDENTIAL}', aws_secret_access_key='{CREDENTIAL}')"
    )
    receive = f"receive_message(QueueUrl='{queue_url}', VisibilityTimeout=0)"
    code = f"from botocore.session import get_session; print({client}.{receive}.get('Messages'))"
    return f'{_program("python")} -c "{code}"'


def read_command(plan: Plan) -> str:
    return f"{_program('mqlift')} sub queue:{QUEUE} --port {plan.port_of('stomp')}"


def _program(name: str) -> str:
    """How to call a program of this environment from where we are."""
    path = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if found is not None and Path(found) == path:
        return name
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if here in path.parent.parents else path))


def _emulator_url(plan: Plan) -> str:
    return f"http://{HOST}:{plan.emulator_port}"


def shifted(settings: Settings, offset: int) -> Plan:
    """What would run with all ports moved by `offset`."""
    emulator_port = EMULATOR_PORT + offset
    changed = {
        "listeners": [each.model_copy(update={"port": each.port + offset}) for each in settings.listeners],
        "admin": settings.admin.model_copy(update={"port": settings.admin.port + offset}),
        "receiver": settings.receiver.model_copy(update={"wait": POLL_WAIT}),
        "drain_timeout": DRAIN_LIMIT,
        "aws": settings.aws | {"endpoint_url": f"http://{HOST}:{emulator_port}", "region": REGION},
    }
    return Plan(settings=settings.model_copy(update=changed), emulator_port=emulator_port)


def _check_ports(plan: Plan, shift: Callable[[int], Plan], offset: int) -> None:
    highest = max(plan.ports, key=lambda port: port.number)
    if highest.number > MAX_PORT:
        most = MAX_PORT - highest.number + offset
        raise ConfigError("--port-offset", f"{highest.use} would be on port {highest.number}", f"{most} at most")
    for port in plan.ports:
        problem = _obstacle(port)
        if problem is not None:
            raise ConfigError(f"port {port.number} ({port.use})", problem, _suggestion(shift, offset, highest.number))


def _obstacle(port: Port) -> str | None:
    """What is in the way of listening there, as asyncio would listen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host, port.number))
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "taken by another program"
            return (error.strerror or str(error)).lower()
    return None


def _suggestion(shift: Callable[[int], Plan], offset: int, highest: int) -> str:
    for candidate in range(offset + OFFSET_STEP, offset + MAX_PORT - highest + 1, OFFSET_STEP):
        if not any(_obstacle(port) for port in shift(candidate).ports):
            return f"try mqlift demo --port-offset {candidate}"
    return "free it"


def _use_dummy_credentials() -> None:
    """Whatever happens, nothing reaches the user's own account: no profile, no file, no instance role, no proxy."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(
        AWS_ACCESS_KEY_ID=CREDENTIAL,
        AWS_SECRET_ACCESS_KEY=CREDENTIAL,
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED="true",
        NO_PROXY=HOST,
    )
