"""`mqlift pub` and `mqlift sub` as processes, against servers that follow a script, misbehaving ones included."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import GatewayFactory
from tests.rig.processes import ROOT, free_port

MQLIFT = [sys.executable, "-c", "from gateway.cli import main; main()"]
LIMIT = 60.0
"""Seconds that no command here needs."""

Step = tuple[bytes, bytes]
"""What has to arrive, somewhere in what was received since the step before, and what is answered then."""

CONNACK = b"\x20\x02\x00\x00"
CONNECTED = b"CONNECTED\nversion:1.2\n\n\0"


class ScriptedServer:
    """Accepts one connection, follows the steps, then keeps it until the peer closes it, or closes it at once."""

    def __init__(self, steps: Sequence[Step], *, hang_up: bool) -> None:
        self._steps = steps
        self._hang_up = hang_up
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(LIMIT)
        self.port = int(self._listener.getsockname()[1])
        self.received = b""
        self.completed = 0

    def run(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(LIMIT)
            seen = 0
            for wanted, answer in self._steps:
                while wanted not in self.received[seen:]:
                    if not self._read(connection):
                        return
                seen = self.received.index(wanted, seen) + len(wanted)
                connection.sendall(answer)
                self.completed += 1
            while not self._hang_up and self._read(connection):
                pass

    def close(self) -> None:
        self._listener.close()

    def _read(self, connection: socket.socket) -> bool:
        try:
            data = connection.recv(65536)
        except ConnectionResetError:
            return False
        self.received += data
        return bool(data)


@contextmanager
def scripted(*steps: Step, hang_up: bool = False) -> Iterator[ScriptedServer]:
    server = ScriptedServer(steps, hang_up=hang_up)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
        thread.join(LIMIT)
        assert not thread.is_alive()
    finally:
        server.close()


def mqlift(
    *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*MQLIFT, *arguments],
        input=stdin,
        capture_output=True,
        timeout=LIMIT,
        check=False,
        cwd=ROOT,
        env=os.environ | (env or {}),
    )


def told(result: subprocess.CompletedProcess[bytes]) -> str:
    """The one line on standard error."""
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def puback(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def publish_packet(topic: bytes, body: bytes, packet_id: int) -> bytes:
    """QoS 1."""
    rest = len(topic).to_bytes(2, "big") + topic + packet_id.to_bytes(2, "big") + body
    return bytes([0x32, len(rest)]) + rest


def message_frame(number: int, body: bytes, extra: bytes = b"") -> bytes:
    head = f"MESSAGE\nsubscription:1\nmessage-id:{number}\nack:ack-{number}\ndestination:/queue/orders\n".encode()
    return head + f"content-length:{len(body)}\n".encode() + extra + b"\n" + body + b"\0"


# pub


def test_pub_to_a_topic_waits_for_puback() -> None:
    with scripted((b"MQTT", CONNACK), (b"hello", puback(1))) as server:
        result = mqlift("pub", "topic:orders/1", "hello", "--port", str(server.port))
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert server.received.endswith(publish_packet(b"orders/1", b"hello", 1) + b"\xe0\x00")  # and DISCONNECT


def test_pub_to_a_queue_waits_for_the_receipt() -> None:
    receipt = b"RECEIPT\nreceipt-id:1\n\n\0"
    with scripted((b"STOMP\n", CONNECTED), (b"hello", receipt), (b"DISCONNECT", b""), hang_up=True) as server:
        result = mqlift("pub", "queue:a b/c", "hello", "--header", "color=dark:blue", "--port", str(server.port))
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    send = server.received[server.received.index(b"SEND\n") :].partition(b"\0")[0].decode()
    head, _, body = send.partition("\n\n")
    assert sorted(head.split("\n")[1:]) == [
        "color:dark\\cblue",
        "content-length:5",
        "destination:/queue/a b%2Fc",
        "receipt:1",
    ]
    assert body == "hello"


def test_pub_publishes_each_line_of_standard_input_byte_for_byte() -> None:
    steps = ((b"MQTT", CONNACK), (b"one", puback(1)), (b"\xff\x00two", puback(2)), (b"\x32\x07\x00\x01t", puback(3)))
    with scripted(*steps) as server:
        result = mqlift("pub", "topic:t", "--lines", "--port", str(server.port), stdin=b"one\r\n\xff\x00two\n  ")
    assert (result.returncode, result.stderr) == (0, b"")
    assert server.completed == 4
    assert publish_packet(b"t", b"\xff\x00two", 2) in server.received


def test_pub_logs_in_with_the_password_of_the_environment() -> None:
    with scripted((b"MQTT", CONNACK), (b"hello", puback(1))) as server:
        arguments = ("pub", "topic:t", "hello", "--user", "me@home", "--port", str(server.port))
        result = mqlift(*arguments, env={"MQLIFT_PASSWORD": "p:@/% w"})
    assert result.returncode == 0
    assert b"\x00\x07me@home\x00\x07p:@/% w" in server.received


def test_a_password_cannot_be_asked_for_without_a_terminal() -> None:
    result = subprocess.run(
        [*MQLIFT, "pub", "topic:t", "hello", "--user", "me"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT,
        check=False,
        cwd=ROOT,
        start_new_session=True,  # no controlling terminal
    )
    assert result.returncode == 1
    assert told(result) == "mqlift: no terminal to ask for the password of me; set MQLIFT_PASSWORD"


CLOSED = "the server closed the connection"


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        ([(b"MQTT", b"\x20\x02\x00\x05")], "cannot connect to 127.0.0.1 port {port}: not authorized"),
        ([(b"MQTT", b"\x20\x02\x00\x04")], "cannot connect to 127.0.0.1 port {port}: bad user name or password"),
        ([(b"MQTT", b"")], f"cannot connect to 127.0.0.1 port {{port}}: {CLOSED}"),
        ([(b"MQTT", CONNACK), (b"hello", b"")], f"{CLOSED} before it took the message for topic t"),
    ],
)
def test_pub_to_a_topic_tells_what_went_wrong(steps: list[Step], line: str) -> None:
    with scripted(*steps, hang_up=True) as server:
        result = mqlift("pub", "topic:t", "hello", "--port", str(server.port))
    assert result.returncode == 1
    assert told(result) == "mqlift: " + line.format(port=server.port)


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        ([(b"STOMP\n", b"")], f"cannot connect to 127.0.0.1 port {{port}}: {CLOSED}"),
        (
            [(b"STOMP\n", b"ERROR\nmessage:Bad CONNECT\n\nAccess refused.\n\0")],
            "cannot connect to 127.0.0.1 port {port}: Bad CONNECT",
        ),
        ([(b"STOMP\n", CONNECTED), (b"hello", b"")], CLOSED),
        ([(b"STOMP\n", CONNECTED), (b"hello", b"ERROR\nmessage:queue is gone\n\n\0")], "queue is gone"),
        ([(b"STOMP\n", CONNECTED), (b"hello", b"ERROR\n\nline one\nline two\0")], "line one"),
        ([(b"STOMP\n", CONNECTED), (b"hello", b"ERROR\n\n\0")], "the server answered ERROR"),
    ],
)
def test_pub_to_a_queue_tells_what_went_wrong(steps: list[Step], line: str) -> None:
    with scripted(*steps, hang_up=True) as server:
        result = mqlift("pub", "queue:q", "hello", "--port", str(server.port))
    assert result.returncode == 1
    assert told(result) == "mqlift: " + line.format(port=server.port)


@pytest.mark.parametrize(
    "command", [("pub", "topic:t", "x"), ("pub", "queue:q", "x"), ("sub", "topic:t"), ("sub", "queue:q")]
)
def test_nobody_listening(command: tuple[str, ...]) -> None:
    port = free_port()
    result = mqlift(*command, "--port", str(port))
    assert result.returncode == 1
    assert told(result) == f"mqlift: cannot connect to 127.0.0.1 port {port}: connection refused"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("orders", "x"), "'orders' is no place; write topic:NAME or queue:NAME"),
        (("queue:", "x"), "'queue:' is no place; write topic:NAME or queue:NAME"),
        (("topic:a/#", "x"), "topic 'a/#' has a wildcard; publish to one topic"),
        (("topic:a", "x", "--header", "k=v"), "MQTT 3.1.1 has no headers; --header works with queue:NAME"),
        (("queue:q", "x", "--header", "receipt=9"), "header 'receipt' cannot be set here"),
        (("queue:q", "x", "--header", "a:b=9"), "header 'a:b' has a character that STOMP does not allow"),
    ],
)
def test_pub_refuses_what_cannot_be_meant(arguments: tuple[str, ...], line: str) -> None:
    result = mqlift("pub", *arguments)
    assert result.returncode == 1
    assert told(result) == f"mqlift: {line}"


@pytest.mark.parametrize("arguments", [("topic:a",), ("topic:a", "x", "--lines"), ("queue:q", "x", "--header", "k")])
def test_pub_refuses_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = mqlift("pub", *arguments)
    assert result.returncode == 2
    assert b"Traceback" not in result.stderr


def test_missing_client_libraries_are_named() -> None:
    code = "import sys; sys.modules['amqtt'] = None; from gateway.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "pub", "topic:t", "x"], capture_output=True, timeout=LIMIT, check=False, cwd=ROOT
    )
    assert result.returncode == 1
    assert told(result).endswith("is not installed; pip install 'mqlift[clients]'")


# sub

SUBACK = b"\x90\x03\x00\x01\x01"


def test_sub_prints_what_is_published_to_a_topic() -> None:
    packets = publish_packet(b"a/b", b"one", 1) + publish_packet(b"a/c", b"\xfftwo", 2)
    with scripted((b"MQTT", CONNACK), (b"a/#", SUBACK + packets), (puback(2), b"")) as server:
        result = mqlift("sub", "topic:a/#", "--count", "2", "--port", str(server.port))
    assert (result.returncode, result.stdout, result.stderr) == (0, b"one\n\xfftwo\n", b"")
    assert server.received.endswith(b"\xe0\x00")


SUBSCRIBED = b"RECEIPT\nreceipt-id:subscribe\n\n\0"


def test_sub_acknowledges_each_message_of_a_queue_once_it_is_printed() -> None:
    steps = (
        (b"STOMP\n", CONNECTED),
        (b"SUBSCRIBE\n", SUBSCRIBED + message_frame(1, b"one") + message_frame(2, b"t\0wo")),
        (b"id:ack-2", b""),
        (b"DISCONNECT", b""),
    )
    with scripted(*steps, hang_up=True) as server:
        result = mqlift("sub", "queue:orders", "--count", "2", "--port", str(server.port))
    assert (result.returncode, result.stdout, result.stderr) == (0, b"one\nt\0wo\n", b"")
    assert server.completed == 4
    assert server.received.index(b"ACK\nid:ack-1") < server.received.index(b"ACK\nid:ack-2")
    for header in (b"ack:client-individual\n", b"prefetch-count:2\n", b"destination:/queue/orders\n"):
        assert header in server.received


def test_sub_verbose_shows_headers() -> None:
    steps = (
        (b"STOMP\n", CONNECTED),
        (b"SUBSCRIBE\n", SUBSCRIBED + message_frame(1, b"one", b"color:dark\\cblue\nredelivered:true\n")),
        (b"DISCONNECT", b""),
    )
    with scripted(*steps, hang_up=True) as server:
        result = mqlift("sub", "queue:orders", "-n", "1", "-v", "--port", str(server.port))
    assert told(result) == "subscribed to queue orders; Ctrl-C ends"
    head, _, body = result.stdout.decode().partition("\n\n")
    assert {"color: dark:blue", "redelivered: true", "message-id: 1"} <= set(head.splitlines())
    assert body == "one\n"


def test_what_cannot_be_printed_is_not_acknowledged() -> None:
    steps = ((b"STOMP\n", CONNECTED), (b"SUBSCRIBE\n", SUBSCRIBED + message_frame(1, b"one")))
    with scripted(*steps) as server, Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [*MQLIFT, "sub", "queue:orders", "-n", "1", "--port", str(server.port)],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=LIMIT,
            check=False,
            cwd=ROOT,
        )
    assert result.returncode == 1
    assert told(result) == "mqlift: standard output: no space left on device"
    assert b"ACK\n" not in server.received


@pytest.mark.parametrize(
    ("place", "steps", "line"),
    [
        (
            "topic:a/#",
            [(b"MQTT", CONNACK), (b"a/#", b"\x90\x03\x00\x01\x80")],
            "the server refused the subscription to topic a/#",
        ),
        ("topic:a/#", [(b"MQTT", CONNACK), (b"a/#", SUBACK)], CLOSED),
        (
            "queue:q",
            [(b"STOMP\n", CONNECTED), (b"SUBSCRIBE\n", b"ERROR\nmessage:no such queue\n\n\0")],
            "no such queue",
        ),
        ("queue:q", [(b"STOMP\n", CONNECTED), (b"SUBSCRIBE\n", SUBSCRIBED)], CLOSED),
    ],
)
def test_sub_tells_what_went_wrong(place: str, steps: list[Step], line: str) -> None:
    with scripted(*steps, hang_up=True) as server:
        result = mqlift("sub", place, "--port", str(server.port))
    assert result.returncode == 1
    assert told(result) == f"mqlift: {line}"


@pytest.mark.parametrize(
    ("place", "steps"),
    [
        ("topic:a/#", [(b"MQTT", CONNACK), (b"a/#", SUBACK)]),
        ("queue:q", [(b"STOMP\n", CONNECTED), (b"SUBSCRIBE\n", SUBSCRIBED)]),
    ],
)
@pytest.mark.parametrize(("count", "code"), [((), 0), (("--count", "5"), 130)])
def test_interrupting_sub_ends_it_quietly(place: str, steps: list[Step], count: tuple[str, ...], code: int) -> None:
    with scripted(*steps) as server:
        command = [*MQLIFT, "sub", place, "-v", *count, "--port", str(server.port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith(b"subscribed to ")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out, err) == (code, b"", b"")


def test_interrupting_pub_while_it_waits_for_a_line() -> None:
    connected = threading.Event()

    class Connected(ScriptedServer):
        def _read(self, connection: socket.socket) -> bool:
            if self.completed == 2:
                connected.set()
            return super()._read(connection)

    server = Connected([(b"MQTT", CONNACK), (b"one", puback(1))], hang_up=False)
    thread = threading.Thread(target=server.run)
    thread.start()
    command = [*MQLIFT, "pub", "topic:t", "-l", "--port", str(server.port)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert connected.wait(LIMIT)
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    thread.join(LIMIT)
    server.close()
    assert process.returncode == 130


# both, with a gateway in between

SHORT_POLLS = {"wait": 1}
"""A gateway lets its polls end before it stops."""


@contextmanager
def subscribed(place: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`mqlift sub` that waits for one message, once it is subscribed."""
    command = [*MQLIFT, "sub", place, "-v", "-n", "1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"subscribed to ")
        yield process


def test_a_live_topic_reaches_its_subscriber(gateway_factory: GatewayFactory) -> None:
    port = gateway_factory(receiver=SHORT_POLLS).port("mqtt")
    with subscribed("topic:site/+/alarm", port) as subscriber:
        assert mqlift("pub", "topic:site/7/alarm", "fire", "--port", str(port)).returncode == 0
        out, _ = subscriber.communicate(timeout=LIMIT)
    assert out == b"topic: site/7/alarm\nqos: 1\n\nfire\n"


def test_headers_cross_a_queue(gateway_factory: GatewayFactory, queue_name: str) -> None:
    port = gateway_factory(receiver=SHORT_POLLS).port("stomp")
    published = mqlift("pub", f"queue:{queue_name}", "hello", "--header", "color=dark:blue", "--port", str(port))
    assert (published.returncode, published.stderr) == (0, b"")
    with subscribed(f"queue:{queue_name}", port) as subscriber:
        out, _ = subscriber.communicate(timeout=LIMIT)
    head, _, body = out.partition(b"\n\n")
    assert b"color: dark:blue" in head.split(b"\n")
    assert body == b"hello\n"


def test_the_rest_of_a_queue_stays_for_others(gateway_factory: GatewayFactory, queue_name: str) -> None:
    port = gateway_factory(receiver=SHORT_POLLS).port("stomp")
    place = f"queue:{queue_name}"
    bodies = {f"message {number}".encode() for number in range(5)}
    assert mqlift("pub", place, "-l", "--port", str(port), stdin=b"\n".join(bodies)).returncode == 0
    first = mqlift("sub", place, "-n", "2", "--port", str(port)).stdout.splitlines()
    rest = mqlift("sub", place, "-n", "3", "--port", str(port)).stdout.splitlines()
    assert {*first, *rest} == bodies
    assert len(first) + len(rest) == len(bodies)
