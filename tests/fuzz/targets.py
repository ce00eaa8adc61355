"""All targets by name. A new protocol adds its own here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.fuzz.amqp_codec import AmqpCodec
from tests.fuzz.amqp_session import AmqpSession
from tests.fuzz.cases import Target
from tests.fuzz.codecs import MqttCodec, StompCodec
from tests.fuzz.sessions import MqttSession, StompSession

TARGETS: Final[Mapping[str, Target]] = {
    target.name: target
    for target in (MqttCodec(), StompCodec(), AmqpCodec(), MqttSession(), StompSession(), AmqpSession())
}
