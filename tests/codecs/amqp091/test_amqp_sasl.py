"""SASL responses, good and bad."""

from __future__ import annotations

import amqp.sasl
import pika.credentials
import pytest

from gateway.protocols.amqp091.errors import ConnectionException, ReplyCode
from gateway.protocols.amqp091.fields import write_table
from gateway.protocols.amqp091.sasl import MECHANISMS, Login


class TestResponses:
    @pytest.mark.parametrize(
        ("mechanism", "response", "login"),
        [
            ("PLAIN", b"\0guest\0secret", Login("guest", b"secret")),
            ("PLAIN", b"\0guest\0", Login("guest", b"")),
            ("PLAIN", "\0Jürgen\0pässword".encode(), Login("Jürgen", "pässword".encode())),
            ("PLAIN", b"\0guest\0\xff", Login("guest", b"\xff")),
            ("AMQPLAIN", write_table({"LOGIN": "guest", "PASSWORD": "secret"})[4:], Login("guest", b"secret")),
            ("AMQPLAIN", write_table({"PASSWORD": b"\xff", "LOGIN": "g", "x": 1})[4:], Login("g", b"\xff")),
            ("EXTERNAL", b"", Login("", None)),
            ("EXTERNAL", b"CN=client", Login("CN=client", None)),
        ],
    )
    def test_it_is_read(self, mechanism: str, response: bytes, login: Login) -> None:
        assert MECHANISMS[mechanism](response) == login

    def test_what_clients_send(self) -> None:
        plain = pika.credentials.PlainCredentials("guest", "secret").response_for(
            type("Start", (), {"mechanisms": b"PLAIN AMQPLAIN"})
        )[1]
        assert MECHANISMS["PLAIN"](plain) == Login("guest", b"secret")
        amqplain = amqp.sasl.AMQPLAIN("guest", "secret").start(None)
        assert MECHANISMS["AMQPLAIN"](amqplain) == Login("guest", b"secret")

    @pytest.mark.parametrize(
        ("mechanism", "response"),
        [
            ("PLAIN", b"someone\0guest\0secret"),
            ("PLAIN", b""),
            ("PLAIN", b"\0guest"),
            ("PLAIN", b"\0guest\0secret\0"),
            ("PLAIN", b"\0\xff\0secret"),
            ("AMQPLAIN", b""),
            ("AMQPLAIN", write_table({"LOGIN": "guest", "PASSWORD": "secret"})),
            ("AMQPLAIN", write_table({"LOGIN": "guest"})[4:]),
            ("AMQPLAIN", write_table({"LOGIN": 1, "PASSWORD": "secret"})[4:]),
            ("AMQPLAIN", write_table({"LOGIN": "guest", "PASSWORD": None})[4:]),
            ("AMQPLAIN", write_table({"LOGIN": "guest", "PASSWORD": "secret"})[4:-1]),
            ("EXTERNAL", b"\xff"),
        ],
    )
    def test_it_is_a_syntax_error(self, mechanism: str, response: bytes) -> None:
        with pytest.raises(ConnectionException, match="SASL") as caught:
            MECHANISMS[mechanism](response)
        assert caught.value.reply_code is ReplyCode.SYNTAX_ERROR
        assert "secret" not in str(caught.value)
