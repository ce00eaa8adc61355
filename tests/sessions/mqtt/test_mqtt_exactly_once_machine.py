"""A client with a kept session against a hub that crashes, repeats itself and answers in any order.

Whatever happens: nothing that was acknowledged is lost, what is published at QoS 2 reaches either side once, and in its
topic's order. Two things are beyond any server that does not share a transaction with its backend, and are left out: a
publish that the hub takes when the connection is gone, and one whose packet identifier is not durable at a crash, may
be published again when the client repeats it; the client was not told PUBREC then.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gateway.core.commands import Close, EndSession, KeepInflight, Publish, Settle
from gateway.core.delivery import Delivery
from gateway.core.message import PUBLISH_QOS
from gateway.core.outcome import ACCEPTED, Outcome
from gateway.protocols.mqtt.packets import (
    Connack,
    Connect,
    Level,
    Packet,
    Puback,
    Pubcomp,
    Pubrec,
    Pubrel,
    Subscribe,
    Subscription,
)
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from gateway.protocols.mqtt.properties import Properties
from gateway.protocols.mqtt.settings import Settings
from tests.sessions.mqtt.peer import Control, Peer, delivery, message

TOPICS = ("a", "b")
WINDOW = 3
IDENTIFIERS = 4
"""Few, so that the client uses each of them again and again."""


@dataclass
class Queued:
    """A message in the session's queue."""

    serial: int
    topic: str
    qos: int
    attempts: int = 0
    held: list[Delivery] = field(default_factory=list)


@dataclass
class Sent:
    """A publish of the client that is not completed."""

    packet: PublishPacket
    recorded: bool = False
    """PUBREC has come."""
    uncertain: bool = False
    """The hub may have taken it without anybody knowing."""


