"""Handshakes, channels, and the errors that end them."""

from __future__ import annotations

import struct

from pamqp.commands import Basic, Channel, Connection, Queue

from tests.interop.amqp.peer import FRAME_MAX, METHOD, PROTOCOL_HEADER
from tests.interop.amqp.scenario import Group, Run

scenario = Group("connection")


@scenario
def capabilities_and_mechanisms(run: Run) -> None:
    peer = run.peer()
    with peer.unrecorded("Connection.Start"):
        peer.send_raw(PROTOCOL_HEADER)
        start = peer.wait("Connection.Start")
    assert isinstance(start, Connection.Start)
    log = run.log
    capabilities = start.server_properties["capabilities"]
    log.add(1, 0, f"version {start.version_major}.{start.version_minor}, locales {start.locales!r}")
    log.add(1, 0, f"mechanisms {' '.join(sorted(str(start.mechanisms).split()))}")
    log.add(1, 0, f"properties {' '.join(sorted(start.server_properties))}")
    log.add(1, 0, f"capabilities {' '.join(sorted(name for name, on in dict(capabilities).items() if on))}")


@scenario
def limits_that_are_offered(run: Run) -> None:
    peer = run.peer()
    with peer.unrecorded("Connection.Start"):
        peer.start(run.login())
    peer.wait("Connection.Tune")


@scenario
def open_and_close(run: Run) -> None:
    peer = run.connect()
    channel = peer.unopened(1)
    channel.call(Channel.Open())
    channel.call(Channel.Close(200, "bye", 0, 0))
    channel.call(Channel.Open())
    peer.send(0, Connection.Close(200, "bye", 0, 0))
    peer.wait("Connection.CloseOk")


@scenario
def another_protocol(run: Run) -> None:
    for header in (b"AMQP\x00\x00\x09\x00", b"AMQP\x01\x01\x00\x0a", b"HTTP/1.1", b"GET / HT"):
        peer = run.peer()
        peer.send_raw(header)
        peer.wait_closed()


@scenario
def wrong_password(run: Run) -> None:
    run.peer().open(run.login(password="wrong"))


@scenario
def unknown_user(run: Run) -> None:
    run.peer().open(run.login(user="nobody"))


@scenario
def wrong_password_of_a_client_that_cannot_be_told(run: Run) -> None:
    run.peer().open(run.login(password="wrong", capabilities={}))


@scenario
def unknown_mechanism(run: Run) -> None:
    run.peer().open(run.login(mechanism="CRAM-MD5"))


@scenario
def response_that_is_not_plain(run: Run) -> None:
    run.peer().open(run.login(response="guest guest"))


@scenario
def plain_response_on_behalf_of_somebody(run: Run) -> None:
    run.peer().open(run.login(response="somebody\0guest\0guest"))


@scenario
def amqplain(run: Run) -> None:
    def entry(name: str, value: str) -> bytes:
        return bytes([len(name)]) + name.encode() + b"S" + struct.pack(">I", len(value)) + value.encode()

    response = (entry("LOGIN", "guest") + entry("PASSWORD", "guest")).decode()
    peer = run.connect(mechanism="AMQPLAIN", response=response)
    peer.unopened(1).call(Channel.Open())
    wrong = (entry("LOGIN", "guest") + entry("PASSWORD", "wrong")).decode()
    run.peer().open(run.login(mechanism="AMQPLAIN", response=wrong))


@scenario
def amqplain_without_a_password(run: Run) -> None:
    run.peer().open(run.login(mechanism="AMQPLAIN", response="\x05LOGINS\0\0\0\x05guest"))


@scenario
def unknown_vhost(run: Run) -> None:
    run.connect(vhost="imaginary")


@scenario
def forbidden_vhost(run: Run) -> None:
    run.connect(vhost="forbidden")


@scenario
def another_vhost(run: Run) -> None:
    here = run.channel()
    name = run.queue(here)
    there = run.connect(vhost="other").channel()
    there.attempt(Queue.Declare(queue=name, passive=True))
    there.call(Queue.Declare(queue=name, durable=True))


@scenario
def user_without_permissions(run: Run) -> None:
    owner = run.channel()
    name = run.queue(owner)
    channel = run.connect(user="limited").channel()
    channel.attempt(Queue.Declare(queue=run.name("mine"), durable=True))
    channel.attempt(Queue.Declare(queue=name, passive=True))
    channel.attempt(Basic.Get(queue=name))
    channel.attempt(Basic.Consume(queue=name))
    channel.attempt(Queue.Bind(queue=name, exchange="amq.direct", routing_key="k"))
    channel.attempt(Queue.Purge(queue=name))
    channel.attempt(Queue.Delete(queue=name))
    channel.publish("k", "no", exchange="amq.direct")
    channel.wait_closed()
    channel.open().publish(name, "no")
    channel.wait_closed()


@scenario
def channel_opened_twice(run: Run) -> None:
    peer = run.connect()
    peer.channel().send(Channel.Open())
    peer.wait_closed()


@scenario
def method_on_a_channel_that_is_not_open(run: Run) -> None:
    peer = run.connect()
    peer.unopened(3).send(Basic.Qos())
    peer.wait_closed()


@scenario
def method_on_a_channel_that_was_closed_by_the_client(run: Run) -> None:
    peer = run.connect()
    channel = peer.channel()
    channel.call(Channel.Close(200, "", 0, 0))
    channel.send(Basic.Qos())
    peer.wait_closed()


