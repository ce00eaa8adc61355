"""What peers get wrong, by mistake or on purpose, through real sockets: closed and counted, one line in the log, no
traceback, no growth; and good clients go on working beside it."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import serving
from tests.faults.wire import (
    CONNACK,
    PINGREQ,
    PINGRESP,
    STOMP_CONNECT,
    Wire,
    connected_mqtt,
    connected_stomp,
    mqtt_connect,
    mqtt_packet,
    mqtt_puback,
    mqtt_publish,
    stomp_frame,
)
from tests.rig.clients import MqttPublisher, StompClient
from tests.rig.counting import SqsClient, assert_exactly, drain
from tests.rig.processes import HOST, Gateway, Ministack, free_port, gateway_config
from tests.rig.waiting import wait_for

ROUTES: list[object] = [{"match": {"topic": "in/{queue}/#"}, "to": [{"queue": "{queue}"}]}]

RANDOM_CONNECTIONS = 2_000
"""For each protocol."""
MAX_GROWTH = 24 * 1024 * 1024
"""Bytes of memory that any amount of bad input may cost: what an allocator keeps, and no more with more of it."""

CONNECT_TIMEOUT = 1.0
MAX_CONNECTIONS = 20
FLOOD = 50
PROBES = 2
"""Connections by which it is seen that the gateway listens, one for each port; they may be counted late."""
LIMIT = 10.0

MQTT_FIRST = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": bytes.fromhex("16030102000100") + b"1" * 300,
    "not CONNECT first": PINGREQ,
    "PUBLISH first": mqtt_publish("in/x/1", b"body", 1),
    "remaining length of five bytes": b"\x10\xff\xff\xff\xff\x7f",
    "over the packet size": b"\x10\xff\xff\xff\x7f",
    "reserved packet type": b"\x00\x00",
    "reserved flags": b"\x1f" + mqtt_connect("flags")[1:],
    "wrong protocol name": mqtt_packet(0x10, b"\x00\x04MQXX\x04\x02\x00\x3c\x00\x01a"),
    "reserved connect flag": mqtt_packet(0x10, b"\x00\x04MQTT\x04\x03\x00\x3c\x00\x01a"),
    "will flags without will": mqtt_packet(0x10, b"\x00\x04MQTT\x04\x1a\x00\x3c\x00\x01a"),
    "password without name": mqtt_packet(0x10, b"\x00\x04MQTT\x04\x42\x00\x3c\x00\x01a\x00\x01p"),
    "client id is not UTF-8": mqtt_packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x02\xff\xfe"),
    "client id with NUL": mqtt_packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x02a\x00"),
    "client id with a surrogate": mqtt_packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x03\xed\xa0\x80"),
    "string over the end": mqtt_packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x3c\xff\xffa"),
    "bytes behind the end": mqtt_packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a" + b"extra"),
    "level 9": mqtt_packet(0x10, b"\x00\x04MQTT\x09\x02\x00\x3c\x00\x01a"),
    "no client id, CleanSession 0": mqtt_packet(0x10, b"\x00\x04MQTT\x04\x00\x00\x3c\x00\x00"),
}

MQTT_LATER = {
    "a second CONNECT": mqtt_connect("again"),
    "CONNACK": CONNACK,
    "PINGRESP": PINGRESP,
    "QoS 3": b"\x36" + mqtt_publish("t", b"body", 1)[1:],
    "packet id 0": mqtt_publish("t", b"body", 0),
    "DUP at QoS 0": mqtt_packet(0x38, b"\x00\x01tbody"),
    "wildcard in a topic": mqtt_publish("a/+/b", b"body", 1),
    "empty topic": mqtt_publish("", b"body", 1),
    "topic is not UTF-8": mqtt_packet(0x32, b"\x00\x02\xc3\x28\x00\x01body"),
    "topic with NUL": mqtt_packet(0x32, b"\x00\x02a\x00\x00\x01body"),
    "topic over the end": mqtt_packet(0x32, b"\xff\xffa"),
    "SUBSCRIBE without filters": mqtt_packet(0x82, b"\x00\x01"),
    "SUBSCRIBE with wrong flags": mqtt_packet(0x80, b"\x00\x01\x00\x01a\x00"),
    "SUBSCRIBE with QoS 3": mqtt_packet(0x82, b"\x00\x01\x00\x01a\x03"),
    "filter with # inside": mqtt_packet(0x82, b"\x00\x01\x00\x03#/a\x00"),
    "UNSUBSCRIBE without filters": mqtt_packet(0xA2, b"\x00\x01"),
    "PUBACK too short": b"\x40\x01\x00",
    "PINGREQ with a body": b"\xc0\x01a",
    "AUTH": b"\xf0\x00",
    "over the packet size": b"\x32\xff\xff\xff\x7f",
    "a packet id in use": mqtt_publish("t", b"one", 1) + mqtt_publish("t", b"two", 1),
}

STOMP_FIRST = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n\0",
    "binary": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n\0",
    "SEND before CONNECT": stomp_frame("SEND", b"body", destination="/queue/x"),
    "unknown command": stomp_frame("HELLO"),
    "command of a server": stomp_frame("CONNECTED", version="1.2"),
    "no version in common": stomp_frame("CONNECT", accept_version="9.9", host="/"),
    "a command without end": b"A" * 20_000,
    "header without colon": b"CONNECT\naccept-version\n\n\0",
    "heart-beat is no pair": stomp_frame("CONNECT", accept_version="1.2", host="/", heart_beat="often"),
    "command is not UTF-8": b"\xff\xfe\n\n\0",
}

STOMP_LATER = {
    "a second CONNECT": STOMP_CONNECT,
    "unknown command": stomp_frame("HELLO"),
    "MESSAGE": stomp_frame("MESSAGE", b"body", destination="/queue/x", subscription="1", message_id="1"),
    "SEND without destination": stomp_frame("SEND", b"body"),
    "unknown destination": stomp_frame("SEND", b"body", destination="orders/new"),
    "name over the limit": stomp_frame("SEND", b"body", destination="/queue/" + "n" * 300),
    "bad escape": b"SEND\ndestination:/queue/x\nh:a\\tb\n\nbody\0",
    "header is not UTF-8": b"SEND\ndestination:/queue/x\nh:\xff\n\nbody\0",
    "header without colon": b"SEND\ndestination\n\nbody\0",
    "no end where content-length says": b"SEND\ndestination:/queue/x\ncontent-length:2\n\nbody\0",
    "content-length is no number": b"SEND\ndestination:/queue/x\ncontent-length:many\n\nbody\0",
    "content-length below 0": b"SEND\ndestination:/queue/x\ncontent-length:-1\n\nbody\0",
    "content-length over the limit": b"SEND\ndestination:/queue/x\ncontent-length:99999999999\n\n",
    "header line without end": b"SEND\ndestination:" + b"x" * 20_000,
    "too many headers": b"SEND\n" + b"h:v\n" * 300,
    "headers over the limit": b"SEND\n" + b"".join(b"h%d:%s\n" % (each, b"v" * 8000) for each in range(12)),
    "durable SUBSCRIBE without id": stomp_frame("SUBSCRIBE", destination="/topic/x", durable="true"),
    "SUBSCRIBE twice": 2 * stomp_frame("SUBSCRIBE", destination="/topic/x", id="1"),
    "unknown ack mode": stomp_frame("SUBSCRIBE", destination="/topic/x", id="1", ack="maybe"),
    "ACK of nothing": stomp_frame("ACK", id="nothing"),
    "ACK without id": stomp_frame("ACK"),
    "NACK of nothing": stomp_frame("NACK", id="1@@1"),
    "UNSUBSCRIBE of nothing": stomp_frame("UNSUBSCRIBE", id="1"),
    "a transaction that was not begun": stomp_frame("COMMIT", transaction="t"),
    "prefetch is no number": stomp_frame("SUBSCRIBE", destination="/topic/x", id="1", prefetch_count="all"),
}


@pytest.fixture(scope="module")
def gateway(ministack: Ministack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for all tests here, which it has to survive; at the end its log is searched for tracebacks."""
    running = Gateway(gateway_config(ministack.url, routes=ROUTES), tmp_path_factory.mktemp("bad_input"))
    with serving(running):
        yield running


