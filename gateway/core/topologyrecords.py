"""Durable exchanges, queues and bindings as records of the state store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from gateway.core.backend import QueueSpec
from gateway.core.exchanges import ExchangeSpec, ExchangeType, ToExchange
from gateway.core.message import HeaderValue
from gateway.core.packing import pack_value, unpack_value
from gateway.core.topology import Binding

EXCHANGE: Final = "exchange"
QUEUE: Final = "queue"
BINDING: Final = "binding"

BOUND: Final = b"{}"
"""The value of every binding: all that there is to it is in the key."""


def pack_exchange(spec: ExchangeSpec) -> bytes:
    return orjson.dumps(
        {
            "type": spec.type.value,
            "auto_delete": spec.auto_delete,
            "internal": spec.internal,
            "arguments": _pack(spec.arguments),
        }
    )


def unpack_exchange(value: bytes) -> ExchangeSpec:
    """Raises `AttributeError`, `KeyError`, `TypeError` and `ValueError` for what is no record."""
    packed = orjson.loads(value)
    return ExchangeSpec(
        type=ExchangeType(packed["type"]),
        durable=True,
        auto_delete=packed["auto_delete"],
        internal=packed["internal"],
        arguments=_unpack(packed["arguments"]),
    )


def pack_queue(spec: QueueSpec) -> bytes:
    return orjson.dumps({"arguments": _pack(spec.arguments)})


def unpack_queue(value: bytes) -> QueueSpec:
    """Raises `AttributeError`, `KeyError`, `TypeError` and `ValueError` for what is no record."""
    return QueueSpec(arguments=_unpack(orjson.loads(value)["arguments"]))


def binding_key(binding: Binding) -> str:
    destination = binding.destination
    kind, name = (EXCHANGE, destination.exchange) if isinstance(destination, ToExchange) else (QUEUE, destination)
    return orjson.dumps(
        [binding.source, kind, name, binding.pattern, _pack(binding.arguments)], option=orjson.OPT_SORT_KEYS
    ).decode()


def parse_binding(key: str) -> Binding:
    """Raises `AttributeError`, `TypeError` and `ValueError` for what is no record's key."""
    source, kind, name, pattern, arguments = orjson.loads(key)
    destination = ToExchange(str(name)) if kind == EXCHANGE else str(name)
    return Binding(str(source), destination, str(pattern), _unpack(arguments))


def _pack(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: pack_value(value) for name, value in arguments.items()}  # type: ignore[arg-type]  # AMQP's types


def _unpack(packed: Mapping[str, object]) -> dict[str, HeaderValue]:
    return {name: unpack_value(value) for name, value in packed.items()}
