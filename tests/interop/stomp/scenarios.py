"""The scenarios that both dialects have: what a client does, whose answers are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.interop.stomp.frames import NUL, written
from tests.interop.stomp.stage import LOGIN, Connection, Stage

Scenario = Callable[[Stage], None]

QUEUE = "destination:/queue/{}"
VERSIONS = ("1.0", "1.1", "1.2")


def asks_for(connection: Connection, number: str = "0", ack: str = "auto", *headers: str) -> None:
    """Subscribe to the scenario's queue, and wait until that has been done."""
    connection.sends("SUBSCRIBE", f"id:{number}", QUEUE, f"ack:{ack}", f"receipt:sub-{number}", *headers)
    connection.gets("RECEIPT")


def puts(connection: Connection, *bodies: str, headers: tuple[str, ...] = ()) -> None:
    """Send messages to the scenario's queue, and wait until the last is accepted."""
    for body in bodies[:-1]:
        connection.sends("SEND", QUEUE, *headers, body=body.encode())
    connection.sends("SEND", QUEUE, "receipt:put", *headers, body=bodies[-1].encode())
    connection.gets("RECEIPT")


def what_is_left(stage: Stage) -> None:
    """Read the scenario's queue up to a last message of ours, which is no part of what is observed."""
    reader = stage.connects()
    puts(reader, "last")
    asks_for(reader, "left")
    reader.gets_until(b"last")
    reader.leaves()


def version_negotiation(stage: Stage) -> None:
    for command, asked in [("CONNECT", None), *[("CONNECT", each) for each in ("1.0", "1.1", "1.2")]]:
        greet(stage, command, asked)
    for asked in ("1.0,1.1,1.2", "1.2,1.1", "1.1,9.9"):
        greet(stage, "STOMP", asked)


def greet(stage: Stage, command: str, asked: str | None, *headers: str) -> None:
    stage.notes(f"{command} {asked} {headers}")
    client = stage.opens()
    client.sends(command, *([] if asked is None else [f"accept-version:{asked}"]), "host:/", *LOGIN, *headers)
    client.gets("CONNECTED")


def no_common_version(stage: Stage) -> None:
    for asked in ("9.9", "0.9,2.0", "abc"):
        stage.notes(asked)
        client = stage.opens()
        client.sends("CONNECT", f"accept-version:{asked}", "host:/", *LOGIN)
        client.gets("CONNECTED")


def wrong_login(stage: Stage) -> None:
    for login in ("login:guest|passcode:wrong", "login:nobody|passcode:guest", "login:guest"):
        stage.notes(login)
        client = stage.opens()
        client.sends("CONNECT", "accept-version:1.2", "host:/", *login.split("|"))
        client.gets("CONNECTED")


def host_of_a_connect(stage: Stage) -> None:
    for headers in ([], ["host:/nowhere"], ["host:localhost"]):
        stage.notes(str(headers))
        client = stage.opens()
        client.sends("CONNECT", "accept-version:1.2", *headers, *LOGIN)
        client.gets("CONNECTED")


def heart_beat_negotiation(stage: Stage) -> None:
    for asked in ("0,0", "10000,0", "0,10000", "10000,20000", "1,1", "500,500"):
        greet(stage, "CONNECT", "1.2", f"heart-beat:{asked}")
    greet(stage, "CONNECT", None, "heart-beat:10000,10000")


def malformed_heart_beat(stage: Stage) -> None:
    for asked in ("10000", "a,b", "-1,0", "1,2,3", ""):
        greet(stage, "CONNECT", "1.2", f"heart-beat:{asked}")


def before_connect(stage: Stage) -> None:
    for command in ("SEND", "SUBSCRIBE", "DISCONNECT"):
        stage.notes(command)
        client = stage.opens()
        client.sends(command, QUEUE, "id:0", "receipt:r")
        client.sends("SEND", QUEUE)
        client.gets("ERROR")


def connect_twice(stage: Stage) -> None:
    client = stage.connects()
    client.sends("CONNECT", "accept-version:1.2", "host:/", *LOGIN)
    client.leaves()


def send_and_receive(stage: Stage) -> None:
    for version in VERSIONS:
        stage.notes(version)
        client = stage.connects(version)
        asks_for(client)
        puts(client, "hello")
        client.gets("MESSAGE")
        client.leaves()


