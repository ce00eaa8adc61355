"""Every method, beside pamqp and pika, which were generated from the specification."""

from __future__ import annotations

from dataclasses import fields

import pamqp.commands
import pika.spec
import pytest

from gateway.protocols.amqp091.arguments import method_payload, read_method
from gateway.protocols.amqp091.errors import ConnectionException, ReplyCode
from gateway.protocols.amqp091.methods import (
    METHODS,
    BasicConsume,
    BasicNack,
    ConnectionBlocked,
    ConnectionStart,
    Method,
    QueueBind,
    QueueDeclare,
    QueueDeclareOk,
    QueueDelete,
)

TABLE = {"a": 1, "b": "text", "c": [True, None, {"d": -5}]}

FILLED = {
    "Bit": True,
    "Octet": 9,
    "Short": 0xABCD,
    "Long": 0xFEDC_BA98,
    "LongLong": 0x0123_4567_89AB_CDEF,
    "ShortStr": "amq.topic",
    "LongStr": b"\x00secret\xff",
    "Table": TABLE,
}
PAMQP_TYPES = {
    "Bit": "bit",
    "Octet": "octet",
    "Short": "short",
    "Long": "long",
    "LongLong": "longlong",
    "ShortStr": "shortstr",
    "LongStr": "longstr",
    "Table": "table",
}

BROKEN_IN_PIKA = {(10, 70)}
"""Its connection.update-secret cannot be made from what was read."""


def filled(method: type[Method]) -> Method:
    return method(**{each.name: FILLED[str(each.type)] for each in fields(method)})


def values(method: Method) -> list[object]:
    return [getattr(method, each.name) for each in fields(method)]


every_method = pytest.mark.parametrize("ids", METHODS, ids=[each.__name__ for each in METHODS.values()])


def refuse(payload: bytes) -> ConnectionException:
    with pytest.raises(ConnectionException) as caught:
        read_method(payload)
    return caught.value


class TestEveryMethod:
    def test_they_are_those_of_the_specification(self) -> None:
        theirs = {divmod(index, 1 << 16) for index in pamqp.commands.INDEX_MAPPING}
        assert set(METHODS) == theirs

    @every_method
    def test_fields_are_those_of_the_specification(self, ids: tuple[int, int]) -> None:
        theirs = pamqp.commands.INDEX_MAPPING[ids[0] << 16 | ids[1]]
        ours = METHODS[ids]
        assert [PAMQP_TYPES[str(each.type)] for each in fields(ours)] == [
            theirs.amqp_type(name) for name in theirs.attributes()
        ]
        assert ours.__name__.lower() == theirs.name.replace(".", "").lower()

    @every_method
    def test_what_was_written_is_read(self, ids: tuple[int, int]) -> None:
        method = filled(METHODS[ids])
        assert read_method(method_payload(method)) == method

    @pytest.mark.filterwarnings("ignore:This command is deprecated:DeprecationWarning")
    @every_method
    def test_pamqp_reads_it(self, ids: tuple[int, int]) -> None:
        method = filled(METHODS[ids])
        theirs = pamqp.commands.INDEX_MAPPING[ids[0] << 16 | ids[1]]()
        theirs.unmarshal(method_payload(method)[4:])
        read = [getattr(theirs, name) for name in theirs.attributes()]
        assert read == values(method)

    @pytest.mark.parametrize("ids", sorted(METHODS.keys() - BROKEN_IN_PIKA))
    def test_pika_reads_it_and_writes_the_same(self, ids: tuple[int, int]) -> None:
        payload = method_payload(filled(METHODS[ids]))
        theirs = pika.spec.methods[ids[0] << 16 | ids[1]]()
        theirs.decode(payload, 4)
        assert b"".join(theirs.encode()) == payload[4:]

    @every_method
    def test_every_shorter_one_is_refused(self, ids: tuple[int, int]) -> None:
        payload = method_payload(filled(METHODS[ids]))
        for length in range(len(payload)):
            error = refuse(payload[:length])
            assert error.reply_code is ReplyCode.SYNTAX_ERROR
            assert (error.class_id, error.method_id) == (ids if length >= 4 else (0, 0))

    @every_method
    def test_a_longer_one_is_refused(self, ids: tuple[int, int]) -> None:
        error = refuse(method_payload(filled(METHODS[ids])) + b"\0")
        assert error.reply_code is ReplyCode.SYNTAX_ERROR
        assert METHODS[ids].__name__ in str(error)


class TestValues:
    @pytest.mark.parametrize("bits", range(32))
    def test_bits_share_an_octet(self, bits: int) -> None:
        flags = [bits >> shift & 1 == 1 for shift in range(5)]
        names = ("passive", "durable", "exclusive", "auto_delete", "no_wait")
        ours = QueueDeclare(queue="q", **dict(zip(names, flags, strict=True)))
        names = ("passive", "durable", "exclusive", "auto_delete", "nowait")
        theirs = pika.spec.Queue.Declare(queue="q", arguments={}, **dict(zip(names, flags, strict=True)))
        payload = method_payload(ours)
        assert payload[4:] == b"".join(theirs.encode())
        assert read_method(payload) == ours

    def test_bits_that_nobody_defined_do_not_matter(self) -> None:
        payload = method_payload(BasicNack(delivery_tag=7, multiple=False, requeue=True))
        assert read_method(payload[:-1] + bytes((payload[-1] | 0xFC,))) == read_method(payload)

    @pytest.mark.parametrize("name", ["", "50%", "Größe", "名前", "a b\tc", "q" * 255, "ü" * 127])
    def test_names_that_rabbitmq_takes(self, name: str) -> None:
        method = QueueBind(queue=name, exchange=name, routing_key=name)
        payload = method_payload(method)
        assert read_method(payload) == method
        theirs = pika.spec.Queue.Bind()
        theirs.decode(payload, 4)
        assert (theirs.queue, theirs.exchange, theirs.routing_key) == (name, name, name)

    def test_a_name_over_255_bytes_cannot_be_written(self) -> None:
        with pytest.raises(ValueError, match="range"):
            method_payload(QueueDeclareOk(queue="ü" * 128))

    def test_a_name_that_is_not_utf8(self) -> None:
        payload = method_payload(QueueDelete(queue="abc")).replace(b"abc", b"a\xffc")
        error = refuse(payload)
        assert error.reply_text == "SYNTAX_ERROR - QueueDelete: a short string is not UTF-8"

    def test_a_table_over_the_end_of_the_method(self) -> None:
        payload = method_payload(BasicConsume(queue="q", arguments={"x": 1}))
        assert refuse(payload.replace(b"\0\0\0\x07", b"\0\0\0\x08")).reply_code is ReplyCode.SYNTAX_ERROR

    def test_defaults_are_those_of_the_protocol(self) -> None:
        start = read_method(method_payload(ConnectionStart()))
        assert isinstance(start, ConnectionStart)
        assert (start.version_major, start.version_minor) == (0, 9)
        assert method_payload(ConnectionBlocked(reason="low")) == b"\0\x0a\0\x3c\x03low"


class TestUnknownMethods:
    @pytest.mark.parametrize("ids", [(0, 0), (10, 12), (30, 10), (60, 41), (65_535, 65_535)])
    def test_they_are_not_implemented(self, ids: tuple[int, int]) -> None:
        error = refuse(ids[0].to_bytes(2, "big") + ids[1].to_bytes(2, "big"))
        assert error.reply_code is ReplyCode.NOT_IMPLEMENTED
        assert (error.class_id, error.method_id) == ids
