"""A client that publishes, repeats itself and is answered in any order, against a model of what it may see."""

from __future__ import annotations

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.commands import Close, Publish
from gateway.core.errors import MqliftError
from gateway.core.outcome import ACCEPTED, UNROUTED, Outcome, Result
from gateway.protocols.mqtt.codec import encode
from gateway.protocols.mqtt.packets import Level, Puback
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from tests.sessions.mqtt.peer import Peer


class InFlight:
    """A publish that was not acknowledged: `token` as long as the hub owes an answer."""

    def __init__(self, packet: PublishPacket, token: object) -> None:
        self.packet = packet
        self.token = token
        self.answered = False


class Publisher(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.peer = Peer()
        self.peer.connect()
        self.serial = 0
        self.in_flight: list[InFlight] = []  # in the order of the PUBLISHes
        self.over = False

    def body(self) -> bytes:
        self.serial += 1
        return b"%d" % self.serial

    def free_id(self, packet_id: int) -> int:
        used = {publish.packet.packet_id for publish in self.in_flight}
        while packet_id in used:
            packet_id = packet_id % 20 + 1
        return packet_id

    def cut(self, wire: bytes, cuts: list[int]) -> None:
        edges = [0, *sorted(cut % (len(wire) + 1) for cut in cuts), len(wire)]
        for start, end in itertools.pairwise(edges):
            self.peer.feed(wire[start:end])

    @precondition(lambda self: not self.over and len(self.in_flight) < 15)
    @rule(packet_id=st.integers(1, 20), dup=st.booleans(), cuts=st.lists(st.integers(0, 50), max_size=3))
    def publish(self, packet_id: int, dup: bool, cuts: list[int]) -> None:
        packet = PublishPacket("a/b", self.body(), 1, self.free_id(packet_id), dup=dup)
        self.cut(encode(packet, Level.V3_1_1), cuts)
        (command,) = self.peer.taken(Publish)
        assert command.message.body == packet.payload
        self.in_flight.append(InFlight(packet, command.token))

    @precondition(lambda self: not self.over)
    @rule()
    def publish_at_qos_0(self) -> None:
        packet = PublishPacket("a/b", self.body())
        self.peer.send(packet)
        (command,) = self.peer.taken(Publish)
        assert (command.message.body, command.token) == (packet.payload, None)

    @precondition(lambda self: not self.over and self.in_flight)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        packet = data.draw(st.sampled_from(self.in_flight)).packet
        self.peer.send(PublishPacket(packet.topic, packet.payload, 1, packet.packet_id, dup=True))
        assert self.peer.taken(Publish) == [], "published twice while in flight"

    def owed(self) -> list[InFlight]:
        return [publish for publish in self.in_flight if not publish.answered]

    @precondition(lambda self: not self.over and self.owed())
    @rule(data=st.data(), result=st.sampled_from([ACCEPTED, UNROUTED]))
    def accept(self, data: st.DataObject, result: Result) -> None:
        publish = data.draw(st.sampled_from(self.owed()))
        publish.answered = True
        self.peer.answer(publish.token, result)
        expected = []
        while self.in_flight and self.in_flight[0].answered:
            expected.append(Puback(self.in_flight.pop(0).packet.packet_id))
        assert self.peer.received() == expected  # [MQTT-4.6.0-2]

    @precondition(lambda self: not self.over and len(self.owed()) > 5)
    @rule(data=st.data(), outcome=st.sampled_from([Outcome.RELEASED, Outcome.REJECTED]))
    def fail(self, data: st.DataObject, outcome: Outcome) -> None:
        publish = data.draw(st.sampled_from(self.owed()))
        publish.answered = True
        self.peer.answer(publish.token, Result(outcome, MqliftError("no")))
        self.over = True
        assert [type(command) for command in self.peer.commands] == [Close]
        self.peer.commands.clear()
        assert self.peer.received() == []

    @precondition(lambda self: self.over)
    @rule(data=st.data())
    def after_the_end(self, data: st.DataObject) -> None:
        self.peer.send(PublishPacket("a/b", self.body(), 1, 20))
        if self.owed():
            publish = data.draw(st.sampled_from(self.owed()))
            publish.answered = True
            self.peer.answer(publish.token)
        assert self.peer.received() == []

    @invariant()
    def nothing_else_was_asked_of_the_hub(self) -> None:
        assert self.peer.commands == []


Publisher.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestPublisher = Publisher.TestCase