def subscribe_without_id(stage: Stage) -> None:
    for version in VERSIONS:
        stage.notes(version)
        client = stage.connects(version)
        client.sends("SUBSCRIBE", QUEUE, "receipt:sub")
        if client.gets("RECEIPT").command != "RECEIPT":
            client.cut()
            continue
        client.sends("SEND", QUEUE, body=b"hello")
        client.gets("MESSAGE")
        client.leaves()


def properties_of_a_message(stage: Stage) -> None:
    properties = (
        "content-type:text/plain",
        "correlation-id:c-1",
        "priority:7",
        "persistent:true",
        "reply-to:/queue/answers",
        "type:order",
        "x-own:mine",
        "timestamp:1600000000000",
    )
    client = stage.connects()
    asks_for(client)
    puts(client, "hello", headers=properties)
    client.gets("MESSAGE")
    puts(client, "hello", headers=("content-length:5",))
    client.gets("MESSAGE")
    puts(client, "hello", headers=("persistent:false",))
    client.gets("MESSAGE")
    client.leaves()


def receipts(stage: Stage) -> None:
    client = stage.connects()
    for number, (command, *headers) in enumerate(
        [
            ("SEND", "destination:/topic/{}"),
            ("SUBSCRIBE", "id:1", QUEUE),
            ("BEGIN", "transaction:tx"),
            ("ABORT", "transaction:tx"),
            ("UNSUBSCRIBE", "id:1"),
        ]
    ):
        client.sends(command, *headers, f"receipt:r {number}")
        client.gets("RECEIPT")
    client.leaves()


def bad_destinations(stage: Stage) -> None:
    for command in ("SEND", "SUBSCRIBE"):
        for destination in ("nothing", "/nothing/{}", "/queue/", "/queue", "/topic/", "/", "/queue/{}/b", "queue/{}"):
            refused(stage, command, "id:0", f"destination:{destination}")


def headers_of_the_server(stage: Stage) -> None:
    refused(stage, "SEND", QUEUE, "message-id:chosen")
    refused(stage, "SEND", QUEUE, "subscription:0", "redelivered:true")


def missing_headers(stage: Stage) -> None:
    for command, *headers in [
        ("SEND",),
        ("SUBSCRIBE", "id:0"),
        ("SUBSCRIBE", QUEUE),
        ("UNSUBSCRIBE",),
        ("ACK",),
        ("NACK",),
        ("BEGIN",),
        ("COMMIT",),
        ("ABORT",),
    ]:
        refused(stage, command, *headers)


def refused(stage: Stage, command: str, *headers: str, version: str = "1.2") -> None:
    """A frame of which an ERROR is expected; whatever comes is written down."""
    stage.notes(f"{version} {command} {' '.join(headers)}")
    client = stage.connects(version)
    client.sends(command, *headers, "receipt:r")
    client.sends("SEND", "destination:/queue/{}-other", "receipt:after")
    client.gets("RECEIPT", "RECEIPT")
    client.cut()


def unknown_things(stage: Stage) -> None:
    for command, *headers in [
        ("UNSUBSCRIBE", "id:never"),
        ("ACK", "id:never"),
        ("NACK", "id:never"),
        ("COMMIT", "transaction:never"),
        ("ABORT", "transaction:never"),
        ("SEND", QUEUE, "transaction:never"),
        ("SUBSCRIBE", "id:0", QUEUE, "ack:sometimes"),
        ("WHATEVER", "a:b"),
        ("MESSAGE", QUEUE),
    ]:
        refused(stage, command, *headers)


def unknown_things_in_older_versions(stage: Stage) -> None:
    for version in ("1.0", "1.1"):
        for command, *headers in [
            ("ACK", "message-id:never", "subscription:0"),
            ("ACK", "message-id:never"),
            ("NACK", "message-id:never", "subscription:0"),
            ("UNSUBSCRIBE", "destination:/queue/never"),
        ]:
            refused(stage, command, *headers, version=version)


def escaping(stage: Stage) -> None:
    for version in VERSIONS:
        stage.notes(version)
        client = stage.connects(version)
        asks_for(client)
        client.sends("SEND", QUEUE, r"x-a\cb:1\n2\\3\c4", r"x-colon:a:b", "x-é: padded ", "receipt:r", body=b"x")
        client.gets("RECEIPT")
        if client.last.command == "RECEIPT":
            client.gets("MESSAGE")
        client.leaves()


