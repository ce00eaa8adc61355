"""Deliveries to a client: within its window, each under a packet identifier until the client has acknowledged it.

A delivery at QoS 2 is settled when PUBREC has come: from then on the client has it, and only the packet identifier is
still to be released. In a kept session, which identifier a message has is durable before it is sent, and that it was
received before it is settled; so after a crash neither is it sent under another identifier, nor sent again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from gateway.core.commands import Command, Settle
from gateway.core.delivery import Delivery
from gateway.core.message import PUBLISH_QOS, RETAINED, Message
from gateway.core.metrics import Count
from gateway.core.outcome import Outcome
from gateway.protocols.mqtt.client import Client
from gateway.protocols.mqtt.convert import PROTOCOL, OutgoingTopic, outgoing_topic
from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.keeping import Inflight, InflightKeeper
from gateway.protocols.mqtt.outgoing import PublishWriter
from gateway.protocols.mqtt.packets import V5, Puback, Pubcomp, Pubrec, Pubrel
from gateway.protocols.mqtt.reasons import FAILURE
from gateway.protocols.mqtt.settings import MAX_PACKET_ID
from gateway.protocols.mqtt.subscribing import LIVE, Subscribing
from gateway.protocols.mqtt.subscriptions import Grant
from gateway.protocols.mqtt.writer import DUP, PUBLISH, QOS_1, QOS_2, write_publish, write_pubrel

COMPLETED: Final = 100
"""Deliveries at QoS 2 that are remembered when they are over, in case that the queue brings one again: when its
deletion did not come through, which is known within a few requests to the backend."""

RESERVED: Final = 1_000
"""Packet identifiers that wait for messages of earlier connections, if the window is not larger: the queue may never
deliver some of them again, and then the oldest are given up."""

_TRANSIENT_MODE: Final = 1

# Reading a member of an enumeration costs 0.1 µs in Python 3.11; these are read for each message.
_ACCEPTED: Final = Outcome.ACCEPTED

# What has become of a delivery at QoS 2.
_RESERVED: Final = 0
"""An earlier connection sent it, at QoS 1 or 2, and the queue has not delivered it again yet."""
_ASSIGNED: Final = 1
"""It has a packet identifier, which is not kept yet; nothing was sent."""
_SENT: Final = 2
_RECEIVED: Final = 3
"""PUBREC has come, which is not kept yet."""
_RELEASED: Final = 4
"""PUBREL was sent, and the delivery is settled."""


class _Outgoing(NamedTuple):
    """A delivery on its way, and how it goes to the client."""

    delivery: Delivery
    topic: OutgoingTopic
    grant: Grant
    qos: int


class _Exchange:
    """A delivery at QoS 2, from the assignment of its packet identifier to PUBCOMP.

    `outgoing` is None while only an earlier connection has sent it. `repeats`: the queue delivered it again meanwhile.
    """

    __slots__ = ("outgoing", "packet_id", "repeats", "state", "uid")

    def __init__(self, packet_id: int, uid: str, outgoing: _Outgoing | None, state: int) -> None:
        self.packet_id = packet_id
        self.uid = uid
        self.outgoing = outgoing
        self.repeats: list[Delivery] = []
        self.state = state

    def deliveries(self) -> list[Delivery]:
        """What is to be settled with it."""
        return self.repeats if self.outgoing is None else [self.outgoing.delivery, *self.repeats]


class Delivering:
    """Appends packets to `out`. `due`: `collect` has commands, though nothing has come from the client.

    Bounded by the prefetch of the session's consumers: what is over the client's window waits here.
    """

    __slots__ = (
        "_acknowledged",
        "_assigning",
        "_backlog",
        "_client",
        "_completed",
        "_exchanges",
        "_exchanges_by_uid",
        "_free",
        "_granted",
        "_keeper",
        "_out",
        "_packet_id",
        "_plain",
        "_refused",
        "_shares",
        "_unacknowledged",
        "_writer",
        "due",
    )

    def __init__(
        self,
        client: Client,
        subscribing: Subscribing,
        out: list[bytes],
        clock: Callable[[], float],
        keeper: InflightKeeper | None,
        discarded: Count,
    ) -> None:
        self.due = False
        self._client = client
        self._granted = subscribing.granted.granted
        self._shares = subscribing.shares
        self._out = out
        self._writer = PublishWriter(client, clock, discarded)
        self._keeper = keeper
        self._plain = client.level < V5 and not client.kept
        self._free = client.window
        self._packet_id = 0
        self._unacknowledged: dict[int, Delivery] = {}
        self._exchanges: dict[int, _Exchange] = {}
        self._exchanges_by_uid: dict[str, _Exchange] = {}
        self._assigning = 0
        self._backlog: deque[_Outgoing] | None = None
        self._acknowledged: list[Delivery] = []
        self._refused: list[Delivery] = []
        self._completed: dict[str, None] = {}

    # From the hub

    def deliver(self, tag: str, delivery: Delivery) -> bool:
        """Send a delivery, or let it wait. False: it is over with the bytes in `out`, if there are any."""
        message = delivery.message
        topic = outgoing_topic(message.address.routing_key)
        if topic is None:
            return self._refuse(delivery)
        plain = self._plain and tag == LIVE
        grant = self._granted(topic.name) if plain else self._grant_for(tag, topic.name, message)
        if grant is None:
            return False  # `$` topics under a leading wildcard, own messages, what was routed before an UNSUBSCRIBE
        qos = grant.qos
        if qos and message.properties.delivery_mode == _TRANSIENT_MODE:
            qos = 0
        elif qos > 1 and message.headers.get(PUBLISH_QOS) != qos:
            qos = 1
        if qos and self._free <= 0:  # never while others wait: `collect` lets them go first
            return self._wait(_Outgoing(delivery, topic, grant, qos))
        try:
            if qos == 1:
                return self._send_at_least_once(delivery, topic, grant)
            if qos:
                return self._send_exactly_once(_Outgoing(delivery, topic, grant, qos))
            return self._send_at_most_once(delivery, topic, grant)
        except PacketError:
            return self._refuse(delivery)

    def _grant_for(self, tag: str, topic: str, message: Message) -> Grant | None:
        """The grant where a session has several queues, or filters have options."""
        grant = self._shares.get(tag)
        if grant is not None:
            return grant
        grant = self._granted(topic)
        if grant is not None and tag == LIVE and self._client.kept and grant.qos:
            if not message.headers.get(RETAINED):
                return None  # a filter with a higher QoS matches too: the session's own queue brings it
            return Grant(0, retain_as_published=grant.retain_as_published, identifiers=grant.identifiers)
        if grant is not None and grant.own is not grant and self._is_own(message):
            return grant.own
        return grant

    def _is_own(self, message: Message) -> bool:
        origin = message.origin
        return origin.client_id == self._client.client_id and origin.protocol == PROTOCOL  # [MQTT-3.8.3-3]

    def hold(self, delivery: Delivery) -> bool:
        """Keep what comes when the connection is ending, for the connection to release."""
        self._refused.append(delivery)
        return True

    def _wait(self, outgoing: _Outgoing) -> bool:
        if self._backlog is None:
            self._backlog = deque()
        self._backlog.append(outgoing)
        return True

    def _refuse(self, delivery: Delivery) -> bool:
        """MQTT has no form for this message: it is rejected as soon as commands can be given."""
        self._refused.append(delivery)
        self.due = True
        return True

    # To the client

    def _send_at_most_once(self, delivery: Delivery, topic: OutgoingTopic, grant: Grant) -> bool:
        packet = self._writer.write(PUBLISH, delivery.message, topic, grant, 0)
        if packet is not None:
            self._out.append(packet)
        return False

    def _send_at_least_once(self, delivery: Delivery, topic: OutgoingTopic, grant: Grant) -> bool:
        first = PUBLISH | QOS_1 | DUP if delivery.attempt > 1 else PUBLISH | QOS_1
        packet_id = self._packet_id + 1
        known = False
        if self._exchanges or packet_id > MAX_PACKET_ID or packet_id in self._unacknowledged:
            packet_id = self._reserved_id(delivery.uid)
            known = packet_id > 0
            if known:  # DUP says that this is not the first attempt, by whichever connection [MQTT-3.3.1-1]
                first |= DUP
            else:
                packet_id = self._next_packet_id()
        else:
            self._packet_id = packet_id
        message = delivery.message
        if self._plain and not message.headers and message.properties.expiration is None:
            packet: bytes | None = write_publish(first, topic.field, packet_id, b"", message.body)
        else:
            packet = self._writer.write(first, message, topic, grant, packet_id, sent_before=known)
        if packet is None:
            return False
        self._out.append(packet)
        self._unacknowledged[packet_id] = delivery
        self._free -= 1
        return True

    def _send_exactly_once(self, outgoing: _Outgoing) -> bool:
        delivery = outgoing.delivery
        uid = delivery.uid
        if uid in self._completed:
            return False
        exchange = self._exchanges_by_uid.get(uid)
        if exchange is None:
            exchange = _Exchange(self._next_packet_id(), uid, None, _ASSIGNED)
            self._add(exchange)
        elif exchange.state != _RESERVED:
            return self._repeat(exchange, delivery)
        known = exchange.state == _RESERVED
        exchange.state = _ASSIGNED
        exchange.outgoing = outgoing
        self._free -= 1
        if self._keeper is None or not uid or (known and not self._assigning):
            return self._send_exchange(exchange, outgoing, known)
        self._assigning += 1
        self._keeper.keep(partial(self._assigned, exchange, outgoing, known))
        self.due = True
        return True

    def _add(self, exchange: _Exchange) -> None:
        self._exchanges[exchange.packet_id] = exchange
        if exchange.uid:
            self._exchanges_by_uid[exchange.uid] = exchange

    def _remove(self, exchange: _Exchange) -> None:
        del self._exchanges[exchange.packet_id]
        if exchange.uid:
            del self._exchanges_by_uid[exchange.uid]

    def _repeat(self, exchange: _Exchange, delivery: Delivery) -> bool:
        """The queue delivers again what the client has, or will have: it is not sent twice [MQTT-4.4.0-1]."""
        if exchange.state == _RELEASED:
            return False
        exchange.repeats.append(delivery)
        return True

    def _assigned(self, exchange: _Exchange, outgoing: _Outgoing, known: bool) -> None:
        """The packet identifier is kept."""
        self._assigning -= 1
        try:
            if not self._send_exchange(exchange, outgoing, known):
                self._acknowledged += exchange.deliveries()
        except PacketError:
            self._refused += exchange.deliveries()

    def _send_exchange(self, exchange: _Exchange, outgoing: _Outgoing, known: bool) -> bool:
        """`known`: an earlier connection has sent it."""
        delivery, topic, grant, _ = outgoing
        # Where identifiers are kept before they are used, what has none was not sent, whatever the queue thinks of it.
        again = known or (delivery.attempt > 1 and (self._keeper is None or not exchange.uid))
        first = PUBLISH | QOS_2 | DUP if again else PUBLISH | QOS_2
        packet = None
        try:
            packet = self._writer.write(first, delivery.message, topic, grant, exchange.packet_id, sent_before=known)
        finally:
            if packet is None:
                self._complete(exchange)
        if packet is None:
            return False
        self._out.append(packet)
        exchange.state = _SENT
        return True

    # Packet identifiers

    def _next_packet_id(self) -> int:
        """The next identifier that is not in use [MQTT-2.2.1-4]. The window leaves at least one."""
        packet_id = self._packet_id % MAX_PACKET_ID + 1
        while packet_id in self._unacknowledged or packet_id in self._exchanges:
            packet_id = packet_id % MAX_PACKET_ID + 1
        self._packet_id = packet_id
        return packet_id

    def _reserved_id(self, uid: str) -> int:
        """The identifier that the message had on an earlier connection [MQTT-4.4.0-1]; 0 for none."""
        exchange = self._exchanges_by_uid.get(uid)
        if exchange is None or exchange.state != _RESERVED:
            return 0
        self._remove(exchange)
        return exchange.packet_id

    def resume(self, kept: Inflight) -> None:
        """Go on where the session's last connection left off: PUBRELs now [MQTT-4.4.0-1], PUBLISHes as they come."""
        for packet_id, uid in kept.sent[-max(RESERVED, self._client.window) :]:
            self._add(_Exchange(packet_id, uid, None, _RESERVED))
        for packet_id, uid in kept.released:
            self._add(_Exchange(packet_id, uid, None, _RELEASED))
            self._free -= 1
            self._out.append(write_pubrel(packet_id))
        self._completed = dict.fromkeys(kept.completed)

    # From the client

    def puback(self, packet: Puback) -> None:
        # One that nobody waits for does no harm: a client may repeat it.
        delivery = self._unacknowledged.pop(packet.packet_id, None)
        if delivery is not None:
            self._acknowledged.append(delivery)
            self._free += 1

    def pubrec(self, packet: Pubrec) -> None:
        exchange = self._exchanges.get(packet.packet_id)
        if exchange is None or exchange.state == _ASSIGNED:
            code = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
            self._out.append(self._client.acknowledgement(Pubrel, packet.packet_id, code))
            return
        if exchange.state == _RESERVED:  # the client has the message, and the queue does not know yet
            exchange.state = _SENT
            self._free -= 1
        if exchange.state == _RELEASED:
            self._out.append(write_pubrel(packet.packet_id))
        elif exchange.state == _SENT and packet.reason_code >= FAILURE:
            self._acknowledged += exchange.deliveries()  # it had its chance; no PUBREL follows [MQTT-4.3.3-4]
            self._complete(exchange)
        elif exchange.state == _SENT:
            exchange.state = _RECEIVED
            self._exchanges[packet.packet_id] = self._exchanges.pop(packet.packet_id)  # PUBRELs have this order
            if self._keeper is None or not exchange.uid:
                self._release(exchange)
            else:
                self._keeper.keep(partial(self._release, exchange))

    def _release(self, exchange: _Exchange) -> None:
        """The client has it, and that is kept."""
        self._acknowledged += exchange.deliveries()
        exchange.outgoing = None
        exchange.repeats = []
        exchange.state = _RELEASED
        self._out.append(write_pubrel(exchange.packet_id))

    def pubcomp(self, packet: Pubcomp) -> None:
        exchange = self._exchanges.get(packet.packet_id)
        if exchange is not None and exchange.state == _RELEASED:
            self._complete(exchange)

    def _complete(self, exchange: _Exchange) -> None:
        """The packet identifier is free again [MQTT-2.2.1-4]."""
        self._remove(exchange)
        self._free += 1
        if exchange.uid:
            self._completed[exchange.uid] = None
            if len(self._completed) > COMPLETED:
                del self._completed[next(iter(self._completed))]

    # To the hub

    def collect(self, commands: list[Command]) -> None:
        """Send what has room now, and settle what is over."""
        if self._backlog:
            self._refill(self._backlog)
        self.collect_settled(commands)
        self.due = False

    def collect_settled(self, commands: list[Command]) -> None:
        """Settle what is over."""
        if self._acknowledged:
            commands.append(Settle(self._acknowledged, _ACCEPTED))
            self._acknowledged = []
        if self._refused:
            commands.append(Settle(self._refused, Outcome.REJECTED))
            self._refused = []

    def _refill(self, backlog: deque[_Outgoing]) -> None:
        while backlog and self._free > 0:
            outgoing = backlog.popleft()
            try:
                if outgoing.qos == 1:
                    held = self._send_at_least_once(outgoing.delivery, outgoing.topic, outgoing.grant)
                else:
                    held = self._send_exactly_once(outgoing)
            except PacketError:
                held = self._refuse(outgoing.delivery)
            if not held:
                self._acknowledged.append(outgoing.delivery)

    def needs_body(self, delivery: Delivery) -> bool:
        """Whether a delivery that is here has not been sent yet."""
        unsent = [exchange.outgoing for exchange in self._exchanges.values() if exchange.state == _ASSIGNED]
        return any(each is not None and each.delivery is delivery for each in (*unsent, *(self._backlog or ())))

    def unsettled(self) -> Sequence[Delivery]:
        """What the session holds."""
        held = list(self._unacknowledged.values())
        for exchange in self._exchanges.values():
            held += exchange.deliveries()
        held += [outgoing.delivery for outgoing in self._backlog or ()]
        return held + self._acknowledged + self._refused

    def sent(self, *, last: bool) -> list[tuple[int, str]]:
        """Packet identifiers of what has no PUBACK or PUBREC.

        Those at QoS 1 only with `last`, for what a connection leaves behind: nothing depends on them before.
        """
        found = [(each.packet_id, each.uid) for each in self._known_exchanges() if each.state < _RECEIVED]
        if last:
            found += [(packet_id, each.uid) for packet_id, each in self._unacknowledged.items() if each.uid]
        return found

    def released(self) -> list[tuple[int, str]]:
        """Packet identifiers that have a PUBREC and no PUBCOMP."""
        return [(each.packet_id, each.uid) for each in self._known_exchanges() if each.state >= _RECEIVED]

    def completed(self) -> list[str]:
        """The uids of the latest deliveries at QoS 2 that are over."""
        return list(self._completed)

    def _known_exchanges(self) -> Iterator[_Exchange]:
        return (exchange for exchange in self._exchanges.values() if exchange.uid)
