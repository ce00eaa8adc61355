"""The error tree: our own mistakes in setting up, the peer's on the wire, and the backend's.

Protocols map these classes to their own codes and texts; `str(error)` is one line that an operator or a peer can read.
"""

from __future__ import annotations


class MqliftError(Exception):
    """The root of every documented error. Anything else that escapes is a bug."""


class ConfigError(MqliftError):
    """A mistake in the configuration: `str()` is `key: what is wrong; what would be right`."""

    def __init__(self, key: str, problem: str, remedy: str = "") -> None:
        super().__init__(f"{key}: {problem}; {remedy}" if remedy else f"{key}: {problem}")
        self.key = key
        self.problem = problem
        self.remedy = remedy


class ProtocolError(MqliftError):
    """The peer broke its protocol. Each protocol subclasses it with its wire codes."""


class NotAuthorized(MqliftError):
    """The peer may not connect, or not do this."""


class Refused(MqliftError):
    """The gateway cannot do what was asked: a limit was reached, or the feature is not there."""


class NotSupported(Refused):
    """What was asked for has no counterpart here, and never will by itself (AMQP: 540 NOT_IMPLEMENTED)."""


class InvalidArgument(Refused):
    """An argument of a queue or exchange that is out of range, of the wrong type, or cannot be had with the others."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument}: {problem}")
        self.argument = argument
        self.problem = problem


class Inequivalent(Refused):
    """It is there, and is not what was asked for (AMQP: 406 PRECONDITION_FAILED).

    `what` is `exchange` or `queue`; `argument` the first thing that differs, with both values as text, `none` for
    one that was not given.
    """

    def __init__(self, what: str, name: str, argument: str, received: str, current: str) -> None:
        super().__init__(f"{what} '{name}' has {argument} {current}, not {received}")
        self.what = what
        self.name = name
        self.argument = argument
        self.received = received
        self.current = current


class Locked(Refused):
    """The queue is exclusive to another connection (AMQP: 405 RESOURCE_LOCKED)."""

    def __init__(self, queue: str) -> None:
        super().__init__(f"queue '{queue}' belongs to another connection")
        self.queue = queue


class InUse(Refused):
    """It has consumers or bindings, or an exclusive consumer."""


class NotEmpty(Refused):
    """The queue has messages."""


class BackendError(MqliftError):
    """A backend did not do what it was asked.

    `resource` names what it concerns (`sqs queue orders`), `action` the call (`sqs:SendMessage`).
    `retriable`: the same request may succeed by itself soon; the sender retries it until its deadline.
    `throttled`: the backend asked for fewer requests; the sender slows down the whole destination.
    `permanent`: this very entry can never succeed, whatever an operator does; it is rejected, others are released.
    """

    retriable = False
    throttled = False
    permanent = False

    def __init__(self, problem: str, *, resource: str = "", action: str = "") -> None:
        where = " ".join(part for part in (resource, f"({action})" if action else "") if part)
        super().__init__(f"{where}: {problem}" if where else problem)
        self.problem = problem
        self.resource = resource
        self.action = action


class Unavailable(BackendError):
    """No answer, a broken connection, or a server fault (5xx)."""

    retriable = True


class Throttled(BackendError):
    """Too many requests for the account, the destination or the shard."""

    retriable = True
    throttled = True


class Contended(BackendError):
    """Somebody else does it in the same name: one of both has to wait."""

    retriable = True


class NotFound(BackendError):
    """The resource does not exist, and may not or could not be created."""


class AccessDenied(BackendError):
    """The credentials are valid, and not allowed to do this; `action` names the permission that is missing."""


class CredentialsInvalid(BackendError):
    """No credentials, expired ones, or ones that this region or endpoint does not know."""


class Invalid(BackendError):
    """The backend can never take this entry: it breaks a rule of the service."""

    permanent = True


class TooLarge(Invalid):
    """The entry is over the limit of the service."""


class ReceiptExpired(BackendError):
    """The delivery is not this consumer's any more: its visibility timeout passed, and it will be delivered again."""
