"""The answers of SASL mechanisms (spec §4.5 leaves them to SASL): PLAIN, RabbitMQ's AMQPLAIN, and EXTERNAL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from gateway.protocols.amqp091.errors import ConnectionException, syntax_error
from gateway.protocols.amqp091.fields import FieldReader


class Login(NamedTuple):
    """Who somebody says they are. EXTERNAL has no password: the certificate is the proof."""

    user: str
    password: bytes | None


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise syntax_error(f"SASL: the {what} is not UTF-8") from None


def read_plain(response: bytes) -> Login:
    """RFC 4616: authorization identity, NUL, user, NUL, password. As in RabbitMQ, nobody acts for somebody else."""
    parts = response.split(b"\0")
    if len(parts) != 3:
        raise syntax_error("SASL PLAIN: the response is not three fields with a NUL byte between them")
    if parts[0]:
        raise syntax_error("SASL PLAIN: an authorization identity")
    return Login(_text(parts[1], "user"), parts[2])


def read_amqplain(response: bytes) -> Login:
    """A table without its length, with LOGIN and PASSWORD."""
    try:
        table = FieldReader(response).rest_as_table()
    except ConnectionException as error:
        raise syntax_error(f"SASL AMQPLAIN: {error}") from None
    user, password = table.get("LOGIN"), table.get("PASSWORD")
    if isinstance(password, str):
        password = password.encode()
    if not isinstance(user, str) or not isinstance(password, bytes):
        raise syntax_error("SASL AMQPLAIN: LOGIN and PASSWORD have to be long strings")
    return Login(user, password)


def read_external(response: bytes) -> Login:
    """RFC 4422 appendix A: the identity that is asked for; empty: that of the certificate."""
    return Login(_text(response, "identity"), None)


MECHANISMS: Final[Mapping[str, Callable[[bytes], Login]]] = {
    "PLAIN": read_plain,
    "AMQPLAIN": read_amqplain,
    "EXTERNAL": read_external,
}
"""What reads the response of each mechanism. All raise `ConnectionException` (502)."""