@pytest.fixture(scope="module")
def small_gateway(ministack: Ministack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One that takes few connections, and gives up soon on those that do not connect."""
    listeners = [
        {
            "protocol": protocol,
            "host": HOST,
            "port": free_port(),
            "max_connections": MAX_CONNECTIONS,
            "connect_timeout": CONNECT_TIMEOUT,
        }
        for protocol in ("mqtt", "stomp")
    ]
    config = gateway_config(ministack.url, routes=ROUTES, listeners=listeners)
    running = Gateway(config, tmp_path_factory.mktemp("small"))
    with serving(running):
        yield running


def errors(gateway: Gateway, protocol: str) -> float:
    return gateway.metrics()[f'mqlift_protocol_errors_total{{protocol="{protocol}"}}']


def connections(gateway: Gateway, protocol: str) -> float:
    return gateway.metrics()[f'mqlift_connections{{protocol="{protocol}"}}']


def growth_of(gateway: Gateway, counter: str) -> Callable[[], float]:
    """How much a counter has grown since now, whenever it is asked."""
    before = gateway.metric(counter)
    return lambda: gateway.metric(counter) - before


def resident(gateway: Gateway) -> int:
    """Bytes of memory, proc(5)."""
    lines = Path(f"/proc/{gateway.pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def assert_works(gateway: Gateway, sqs: SqsClient, queue_url: str, queue_name: str) -> None:
    """A message of each protocol arrives."""
    with (
        MqttPublisher(gateway.port("mqtt"), f"good-{queue_name}") as publisher,
        StompClient(gateway.port("stomp")) as client,
    ):
        publisher.publish(f"in/{queue_name}/1", "from MQTT")
        publisher.wait_acknowledged(1)
        client.send(f"/queue/{queue_name}", "from STOMP")
    assert_exactly(["from MQTT", "from STOMP"], drain(sqs, queue_url).elements())


def assert_refused(gateway: Gateway, protocol: str, wire: Wire, data: bytes) -> bytes:
    """The gateway closes the connection after `data`, counts it, and writes one line; gives what it answered."""
    counted, logged = errors(gateway, protocol), len(gateway.log.splitlines())
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # closed while it is still sent
        wire.send(data)
    answer = wire.receive_all()
    assert errors(gateway, protocol) == counted + 1
    lines = gateway.log.splitlines()[logged:]
    assert len(lines) == 1, lines
    assert "connection_refused" in lines[0]
    return answer


# One mistake


@pytest.mark.parametrize("data", MQTT_FIRST.values(), ids=MQTT_FIRST)
def test_mqtt_does_not_let_in(data: bytes, gateway: Gateway) -> None:
    with Wire(gateway.port("mqtt")) as wire:
        answer = assert_refused(gateway, "mqtt", wire, data)
    # Nothing, or a CONNACK that says no (3.1.1 table 3.1).
    assert answer in {b"", b"\x20\x02\x00\x01", b"\x20\x02\x00\x02"}


@pytest.mark.parametrize("data", MQTT_LATER.values(), ids=MQTT_LATER)
def test_mqtt_closes(data: bytes, gateway: Gateway) -> None:
    with connected_mqtt(gateway.port("mqtt"), mqtt_connect("bad")) as wire:
        assert assert_refused(gateway, "mqtt", wire, data) in {b"", mqtt_puback(1)}


@pytest.mark.parametrize("data", STOMP_FIRST.values(), ids=STOMP_FIRST)
def test_stomp_does_not_let_in(data: bytes, gateway: Gateway) -> None:
    with Wire(gateway.port("stomp")) as wire:
        assert assert_refused(gateway, "stomp", wire, data).startswith(b"ERROR\nmessage:")


@pytest.mark.parametrize("data", STOMP_LATER.values(), ids=STOMP_LATER)
def test_stomp_answers_error_and_closes(data: bytes, gateway: Gateway) -> None:
    with connected_stomp(gateway.port("stomp")) as wire:
        assert assert_refused(gateway, "stomp", wire, data).startswith(b"ERROR\nmessage:")


def test_what_came_before_the_mistake_is_kept(gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str) -> None:
    with connected_mqtt(gateway.port("mqtt"), mqtt_connect("mixed")) as wire:
        assert_refused(gateway, "mqtt", wire, mqtt_publish(f"in/{queue_name}/1", b"from MQTT", 1) + b"\xf0\x00")
    with connected_stomp(gateway.port("stomp")) as wire:
        send = stomp_frame("SEND", b"from STOMP", destination=f"/queue/{queue_name}")
        assert_refused(gateway, "stomp", wire, send + stomp_frame("HELLO"))
    wait_for(lambda: gateway.metric("mqlift_inflight_messages") == 0, "everything is answered")
    found = drain(sqs, queue)
    assert set(found) <= {"from MQTT", "from STOMP"}
    assert found["from MQTT"] == 1


# Those that never get anywhere


@pytest.mark.parametrize(
    ("protocol", "data"),
    [
        ("mqtt", b""),
        ("mqtt", b"\x10"),
        ("mqtt", b"\x10\x80\x80\x01"),
        ("mqtt", mqtt_connect("half")[:-1]),
        ("stomp", b""),
        ("stomp", b"\n\n\n"),
        ("stomp", b"CONNECT\naccept-version:1.2\n"),
        ("stomp", STOMP_CONNECT[:-1]),
        ("stomp", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),  # a frame ends with NUL only
    ],
)
def test_a_connect_that_never_ends(protocol: str, data: bytes, small_gateway: Gateway) -> None:
    with Wire(small_gateway.port(protocol)) as wire:
        assert assert_refused(small_gateway, protocol, wire, data) == b""


@pytest.mark.parametrize("protocol", ["mqtt", "stomp"])
def test_dripping_bytes_do_not_extend_the_time(protocol: str, small_gateway: Gateway) -> None:
    """As fast as the socket takes single bytes: never a whole CONNECT, always something new."""
    drip = {"mqtt": b"\x10\x80\x80\x01" + b"\0" * 16_000, "stomp": b"\n" * 16_000}[protocol]
    with Wire(small_gateway.port(protocol)) as wire:
        wire.send(drip[:4])
        rest = iter(drip[4:])

        def closed() -> bool:
            try:
                wire.send(bytes([next(rest)]))
            except ConnectionError:
                return True
            return wire.closed()

        wait_for(closed, "the connection is closed", LIMIT)


@pytest.mark.parametrize("protocol", ["mqtt", "stomp"])
def test_a_flood_of_silent_connections(
    protocol: str, small_gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    wait_for(lambda: connections(small_gateway, protocol) == 0, "those of other tests are gone")
    wait_for(lambda: small_gateway.metric("mqlift_connections_opened_total") >= PROBES, "the looks at the ports count")
    let_in = growth_of(small_gateway, "mqlift_connections_opened_total")
    turned_away = growth_of(small_gateway, "mqlift_connections_refused_total")
    told = small_gateway.log.count("too_many_connections")
    with contextlib.ExitStack() as flood:
        began = time.monotonic()
        wires = [flood.enter_context(Wire(small_gateway.port(protocol))) for _ in range(FLOOD)]
        wait_for(lambda: let_in() + turned_away() == FLOOD, "each is let in or refused")
        # Whoever is silent for that long makes room for another.
        rounds = 1 + int((time.monotonic() - began) / CONNECT_TIMEOUT)
        assert let_in() <= rounds * MAX_CONNECTIONS
        wait_for(lambda: sum(wire.closed() for wire in wires) == FLOOD, "the others have had their time", LIMIT)
        wait_for(lambda: connections(small_gateway, protocol) == 0, "all are gone")
        # While the peers still hold their ends.
        assert_works(small_gateway, sqs, queue, queue_name)
    # Not for each of them: again only after there was room.
    assert 1 <= small_gateway.log.count("too_many_connections") - told < 5


# Noise


def noise(protocol: str, seed: int) -> bytes:
    """Random bytes, a good beginning with random bytes behind, or a good conversation with some bytes changed."""
    dice = random.Random(f"{protocol} {seed}")
    good = good_bytes(protocol)
    kind = dice.randrange(3)
    if kind == 0:
        return dice.randbytes(dice.randrange(1, 400))
    if kind == 1:
        return good[: dice.randrange(len(good))] + dice.randbytes(dice.randrange(1, 200))
    changed = bytearray(good)
    for _ in range(dice.randrange(1, 6)):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def good_bytes(protocol: str) -> bytes:
    if protocol == "mqtt":
        return (
            mqtt_connect("noise", will=("noise/will", b"gone"))
            + mqtt_packet(0x82, b"\x00\x01\x00\x07noise/+\x01\x00\x03a/#\x00")
            + mqtt_publish("noise/1", b"body", 2)
            + mqtt_packet(0x30, b"\x00\x07noise/2" + b"body")
            + PINGREQ
            + mqtt_packet(0xA2, b"\x00\x03\x00\x07noise/+")
            + mqtt_puback(1)
        )
    return (
        STOMP_CONNECT
        + stomp_frame("SUBSCRIBE", id="0", destination="/topic/noise.*", ack="client", receipt="s")
        + stomp_frame("SEND", b"body", destination="/topic/noise.1", receipt="1", content_length="4", h="a\\cb")
        + stomp_frame("ACK", id="x@@1")
        + stomp_frame("UNSUBSCRIBE", id="0")
        + stomp_frame("DISCONNECT", receipt="bye")
    )


def make_noise(gateway: Gateway, protocol: str, seeds: range) -> None:
    for seed in seeds:
        with Wire(gateway.port(protocol)) as wire:
            with contextlib.suppress(ConnectionError):
                wire.send(noise(protocol, seed))
            # An incomplete packet waits for its rest; the gateway sees the end, and closes too.
            wire.end_sending()
            wire.receive_all()


@pytest.mark.parametrize("protocol", ["mqtt", "stomp"])
def test_noise(protocol: str, gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str) -> None:
    make_noise(gateway, protocol, range(RANDOM_CONNECTIONS // 4))  # tables and pools get their usual size
    before = errors(gateway, protocol)
    memory = resident(gateway)
    make_noise(gateway, protocol, range(RANDOM_CONNECTIONS // 4, RANDOM_CONNECTIONS))
    assert errors(gateway, protocol) > before + RANDOM_CONNECTIONS // 4
    wait_for(lambda: connections(gateway, protocol) == 0, "all are gone")
    assert resident(gateway) < memory + MAX_GROWTH
    assert_works(gateway, sqs, queue, queue_name)
    gateway.check_log()


@pytest.mark.parametrize("protocol", ["mqtt", "stomp"])
def test_unfinished_packets_cost_no_more_than_was_sent(protocol: str, gateway: Gateway) -> None:
    """Each announces the largest packet that is allowed, and sends little of it."""
    announced = {
        "mqtt": mqtt_connect("") + b"\x32\xf0\xff\x4f" + b"\x00\x01t\x00\x01",
        "stomp": STOMP_CONNECT + b"SEND\ndestination:/queue/x\ncontent-length:1048576\n\n",
    }[protocol]
    memory, received = resident(gateway), gateway.metric("mqlift_received_bytes_total")
    with contextlib.ExitStack() as wires:
        for _ in range(200):
            wire = wires.enter_context(Wire(gateway.port(protocol)))
            wire.send(announced + b"b" * 1000)
        wait_for(lambda: connections(gateway, protocol) == 200, "all are connected")
        wait_for(lambda: gateway.metric("mqlift_received_bytes_total") >= received + 200_000, "all was read")
        assert resident(gateway) < memory + MAX_GROWTH
    wait_for(lambda: connections(gateway, protocol) == 0, "all are gone")
