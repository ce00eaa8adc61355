"""What the hub refuses, in AMQP's codes and RabbitMQ's words: some clients parse them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from gateway.core.errors import (
    AccessDenied,
    Inequivalent,
    InUse,
    Invalid,
    InvalidArgument,
    Locked,
    MqliftError,
    NotAuthorized,
    NotEmpty,
    NotFound,
    NotSupported,
    Refused,
)
from gateway.core.topology import InternalExchange, UnknownExchange, UnknownQueue
from gateway.protocols.amqp091.errors import AmqpError, ChannelException, ConnectionException, ReplyCode
from gateway.protocols.amqp091.methods import Method
from gateway.protocols.amqp091.names import VirtualHost

_EXCLUSIVE = "exclusive"
_NONE = "none"
_INT32 = range(-(2**31), 2**31)


def channel_error(code: ReplyCode, problem: str, method: type[Method]) -> ChannelException:
    """Closes the channel that the method came on."""
    return ChannelException(code, problem, method.CLASS_ID, method.METHOD_ID)


def connection_error(code: ReplyCode, problem: str, method: type[Method]) -> ConnectionException:
    """Closes the connection."""
    return ConnectionException(code, problem, method.CLASS_ID, method.METHOD_ID)


def locked(queue: str, host: VirtualHost) -> str:
    """Why another connection's queue cannot be had."""
    return (
        f"cannot obtain exclusive access to locked queue '{queue}' in vhost '{host.name}'. It could be "
        "originally declared on another connection or the exclusive property value does not match that of the "
        "original declaration."
    )


class _Where(NamedTuple):
    """What a refusal is about. `resource` is as `queue 'q'`."""

    host: VirtualHost
    resource: str
    user: str

    def __str__(self) -> str:
        return f"{self.resource} in vhost '{self.host.name}'"


def refusal(error: MqliftError | None, method: type[Method], host: VirtualHost, resource: str, user: str) -> AmqpError:
    """Why a method failed. `resource` is what it is about, as `queue 'q'`.

    Backends and limits have no code of their own: theirs is 506 RESOURCE_ERROR, on the channel.
    """
    where = _Where(host, resource, user)
    if isinstance(error, Inequivalent) and error.argument == _EXCLUSIVE:
        error = Locked(error.name)
    for kind, code, text in _REASONS:
        if isinstance(error, kind):
            return channel_error(code, text(error, where), method)
    return channel_error(ReplyCode.RESOURCE_ERROR, str(error or "the gateway cannot do this now"), method)


def _own_text(error: MqliftError, _: _Where) -> str:
    return str(error)


def _unknown_queue(error: UnknownQueue, where: _Where) -> str:
    return f"no queue '{where.host.local_name(error.queue)}' in vhost '{where.host.name}'"


def _unknown_exchange(error: UnknownExchange, where: _Where) -> str:
    return f"no exchange '{where.host.local_name(error.exchange)}' in vhost '{where.host.name}'"


def _internal(error: InternalExchange, where: _Where) -> str:
    exchange = where.host.local_name(error.exchange)
    return f"cannot publish to internal exchange '{exchange}' in vhost '{where.host.name}'"


def _locked(error: Locked, where: _Where) -> str:
    return locked(where.host.local_name(error.queue), where.host)


def _invalid_argument(error: InvalidArgument, where: _Where) -> str:
    return f"invalid arg '{error.argument}' for {where}: {error.problem}"


def _inequivalent(error: Inequivalent, where: _Where) -> str:
    received, current = error.received, error.current
    if _NONE in (received, current):
        received, current = _typed(received), _typed(current)
    else:
        received, current = f"'{received}'", f"'{current}'"
    return (
        f"inequivalent arg '{error.argument}' for {error.what} '{where.host.local_name(error.name)}' "
        f"in vhost '{where.host.name}': received {received} but current is {current}"
    )


def _typed(text: str) -> str:
    """A value beside one that is not there. Numbers come in many widths; clients mostly send these."""
    if text == _NONE:
        return text
    kind = "bool" if text in ("true", "false") else "longstr"
    if text.removeprefix("-").isdecimal():
        kind = "signedint" if int(text) in _INT32 else "long"
    return f"the value '{text}' of type '{kind}'"


_REASONS: Final[Sequence[tuple[type[MqliftError], ReplyCode, Callable[[Any, _Where], str]]]] = (
    (UnknownQueue, ReplyCode.NOT_FOUND, _unknown_queue),
    (UnknownExchange, ReplyCode.NOT_FOUND, _unknown_exchange),
    (InternalExchange, ReplyCode.ACCESS_REFUSED, _internal),
    (
        NotAuthorized,
        ReplyCode.ACCESS_REFUSED,
        lambda _, where: f"access to {where} refused for user '{where.user}'",
    ),
    (Locked, ReplyCode.RESOURCE_LOCKED, _locked),
    (Inequivalent, ReplyCode.PRECONDITION_FAILED, _inequivalent),
    (InvalidArgument, ReplyCode.PRECONDITION_FAILED, _invalid_argument),
    (InUse, ReplyCode.PRECONDITION_FAILED, lambda _, where: f"{where} in use"),
    (NotEmpty, ReplyCode.PRECONDITION_FAILED, lambda _, where: f"{where} not empty"),
    (NotSupported, ReplyCode.NOT_IMPLEMENTED, _own_text),
    (Refused, ReplyCode.PRECONDITION_FAILED, _own_text),
    (Invalid, ReplyCode.PRECONDITION_FAILED, _own_text),
    (NotFound, ReplyCode.NOT_FOUND, _own_text),
    (AccessDenied, ReplyCode.ACCESS_REFUSED, _own_text),
)
"""The first that fits counts."""
