"""From the protocol header to `connection.open-ok`: who is let in, and what is agreed (spec §1.4, §2.2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.core.auth import Credentials
from gateway.core.commands import Authenticate, Authenticated, DeclareExchange, Presence
from gateway.core.errors import NotAuthorized
from gateway.core.exchanges import ExchangeSpec, predeclared
from gateway.core.message import Headers, HeaderValue, Origin
from gateway.core.outcome import Outcome, Result
from gateway.protocols.amqp091.errors import ConnectionException, ReplyCode, cut_text
from gateway.protocols.amqp091.frames import MIN_FRAME_MAX
from gateway.protocols.amqp091.link import PROTOCOL, Link
from gateway.protocols.amqp091.methods import (
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTune,
    ConnectionTuneOk,
    ConnectionUpdateSecret,
    ConnectionUpdateSecretOk,
    Method,
)
from gateway.protocols.amqp091.names import VirtualHost
from gateway.protocols.amqp091.procedures import Procedure
from gateway.protocols.amqp091.refusals import connection_error, refusal
from gateway.protocols.amqp091.sasl import MECHANISMS

MAX_CONNECTION_NAME: Final = 255
"""Bytes of the name that a client gives its connection; it goes with each message."""

CAPABILITIES: Final[Mapping[str, HeaderValue]] = dict.fromkeys(
    (
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ),
    True,
)
"""RabbitMQ's, by which clients know what they may use."""

_PREDECLARED: Final[Mapping[str, ExchangeSpec]] = {name: each.spec for name, each in predeclared().items()}


