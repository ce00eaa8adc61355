"""The methods of AMQP 0-9-1 and of RabbitMQ's extensions as values.

Each class is the method's entry in the specification: its fields, in order, with the types that they have on the wire,
by the names below. `arguments` reads and writes them by that. Methods that were read may be shared by many frames:
nobody changes one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Final, TypeAlias, TypeVar

from gateway.core.message import NO_HEADERS, Headers

# The names of the domains in the specification (§1.3, amqp0-9-1.xml), which `arguments` looks for.
Bit: TypeAlias = bool
Octet: TypeAlias = int
Short: TypeAlias = int
Long: TypeAlias = int
LongLong: TypeAlias = int
ShortStr: TypeAlias = str
LongStr: TypeAlias = bytes
Table: TypeAlias = Headers


@dataclass(slots=True, kw_only=True)
class Method:
    """What all methods share: the two numbers that name them."""

    CLASS_ID: ClassVar[int]
    METHOD_ID: ClassVar[int]


METHODS: Final[dict[tuple[int, int], type[Method]]] = {}
"""All methods, by class id and method id."""

M = TypeVar("M", bound=Method)


def _method(class_id: int, method_id: int) -> Callable[[type[M]], type[M]]:
    def enter(cls: type[M]) -> type[M]:
        cls.CLASS_ID = class_id
        cls.METHOD_ID = method_id
        METHODS[class_id, method_id] = cls
        return cls

    return enter


def _no_arguments() -> Headers:
    return NO_HEADERS


@_method(10, 10)
@dataclass(slots=True, kw_only=True)
class ConnectionStart(Method):
    version_major: Octet = 0
    version_minor: Octet = 9
    server_properties: Table = field(default_factory=_no_arguments)
    mechanisms: LongStr = b"PLAIN"
    locales: LongStr = b"en_US"


@_method(10, 11)
@dataclass(slots=True, kw_only=True)
class ConnectionStartOk(Method):
    client_properties: Table = field(default_factory=_no_arguments)
    mechanism: ShortStr = "PLAIN"
    response: LongStr = b""
    locale: ShortStr = "en_US"


@_method(10, 20)
@dataclass(slots=True, kw_only=True)
class ConnectionSecure(Method):
    challenge: LongStr


@_method(10, 21)
@dataclass(slots=True, kw_only=True)
class ConnectionSecureOk(Method):
    response: LongStr


@_method(10, 30)
@dataclass(slots=True, kw_only=True)
class ConnectionTune(Method):
    channel_max: Short = 0
    frame_max: Long = 0
    heartbeat: Short = 0


@_method(10, 31)
@dataclass(slots=True, kw_only=True)
class ConnectionTuneOk(Method):
    channel_max: Short = 0
    frame_max: Long = 0
    heartbeat: Short = 0


@_method(10, 40)
@dataclass(slots=True, kw_only=True)
class ConnectionOpen(Method):
    virtual_host: ShortStr = "/"
    reserved_1: ShortStr = ""
    reserved_2: Bit = False


@_method(10, 41)
@dataclass(slots=True, kw_only=True)
class ConnectionOpenOk(Method):
    reserved_1: ShortStr = ""


@_method(10, 50)
@dataclass(slots=True, kw_only=True)
class ConnectionClose(Method):
    reply_code: Short
    reply_text: ShortStr = ""
    class_id: Short = 0
    method_id: Short = 0


@_method(10, 51)
@dataclass(slots=True, kw_only=True)
class ConnectionCloseOk(Method):
    pass


@_method(10, 60)
@dataclass(slots=True, kw_only=True)
class ConnectionBlocked(Method):
    reason: ShortStr = ""


@_method(10, 61)
@dataclass(slots=True, kw_only=True)
class ConnectionUnblocked(Method):
    pass


@_method(10, 70)
@dataclass(slots=True, kw_only=True)
class ConnectionUpdateSecret(Method):
    new_secret: LongStr
    reason: ShortStr = ""


@_method(10, 71)
@dataclass(slots=True, kw_only=True)
class ConnectionUpdateSecretOk(Method):
    pass


@_method(20, 10)
@dataclass(slots=True, kw_only=True)
class ChannelOpen(Method):
    reserved_1: ShortStr = ""


@_method(20, 11)
@dataclass(slots=True, kw_only=True)
class ChannelOpenOk(Method):
    reserved_1: LongStr = b""


@_method(20, 20)
@dataclass(slots=True, kw_only=True)
class ChannelFlow(Method):
    active: Bit


@_method(20, 21)
@dataclass(slots=True, kw_only=True)
class ChannelFlowOk(Method):
    active: Bit


@_method(20, 40)
@dataclass(slots=True, kw_only=True)
class ChannelClose(Method):
    reply_code: Short
    reply_text: ShortStr = ""
    class_id: Short = 0
    method_id: Short = 0


@_method(20, 41)
@dataclass(slots=True, kw_only=True)
class ChannelCloseOk(Method):
    pass


@_method(40, 10)
@dataclass(slots=True, kw_only=True)
class ExchangeDeclare(Method):
    reserved_1: Short = 0
    exchange: ShortStr
    type: ShortStr = "direct"
    passive: Bit = False
    durable: Bit = False
    auto_delete: Bit = False
    internal: Bit = False
    no_wait: Bit = False
    arguments: Table = field(default_factory=_no_arguments)


@_method(40, 11)
@dataclass(slots=True, kw_only=True)
class ExchangeDeclareOk(Method):
    pass


@_method(40, 20)
@dataclass(slots=True, kw_only=True)
class ExchangeDelete(Method):
    reserved_1: Short = 0
    exchange: ShortStr
    if_unused: Bit = False
    no_wait: Bit = False


@_method(40, 21)
@dataclass(slots=True, kw_only=True)
class ExchangeDeleteOk(Method):
    pass


@_method(40, 30)
@dataclass(slots=True, kw_only=True)
class ExchangeBind(Method):
    reserved_1: Short = 0
    destination: ShortStr
    source: ShortStr
    routing_key: ShortStr = ""
    no_wait: Bit = False
    arguments: Table = field(default_factory=_no_arguments)


@_method(40, 31)
@dataclass(slots=True, kw_only=True)
class ExchangeBindOk(Method):
    pass


@_method(40, 40)
@dataclass(slots=True, kw_only=True)
class ExchangeUnbind(Method):
    reserved_1: Short = 0
    destination: ShortStr
    source: ShortStr
    routing_key: ShortStr = ""
    no_wait: Bit = False
    arguments: Table = field(default_factory=_no_arguments)


@_method(40, 51)
@dataclass(slots=True, kw_only=True)
class ExchangeUnbindOk(Method):
    pass


@_method(50, 10)
@dataclass(slots=True, kw_only=True)
class QueueDeclare(Method):
    reserved_1: Short = 0
    queue: ShortStr = ""
    passive: Bit = False
    durable: Bit = False
    exclusive: Bit = False
    auto_delete: Bit = False
    no_wait: Bit = False
    arguments: Table = field(default_factory=_no_arguments)


@_method(50, 11)
@dataclass(slots=True, kw_only=True)
class QueueDeclareOk(Method):
    queue: ShortStr
    message_count: Long = 0
    consumer_count: Long = 0


@_method(50, 20)
@dataclass(slots=True, kw_only=True)
class QueueBind(Method):
    reserved_1: Short = 0
    queue: ShortStr = ""
    exchange: ShortStr
    routing_key: ShortStr = ""
    no_wait: Bit = False
    arguments: Table = field(default_factory=_no_arguments)


@_method(50, 21)
@dataclass(slots=True, kw_only=True)
class QueueBindOk(Method):
    pass


@_method(50, 30)
@dataclass(slots=True, kw_only=True)
class QueuePurge(Method):
    reserved_1: Short = 0
    queue: ShortStr = ""
    no_wait: Bit = False


@_method(50, 31)
@dataclass(slots=True, kw_only=True)
class QueuePurgeOk(Method):
    message_count: Long


@_method(50, 40)
@dataclass(slots=True, kw_only=True)
class QueueDelete(Method):
    reserved_1: Short = 0
    queue: ShortStr = ""
    if_unused: Bit = False
    if_empty: Bit = False
    no_wait: Bit = False


@_method(50, 41)
@dataclass(slots=True, kw_only=True)
class QueueDeleteOk(Method):
    message_count: Long


@_method(50, 50)
@dataclass(slots=True, kw_only=True)
class QueueUnbind(Method):
    reserved_1: Short = 0
    queue: ShortStr = ""
    exchange: ShortStr
    routing_key: ShortStr = ""
    arguments: Table = field(default_factory=_no_arguments)


@_method(50, 51)
@dataclass(slots=True, kw_only=True)
class QueueUnbindOk(Method):
    pass


@_method(60, 10)
@dataclass(slots=True, kw_only=True)
class BasicQos(Method):
    prefetch_size: Long = 0
    prefetch_count: Short = 0
    is_global: Bit = False


@_method(60, 11)
@dataclass(slots=True, kw_only=True)
class BasicQosOk(Method):
    pass


@_method(60, 20)
@dataclass(slots=True, kw_only=True)
class BasicConsume(Method):
    reserved_1: Short = 0
    queue: ShortStr = ""
    consumer_tag: ShortStr = ""
    no_local: Bit = False
    no_ack: Bit = False
    exclusive: Bit = False
    no_wait: Bit = False
    arguments: Table = field(default_factory=_no_arguments)


@_method(60, 21)
@dataclass(slots=True, kw_only=True)
class BasicConsumeOk(Method):
    consumer_tag: ShortStr


@_method(60, 30)
@dataclass(slots=True, kw_only=True)
class BasicCancel(Method):
    consumer_tag: ShortStr
    no_wait: Bit = False


@_method(60, 31)
@dataclass(slots=True, kw_only=True)
class BasicCancelOk(Method):
    consumer_tag: ShortStr


@_method(60, 40)
@dataclass(slots=True, kw_only=True)
class BasicPublish(Method):
    reserved_1: Short = 0
    exchange: ShortStr = ""
    routing_key: ShortStr = ""
    mandatory: Bit = False
    immediate: Bit = False


@_method(60, 50)
@dataclass(slots=True, kw_only=True)
class BasicReturn(Method):
    reply_code: Short
    reply_text: ShortStr = ""
    exchange: ShortStr
    routing_key: ShortStr


@_method(60, 60)
@dataclass(slots=True, kw_only=True)
class BasicDeliver(Method):
    consumer_tag: ShortStr
    delivery_tag: LongLong
    redelivered: Bit = False
    exchange: ShortStr
    routing_key: ShortStr


@_method(60, 70)
@dataclass(slots=True, kw_only=True)
class BasicGet(Method):
    reserved_1: Short = 0
    queue: ShortStr = ""
    no_ack: Bit = False


@_method(60, 71)
@dataclass(slots=True, kw_only=True)
class BasicGetOk(Method):
    delivery_tag: LongLong
    redelivered: Bit = False
    exchange: ShortStr
    routing_key: ShortStr
    message_count: Long = 0


@_method(60, 72)
@dataclass(slots=True, kw_only=True)
class BasicGetEmpty(Method):
    reserved_1: ShortStr = ""


@_method(60, 80)
@dataclass(slots=True, kw_only=True)
class BasicAck(Method):
    delivery_tag: LongLong = 0
    multiple: Bit = False


@_method(60, 90)
@dataclass(slots=True, kw_only=True)
class BasicReject(Method):
    delivery_tag: LongLong
    requeue: Bit = True


@_method(60, 100)
@dataclass(slots=True, kw_only=True)
class BasicRecoverAsync(Method):
    requeue: Bit = False


@_method(60, 110)
@dataclass(slots=True, kw_only=True)
class BasicRecover(Method):
    requeue: Bit = False


@_method(60, 111)
@dataclass(slots=True, kw_only=True)
class BasicRecoverOk(Method):
    pass


@_method(60, 120)
@dataclass(slots=True, kw_only=True)
class BasicNack(Method):
    delivery_tag: LongLong = 0
    multiple: Bit = False
    requeue: Bit = True


@_method(85, 10)
@dataclass(slots=True, kw_only=True)
class ConfirmSelect(Method):
    no_wait: Bit = False


@_method(85, 11)
@dataclass(slots=True, kw_only=True)
class ConfirmSelectOk(Method):
    pass


@_method(90, 10)
@dataclass(slots=True, kw_only=True)
class TxSelect(Method):
    pass


@_method(90, 11)
@dataclass(slots=True, kw_only=True)
class TxSelectOk(Method):
    pass


@_method(90, 20)
@dataclass(slots=True, kw_only=True)
class TxCommit(Method):
    pass


@_method(90, 21)
@dataclass(slots=True, kw_only=True)
class TxCommitOk(Method):
    pass


@_method(90, 30)
@dataclass(slots=True, kw_only=True)
class TxRollback(Method):
    pass


@_method(90, 31)
@dataclass(slots=True, kw_only=True)
class TxRollbackOk(Method):
    pass
