"""Topic aliases of MQTT 5 (5.0 §3.3.2.3.4): numbers that stand for topics, in each direction of one connection."""

from __future__ import annotations

from gateway.protocols.mqtt.errors import PacketError, ReasonCode, violation


class IncomingAliases:
    """What the client's numbers stand for."""

    __slots__ = ("_maximum", "_topics")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._topics: dict[int, str] = {}

    def resolve(self, topic: str, alias: int) -> str:
        """The topic of a PUBLISH with an alias, which stands for it from now on. Raises `PacketError`."""
        if alias > self._maximum:  # [MQTT-3.3.2-9]
            limit = self._maximum
            raise PacketError(ReasonCode.TOPIC_ALIAS_INVALID, f"topic alias {alias}; the limit is {limit}")
        if topic:
            self._topics[alias] = topic
            return topic
        try:
            return self._topics[alias]
        except KeyError:
            raise violation(f"topic alias {alias} stands for nothing yet") from None


class OutgoingAliases:
    """Numbers for the first topics that are sent to the client; those that come later are sent in full."""

    __slots__ = ("_aliases", "_maximum")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._aliases: dict[bytes, int] = {}

    def alias_of(self, topic: bytes) -> int:
        """The number of a topic that was sent with it before; 0 for none."""
        return self._aliases.get(topic, 0)

    def next_free(self) -> int:
        """The number that the next topic gets; 0 when all are given away."""
        used = len(self._aliases)
        return used + 1 if used < self._maximum else 0  # [MQTT-3.1.2-26] [MQTT-3.1.2-27]

    def sent(self, topic: bytes, alias: int) -> None:
        """The client was told what the number stands for."""
        self._aliases[topic] = alias