def wrong_escapes(stage: Stage) -> None:
    for version in VERSIONS:
        for value in (r"a\rb", r"a\tb", "a\\"):
            stage.notes(f"{version} {value!r}")
            client = stage.connects(version)
            asks_for(client)
            client.sends("SEND", QUEUE, f"x-value:{value}", "receipt:r", body=b"x")
            if client.gets("RECEIPT").command != "RECEIPT":
                client.cut()
                continue
            client.gets("MESSAGE")
            client.leaves()


def carriage_returns(stage: Stage) -> None:
    for version in VERSIONS:
        stage.notes(version)
        client = stage.connects(version)
        asks_for(client)
        head = stage.named(f"SEND\r\n{QUEUE}\r\nx-own:mine\r\nreceipt:r\r\n\r\n")
        client.writes(b"\r\n\n" + head.encode() + b"body\0\r\n")
        client.gets("RECEIPT")
        if client.last.command == "RECEIPT":
            client.gets("MESSAGE")
        client.leaves()


def repeated_headers(stage: Stage) -> None:
    client = stage.connects()
    asks_for(client)
    client.sends("SEND", QUEUE, "x-own:first", "x-own:second", "receipt:one", "receipt:two", body=b"x")
    client.gets("RECEIPT", "MESSAGE")
    client.leaves()


def odd_headers(stage: Stage) -> None:
    for lines in (["novalue:"], ["nocolon"], [":noname"], [" padded : x "]):
        stage.notes(str(lines))
        client = stage.connects()
        asks_for(client)
        client.sends("SEND", QUEUE, *lines, "receipt:r", body=b"x")
        if client.gets("RECEIPT").command != "RECEIPT":
            client.cut()
            continue
        client.gets("MESSAGE")
        client.leaves()


def bodies(stage: Stage) -> None:
    every_byte = bytes(range(256))
    for body in (b"", b"\0", every_byte, "Grüße".encode(), b"\n\n", b"x" * 100_000):
        stage.notes(f"{len(body)} bytes, with content-length")
        client = stage.connects()
        asks_for(client)
        client.sends("SEND", QUEUE, f"content-length:{len(body)}", "receipt:r", body=body)
        client.gets("RECEIPT")
        stage.says("-", f"as it was sent: {client.gets('MESSAGE').body == body}")
        client.leaves()


def body_without_content_length(stage: Stage) -> None:
    for body in (b"", b"plain", b"\xff\xfe", "Grüße".encode()):
        stage.notes(repr(body))
        client = stage.connects()
        asks_for(client)
        client.sends("SEND", QUEUE, "receipt:r", body=body)
        client.gets("RECEIPT")
        stage.says("-", f"as it was sent: {client.gets('MESSAGE').body == body}")
        client.leaves()


def content_length_is_wrong(stage: Stage) -> None:
    for length in ("3", "-1", "abc", ""):
        stage.notes(f"content-length:{length}, 4 bytes")
        client = stage.connects()
        client.sends("SEND", QUEUE, f"content-length:{length}", "receipt:r", body=b"body")
        if client.gets("RECEIPT").command != "RECEIPT":
            client.cut()
            continue
        client.leaves()


def body_with_nul_and_no_length(stage: Stage) -> None:
    client = stage.connects()
    client.writes(written("SEND", [stage.named(QUEUE), "receipt:r"], b"one" + NUL + b"two"))
    client.sends("SEND", "destination:/queue/{}-other", "receipt:after")
    client.gets("RECEIPT", "RECEIPT")
    client.leaves()


def malformed_frames(stage: Stage) -> None:
    for data in (
        b"\0",
        b"GARBAGE\0",
        b"send\ndestination:/queue/x\n\n\0",
        b"SEND\0",
        b" SEND\ndestination:/queue/x\n\n\0",
    ):
        stage.notes(repr(data))
        client = stage.connects()
        client.writes(data)
        client.sends("SEND", "destination:/queue/{}-other", "receipt:after")
        if client.gets("RECEIPT").command != "RECEIPT":
            client.cut()
            continue
        client.leaves()


def bodies_on_frames_without(stage: Stage) -> None:
    client = stage.connects()
    client.sends("SUBSCRIBE", "id:0", QUEUE, "receipt:r", body=b"a body")
    client.gets("RECEIPT")
    client.leaves()