@scenario
def one_channel_too_many(run: Run) -> None:
    peer = run.connect(channel_max=2)
    peer.channel(1)
    peer.channel(2)
    peer.unopened(3).send(Channel.Open())
    peer.wait_closed()


@scenario
def more_channels_than_offered(run: Run) -> None:
    run.connect(channel_max=60_000)


@scenario
def larger_frames_than_offered(run: Run) -> None:
    run.connect(frame_max=10 * FRAME_MAX)


@scenario
def frames_smaller_than_the_minimum(run: Run) -> None:
    run.connect(frame_max=100)


@scenario
def unlimited_when_the_server_is_not(run: Run) -> None:
    run.connect(frame_max=0)


@scenario
def no_limit_of_channels_when_the_server_has_one(run: Run) -> None:
    run.connect(channel_max=0)


@scenario
def channel_after_an_error_is_silent_until_it_is_closed(run: Run) -> None:
    peer = run.connect()
    channel = peer.channel()
    other = peer.channel(2)
    channel.attempt(Queue.Declare(queue=run.name("none"), passive=True))
    channel.call(Queue.Declare(queue=run.name("q"), exclusive=True))
    other.call(Queue.Declare(queue=run.name("q"), passive=True))


@scenario
def what_follows_an_error_is_ignored(run: Run) -> None:
    channel = run.channel()
    name = run.queue(channel)
    channel.send(Queue.Declare(queue=run.name("none"), passive=True))
    channel.send(Queue.Declare(queue=name, passive=True))
    channel.publish(name, "ignored")
    channel.wait_closed()
    channel.open()
    channel.depth(name, 0)


@scenario
def frame_too_large(run: Run) -> None:
    peer = run.connect(frame_max=8_192)
    peer.channel()
    peer.send_raw(struct.pack(">BHI", METHOD, 1, 9_000))
    peer.wait_closed()


@scenario
def frame_of_an_unknown_type(run: Run) -> None:
    peer = run.connect()
    peer.channel()
    peer.send_frame(7, 1, b"x")
    peer.wait_closed()


@scenario
def frame_without_its_end(run: Run) -> None:
    peer = run.connect()
    peer.channel()
    peer.send_frame(METHOD, 1, bytes.fromhex("003c000a 00000000 0000 00"), end=0)
    peer.wait_closed()


@scenario
def unknown_method(run: Run) -> None:
    peer = run.connect()
    peer.channel()
    peer.send_frame(METHOD, 1, bytes.fromhex("003c0063"))
    peer.wait_closed()


@scenario
def unknown_class(run: Run) -> None:
    peer = run.connect()
    peer.channel()
    peer.send_frame(METHOD, 1, bytes.fromhex("00630001"))
    peer.wait_closed()


@scenario
def method_of_the_server(run: Run) -> None:
    peer = run.connect()
    peer.channel().send(Queue.DeclareOk("q", 0, 0))
    peer.wait_closed()


@scenario
def connection_method_on_a_channel(run: Run) -> None:
    peer = run.connect()
    peer.channel().send(Connection.Close(200, "", 0, 0))
    peer.wait_closed()


@scenario
def channel_method_on_channel_0(run: Run) -> None:
    peer = run.connect()
    peer.send(0, Basic.Qos())
    peer.wait_closed()


@scenario
def channel_0_cannot_be_opened(run: Run) -> None:
    peer = run.connect()
    peer.send(0, Channel.Open())
    peer.wait_closed()


@scenario
def open_before_tune_ok(run: Run) -> None:
    peer = run.peer()
    with peer.unrecorded("Connection.Start", "Connection.Tune"):
        peer.start(run.login())
        peer.wait("Connection.Tune")
    peer.send(0, Connection.Open(virtual_host="/"))
    peer.wait_closed()


@scenario
def channel_before_the_connection_is_open(run: Run) -> None:
    peer = run.peer()
    with peer.unrecorded("Connection.Start", "Connection.Tune"):
        peer.start(run.login())
        peer.wait("Connection.Tune")
    peer.send(1, Channel.Open())
    peer.wait_closed()


@scenario
def table_that_is_cut_off(run: Run) -> None:
    peer = run.connect()
    peer.channel()
    declare = bytes.fromhex("0032000a 0000 01 71 02 000000ff 01")
    peer.send_frame(METHOD, 1, declare)
    peer.wait_closed()


@scenario
def table_with_an_unknown_type(run: Run) -> None:
    peer = run.connect()
    peer.channel()
    declare = bytes.fromhex("0032000a 0000 01 71 02 00000003 01 61 51")
    peer.send_frame(METHOD, 1, declare)
    peer.wait_closed()


@scenario
def name_that_is_not_utf_8(run: Run) -> None:
    peer = run.connect()
    channel = peer.channel()
    declare = bytes.fromhex("0032000a 0000 02 ffff 01 00000000")
    peer.send_frame(METHOD, 1, declare)
    channel.wait_closed()


@scenario
def heartbeats_are_sent(run: Run) -> None:
    peer = run.connect(heartbeat=1)
    peer.wait_heartbeat()


@scenario
def silence_ends_the_connection(run: Run) -> None:
    peer = run.connect(heartbeat=1)
    peer.wait_closed()


@scenario
def update_secret(run: Run) -> None:
    peer = run.connect()
    peer.send(0, Connection.UpdateSecret("guest", "renewed"))
    peer.wait("Connection.UpdateSecretOk")


@scenario
def channel_flow(run: Run) -> None:
    channel = run.channel()
    channel.attempt(Channel.Flow(active=True))
    channel.attempt(Channel.Flow(active=False))