class ExactlyOnce(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.serial = 0
        # The client.
        self.sent: dict[int, Sent] = {}
        self.receiving: set[int] = set()
        self.application: list[tuple[str, int, int]] = []
        # The hub.
        self.queue: list[Queued] = []
        self.forgotten: list[Queued] = []
        self.published: list[int] = []
        self.unanswered: list[Publish] = []
        self.writes: list[KeepInflight] = []
        self.ended = False

    # Connections

    @initialize(level=st.sampled_from([Level.V3_1_1, Level.V5]))
    def begin(self, level: Level) -> None:
        self.peer = Peer(Settings(delivery_window=WINDOW))
        self.open(level, present=False)
        self.peer.send(Subscribe(1, tuple(Subscription(topic, 2) for topic in TOPICS)))
        self.pump()

    def open(self, level: Level, *, present: bool) -> None:
        record = self.peer.record
        self.peer = Peer(Settings(delivery_window=WINDOW), level)
        self.peer.record = record
        properties = Properties(session_expiry_interval=60, receive_maximum=2)
        self.peer.send(
            Connect(client_id="c", level=Level.V5, clean_start=False, properties=properties)
            if level is Level.V5
            else Connect(client_id="c", level=level, clean_start=False)
        )
        self.ended = False
        self.pump()
        self.read()
        for sent in list(self.sent.values()):  # [MQTT-4.4.0-1]
            packet = sent.packet
            self.peer.send(
                Pubrel(packet.packet_id)
                if sent.recorded
                else PublishPacket(packet.topic, packet.payload, packet.qos, packet.packet_id, dup=True)
            )
        self.pump()

    def pump(self) -> None:
        """Do what a connection does with commands; what is answered later is put aside."""
        while self.peer.commands:
            command = self.peer.commands[0]
            if isinstance(command, Control):
                self.peer.step()
                continue
            self.peer.commands.pop(0)
            if isinstance(command, Publish):
                self.unanswered.append(command)
            elif isinstance(command, KeepInflight):
                self.writes.append(command)
            elif isinstance(command, Settle):
                self.settle(command)
            else:
                assert isinstance(command, Close | EndSession)
                self.ended = True

    def settle(self, command: Settle) -> None:
        assert command.outcome is Outcome.ACCEPTED
        for each in command.deliveries:
            (queued,) = (entry for entry in self.queue if each in entry.held)
            queued.held.remove(each)
            if not queued.held:
                self.queue.remove(queued)
                self.forgotten.append(queued)  # until the deletion is durable

    def release_all(self) -> None:
        unsettled = self.peer.session.unsettled()
        for entry in self.queue:
            for each in entry.held:
                assert each in unsettled, "neither settled nor unsettled"
            entry.held.clear()

    @rule(level=st.sampled_from([Level.V3_1_1, Level.V5]), read=st.booleans())
    def lose_the_connection(self, level: Level, read: bool) -> None:
        if read:
            self.read()
        self.forget_publishes()
        self.peer.commands += self.peer.session.connection_lost()
        self.finish()
        self.release_all()
        self.open(level, present=True)

    @rule(level=st.sampled_from([Level.V3_1_1, Level.V5]))
    def be_taken_over(self, level: Level) -> None:
        self.forget_publishes()
        self.peer.commands += self.peer.session.taken_over()
        self.finish()
        self.release_all()
        self.open(level, present=True)

    def finish(self) -> None:
        """The last commands; the store writes in order, and the next connection reads what it wrote."""
        self.pump()
        for write in self.writes:
            self.peer._keep_inflight(write)
        self.writes.clear()

    def forget_publishes(self) -> None:
        """The hub takes them, and answers nobody."""
        for command in self.unanswered:
            self.take(command)
            self.sent_by_serial(int(command.message.body)).uncertain = True
        self.unanswered.clear()

    def sent_by_serial(self, serial: int) -> Sent:
        return next(each for each in self.sent.values() if int(each.packet.payload) == serial)

    @rule(level=st.sampled_from([Level.V3_1_1, Level.V5]), written=st.booleans(), deleted=st.booleans())
    def crash(self, level: Level, written: bool, deleted: bool) -> None:
        """Nothing is left but what the store and the queue have."""
        said = {packet.packet_id for packet in self.peer.received() if isinstance(packet, Pubrec)}
        for packet_id, sent in self.sent.items():
            sent.uncertain = sent.uncertain or not (sent.recorded or packet_id in said)
        if self.unanswered and written:
            self.take(self.unanswered[0])
        self.unanswered.clear()
        if self.writes and written:
            self.peer._keep_inflight(self.writes[0])
        self.writes.clear()
        for entry in self.queue:
            entry.held.clear()
        if not deleted:
            self.queue = sorted([*self.forgotten, *self.queue], key=lambda entry: entry.serial)
        self.forgotten.clear()
        self.peer.commands.clear()
        self.open(level, present=True)

    # From the client

    @precondition(lambda self: len(self.sent) < IDENTIFIERS)
    @rule(packet_id=st.integers(1, IDENTIFIERS), topic=st.sampled_from(TOPICS), qos=st.sampled_from([1, 2, 2]))
    def publish(self, packet_id: int, topic: str, qos: int) -> None:
        while packet_id in self.sent:
            packet_id = packet_id % IDENTIFIERS + 1
        self.serial += 1
        packet = PublishPacket(topic, b"%d" % self.serial, qos, packet_id)
        self.sent[packet_id] = Sent(packet)
        self.peer.send(packet)
        self.pump()

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def hub_accepts(self, data: st.DataObject) -> None:
        command = data.draw(st.sampled_from(self.unanswered))
        self.unanswered.remove(command)
        self.take(command)
        self.peer.answer(command.token, ACCEPTED)
        self.pump()

    def take(self, command: Publish) -> None:
        serial = int(command.message.body)
        sent = self.sent_by_serial(serial)
        assert serial not in self.published or sent.packet.qos == 1 or sent.uncertain, "published twice"
        assert not sent.recorded, "published again after it was acknowledged"
        self.published.append(serial)

    @precondition(lambda self: self.writes)
    @rule()
    def store_writes(self) -> None:
        write = self.writes.pop(0)
        self.peer._keep_inflight(write)
        self.peer.answer(write.token, ACCEPTED)
        self.pump()

    @precondition(lambda self: self.forgotten)
    @rule()
    def a_deletion_is_durable(self) -> None:
        self.forgotten.pop(0)

    @rule()
    def go_on(self) -> None:
        """For a while nothing goes wrong."""
        for _ in range(2):
            while self.unanswered:
                command = self.unanswered.pop(0)
                self.take(command)
                self.peer.answer(command.token, ACCEPTED)
                self.pump()
            while self.writes:
                self.store_writes()
            self.read()

    # To the client

    @precondition(lambda self: len(self.queue) < 15)
    @rule(topic=st.sampled_from(TOPICS), qos=st.sampled_from([1, 2, 2]))
    def somebody_publishes(self, topic: str, qos: int) -> None:
        self.serial += 1
        self.queue.append(Queued(self.serial, topic, qos))

    def held(self) -> int:
        return sum(len(entry.held) for entry in self.queue)

    @precondition(lambda self: not self.ended and self.queue)
    @rule(topic=st.sampled_from(TOPICS))
    def queue_delivers(self, topic: str) -> None:
        waiting = [entry for entry in self.queue if entry.topic == topic and not entry.held]
        if waiting and self.held() < 2 * WINDOW:  # as much as two consumers may hold
            self.hand_over(waiting[0])

    @precondition(lambda self: not self.ended and any(entry.held for entry in self.queue))
    @rule(data=st.data())
    def queue_delivers_again(self, data: st.DataObject) -> None:
        """A visibility timeout has passed."""
        held = [entry for entry in self.queue if entry.held and entry.qos == 2]
        if held and self.held() < 3 * WINDOW:
            self.hand_over(data.draw(st.sampled_from(held)))

    def hand_over(self, entry: Queued) -> None:
        entry.attempts += 1
        headers = {PUBLISH_QOS: 2} if entry.qos == 2 else {}
        body = b"%d" % entry.serial
        handed = delivery(message(entry.topic, body, headers=headers), entry.attempts, f"uid-{entry.serial}")
        entry.held.append(handed)
        if not self.peer.session.deliver("session", handed):
            self.settle(Settle([handed], Outcome.ACCEPTED))
        if self.peer.session.deadline <= self.peer.now:
            self.peer.tick()
        self.pump()

    @rule()
    def read(self) -> None:
        """The client reads all that was sent to it, and answers."""
        if self.ended:
            return
        for packet in self.peer.received():
            answer = self.take_packet(packet)
            if answer is not None:
                self.peer.send(answer)
        self.pump()

    def take_packet(self, packet: Packet) -> Packet | None:
        match packet:
            case PublishPacket(topic, payload, 1, packet_id):
                self.application.append((topic, int(payload), 1))
                return Puback(packet_id)
            case PublishPacket(topic, payload, 2, packet_id):
                if packet_id not in self.receiving:
                    self.receiving.add(packet_id)
                    self.application.append((topic, int(payload), 2))
                    self.check_application()
                return Pubrec(packet_id)
            case Pubrel(packet_id):
                self.receiving.discard(packet_id)
                return Pubcomp(packet_id)
            case Puback(packet_id) | Pubcomp(packet_id):
                self.complete(packet_id, packet)
            case Pubrec(packet_id):
                if packet_id in self.sent:
                    self.acknowledge(self.sent[packet_id])
                    self.sent[packet_id].recorded = True
                return Pubrel(packet_id)
            case Connack(_, code):
                assert code == 0
        return None

    def complete(self, packet_id: int, packet: Packet) -> None:
        sent = self.sent.get(packet_id)
        if sent is not None and (sent.packet.qos == 1) is isinstance(packet, Puback):
            self.acknowledge(sent)
            del self.sent[packet_id]

    def acknowledge(self, sent: Sent) -> None:
        serial = int(sent.packet.payload)
        assert serial in self.published, "acknowledged, and not taken by the hub"

    def check_application(self) -> None:
        for topic in TOPICS:
            serials = [serial for name, serial, qos in self.application if name == topic and qos == 2]
            assert serials == sorted(set(serials)), "delivered twice, or out of order"

    # In the end everything has arrived.

    def teardown(self) -> None:
        if not hasattr(self, "peer"):
            return
        everything = {entry.serial for entry in self.queue}
        seen = {serial for _, serial, _ in self.application}
        for _ in range(200):
            for topic in TOPICS:
                self.queue_delivers(topic)
            self.go_on()
            if not self.queue and not self.sent:
                break
        assert not self.queue, "delivered and never settled"
        assert not self.sent, "never completed"
        assert everything <= seen | {serial for _, serial, _ in self.application}
        assert not self.peer.session.unsettled()


ExactlyOnce.TestCase.settings = settings(max_examples=100, stateful_step_count=80, deadline=None)
TestExactlyOnce = ExactlyOnce.TestCase
