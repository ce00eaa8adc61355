"""Sessions as targets: conversations with damage in them, under a hub that answers when and what it likes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from gateway.core.session import SessionContext
from gateway.protocols.mqtt import session as mqtt_session
from gateway.protocols.mqtt.codec import encode
from gateway.protocols.mqtt.settings import Settings as MqttSettings
from gateway.protocols.stomp import session as stomp_session
from gateway.protocols.stomp.codec import FrameLimits
from gateway.protocols.stomp.settings import Settings as StompSettings
from tests.fuzz import mqtt_packets, stomp_frames
from tests.fuzz.cases import Case, Step, cut, often
from tests.fuzz.codecs import FEED, Deadline
from tests.fuzz.hub import Hub
from tests.fuzz.mqtt_client import MqttClient
from tests.fuzz.mutations import MAX_BYTES
from tests.fuzz.stomp_client import StompClient

START: Final = 1000.0
"""What the clock shows at first."""

NARROW: Final = "narrow"
"""The option of a case whose session has small limits."""

NARROW_STATE_BYTES: Final = 512 * 1024
"""For a session whose limits are a few KiB: whatever comes, for however long."""
WIDE_STATE_BYTES: Final = 8 * 1024 * 1024
"""For one with the usual limits, after the little that comes in one case."""

NARROW_MQTT: Final = MqttSettings(
    max_packet_size=1024,
    delivery_window=3,
    max_subscriptions=5,
    max_unanswered_filters=10,
    max_pipelined_bytes=600,
    max_client_id_bytes=23,
)
NARROW_STOMP: Final = StompSettings(
    max_headers=10,
    max_header_line=256,
    max_header_section=1024,
    max_body=1024,
    max_subscriptions=4,
    default_prefetch=3,
    max_prefetch=5,
    max_unanswered=20,
    max_transactions=1,
    max_transaction_actions=5,
    max_transaction_bytes=4096,
    transaction_timeout=30,
)
ACTIVEMQ: Final = "activemq"
"""The option of a case whose listener has ActiveMQ's dialect."""

STEPS: Final = {
    FEED: 10.0,
    "answer": 14.0,
    "deliver": 8.0,
    "react": 5.0,
    "settle down": 1.0,
    "time": 1.5,
    "reading": 0.3,
    "shutdown": 0.02,
    "takeover": 0.02,
    "lose": 0.02,
}
"""What happens, as often as it does."""


def conversation(
    rng: random.Random, opening: bytes, frame: Callable[[], bytes], damage: Callable[[bytes], bytes]
) -> tuple[Step, ...]:
    """A client that connects and goes on talking. Often nothing is damaged, or only a little, so that it goes deep."""
    share = often(rng, {0.0: 3, 0.02: 4, 0.3: 2, 1.0: 0.5})
    steps: list[Step] = []

    def feed(data: bytes) -> None:
        wire = damage(data)[:MAX_BYTES] if rng.random() < share else data
        steps.extend((FEED, piece) for piece in cut(rng, wire, rng.choice((1, 1, 1, 2, 5))))

    if rng.random() < 0.98:
        feed(opening)
    if rng.random() < 0.8:
        steps.append(("settle down", 0))
    for _ in range(often(rng, {8: 3, 40: 4, 200: 1})):
        kind = often(rng, STEPS)
        if kind == FEED:
            feed(b"".join(frame() for _ in range(often(rng, {1: 6, 3: 2, 30: 0.3}))))
        else:
            steps.append((kind, rng.getrandbits(24)))
    return tuple(steps)


def context(settings: object) -> SessionContext:
    return SessionContext(peer="192.0.2.1:4711", server="mqlift/fuzz", settings=settings)


def _state_bytes(case: Case) -> int:
    return NARROW_STATE_BYTES if case.options[NARROW] else WIDE_STATE_BYTES


class MqttSession:
    """`open_session` of MQTT, in each version."""

    name = "mqtt-session"

    def generate(self, rng: random.Random) -> Case:
        level = often(rng, mqtt_packets.LEVELS)
        maker = mqtt_packets.PacketMaker(rng, level)

        def damage(wire: bytes) -> bytes:
            return mqtt_packets.damage(rng, wire, encode(maker.packet(), level))

        opening = encode(maker.connect(), level)
        steps = conversation(rng, opening, lambda: encode(maker.client_packet(), level), damage)
        return Case(target=self.name, options={NARROW: rng.randint(0, 1)}, steps=steps)

    def run(self, case: Case) -> None:
        settings = NARROW_MQTT if case.options[NARROW] else MqttSettings()
        session = mqtt_session.open_session(context(settings), START)
        with Deadline():
            Hub(session, MqttClient(settings.max_packet_size), START, _state_bytes(case)).run(case.steps)


class StompSession:
    """`open_session` of STOMP."""

    name = "stomp-session"

    def generate(self, rng: random.Random) -> Case:
        maker = stomp_frames.FrameMaker(rng)

        def damage(wire: bytes) -> bytes:
            return stomp_frames.damage(rng, wire, maker.send())

        steps = conversation(rng, maker.connect(), maker.client_frame, damage)
        options = {NARROW: rng.randint(0, 1), ACTIVEMQ: rng.randint(0, 1)}
        return Case(target=self.name, options=options, steps=steps)

    def run(self, case: Case) -> None:
        settings = NARROW_STOMP if case.options[NARROW] else StompSettings()
        if case.options.get(ACTIVEMQ):
            settings = settings.model_copy(update={"dialect": "activemq"})
        limits = FrameLimits(
            settings.max_headers, settings.max_header_line, settings.max_header_section, settings.max_body
        )
        session = stomp_session.open_session(context(settings), START)
        with Deadline():
            Hub(session, StompClient(limits, activemq=settings.dialect == ACTIVEMQ), START, _state_bytes(case)).run(
                case.steps
            )