class SilentEnd(ConnectionException):
    """The handshake goes wrong in a way that nobody is told of, as in RabbitMQ: a peer that is not known yet is told
    nothing. The socket is closed.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(ReplyCode.COMMAND_INVALID, problem)


class ToldDuringHandshake(ConnectionException):
    """The client is known, or has said that it wants to know."""


class Handshake:
    """The steps of one connection. `expects` is the method that has to come next; None once it is open."""

    __slots__ = (
        "_capabilities",
        "_link",
        "_mechanism",
        "_server",
        "_token",
        "channel_max",
        "done",
        "expects",
        "heartbeat",
    )

    def __init__(self, link: Link, server: str, token: object) -> None:
        """`server`: name and version of this product, as `mqlift/1.0`. `token`: of its procedures."""
        self._link = link
        self._server = server
        self._token = token
        self._mechanism = ""
        self._capabilities: Headers = {}
        self.expects: type[Method] | None = None
        self.done = False
        self.channel_max = 0
        """Channels at a time, as agreed."""
        self.heartbeat = 0
        """Seconds, as agreed; 0 for none."""

    def start(self) -> None:
        """The protocol header has come."""
        settings = self._link.settings
        product, _, version = self._server.partition("/")
        properties: dict[str, HeaderValue] = {
            "capabilities": dict(CAPABILITIES),
            "cluster_name": settings.cluster_name,
            "copyright": f"The {product} authors",
            "information": "Licensed under the Apache License, Version 2.0",
            "platform": "Python",
            "product": product,
            "version": version,
        }
        mechanisms = " ".join(settings.mechanisms).encode()
        self._link.write(0, ConnectionStart(server_properties=properties, mechanisms=mechanisms))
        self.expects = ConnectionStartOk

    def receive(self, method: Method) -> Procedure | None:
        """The next step. Raises `ConnectionException`."""
        if type(method) is not self.expects:
            raise SilentEnd(f"{type(method).__name__} during the handshake")
        self.expects = None
        match method:
            case ConnectionStartOk():
                return self._log_in(method)
            case ConnectionTuneOk():
                self._agree(method)
                return None
            case ConnectionOpen():
                return self._open(method)
            case _:
                raise AssertionError("no step of the handshake")

    # start-ok

    def _log_in(self, method: ConnectionStartOk) -> Procedure:
        properties = method.client_properties
        capabilities = properties.get("capabilities")
        self._capabilities = capabilities if isinstance(capabilities, dict) else {}
        self._link.tells_cancel = self.understands("consumer_cancel_notify")
        if method.mechanism not in self._link.settings.mechanisms:
            raise SilentEnd(f"the authentication mechanism {method.mechanism!r} is not offered")
        self._mechanism = method.mechanism
        name = properties.get("connection_name")
        client_id = cut_text(name, MAX_CONNECTION_NAME) if isinstance(name, str) else ""
        credentials = self._credentials(method.response, client_id)
        answer = yield Authenticate(credentials, self._token)
        if not isinstance(answer, Authenticated):
            raise self._login_refusal(answer)
        self._link.user = answer.identity.user or credentials.username or ""
        self._link.origin = Origin(PROTOCOL, client_id, answer.identity.user)
        settings = self._link.settings
        self._link.write(
            0,
            ConnectionTune(
                channel_max=settings.channel_max, frame_max=settings.frame_max, heartbeat=settings.heartbeat
            ),
        )
        self.expects = ConnectionTuneOk

    def understands(self, capability: str) -> bool:
        """Whether the client has said that it knows what this is."""
        return self._capabilities.get(capability) is True

    def _credentials(self, response: bytes, client_id: str) -> Credentials:
        try:
            login = MECHANISMS[self._mechanism](response)
        except ConnectionException as error:
            raise SilentEnd(str(error)) from None
        return Credentials(
            protocol=PROTOCOL,
            client_id=client_id,
            username=login.user or None,
            password=login.password,
            mechanism=self._mechanism,
        )

    def _login_refusal(self, answer: Result) -> ConnectionException:
        if isinstance(answer.error, NotAuthorized) and self.understands("authentication_failure_close"):
            problem = (
                f"Login was refused using authentication mechanism {self._mechanism}. "
                "For details see the broker logfile."
            )
            return ToldDuringHandshake(ReplyCode.ACCESS_REFUSED, problem)
        return SilentEnd(str(answer.error))

    # tune-ok

    def _agree(self, method: ConnectionTuneOk) -> None:
        """The client may ask for less than it was offered, and for no heartbeats (spec §1.4.2.6)."""
        settings = self._link.settings
        if not 0 < method.channel_max <= settings.channel_max:
            raise SilentEnd(f"channel_max {method.channel_max} is not in 1 to {settings.channel_max}")
        if not MIN_FRAME_MAX <= method.frame_max <= settings.frame_max:
            raise SilentEnd(f"frame_max {method.frame_max} is not in {MIN_FRAME_MAX} to {settings.frame_max}")
        self.channel_max = method.channel_max
        self.heartbeat = method.heartbeat
        self._link.frame_max = method.frame_max
        self.expects = ConnectionOpen

    # open

    def _open(self, method: ConnectionOpen) -> Procedure:
        name = method.virtual_host
        prefix = self._link.settings.vhosts.get(name)
        if prefix is None:
            raise _not_opened(ReplyCode.NOT_ALLOWED, f"vhost {name} not found")
        allowed = self._link.settings.vhost_users.get(name)
        if allowed is not None and self._link.origin.user not in allowed:
            problem = f"access to vhost '{name}' refused for user '{self._link.user}'"
            raise _not_opened(ReplyCode.NOT_ALLOWED, problem)
        host = self._link.host = VirtualHost(name, prefix)
        if prefix:  # the hub has those without a prefix from the start
            for exchange, spec in _PREDECLARED.items():
                result = yield DeclareExchange(host.exchange(exchange), spec, self._token, Presence.ANY)
                if result.outcome is not Outcome.ACCEPTED:
                    error = refusal(result.error, ConnectionOpen, host, f"exchange '{exchange}'", self._link.user)
                    raise _not_opened(error.reply_code, str(error))
        self.done = True
        self._link.write(0, ConnectionOpenOk())

    # Later

    def update_secret(self, method: ConnectionUpdateSecret) -> Procedure:
        """The client proves again who it is, before its token ends (RabbitMQ's extension)."""
        origin = self._link.origin
        credentials = Credentials(
            protocol=PROTOCOL,
            client_id=origin.client_id,
            username=self._link.user or None,
            password=method.new_secret,
        )
        answer = yield Authenticate(credentials, self._token)
        if not isinstance(answer, Authenticated) or answer.identity.user != origin.user:
            problem = "New secret was refused by one of the backends"
            raise connection_error(ReplyCode.NOT_ALLOWED, problem, ConnectionUpdateSecret)
        self._link.write(0, ConnectionUpdateSecretOk())


def _not_opened(code: ReplyCode, problem: str) -> ConnectionException:
    return ToldDuringHandshake(code, problem, ConnectionOpen.CLASS_ID, ConnectionOpen.METHOD_ID)
