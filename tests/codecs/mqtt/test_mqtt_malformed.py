"""What the decoder refuses, and with which of MQTT 5's reason codes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocols.mqtt.codec import UNKNOWN_LEVEL, Decoder, encode
from gateway.protocols.mqtt.errors import PacketError, ReasonCode, UnsupportedVersion
from gateway.protocols.mqtt.packets import (
    Auth,
    Connack,
    Disconnect,
    Level,
    Packet,
    Puback,
    Publish,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from gateway.protocols.mqtt.properties import MAX_USER_PROPERTIES, Properties
from gateway.protocols.mqtt.reader import MAX_FILTERS

V3_1, V3_1_1, V5 = Level.V3_1, Level.V3_1_1, Level.V5
MALFORMED = ReasonCode.MALFORMED_PACKET
PROTOCOL = ReasonCode.PROTOCOL_ERROR
TOPIC = ReasonCode.TOPIC_NAME_INVALID


class Bad(NamedTuple):
    name: str
    level: int
    wire: bytes
    reason: ReasonCode


def connect(flags: int, rest: bytes, level: int = 4) -> bytes:
    body = b"\x00\x04MQTT" + bytes((level, flags)) + b"\x00\x00" + rest
    return bytes((0x10, len(body))) + body


def publish_5(properties: bytes, topic: bytes = b"\x00\x01a") -> bytes:
    body = topic + bytes((len(properties),)) + properties
    return bytes((0x30, len(body))) + body


BAD = (
    # Fixed header.
    Bad("type_0", V3_1_1, b"\x00\x00", MALFORMED),
    Bad("type_15_before_5", V3_1_1, b"\xf0\x00", MALFORMED),
    Bad("five_length_bytes", V3_1_1, b"\x30\xff\xff\xff\xff", MALFORMED),
    *(
        Bad(f"flags_{first:02x} [MQTT-2.2.2-2]", level, bytes((first, 2)), MALFORMED)
        for level in (V3_1_1, V5)
        for first in (0x11, 0x24, 0x42, 0x5F, 0x60, 0x6A, 0x72, 0x80, 0x8A, 0x91, 0xA0, 0xAA, 0xB2, 0xC1, 0xD8, 0xE2)
    ),
    Bad("auth_flags", V5, b"\xf1\x00", MALFORMED),
    Bad("too_large", V3_1_1, b"\x30\xff\x7f", ReasonCode.PACKET_TOO_LARGE),
    # PUBLISH.
    Bad("qos_3 [MQTT-3.3.1-4]", V3_1_1, b"\x36\x05\x00\x01a\x00\x01", MALFORMED),
    Bad("dup_at_qos_0 [MQTT-3.3.1-2]", V3_1_1, b"\x38\x03\x00\x01a", MALFORMED),
    Bad("packet_id_0 [MQTT-2.3.1-1]", V3_1_1, b"\x32\x05\x00\x01a\x00\x00", MALFORMED),
    Bad("topic_cut", V3_1_1, b"\x30\x03\x00\x02a", MALFORMED),
    Bad("topic_length_cut", V3_1_1, b"\x30\x01\x00", MALFORMED),
    Bad("packet_id_cut", V3_1_1, b"\x32\x04\x00\x01a\x00", MALFORMED),
    Bad("topic_plus [MQTT-3.3.2-2]", V3_1_1, b"\x30\x05\x00\x03a/+", TOPIC),
    Bad("topic_hash [MQTT-3.3.2-2]", V3_1_1, b"\x30\x03\x00\x01#", TOPIC),
    Bad("topic_empty [MQTT-4.7.3-1]", V3_1_1, b"\x30\x02\x00\x00", TOPIC),
    Bad("topic_nul [MQTT-1.5.3-2]", V3_1_1, b"\x30\x05\x00\x03a\x00b", MALFORMED),
    Bad("topic_surrogate [MQTT-1.5.3-1]", V3_1_1, b"\x30\x05\x00\x03\xed\xa0\x80", MALFORMED),
    Bad("topic_overlong", V3_1_1, b"\x30\x04\x00\x02\xc0\x80", MALFORMED),
    Bad("topic_cut_character", V3_1_1, b"\x30\x03\x00\x01\xc3", MALFORMED),
    Bad("topic_201_levels", V3_1_1, b"\x30\xca\x01\x00\xc8" + b"/" * 200, TOPIC),
    Bad("long_topic_plus", V3_1_1, b"\x30\xaf\x02\x01\x2d" + b"t" * 300 + b"+", TOPIC),
    Bad("no_topic_no_alias", V5, publish_5(b"", b"\x00\x00"), PROTOCOL),
    Bad("no_properties", V5, b"\x30\x03\x00\x01a", MALFORMED),
    # Acknowledgements.
    Bad("puback_cut", V3_1_1, b"\x40\x01\x00", MALFORMED),
    Bad("puback_id_0", V3_1_1, b"\x40\x02\x00\x00", MALFORMED),
    Bad("puback_more", V3_1_1, b"\x40\x03\x00\x01\x00", MALFORMED),
    Bad("puback_code", V5, b"\x40\x03\x00\x01\x92", MALFORMED),
    Bad("pubrel_code", V5, b"\x62\x03\x00\x01\x80", MALFORMED),
    # CONNECT and CONNACK.
    Bad("name", UNKNOWN_LEVEL, b"\x10\x0d\x00\x04MQTX\x04\x02\x00\x00\x00\x01c", PROTOCOL),
    Bad("level_of_other_name", UNKNOWN_LEVEL, b"\x10\x0f\x00\x06MQIsdp\x04\x02\x00\x00\x00\x01c", ReasonCode(0x84)),
    Bad("level_6", UNKNOWN_LEVEL, connect(2, b"\x00\x01c", 6), ReasonCode.UNSUPPORTED_PROTOCOL_VERSION),
    Bad("reserved_flag [MQTT-3.1.2-3]", UNKNOWN_LEVEL, connect(3, b"\x00\x01c"), MALFORMED),
    Bad("will_qos_3 [MQTT-3.1.2-14]", UNKNOWN_LEVEL, connect(0x1E, b"\x00\x01c\x00\x01w\x00\x00"), MALFORMED),
    Bad("will_qos_no_will [MQTT-3.1.2-13]", UNKNOWN_LEVEL, connect(0x0A, b"\x00\x01c"), MALFORMED),
    Bad("will_retain_no_will [MQTT-3.1.2-15]", UNKNOWN_LEVEL, connect(0x22, b"\x00\x01c"), MALFORMED),
    Bad("password_only [MQTT-3.1.2-22]", UNKNOWN_LEVEL, connect(0x42, b"\x00\x01c\x00\x01p"), MALFORMED),
    Bad("no_client_id [MQTT-3.1.3-3]", UNKNOWN_LEVEL, connect(2, b""), MALFORMED),
    Bad("no_user_name [MQTT-3.1.2-19]", UNKNOWN_LEVEL, connect(0x82, b"\x00\x01c"), MALFORMED),
    Bad("user_name_not_flagged [MQTT-3.1.2-18]", UNKNOWN_LEVEL, connect(2, b"\x00\x01c\x00\x01u"), MALFORMED),
    Bad("client_id_not_utf8 [MQTT-3.1.3-4]", UNKNOWN_LEVEL, connect(2, b"\x00\x01\xff"), MALFORMED),
    Bad("user_name_not_utf8 [MQTT-3.1.3-11]", UNKNOWN_LEVEL, connect(0x82, b"\x00\x01c\x00\x01\xff"), MALFORMED),
    Bad("will_topic_not_utf8 [MQTT-3.1.3-10]", UNKNOWN_LEVEL, connect(6, b"\x00\x01c\x00\x01\xff\x00\x00"), MALFORMED),
    Bad("will_topic_wildcard", UNKNOWN_LEVEL, connect(6, b"\x00\x01c\x00\x01#\x00\x00"), TOPIC),
    Bad("not_connect [MQTT-3.1.0-1]", UNKNOWN_LEVEL, b"\xc0\x00", PROTOCOL),
    Bad("publish_not_connect [MQTT-3.1.0-1]", UNKNOWN_LEVEL, b"\x30\x03\x00\x01a", PROTOCOL),
    Bad("connack_flags", V3_1_1, b"\x20\x02\x02\x00", MALFORMED),
    Bad("connack_code", V3_1_1, b"\x20\x02\x00\x06", MALFORMED),
    Bad("connack_code_5", V5, b"\x20\x03\x00\x01\x00", MALFORMED),
    Bad("connack_refused_with_session [MQTT-3.2.2-4]", V3_1_1, b"\x20\x02\x01\x05", PROTOCOL),
    # SUBSCRIBE, UNSUBSCRIBE and their answers.
    Bad("subscribe_nothing [MQTT-3.8.3-3]", V3_1_1, b"\x82\x02\x00\x01", PROTOCOL),
    Bad("subscribe_id_0", V3_1_1, b"\x82\x06\x00\x00\x00\x01a\x01", MALFORMED),
    Bad("subscribe_qos_3 [MQTT-3.8.3-4]", V3_1_1, b"\x82\x06\x00\x01\x00\x01a\x03", MALFORMED),
    Bad("subscribe_reserved [MQTT-3.8.3-4]", V3_1_1, b"\x82\x06\x00\x01\x00\x01a\x04", MALFORMED),
    Bad("subscribe_cut", V3_1_1, b"\x82\x05\x00\x01\x00\x01a", MALFORMED),
    Bad("subscribe_5_reserved", V5, b"\x82\x07\x00\x01\x00\x00\x01a\x40", MALFORMED),
    Bad("subscribe_5_retain_handling", V5, b"\x82\x07\x00\x01\x00\x00\x01a\x30", MALFORMED),
    Bad("subscribe_5_shared_no_local", V5, b"\x82\x0f\x00\x01\x00\x00\x09$share/ga\x04", PROTOCOL),
    Bad("subscribe_filter_not_utf8 [MQTT-3.8.3-1]", V3_1_1, b"\x82\x06\x00\x01\x00\x01\xff\x01", MALFORMED),
    Bad("suback_nothing", V3_1_1, b"\x90\x02\x00\x01", MALFORMED),
    Bad("suback_code [MQTT-3.9.3-2]", V3_1_1, b"\x90\x03\x00\x01\x03", MALFORMED),
    Bad("suback_failure_3_1", V3_1, b"\x90\x03\x00\x01\x80", MALFORMED),
    Bad("unsubscribe_nothing [MQTT-3.10.3-2]", V3_1_1, b"\xa2\x02\x00\x01", PROTOCOL),
    Bad("unsuback_more", V3_1_1, b"\xb0\x03\x00\x01\x00", MALFORMED),
    Bad("unsuback_5_nothing", V5, b"\xb0\x03\x00\x01\x00", MALFORMED),
    # Empty packets that are not.
    Bad("pingreq", V3_1_1, b"\xc0\x01\x00", MALFORMED),
    Bad("disconnect", V3_1_1, b"\xe0\x01\x00", MALFORMED),
    Bad("disconnect_5_code", V5, b"\xe0\x01\x01", MALFORMED),
    Bad("disconnect_5_more", V5, b"\xe0\x03\x00\x00\x00", MALFORMED),
    Bad("auth_code", V5, b"\xf0\x01\x80", MALFORMED),
    # Properties.
    Bad("property_unknown", V5, publish_5(b"\x05\x00"), MALFORMED),
    Bad("property_two_bytes", V5, publish_5(b"\x81\x00\x00"), MALFORMED),
    Bad("property_of_another_packet", V5, publish_5(b"\x21\x00\x01"), MALFORMED),
    Bad("property_twice", V5, publish_5(b"\x01\x00\x01\x00"), PROTOCOL),
    Bad("property_flag_2", V5, publish_5(b"\x01\x02"), PROTOCOL),
    Bad("property_cut", V5, publish_5(b"\x02\x00\x00"), MALFORMED),
    Bad("properties_longer_than_packet", V5, b"\x30\x04\x00\x01a\x01", MALFORMED),
    Bad("properties_length_too_long", V5, b"\x30\x08\x00\x01a\x80\x80\x80\x80\x00", MALFORMED),
    Bad("properties_length_padded", V5, b"\x30\x05\x00\x01a\x80\x00", MALFORMED),
    Bad("topic_alias_0", V5, publish_5(b"\x23\x00\x00"), ReasonCode.TOPIC_ALIAS_INVALID),
    Bad("response_topic_wildcard", V5, publish_5(b"\x08\x00\x01#"), TOPIC),
    Bad("subscription_identifier_0", V5, publish_5(b"\x0b\x00"), PROTOCOL),
    Bad("two_identifiers_in_subscribe", V5, b"\x82\x0b\x00\x01\x04\x0b\x01\x0b\x02\x00\x01a\x00", PROTOCOL),
    Bad("receive_maximum_0", UNKNOWN_LEVEL, connect(2, b"\x03\x21\x00\x00\x00\x01c", 5), PROTOCOL),
    Bad("maximum_packet_size_0", UNKNOWN_LEVEL, connect(2, b"\x05\x27\x00\x00\x00\x00\x00\x01c", 5), PROTOCOL),
    Bad("data_without_method", UNKNOWN_LEVEL, connect(2, b"\x04\x16\x00\x01d\x00\x01c", 5), PROTOCOL),
    Bad("will_delay_in_connect", UNKNOWN_LEVEL, connect(2, b"\x05\x18\x00\x00\x00\x01\x00\x01c", 5), MALFORMED),
    Bad("user_property_nul", V5, publish_5(b"\x26\x00\x01\x00\x00\x00"), MALFORMED),
)

MAX_PACKET = 16_000


def drain(decoder: Decoder) -> list[Packet]:
    packets = []
    while (packet := decoder.next_packet()) is not None:
        packets.append(packet)
    return packets


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_refuse_whole(bad: Bad) -> None:
    decoder = Decoder(MAX_PACKET, bad.level)
    decoder.feed(bad.wire)
    with pytest.raises(PacketError) as caught:
        drain(decoder)
    assert caught.value.reason_code is bad.reason
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_refuse_byte_by_byte(bad: Bad) -> None:
    decoder = Decoder(MAX_PACKET, bad.level)

    def feed() -> None:
        for index in range(len(bad.wire)):
            decoder.feed(bad.wire[index : index + 1])
            assert decoder.next_packet() is None

    with pytest.raises(PacketError) as caught:
        feed()
    assert caught.value.reason_code is bad.reason


def test_refuse_a_large_packet_before_its_body_comes() -> None:
    decoder = Decoder(100, V3_1_1)
    decoder.feed(b"\x30\x62" + bytes(3))
    assert decoder.next_packet() is None
    decoder = Decoder(100, V3_1_1)
    decoder.feed(b"\x30\x63")
    with pytest.raises(PacketError) as caught:
        decoder.next_packet()
    assert caught.value.reason_code is ReasonCode.PACKET_TOO_LARGE


def test_packets_before_a_bad_one_are_read() -> None:
    decoder = Decoder(MAX_PACKET, V3_1_1)
    decoder.feed(b"\x40\x02\x00\x01\x00\x00")
    assert decoder.next_packet() == Puback(1)
    with pytest.raises(PacketError):
        decoder.next_packet()


def test_unsupported_version_names_the_level() -> None:
    decoder = Decoder(MAX_PACKET)
    decoder.feed(connect(2, b"\x00\x01c", 0x84))
    with pytest.raises(UnsupportedVersion) as caught:
        decoder.next_packet()
    assert caught.value.level == 0x84


@pytest.mark.parametrize("level", [V3_1, V3_1_1, V5])
@pytest.mark.parametrize(
    "request_of",
    [
        lambda count: Subscribe(1, (Subscription("a", 0),) * count),
        lambda count: Unsubscribe(1, ("a",) * count),
    ],
    ids=["SUBSCRIBE", "UNSUBSCRIBE"],
)
def test_filters_are_bounded(request_of: Callable[[int], Packet], level: int) -> None:
    decoder = Decoder(5 * MAX_FILTERS, level)
    decoder.feed(encode(request_of(MAX_FILTERS), level))
    assert decoder.next_packet() == request_of(MAX_FILTERS)
    decoder.feed(encode(request_of(MAX_FILTERS + 1), level))
    with pytest.raises(PacketError) as caught:
        decoder.next_packet()
    assert caught.value.reason_code is ReasonCode.QUOTA_EXCEEDED


def test_user_properties_are_bounded() -> None:
    pairs = (("", ""),) * (MAX_USER_PROPERTIES + 1)
    decoder = Decoder(MAX_PACKET, V5)
    decoder.feed(encode(Publish("a", b"", properties=Properties(user_property=pairs[1:])), V5))
    assert isinstance(decoder.next_packet(), Publish)
    decoder.feed(encode(Publish("a", b"", properties=Properties(user_property=pairs)), V5))
    with pytest.raises(PacketError) as caught:
        decoder.next_packet()
    assert caught.value.reason_code is ReasonCode.QUOTA_EXCEEDED


@pytest.mark.parametrize(
    "packet",
    [
        Publish("a\0b", b""),
        Publish("\ud800", b""),
        Publish("a" * 65_536, b""),
        Publish("a", bytes(268_435_456)),
        Publish("a", b"", properties=Properties(topic_alias=1)),
        Puback(1, 0x80),
        Connack(False, 0, Properties(maximum_qos=1)),
        Subscribe(1, (Subscription("a", 1, no_local=True),)),
        Unsuback(1, (0,)),
        Disconnect(4),
        Auth(),
    ],
    ids=lambda packet: type(packet).__name__,
)
def test_refuse_to_write_in_3_1_1(packet: Packet) -> None:
    with pytest.raises(PacketError):
        encode(packet, V3_1_1)


@pytest.mark.parametrize(
    "packet",
    [
        Puback(1, 0, Properties(topic_alias=1)),
        Subscribe(1, (Subscription("a", 0),), Properties(subscription_identifier=(1, 2))),
    ],
    ids=lambda packet: type(packet).__name__,
)
def test_refuse_to_write_properties_where_they_do_not_belong(packet: Packet) -> None:
    with pytest.raises(PacketError):
        encode(packet, V5)


@settings(deadline=None)
@given(data=st.binary(max_size=200), level=st.sampled_from([UNKNOWN_LEVEL, V3_1, V3_1_1, V5]))
def test_any_bytes_give_packets_or_a_packet_error(data: bytes, level: int) -> None:
    decoder = Decoder(MAX_PACKET, level)
    decoder.feed(data)
    with contextlib.suppress(PacketError):
        drain(decoder)