def acknowledging_one_by_one(stage: Stage) -> None:
    for version in ("1.1", "1.2"):
        stage.notes(version)
        client = stage.connects(version)
        puts(client, "1", "2", "3")
        asks_for(client, "0", "client-individual")
        frames = [client.gets("MESSAGE") for _ in range(3)]
        client.acknowledges("ACK", version, "receipt:acked", frame=frames[1])
        client.gets("RECEIPT")
        client.leaves()
        what_is_left(stage)


def acknowledging_cumulatively(stage: Stage) -> None:
    for version in VERSIONS:
        stage.notes(version)
        client = stage.connects(version)
        puts(client, "1", "2", "3")
        asks_for(client, "0", "client")
        frames = [client.gets("MESSAGE") for _ in range(3)]
        client.acknowledges("ACK", version, "receipt:acked", frame=frames[1])
        client.gets("RECEIPT")
        client.leaves()
        what_is_left(stage)


def acknowledging_twice(stage: Stage) -> None:
    client = stage.connects()
    puts(client, "1")
    asks_for(client, "0", "client-individual")
    frame = client.gets("MESSAGE")
    client.acknowledges("ACK", "1.2", "receipt:once", frame=frame)
    client.gets("RECEIPT")
    client.acknowledges("ACK", "1.2", frame=frame)
    client.gets("ERROR")
    client.cut()


def acknowledging_in_auto_mode(stage: Stage) -> None:
    client = stage.connects("1.1")
    puts(client, "1")
    asks_for(client)
    client.gets("MESSAGE")
    client.acknowledges("ACK", "1.1")
    client.gets("ERROR")
    client.cut()


def unacknowledged_come_back(stage: Stage) -> None:
    client = stage.connects()
    puts(client, "1", "2")
    asks_for(client, "0", "client")
    client.gets("MESSAGE", "MESSAGE")
    client.cut()
    what_is_left(stage)


def refusing_a_message(stage: Stage) -> None:
    for version in ("1.1", "1.2"):
        stage.notes(version)
        client = stage.connects(version)
        puts(client, "1")
        asks_for(client, "0", "client-individual")
        client.gets("MESSAGE")
        client.acknowledges("NACK", version, "receipt:nacked")
        client.gets("RECEIPT")
        client.cut()
        what_is_left(stage)


def unsubscribing(stage: Stage) -> None:
    client = stage.connects()
    asks_for(client, "0", "client")
    puts(client, "1")
    frame = client.gets("MESSAGE")
    client.sends("UNSUBSCRIBE", "id:0", "receipt:gone")
    client.gets("RECEIPT")
    puts(client, "2")
    client.acknowledges("ACK", "1.2", "receipt:late", frame=frame)
    client.gets("RECEIPT")
    client.leaves()
    what_is_left(stage)


def unsubscribing_by_destination(stage: Stage) -> None:
    for version in VERSIONS:
        stage.notes(version)
        client = stage.connects(version)
        client.sends("SUBSCRIBE", "id:0", QUEUE, "receipt:sub")
        client.gets("RECEIPT")
        client.sends("UNSUBSCRIBE", QUEUE, "receipt:gone")
        client.gets("RECEIPT")
        client.leaves()


def subscribing_twice_with_one_id(stage: Stage) -> None:
    client = stage.connects()
    asks_for(client)
    client.sends("SUBSCRIBE", "id:0", "destination:/queue/{}-second", "receipt:again")
    if client.gets("RECEIPT").command != "RECEIPT":
        client.cut()
        return
    client.sends("SEND", QUEUE, body=b"first")
    client.sends("SEND", "destination:/queue/{}-second", body=b"second")
    client.gets_in_any_order(2)
    client.leaves()


def two_subscriptions_to_a_topic(stage: Stage) -> None:
    client = stage.connects()
    for number in "01":
        client.sends("SUBSCRIBE", f"id:{number}", "destination:/topic/{}", "receipt:sub")
        client.gets("RECEIPT")
    client.sends("SEND", "destination:/topic/{}", "receipt:sent", body=b"x")
    client.gets("RECEIPT")
    client.gets_in_any_order(2)
    client.leaves()


def publish_without_subscribers(stage: Stage) -> None:
    client = stage.connects()
    client.sends("SEND", "destination:/topic/{}", "receipt:sent", body=b"x")
    client.gets("RECEIPT")
    client.leaves()


