"""Publishes: where they are routed, what comes back, and what is refused."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal

from pamqp.body import ContentBody
from pamqp.commands import Basic, Confirm, Exchange, Tx
from pamqp.frame import marshal
from pamqp.header import ContentHeader

from tests.interop.amqp.peer import BODY, HEADER, METHOD, Content, PeerChannel
from tests.interop.amqp.scenario import Group, Run

scenario = Group("publishing")

Properties = Basic.Properties

_BASIC = 60
"""The class of methods that carry content."""


@scenario
def confirms_come_in_order(run: Run) -> None:
    channel = run.channel()
    name = run.queue(channel)
    channel.call(Confirm.Select())
    channel.call(Confirm.Select())
    for number in range(20):
        channel.publish(name, str(number))
    channel.confirms(20)
    channel.depth(name, 20)


@scenario
def confirm_of_what_goes_nowhere(run: Run) -> None:
    channel = run.channel(confirms=True)
    channel.publish(run.name("nowhere"), "lost", exchange="amq.direct")
    channel.confirmed()
    channel.publish(run.name("nowhere"), "lost")
    channel.confirmed()


@scenario
def mandatory_is_returned_before_it_is_confirmed(run: Run) -> None:
    channel = run.channel(confirms=True)
    properties = Properties(content_type="text/plain", headers={"a": 1}, correlation_id="c", delivery_mode=2)
    channel.publish(run.name("nowhere"), "back", mandatory=True, properties=properties)
    channel.confirmed()
    channel.publish("k", "back too", exchange="amq.direct", mandatory=True)
    channel.confirmed()
    name = run.queue(channel)
    channel.publish(name, "routed", mandatory=True)
    channel.confirmed()


@scenario
def mandatory_without_confirms(run: Run) -> None:
    channel = run.channel()
    channel.publish(run.name("nowhere"), "back", mandatory=True)
    channel.wait("Basic.Return")
    channel.call(Basic.Qos())


@scenario
def immediate_is_not_implemented(run: Run) -> None:
    channel = run.channel()
    channel.publish(run.queue(channel), "now", immediate=True)
    channel.wait("Basic.Return")


@scenario
def publish_to_no_exchange_while_confirming(run: Run) -> None:
    channel = run.channel(confirms=True)
    channel.publish("k", "lost", exchange=run.name("none"))
    channel.wait_closed()


@scenario
def confirms_and_transactions_exclude_each_other(run: Run) -> None:
    connection = run.connect()
    confirming = connection.channel(1)
    confirming.call(Confirm.Select())
    confirming.attempt(Tx.Select())
    transacted = connection.channel(2)
    transacted.call(Tx.Select())
    transacted.attempt(Confirm.Select())
    plain = connection.channel(3)
    plain.attempt(Tx.Commit())
    plain.attempt(Tx.Rollback())


@scenario
def body_over_several_frames_and_none(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.queue(channel)
    channel.publish(name, b"")
    channel.confirms(1)
    channel.call(Basic.Get(queue=name, no_ack=True))
    body = b"0123456789abcdef" * 20_000
    channel.publish(name, body)
    channel.confirmed()
    got = channel.call(Basic.Get(queue=name, no_ack=True), quiet=True)
    channel.note(f"the same body: {isinstance(got, Content) and got.body == body}")


@scenario
def all_properties_come_back(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.queue(channel)
    properties = Properties(
        content_type="application/json",
        content_encoding="gzip",
        headers={"a": "text", "n": 5},
        delivery_mode=2,
        priority=7,
        correlation_id="correlation",
        reply_to="replies",
        expiration="600000",
        message_id="id",
        timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        message_type="type",
        user_id="guest",
        app_id="app",
    )
    channel.publish(name, "{}", properties=properties)
    channel.confirms(1)
    channel.call(Basic.Get(queue=name, no_ack=True))


@scenario
def all_types_of_headers_come_back(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.queue(channel)
    headers = {
        "true": True,
        "byte": -5,
        "int": 70_000,
        "long": 2**40,
        "negative": -(2**40),
        "double": 0.5,
        "decimal": Decimal("3.14"),
        "text": "grün",
        "empty": "",
        "bytes": bytearray(b"\x00\xff"),
        "none": None,
        "list": [1, "two", [3.5], {"four": 4}],
        "table": {"inner": {"deeper": [True, None]}},
    }
    channel.publish(name, "headers", properties=Properties(headers=headers))
    channel.confirms(1)
    channel.call(Basic.Get(queue=name, no_ack=True))


@scenario
def user_id_has_to_be_ones_own(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.queue(channel)
    channel.publish(name, "mine", properties=Properties(user_id="guest"))
    channel.confirms(1)
    channel.publish(name, "not mine", properties=Properties(user_id="somebody"))
    channel.wait_closed()


@scenario
def invalid_expiration(run: Run) -> None:
    channel = run.channel()
    name = run.queue(channel)
    for expiration in ("soon", "-1", "1.5", " 5", "99999999999999"):
        channel.publish(name, "x", properties=Properties(expiration=expiration))
        channel.wait_closed()
        channel.open()


@scenario
def invalid_carbon_copies(run: Run) -> None:
    channel = run.channel()
    name = run.queue(channel)
    for header in ("CC", "BCC"):
        channel.publish(name, "x", properties=Properties(headers={header: "text"}))
        channel.wait_closed()
        channel.open()
    channel.publish(name, "x", properties=Properties(headers={"CC": [5]}))
    channel.depth(name, 1)


@scenario
def carbon_copies(run: Run) -> None:
    channel = run.channel(confirms=True)
    to, cc, bcc = (run.queue(channel, base) for base in ("to", "cc", "bcc"))
    channel.publish(to, "copied", properties=Properties(headers={"CC": [cc, to], "BCC": [bcc], "other": 1}))
    channel.confirms(1)
    for queue in (to, cc, bcc):
        channel.take(queue)
    channel.depth(to, 0)
    channel.publish(run.name("nowhere"), "only a copy", mandatory=True, properties=Properties(headers={"CC": [cc]}))
    channel.confirmed()
    channel.take(cc)


@scenario
def direct_and_fanout(run: Run) -> None:
    channel = run.channel(confirms=True)
    first, second = run.queue(channel, "q1"), run.queue(channel, "q2")
    direct, fanout = run.exchange(channel, "direct"), run.exchange(channel, "fanout", "f")
    run.bind(channel, first, direct, "one")
    run.bind(channel, first, direct, "both")
    run.bind(channel, second, direct, "both")
    run.bind(channel, first, fanout)
    run.bind(channel, second, fanout, "ignored")
    for exchange, key in ((direct, "one"), (direct, "both"), (direct, "none"), (direct, "one.#"), (fanout, "any")):
        channel.publish(key, f"{key}", exchange=exchange, mandatory=True)
    channel.confirms(5)
    channel.note(f"first: {bodies(channel, first)}")
    channel.note(f"second: {bodies(channel, second)}")


@scenario
def topic_patterns(run: Run) -> None:
    channel = run.channel(confirms=True)
    topic = run.exchange(channel, "topic")
    patterns = ["a.b", "a.*", "a.#", "#", "*", "*.b", "#.b", "a.*.c", "a.#.c", "", "*.*", "#.#", "a..b", "a.b.*.#"]
    queues = {pattern: run.queue(channel, f"q{number}") for number, pattern in enumerate(patterns)}
    for pattern, queue in queues.items():
        run.bind(channel, queue, topic, pattern)
    keys = ["a.b", "a", "", "a.b.c", "a.c", "b", "a..b", ".", "a.b.c.d", "x.b", "a.*", "#"]
    for key in keys:
        channel.publish(key, key or "empty", exchange=topic)
    channel.confirms(len(keys))
    for pattern, queue in queues.items():
        channel.note(f"{pattern!r}: {', '.join(repr(each) for each in bodies(channel, queue))}")


@scenario
def headers_any_and_all(run: Run) -> None:
    channel = run.channel(confirms=True)
    exchange = run.exchange(channel, "headers")
    bindings: dict[str, dict[str, object]] = {
        "default": {"a": 1, "b": "x"},
        "all": {"x-match": "all", "a": 1, "b": "x"},
        "any": {"x-match": "any", "a": 1, "b": "x"},
        "empty": {},
        "any of none": {"x-match": "any"},
        "present": {"x-match": "all", "a": None},
        "x- ignored": {"x-match": "all", "a": 1, "x-b": 5},
        "x- not ignored": {"x-match": "all-with-x", "a": 1, "x-b": 5},
        "any with x": {"x-match": "any-with-x", "c": 1, "x-b": 5},
        "as text": {"a": "1"},
    }
    queues = {label: run.queue(channel, f"q{number}") for number, label in enumerate(bindings)}
    for label, arguments in bindings.items():
        run.bind(channel, queues[label], exchange, arguments=arguments)
    messages: list[dict[str, object]] = [
        {},
        {"a": 1},
        {"a": 1, "b": "x"},
        {"a": 2, "b": "x"},
        {"a": 1, "b": "x", "c": 3},
        {"a": 1, "x-b": 5},
        {"x-b": 5},
        {"a": "1"},
        {"a": 1.0},
    ]
    for number, headers in enumerate(messages):
        channel.publish("ignored", str(number), exchange=exchange, properties=Properties(headers={**headers}))
    channel.confirms(len(messages))
    for label, queue in queues.items():
        channel.note(f"{label}: {', '.join(bodies(channel, queue))}")


@scenario
def alternate_exchange(run: Run) -> None:
    channel = run.channel(confirms=True)
    other = run.exchange(channel, "fanout", "other")
    main = run.exchange(channel, "direct", arguments={"alternate-exchange": other})
    first, rest = run.queue(channel), run.queue(channel, "rest")
    run.bind(channel, first, main, "k")
    run.bind(channel, rest, other)
    channel.publish("k", "routed", exchange=main, mandatory=True)
    channel.publish("unknown", "unrouted", exchange=main, mandatory=True)
    channel.confirms(2)
    channel.take(first)
    channel.take(rest)
    channel.call(Exchange.Delete(exchange=other))
    channel.publish("unknown", "nowhere at all", exchange=main, mandatory=True)
    channel.confirmed()


@scenario
def exchange_to_exchange(run: Run) -> None:
    channel = run.channel(confirms=True)
    source, middle = run.exchange(channel, "topic", "source"), run.exchange(channel, "fanout", "middle")
    queue = run.queue(channel)
    channel.call(Exchange.Bind(destination=middle, source=source, routing_key="a.*"))
    channel.call(Exchange.Bind(destination=source, source=middle))  # a circle
    run.bind(channel, queue, middle)
    run.bind(channel, queue, source, "a.b")  # twice the same queue
    channel.publish("a.b", "once", exchange=source)
    channel.publish("b", "never", exchange=source)
    channel.confirms(2)
    channel.take(queue)
    channel.depth(queue, 0)


@scenario
def transaction_commits_and_rolls_back(run: Run) -> None:
    channel = run.channel()
    name = run.queue(channel)
    channel.call(Tx.Select())
    channel.publish(name, "rolled back")
    channel.call(Tx.Rollback())
    channel.publish(name, "committed")
    channel.publish(run.name("nowhere"), "returned", mandatory=True)
    channel.depth(name, 0)
    channel.call(Tx.Commit())
    channel.wait("Basic.Return")
    channel.depth(name, 1)


@scenario
def acknowledgements_in_a_transaction(run: Run) -> None:
    publisher = run.channel(confirms=True)
    name = run.queue(publisher)
    publisher.publish(name, "one")
    publisher.confirms(1)
    channel = run.channel()
    channel.call(Tx.Select())
    channel.call(Basic.Get(queue=name))
    channel.send(Basic.Ack(1))
    channel.call(Tx.Rollback())
    channel.send(Basic.Ack(1))
    channel.call(Tx.Commit())
    channel.send(Basic.Ack(1))
    channel.call(Tx.Commit())


@scenario
def transaction_that_publishes_to_no_exchange(run: Run) -> None:
    channel = run.channel()
    channel.call(Tx.Select())
    channel.publish("k", "x", exchange=run.name("none"))
    channel.wait_closed()


@scenario
def method_where_content_is_expected(run: Run) -> None:
    connection = run.connect()
    channel = connection.channel()
    channel.send(Basic.Publish(routing_key="k"))
    channel.send(Basic.Qos())
    connection.wait_closed()


@scenario
def content_where_a_method_is_expected(run: Run) -> None:
    connection = run.connect()
    connection.channel()
    connection.send_frame(BODY, 1, b"x")
    connection.wait_closed()


@scenario
def header_where_a_method_is_expected(run: Run) -> None:
    connection = run.connect()
    connection.channel()
    connection.send_frame(HEADER, 1, bytes.fromhex("003c0000 0000000000000000 0000"))
    connection.wait_closed()


@scenario
def body_where_a_header_is_expected(run: Run) -> None:
    connection = run.connect()
    channel = connection.channel()
    channel.send(Basic.Publish(routing_key="k"))
    connection.send_frame(BODY, 1, b"x")
    connection.wait_closed()


@scenario
def header_of_another_class(run: Run) -> None:
    connection = run.connect()
    channel = connection.channel()
    channel.send(Basic.Publish(routing_key="k"))
    connection.send_frame(HEADER, 1, bytes.fromhex("00320000 0000000000000000 0000"))
    connection.wait_closed()


@scenario
def more_body_than_announced(run: Run) -> None:
    connection = run.connect()
    channel = connection.channel()
    name = run.queue(channel)
    channel.send(Basic.Publish(routing_key=name))
    connection.send_frame(HEADER, 1, bytes.fromhex("003c0000 0000000000000002 0000"))
    connection.send_frame(BODY, 1, b"four")
    channel.take(name)


@scenario
def properties_that_are_cut_off(run: Run) -> None:
    connection = run.connect()
    channel = connection.channel()
    channel.send(Basic.Publish(routing_key="k"))
    connection.send_frame(HEADER, 1, bytes.fromhex("003c0000 0000000000000000 8000 09"))
    connection.wait_closed()


@scenario
def publish_to_a_channel_that_is_not_open(run: Run) -> None:
    connection = run.connect()
    connection.unopened(5).publish("k", "x")
    connection.wait_closed()


@scenario
def method_that_is_cut_off(run: Run) -> None:
    connection = run.connect()
    connection.channel()
    connection.send_frame(METHOD, 1, bytes.fromhex("003c0028 0000 05"))
    connection.wait_closed()


@scenario
def contents_of_channels_interleave(run: Run) -> None:
    connection = run.connect()
    first, second = connection.channel(1), connection.channel(2)
    name = run.queue(first)
    for channel, size in ((first, 4), (second, 2)):
        channel.send(Basic.Publish(routing_key=name))
        connection.send_frame(HEADER, channel.number, struct.pack(">HHQH", _BASIC, 0, size, 0))
    connection.send_frame(BODY, 1, b"fi")
    connection.send_frame(BODY, 2, b"2.")
    connection.send_frame(BODY, 1, b"rs")
    second.depth(name, 2)
    second.note(f"{bodies(second, name)}")


@scenario
def frames_come_byte_by_byte(run: Run) -> None:
    connection = run.connect()
    channel = connection.channel()
    name = run.queue(channel)
    publish = marshal(Basic.Publish(routing_key=name), 1)
    content = marshal(ContentHeader(body_size=2), 1) + marshal(ContentBody(b"ok"), 1)
    for byte in publish + content:
        connection.send_raw(bytes([byte]))
    channel.take(name)


@scenario
def body_in_frames_of_any_size(run: Run) -> None:
    connection = run.connect()
    channel = connection.channel()
    name = run.queue(channel)
    channel.send(Basic.Publish(routing_key=name))
    connection.send_frame(HEADER, 1, struct.pack(">HHQH", _BASIC, 0, 6, 0))
    for part in (b"a", b"", b"bcd", b"", b"ef"):
        connection.send_frame(BODY, 1, part)
    channel.take(name)


@scenario
def two_mebibytes(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.queue(channel)
    body = b"0123456789abcdef" * 131_072
    channel.publish(name, body)
    channel.confirmed()
    channel.note(f"the same body: {bodies(channel, name) == [body.decode()]}")


@scenario
def longest_routing_key(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.queue(channel)
    exchange = run.exchange(channel, "topic")
    key = ".".join("k" * 127) + "."
    run.bind(channel, name, exchange, f"#.{'k.' * 100}#")
    channel.publish(key, "arrives", exchange=exchange, mandatory=True)
    channel.confirmed()
    channel.note(f"{bodies(channel, name)}")


def bodies(channel: PeerChannel, queue: str) -> list[str]:
    """What a queue has, sorted; nothing of it is recorded."""
    found = []
    while isinstance(got := channel.call(Basic.Get(queue=queue, no_ack=True), quiet=True), Content):
        found.append(got.body.decode())
    return sorted(found)
