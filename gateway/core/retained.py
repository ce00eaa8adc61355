"""Retained messages: the last one of each address, for those who subscribe later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import structlog

from gateway.core.errors import Refused
from gateway.core.fleet.membership import Fleet
from gateway.core.fleet.recordfollower import RecordFollower
from gateway.core.message import RETAINED, TOPIC_EXCHANGE, Address, Message
from gateway.core.packing import MetaUnreadable, pack_message, unpack_message
from gateway.core.statewriter import Done, StateWriter
from gateway.core.store import Record, StateStore, every_record
from gateway.core.trie import check_words, split_words

log = structlog.get_logger("mqlift.retained")

KIND: Final = "retained"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetainedLimits:
    """What is retained at most, in memory and in the store."""

    messages: int = 100_000
    bytes: int = 256 * 1024 * 1024


class _Level:
    """One word of the retained addresses."""

    __slots__ = ("below", "kept")

    def __init__(self) -> None:
        self.below: dict[str, _Level] = {}
        self.kept: _Kept | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    message: Message
    expires_at: float | None
    counted: bool = True
    """Whether it counts towards the limits: what the gateway shows of itself takes no room from clients."""


class Retained:
    """The retained messages of `amq.topic`: all in memory for matching, each in the store."""

    def __init__(
        self,
        store: StateStore,
        writer: StateWriter,
        limits: RetainedLimits,
        wall: Callable[[], float] = time.time,
        fleet: Fleet | None = None,
    ) -> None:
        """With a `fleet`, what other gateways retain is here too."""
        self._wall = wall
        self._fleet = fleet
        if fleet is not None:
            fleet.followers.append(RecordFollower(store, writer, KIND, apply=self._apply, here=self._keys))
        self._store = store
        self._writer = writer
        self.limits = limits
        self._root = _Level()
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._count

    async def restore(self) -> None:
        """Read what the store has. Raises `StoreError`."""
        async for record in every_record(self._store, KIND):
            self._take(record)

    def _take(self, record: Record) -> None:
        try:
            message = unpack_message(record.value)
        except MetaUnreadable as error:
            log.error("retained_unreadable", key=record.key, problem=str(error))  # noqa: TRY400 - told in one line
            return
        self._set(record.key, _Kept(message, record.expires_at))

    def _apply(self, key: str, record: Record | None) -> None:
        """Another gateway has retained a message, or forgotten it."""
        if record is None:
            self._set(key, None)
            return
        try:
            self._check_room(key, len(record.value))
        except Refused as error:
            log.warning("retained_not_followed", problem=str(error))
            return
        self._take(record)

    def _keys(self) -> Iterator[str]:
        return (kept.message.address.routing_key for kept in _all(self._root, skip_dollar=False) if kept.counted)

    def keep(self, message: Message, done: Done) -> None:
        """Keep a message as the last of its key, or with an empty body forget that; `done` when it is durable."""
        key = message.address.routing_key
        if not message.body:
            self._set(key, None)
            self._writer.write(KIND, key, None, done)
            return
        try:
            self._check_room(key, len(message.body))
        except Refused as error:
            done(error)
            return
        expiration = message.properties.expiration
        expires_at = None if expiration is None else self._wall() + expiration / 1000
        self._set(key, _Kept(message, expires_at))
        self._writer.write(KIND, key, pack_message(message), done, expires_at=expires_at)

    def show(self, message: Message) -> None:
        """Keep a message as the last of its key in memory only: one that is made anew all the time."""
        self._set(message.address.routing_key, _Kept(message, None, counted=False))

    def match(self, exchange: str, pattern: str) -> Iterator[Message]:
        """The messages whose keys match a pattern, as they are sent to a new subscriber. Nothing for other exchanges.

        Lazily: the messages may change while it is read.
        """
        if exchange != TOPIC_EXCHANGE:
            return
        words = split_words(pattern)
        check_words(words)
        now = self._wall()
        for kept in _find(self._root, words, 0, root=True):
            if kept.expires_at is None or kept.expires_at > now:
                yield _for_subscriber(kept, now)

    async def sweep(self) -> None:
        """Remove what has expired; of several gateways, one does."""
        for record in await self._store.expired(KIND, self._wall()):
            if self._fleet is not None and not self._fleet.is_mine(record.key):
                continue
            level = self._level(record.key, make=False)
            if level is not None and level.kept is not None and level.kept.expires_at == record.expires_at:
                self._set(record.key, None)
                self._writer.known(KIND, record.key, record.version)  # another gateway may have set it anew by now
                self._writer.write(KIND, record.key, None, conditional=True)

    def _check_room(self, key: str, length: int) -> None:
        check_words(split_words(key))
        level = self._level(key, make=False)
        kept = level.kept if level is not None and level.kept is not None and level.kept.counted else None
        count = self._count + (kept is None)
        size = self._bytes + length - (len(kept.message.body) if kept else 0)
        if count > self.limits.messages or size > self.limits.bytes:
            raise Refused(f"there are {self._count} retained messages of {self._bytes} bytes already, the limit")

    def _set(self, key: str, kept: _Kept | None) -> None:
        level = self._level(key, make=kept is not None)
        if level is None:
            return
        if level.kept is not None and level.kept.counted:
            self._count -= 1
            self._bytes -= len(level.kept.message.body)
        level.kept = kept
        if kept is None:
            self._prune(key)
        elif kept.counted:
            self._count += 1
            self._bytes += len(kept.message.body)

    def _level(self, key: str, *, make: bool) -> _Level | None:
        level = self._root
        for word in split_words(key):
            if word not in level.below:
                if not make:
                    return None
                level.below[word] = _Level()
            level = level.below[word]
        return level

    def _prune(self, key: str) -> None:
        path = [(self._root, "")]
        for word in split_words(key):
            path.append((path[-1][0].below[word], word))
        while len(path) > 1 and path[-1][0].kept is None and not path[-1][0].below:
            _, word = path.pop()
            del path[-1][0].below[word]


def _find(level: _Level, words: list[str], position: int, *, root: bool = False) -> Iterator[_Kept]:
    """What a pattern matches below a level. `#` stands last, as MQTT's filters have it [MQTT-4.7.1-2]."""
    if position == len(words):
        if level.kept is not None:
            yield level.kept
        return
    word = words[position]
    if word == "#":
        yield from _all(level, skip_dollar=root)
    elif word == "*":
        for name, below in list(level.below.items()):
            if not (root and name.startswith("$")):  # [MQTT-4.7.2-1]
                yield from _find(below, words, position + 1)
    elif (exact := level.below.get(word)) is not None:
        yield from _find(exact, words, position + 1)


def _all(level: _Level, *, skip_dollar: bool) -> Iterator[_Kept]:
    if level.kept is not None:
        yield level.kept
    for name, below in list(level.below.items()):
        if not (skip_dollar and name.startswith("$")):
            yield from _all(below, skip_dollar=False)


def _for_subscriber(kept: _Kept, now: float) -> Message:
    message = kept.message
    properties = message.properties
    if kept.expires_at is not None:
        remaining = max(1, round((kept.expires_at - now) * 1000))
        properties = replace(properties, expiration=remaining, timestamp=int(now))
    return Message(
        Address(*message.address), message.body, properties, {**message.headers, RETAINED: True}, message.origin
    )