def committing(stage: Stage) -> None:
    client = stage.connects()
    asks_for(client)
    client.sends("BEGIN", "transaction:tx", "receipt:begun")
    client.gets("RECEIPT")
    client.sends("SEND", QUEUE, "transaction:tx", body=b"inside")
    puts(client, "outside")
    client.gets("MESSAGE")
    client.sends("COMMIT", "transaction:tx", "receipt:committed")
    client.gets("RECEIPT", "MESSAGE")
    client.leaves()


def receipts_in_a_transaction(stage: Stage) -> None:
    client = stage.connects()
    client.sends("BEGIN", "transaction:tx")
    client.sends("SEND", QUEUE, "transaction:tx", "receipt:inside", body=b"inside")
    client.sends("SEND", QUEUE, "receipt:outside", body=b"outside")
    client.sends("COMMIT", "transaction:tx", "receipt:committed")
    client.gets("RECEIPT", "RECEIPT", "RECEIPT")
    client.leaves()


def aborting(stage: Stage) -> None:
    client = stage.connects()
    asks_for(client)
    client.sends("BEGIN", "transaction:tx")
    client.sends("SEND", QUEUE, "transaction:tx", body=b"inside")
    client.sends("ABORT", "transaction:tx", "receipt:aborted")
    client.gets("RECEIPT")
    puts(client, "outside")
    client.gets("MESSAGE")
    client.leaves()


def beginning_twice(stage: Stage) -> None:
    client = stage.connects()
    client.sends("BEGIN", "transaction:tx")
    client.sends("BEGIN", "transaction:tx", "receipt:again")
    client.gets("RECEIPT")
    client.leaves()


def committing_twice(stage: Stage) -> None:
    client = stage.connects()
    client.sends("BEGIN", "transaction:tx")
    for receipt in ("once", "twice"):
        client.sends("COMMIT", "transaction:tx", f"receipt:{receipt}")
        client.gets("RECEIPT")
    client.leaves()


def acknowledging_in_a_transaction(stage: Stage) -> None:
    for ending in ("COMMIT", "ABORT"):
        stage.notes(ending)
        client = stage.connects()
        puts(client, "1")
        asks_for(client, "0", "client-individual")
        client.gets("MESSAGE")
        client.sends("BEGIN", "transaction:tx")
        client.acknowledges("ACK", "1.2", "transaction:tx", "receipt:acked")
        client.gets("RECEIPT")
        client.sends(ending, "transaction:tx", "receipt:ended")
        client.gets("RECEIPT")
        client.leaves()
        what_is_left(stage)


def leaving_with_a_transaction(stage: Stage) -> None:
    client = stage.connects()
    client.sends("BEGIN", "transaction:tx")
    client.sends("SEND", QUEUE, "transaction:tx", body=b"inside")
    client.leaves()
    what_is_left(stage)


def disconnecting(stage: Stage) -> None:
    client = stage.connects()
    client.sends("DISCONNECT", "receipt:bye")
    client.ends()
    client = stage.connects()
    client.sends("DISCONNECT")
    client.ends()


COMMON: Final[tuple[Scenario, ...]] = (
    version_negotiation,
    no_common_version,
    wrong_login,
    host_of_a_connect,
    heart_beat_negotiation,
    malformed_heart_beat,
    before_connect,
    connect_twice,
    send_and_receive,
    subscribe_without_id,
    properties_of_a_message,
    receipts,
    bad_destinations,
    headers_of_the_server,
    missing_headers,
    unknown_things,
    unknown_things_in_older_versions,
    escaping,
    wrong_escapes,
    carriage_returns,
    repeated_headers,
    odd_headers,
    bodies,
    body_without_content_length,
    content_length_is_wrong,
    body_with_nul_and_no_length,
    malformed_frames,
    bodies_on_frames_without,
    acknowledging_one_by_one,
    acknowledging_cumulatively,
    acknowledging_twice,
    acknowledging_in_auto_mode,
    unacknowledged_come_back,
    refusing_a_message,
    unsubscribing,
    unsubscribing_by_destination,
    subscribing_twice_with_one_id,
    two_subscriptions_to_a_topic,
    publish_without_subscribers,
    committing,
    receipts_in_a_transaction,
    aborting,
    beginning_twice,
    committing_twice,
    acknowledging_in_a_transaction,
    leaving_with_a_transaction,
    disconnecting,
)
