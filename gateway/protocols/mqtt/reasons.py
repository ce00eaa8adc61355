"""Which code says what in which version of MQTT: for refusals, ends and failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.core.errors import Invalid, MqliftError, NotAuthorized, Refused, Throttled
from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.packets import V5, Level

_RETURN_CODES: Final[Mapping[ReasonCode, int]] = {  # 3.1.1 table 3.1, and the same in 3.1
    ReasonCode.UNSUPPORTED_PROTOCOL_VERSION: 1,
    ReasonCode.CLIENT_IDENTIFIER_NOT_VALID: 2,
    ReasonCode.SERVER_UNAVAILABLE: 3,
    ReasonCode.SERVER_SHUTTING_DOWN: 3,
    ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR: 3,
    ReasonCode.QUOTA_EXCEEDED: 3,
    ReasonCode.BAD_USER_NAME_OR_PASSWORD: 4,
    ReasonCode.NOT_AUTHORIZED: 5,
}

_CONNACK_FORMS: Final[Mapping[ReasonCode, ReasonCode]] = {
    ReasonCode.SERVER_SHUTTING_DOWN: ReasonCode.SERVER_UNAVAILABLE,
    ReasonCode.SESSION_TAKEN_OVER: ReasonCode.UNSPECIFIED_ERROR,
}
"""What CONNACK says for a code that only DISCONNECT has (5.0 table 3-1)."""

_DISCONNECT_FORMS: Final[Mapping[ReasonCode, ReasonCode]] = {
    ReasonCode.SERVER_UNAVAILABLE: ReasonCode.UNSPECIFIED_ERROR,
    ReasonCode.PACKET_IDENTIFIER_IN_USE: ReasonCode.PROTOCOL_ERROR,
}
"""What DISCONNECT says for a code that it does not have (5.0 table 3-13)."""

_UNSUBACK_CODES: Final = frozenset({ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, ReasonCode.NOT_AUTHORIZED})

FAILURE: Final = 0x80
"""The return code of a filter that was refused (3.1.1 §3.9.3); reason codes from here on are failures (5.0 §2.4)."""

_REASONS: Final[tuple[tuple[type[MqliftError], ReasonCode], ...]] = (
    (NotAuthorized, ReasonCode.NOT_AUTHORIZED),
    (Refused, ReasonCode.QUOTA_EXCEEDED),
    (Throttled, ReasonCode.QUOTA_EXCEEDED),
    # A message that the backend can never take; PUBACK has no code of its own for too large ones (5.0 table 3-4).
    (Invalid, ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR),
)


def reason_of(error: MqliftError | None) -> ReasonCode:
    """The reason code of a failed publish, subscribe or unsubscribe."""
    if isinstance(error, PacketError):
        return error.reason_code
    for kind, code in _REASONS:
        if isinstance(error, kind):
            return code
    return ReasonCode.UNSPECIFIED_ERROR


def unsuback_code(error: MqliftError | None) -> ReasonCode:
    """How UNSUBACK says that a filter could not be removed: it has fewer codes than SUBACK (5.0 table 3-9)."""
    reason = reason_of(error)
    return reason if reason in _UNSUBACK_CODES else ReasonCode.UNSPECIFIED_ERROR


def connack_code(reason: ReasonCode, level: int) -> int | None:
    """How CONNACK refuses for this reason; None where the version can only close."""
    if level >= V5:
        return _CONNACK_FORMS.get(reason, reason)
    return _RETURN_CODES.get(reason)


def disconnect_reason(reason: ReasonCode) -> ReasonCode:
    """How a server's DISCONNECT says it."""
    return _DISCONNECT_FORMS.get(reason, reason)


def suback_code(reason: ReasonCode, level: int) -> int:
    """How SUBACK refuses a filter. Raises `PacketError` for 3.1, whose SUBACK can only grant (3.1 §3.9)."""
    if level >= V5:
        return reason
    if level == Level.V3_1:
        raise PacketError(reason, "a filter was refused, and MQTT 3.1 has no form for that")
    return FAILURE
