"""Every packet in every version, as bytes written by hand: read whole, in pieces, cut, with more behind; written."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from gateway.protocols.mqtt.codec import Decoder, encode
from gateway.protocols.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Level,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from gateway.protocols.mqtt.properties import Properties

V3_1, V3_1_1, V5 = Level.V3_1, Level.V3_1_1, Level.V5
OLD = (V3_1, V3_1_1)
ALL = (V3_1, V3_1_1, V5)


class Case(NamedTuple):
    name: str
    levels: tuple[Level, ...]
    wire: bytes
    packet: Packet


CASES = (
    Case(
        "connect_least",
        (V3_1_1,),
        b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c",
        Connect(client_id="c", keep_alive=60),
    ),
    Case(
        "connect_3_1",
        (V3_1,),
        b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x0a\x00\x01c",
        Connect(client_id="c", level=V3_1, keep_alive=10),
    ),
    Case(
        "connect_everything",
        (V3_1_1,),
        b"\x10\x1b\x00\x04MQTT\x04\xf4\x01\x00\x00\x01c\x00\x01w\x00\x02\x00\xff\x00\x01u\x00\x02p\x00",
        Connect(
            client_id="c",
            clean_start=False,
            keep_alive=256,
            will=Will(topic="w", payload=b"\x00\xff", qos=2, retain=True),
            username="u",
            password=b"p\x00",
        ),
    ),
    Case(
        "connect_5_least",
        (V5,),
        b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00",
        Connect(client_id="", level=V5),
    ),
    Case(
        "connect_5_everything",
        (V5,),
        b"\x10\x39\x00\x04MQTT\x05\x6c\x00\x3c"
        b"\x14\x11\x00\x00\x00\x0a\x17\x00\x21\x00\x14\x22\x00\x05\x26\x00\x01a\x00\x01b"
        b"\x00\x01c"
        b"\x0c\x01\x01\x02\x00\x00\x00\x07\x18\x00\x00\x00\x05"
        b"\x00\x01w\x00\x01x"
        b"\x00\x02pw",
        Connect(
            client_id="c",
            level=V5,
            clean_start=False,
            keep_alive=60,
            will=Will(
                topic="w",
                payload=b"x",
                qos=1,
                retain=True,
                properties=Properties(payload_format_indicator=1, message_expiry_interval=7, will_delay_interval=5),
            ),
            password=b"pw",
            properties=Properties(
                session_expiry_interval=10,
                request_problem_information=0,
                receive_maximum=20,
                topic_alias_maximum=5,
                user_property=(("a", "b"),),
            ),
        ),
    ),
    Case("connack", OLD, b"\x20\x02\x00\x00", Connack(False, 0)),
    Case("connack_refused", OLD, b"\x20\x02\x00\x05", Connack(False, 5)),
    Case("connack_session_present", (V3_1_1,), b"\x20\x02\x01\x00", Connack(True, 0)),
    Case("connack_5", (V5,), b"\x20\x03\x01\x00\x00", Connack(True, 0)),
    Case(
        "connack_5_properties",
        (V5,),
        b"\x20\x1d\x00\x00\x1a\x12\x00\x02id\x13\x00\x1e\x1a\x00\x00\x24\x01\x25\x01\x27\x00\x00\x10\x00"
        b"\x28\x01\x29\x00\x2a\x01",
        Connack(
            False,
            0,
            Properties(
                assigned_client_identifier="id",
                server_keep_alive=30,
                maximum_qos=1,
                retain_available=1,
                maximum_packet_size=4096,
                wildcard_subscription_available=1,
                subscription_identifier_available=0,
                shared_subscription_available=1,
                response_information="",
            ),
        ),
    ),
    Case("publish_0", OLD, b"\x30\x07\x00\x03a/bhi", Publish("a/b", b"hi")),
    Case("publish_0_empty", OLD, b"\x31\x03\x00\x01a", Publish("a", b"", retain=True)),
    Case("publish_1", OLD, b"\x32\x07\x00\x01a\x12\x34hi", Publish("a", b"hi", 1, 0x1234)),
    Case("publish_1_dup", OLD, b"\x3a\x05\x00\x01a\x00\x01", Publish("a", b"", 1, 1, dup=True)),
    Case("publish_2", OLD, b"\x3d\x06\x00\x01a\xff\xff\x00", Publish("a", b"\x00", 2, 65535, retain=True, dup=True)),
    Case("publish_utf8", OLD, b"\x30\x09\x00\x06\xc3\xa9\xf0\x9f\x98\x80x", Publish("é😀", b"x")),
    Case("publish_bom", OLD, b"\x30\x05\x00\x03\xef\xbb\xbf", Publish("\ufeff", b"")),
    Case("publish_long", OLD, b"\x30\x83\x01\x00\x01a" + b"x" * 128, Publish("a", b"x" * 128)),
    Case("publish_longer", OLD, b"\x30\x80\x80\x01\x00\x01a" + b"x" * 16381, Publish("a", b"x" * 16381)),
    Case("publish_long_topic", OLD, b"\x30\xae\x02\x01\x2c" + b"t" * 300, Publish("t" * 300, b"")),
    Case("publish_5", (V5,), b"\x32\x08\x00\x01a\x00\x01\x00hi", Publish("a", b"hi", 1, 1)),
    Case("publish_5_qos_0", (V5,), b"\x30\x04\x00\x01a\x00", Publish("a", b"")),
    Case(
        "publish_5_properties",
        (V5,),
        b"\x30\x2a\x00\x01a\x25\x01\x01\x02\x00\x00\x00\x3c\x03\x00\x01t\x08\x00\x01r\x09\x00\x01\x00"
        b"\x0b\x80\x01\x0b\x07\x26\x00\x01k\x00\x01v\x26\x00\x01k\x00\x00!",
        Publish(
            "a",
            b"!",
            properties=Properties(
                payload_format_indicator=1,
                message_expiry_interval=60,
                content_type="t",
                response_topic="r",
                correlation_data=b"\x00",
                subscription_identifier=(128, 7),
                user_property=(("k", "v"), ("k", "")),
            ),
        ),
    ),
    Case(
        "publish_5_alias",
        (V5,),
        b"\x30\x06\x00\x00\x03\x23\x00\x09",
        Publish("", b"", properties=Properties(topic_alias=9)),
    ),
    Case("puback", ALL, b"\x40\x02\x00\x07", Puback(7)),
    Case("pubrec", ALL, b"\x50\x02\x12\x34", Pubrec(0x1234)),
    Case("pubrel", ALL, b"\x62\x02\x00\x01", Pubrel(1)),
    Case("pubcomp", ALL, b"\x70\x02\xff\xff", Pubcomp(65535)),
    Case("puback_5_reason", (V5,), b"\x40\x03\x00\x07\x87", Puback(7, 0x87)),
    Case(
        "puback_5_properties",
        (V5,),
        b"\x40\x09\x00\x07\x10\x05\x1f\x00\x02no",
        Puback(7, 0x10, Properties(reason_string="no")),
    ),
    Case("pubrec_5_reason", (V5,), b"\x50\x03\x00\x07\x97", Pubrec(7, 0x97)),
    Case("pubrel_5_reason", (V5,), b"\x62\x03\x00\x07\x92", Pubrel(7, 0x92)),
    Case(
        "pubcomp_5_properties",
        (V5,),
        b"\x70\x0b\x00\x07\x92\x07\x26\x00\x01a\x00\x01b",
        Pubcomp(7, 0x92, Properties(user_property=(("a", "b"),))),
    ),
    Case("subscribe", OLD, b"\x82\x06\x00\x01\x00\x01a\x01", Subscribe(1, (Subscription("a", 1),))),
    Case(
        "subscribe_many",
        OLD,
        b"\x82\x10\x00\x0a\x00\x01#\x00\x00\x03a/+\x01\x00\x01b\x02",
        Subscribe(10, (Subscription("#", 0), Subscription("a/+", 1), Subscription("b", 2))),
    ),
    Case(
        "subscribe_5",
        (V5,),
        b"\x82\x0d\x00\x01\x02\x0b\x05\x00\x01a\x2d\x00\x01b\x12",
        Subscribe(
            1,
            (Subscription("a", 1, True, True, 2), Subscription("b", 2, False, False, 1)),
            Properties(subscription_identifier=(5,)),
        ),
    ),
    Case("suback", (V3_1_1,), b"\x90\x06\x00\x01\x00\x01\x02\x80", Suback(1, (0, 1, 2, 0x80))),
    Case("suback_3_1", (V3_1,), b"\x90\x03\x00\x01\x02", Suback(1, (2,))),
    Case("suback_5", (V5,), b"\x90\x05\x00\x01\x00\x01\x9e", Suback(1, (1, 0x9E))),
    Case("unsubscribe", OLD, b"\xa2\x08\x00\x01\x00\x01a\x00\x01b", Unsubscribe(1, ("a", "b"))),
    Case("unsubscribe_5", (V5,), b"\xa2\x06\x00\x01\x00\x00\x01a", Unsubscribe(1, ("a",))),
    Case("unsuback", OLD, b"\xb0\x02\x00\x01", Unsuback(1)),
    Case("unsuback_5", (V5,), b"\xb0\x05\x00\x01\x00\x00\x11", Unsuback(1, (0, 0x11))),
    Case("pingreq", ALL, b"\xc0\x00", Pingreq()),
    Case("pingresp", ALL, b"\xd0\x00", Pingresp()),
    Case("disconnect", ALL, b"\xe0\x00", Disconnect()),
    Case("disconnect_5_reason", (V5,), b"\xe0\x01\x04", Disconnect(4)),
    Case(
        "disconnect_5_properties",
        (V5,),
        b"\xe0\x0c\x9d\x0a\x11\x00\x00\x00\x00\x1c\x00\x02s2",
        Disconnect(0x9D, Properties(session_expiry_interval=0, server_reference="s2")),
    ),
    Case("auth", (V5,), b"\xf0\x00", Auth()),
    Case(
        "auth_properties",
        (V5,),
        b"\xf0\x0a\x18\x08\x15\x00\x01m\x16\x00\x01d",
        Auth(0x18, Properties(authentication_method="m", authentication_data=b"d")),
    ),
)

MAX_PACKET = 1 << 20

each_case = pytest.mark.parametrize(
    ("level", "wire", "packet"),
    [
        pytest.param(level, case.wire, case.packet, id=f"{case.name}-{level.name}")
        for case in CASES
        for level in case.levels
    ],
)


def read_all(decoder: Decoder) -> list[Packet]:
    packets = []
    while (packet := decoder.next_packet()) is not None:
        packets.append(packet)
    return packets


@each_case
def test_read_whole(level: Level, wire: bytes, packet: Packet) -> None:
    decoder = Decoder(MAX_PACKET, level)
    decoder.feed(wire)
    assert read_all(decoder) == [packet]


@each_case
def test_read_byte_by_byte(level: Level, wire: bytes, packet: Packet) -> None:
    decoder = Decoder(MAX_PACKET, level)
    for index in range(len(wire) - 1):
        decoder.feed(wire[index : index + 1])
        assert decoder.next_packet() is None
    decoder.feed(wire[-1:])
    assert read_all(decoder) == [packet]


@each_case
def test_read_cut_at_every_place(level: Level, wire: bytes, packet: Packet) -> None:
    for cut in range(len(wire)) if len(wire) < 1000 else (0, 1, 2, 3, 4, 5, 100, len(wire) - 1):
        decoder = Decoder(MAX_PACKET, level)
        decoder.feed(wire[:cut])
        assert read_all(decoder) == []
        decoder.feed(wire[cut:])
        assert read_all(decoder) == [packet]


@each_case
def test_read_followed_by_others(level: Level, wire: bytes, packet: Packet) -> None:
    decoder = Decoder(MAX_PACKET, level)
    decoder.feed(wire + b"\xc0\x00" + wire + b"\xd0")
    assert read_all(decoder) == [packet, Pingreq(), packet]
    decoder.feed(b"\x00")
    assert read_all(decoder) == [Pingresp()]


@each_case
def test_write(level: Level, wire: bytes, packet: Packet) -> None:
    assert encode(packet, level) == wire


def test_read_takes_the_level_from_connect() -> None:
    decoder = Decoder(MAX_PACKET)
    decoder.feed(b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00" + b"\x32\x08\x00\x01a\x00\x01\x00hi")
    assert read_all(decoder) == [Connect(client_id="", level=V5), Publish("a", b"hi", 1, 1)]
    assert decoder.level == V5


def test_read_after_stopping_in_the_middle() -> None:
    decoder = Decoder(MAX_PACKET, V3_1_1)
    decoder.feed(b"\xc0\x00\xd0\x00\xe0")
    assert decoder.next_packet() == Pingreq()
    decoder.feed(b"\x00\xc0\x00")
    assert read_all(decoder) == [Pingresp(), Disconnect(), Pingreq()]


def test_read_lengths_with_more_bytes_than_needed() -> None:
    decoder = Decoder(MAX_PACKET, V3_1_1)
    decoder.feed(b"\xc0\x80\x00\x30\x85\x80\x80\x00\x00\x01ahi")
    assert read_all(decoder) == [Pingreq(), Publish("a", b"hi")]


@pytest.mark.parametrize(
    ("wire", "packet"),
    [
        # 3.1 §3.1: the remaining length goes before the flags of user name and password.
        (b"\x10\x0f\x00\x06MQIsdp\x03\xc2\x00\x0a\x00\x01c", Connect(client_id="c", level=V3_1, keep_alive=10)),
        (
            b"\x10\x12\x00\x06MQIsdp\x03\xc2\x00\x0a\x00\x01c\x00\x01u",
            Connect(client_id="c", level=V3_1, keep_alive=10, username="u"),
        ),
        # Reserved bits are not checked in 3.1.
        (b"\x10\x0f\x00\x06MQIsdp\x03\x03\x00\x0a\x00\x01c", Connect(client_id="c", level=V3_1, keep_alive=10)),
        (b"\x82\x06\x00\x01\x00\x01a\xf1", Subscribe(1, (Subscription("a", 1),))),
        (b"\x20\x02\xff\x00", Connack(False, 0)),
        # DUP on more than PUBLISH.
        (b"\x8a\x06\x00\x01\x00\x01a\x01", Subscribe(1, (Subscription("a", 1),))),
        (b"\xaa\x05\x00\x01\x00\x01a", Unsubscribe(1, ("a",))),
        (b"\x6a\x02\x00\x01", Pubrel(1)),
    ],
)
def test_read_what_only_3_1_allows(wire: bytes, packet: Packet) -> None:
    decoder = Decoder(MAX_PACKET, V3_1)
    decoder.feed(wire)
    assert read_all(decoder) == [packet]


def test_pieces_of_a_large_packet_are_collected_in_one_buffer() -> None:
    wire = encode(Publish("a", b"x" * 100_000), V3_1_1)
    decoder = Decoder(MAX_PACKET, V3_1_1)
    decoder.feed(wire[:1000])
    assert decoder.next_packet() is None
    buffer = decoder._rest
    for start in range(1000, len(wire) - 1, 1000):
        decoder.feed(wire[start : min(start + 1000, len(wire) - 1)])
        assert decoder.next_packet() is None
        assert decoder._rest is buffer
        assert decoder._data == b""
    decoder.feed(wire[-1:])
    assert read_all(decoder) == [Publish("a", b"x" * 100_000)]


def test_an_idle_decoder_keeps_no_buffer() -> None:
    decoder = Decoder(MAX_PACKET, V3_1_1)
    decoder.feed(b"\xc0\x00" * 1000)
    assert len(read_all(decoder)) == 1000
    assert decoder._data == b""
    assert decoder._rest is None
